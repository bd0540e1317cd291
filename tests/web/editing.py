"""What the tests of the editors share: a node brought into view, its widgets, and what the page complains of."""

from __future__ import annotations

import json
import re
from contextlib import contextmanager
from typing import Any

from playwright.sync_api import Locator, Page
from test_page import load, settle, workflow

SETTLE = 500  # ms within which an editor shows what its text says


def node(kind: str) -> str:
    """The graph's first node of a type, in the page's words."""
    return f"window.app.graph.nodes.find(node => node.type === '{kind}')"


def open_on(page: Page, graph: dict | str, kind: str, scale: float = 1.0) -> None:
    """Load a graph and bring the first node of a type into view."""
    load(page, workflow(graph) if isinstance(graph, str) else graph)
    show(page, kind, scale)


def open_prompt(page: Page, prompt: dict, kind: str) -> None:
    """The same with a graph as one would send it."""
    page.evaluate("prompt => window.app.loadApiJson(prompt, 'prompt')", prompt)
    settle(page)
    show(page, kind)


def show(page: Page, kind: str, scale: float = 1.0) -> None:
    page.evaluate(
        f"scale => {{ const node = {node(kind)}, view = window.app.canvas;"
        " view.ds.scale = scale; view.ds.offset = [330 / scale - node.pos[0], 90 / scale - node.pos[1]];"
        " for (const other of window.app.graph.nodes) {"
        "   if (other !== node && Math.abs(other.pos[0] - node.pos[0]) < 900) other.pos = [other.pos[0], node.pos[1] - 3000]; }"
        " view.setDirty(true, true); }",
        scale,
    )
    settle(page)


def value(page: Page, kind: str, name: str) -> Any:
    return page.evaluate(
        f"name => {node(kind)}.widgets.find(widget => widget.name === name).value", name
    )


def set_value(page: Page, kind: str, name: str, new: Any) -> None:
    page.evaluate(
        f"([name, value]) => {{ {node(kind)}.widgets.find(w => w.name === name).value = value; }}",
        [name, new],
    )
    page.wait_for_timeout(SETTLE)


def wait_for_value(page: Page, kind: str, name: str, expected: Any) -> None:
    page.wait_for_function(
        f"([name, value]) => {node(kind)}.widgets.find(w => w.name === name).value === value",
        arg=[name, expected],
        timeout=10_000,
    )


def sent(page: Page) -> dict[str, Any]:
    """The prompt as the page would send it."""
    return page.evaluate("async () => (await window.app.graphToPrompt()).output")


def saved(page: Page) -> dict[str, Any]:
    return json.loads(page.evaluate("() => JSON.stringify(window.app.graph.serialize())"))


def with_values(graph: dict, kind: str, **values: Any) -> dict:
    """A copy of a saved graph with other values, by place, in the nodes of one type."""
    copy = json.loads(json.dumps(graph))
    for each in copy["nodes"]:
        if each["type"] == kind:
            for place, new in values.items():
                each["widgets_values"][int(place[1:])] = new
    return copy


def drag(page: Page, handle: Locator, right: float, down: float = 0.0) -> None:
    """From the middle of an element by so many pixels."""
    box = handle.bounding_box()
    assert box is not None
    x, y = box["x"] + box["width"] / 2, box["y"] + box["height"] / 2
    page.mouse.move(x, y)
    page.mouse.down()
    page.mouse.move(x + right / 2, y + down / 2, steps=3)
    page.mouse.move(x + right, y + down, steps=3)
    page.mouse.up()
    page.wait_for_timeout(SETTLE)


@contextmanager
def no_complaints_of_ours(page: Page):
    """Nothing that the pack's scripts do may end in the console."""
    heard: list[str] = []

    def console(message: Any) -> None:
        text = f"{message.type}: {message.text} {message.location.get('url', '')}"
        # The page looks for a help page in its own language first, and then for the one that every language has.
        looked = re.search(r"404 .*/docs/\w+/en\.md$", text)
        if message.type in ("error", "warning") and "lora-loom/" in text and not looked:
            heard.append(text)

    def failed(error: Any) -> None:
        heard.append(f"{error} {getattr(error, 'stack', '')}")

    page.on("console", console)
    page.on("pageerror", failed)
    yield
    page.remove_listener("console", console)
    page.remove_listener("pageerror", failed)
    assert not heard, "\n".join(heard)


def module(page: Page, name: str, call: str, argument: Any) -> Any:
    """What a function of one of the pack's scripts gives: call is the body of (module, argument) => ..."""
    return page.evaluate(
        f"async argument => {{ const module = await import('/extensions/lora-loom/{name}');"
        f" return (({call}))(module, argument); }}",
        argument,
    )
