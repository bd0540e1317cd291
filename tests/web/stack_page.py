"""What a person does to the rows of a Loom Stack, as functions on the page."""

from __future__ import annotations

import copy
import json
from typing import Any

from playwright.sync_api import Locator, Page
from test_page import load, settle, workflow

STYLE, CHARACTER = "loom_toy_style.safetensors", "loom_toy_character.safetensors"
STACK = "window.app.graph.nodes.find(node => node.type === 'LoomStack')"
ROWS = f"{STACK}.widgets.find(widget => widget.name === 'rows')"


def graph_with(rows: str | dict[str, Any] | list[Any]) -> dict[str, Any]:
    """The example of a style and a character with other rows."""
    graph = copy.deepcopy(workflow("style_and_character"))
    text = rows if isinstance(rows, str) else json.dumps(rows)
    for node in graph["nodes"]:
        if node["type"] == "LoomStack":
            node["widgets_values"][0] = text
    return graph


def open_rows(page: Page, rows: str | dict[str, Any] | list[Any]) -> None:
    """Load a graph with these rows and look at its stack, unscaled, beside the page's own panels."""
    load(page, graph_with(rows))
    look_at_stack(page)


def look_at_stack(page: Page) -> None:
    page.evaluate(
        f"() => {{ const node = {STACK}, view = window.app.canvas.ds; view.scale = 1;"
        " view.offset = [120 - node.pos[0], 140 - node.pos[1]];"
        " window.app.canvas.setDirty(true, true); }"
    )
    settle(page)


def reload(page: Page) -> None:
    """Save the graph and load what was saved, as a file would hold it."""
    saved = page.evaluate("() => JSON.stringify(window.app.graph.serialize())")
    load(page, json.loads(saved))


def text_of(page: Page) -> str:
    return page.evaluate(f"() => {ROWS}.value")


def rows_of(page: Page) -> list[dict[str, Any]]:
    document = json.loads(text_of(page))
    return document if isinstance(document, list) else document["rows"]


def names_of(page: Page) -> list[str]:
    return [row["lora"] for row in rows_of(page)]


def wait_for(page: Page, condition: str, arg: object = None) -> None:
    """condition: JavaScript of (text of the rows, arg)."""
    page.wait_for_function(
        f"arg => {{ const text = {ROWS}.value; return {condition}; }}", arg=arg, timeout=10_000
    )


def row(page: Page, place: int) -> Locator:
    return page.locator(".loom-row").nth(place)


def strength(page: Page, place: int) -> Locator:
    return row(page, place).get_by_role("spinbutton").first


def choose(page: Page, query: str) -> None:
    """In the open chooser: type and take the first that is found."""
    page.locator(".loom-search").fill(query)
    page.locator(".loom-choice[aria-selected=true]").wait_for()
    page.keyboard.press("Enter")
    page.locator(".loom-chooser").wait_for(state="detached")


def menu(page: Page, entry: str) -> None:
    """Take an entry of the stack's own menu."""
    page.locator(".loom-head button[aria-haspopup=menu]").click()
    page.get_by_role("menuitem", name=entry).click()


def drag(page: Page, start: Locator, dx: float, dy: float, steps: int = 12) -> None:
    box = start.bounding_box()
    assert box is not None
    x, y = box["x"] + box["width"] / 2, box["y"] + box["height"] / 2
    page.mouse.move(x, y)
    page.mouse.down()
    page.mouse.move(x + dx, y + dy, steps=steps)
    page.mouse.up()


def prompt_of(page: Page) -> dict[str, Any]:
    """What Run would send, with the rows as values."""
    sent = page.evaluate("async () => (await window.app.graphToPrompt()).output")
    for node in sent.values():
        if node["class_type"] == "LoomStack" and isinstance(node["inputs"]["rows"], str):
            node["inputs"]["rows"] = json.loads(node["inputs"]["rows"])
    return sent
