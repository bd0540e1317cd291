"""The example workflows in the real page: they open without a complaint, and one is run."""

from __future__ import annotations

import io
import json
import time
from pathlib import Path

import pytest
from PIL import Image
from playwright.sync_api import Page

WORKFLOWS = Path(__file__).resolve().parents[1] / "workflows"
RUN_WORKFLOW = "style_and_character"
SETTLE = 500  # ms after which a change that a script of the page makes by a timer is seen
QUIET = 150  # ms without a change after which the page has drawn what it was given
SETTLE_LIMIT = 3000  # ms
COMPLAINTS_WITHIN = 1500  # ms after loading
COMPLAINT_LIMIT = 15_000  # ms
RUN_LIMIT = 120.0  # seconds

# Where the pages, old and new, say that something is wrong with a graph.
COMPLAINTS = (
    "[role=dialog], [role=alertdialog], [data-testid=error-overlay],"
    " .p-toast-message-error, .p-toast-message-warn"
)

WORKFLOW_FILES = sorted(WORKFLOWS.glob("*.json"))


def workflow(name: str) -> dict:
    return json.loads((WORKFLOWS / f"{name}.json").read_text(encoding="utf-8"))


def with_unknown_node(graph: dict) -> dict:
    """A copy of a saved graph with one more node, of a type that no pack has."""
    number = max(node["id"] for node in graph["nodes"]) + 1
    stranger = {
        "id": number,
        "type": "NoPackHasThisNode",
        "pos": [100, 100],
        "size": [200, 100],
        "flags": {},
        "order": number,
        "mode": 0,
        "inputs": [],
        "outputs": [],
        "properties": {},
        "widgets_values": [],
    }
    return {**graph, "nodes": [*graph["nodes"], stranger], "last_node_id": number}


def settle(page: Page) -> None:
    """Until the page has changed nothing that it shows for QUIET ms: soon where it is idle, later where it is busy."""
    page.evaluate(
        """([quiet, most]) => new Promise(done => {
          let rest;
          const end = () => { watch.disconnect(); done(); };
          const again = () => { clearTimeout(rest); rest = setTimeout(end, quiet); };
          const watch = new MutationObserver(again);
          watch.observe(document.body, { subtree: true, childList: true, attributes: true, characterData: true });
          requestAnimationFrame(() => requestAnimationFrame(again));
          setTimeout(end, most);
        })""",
        [QUIET, SETTLE_LIMIT],
    )


def load(page: Page, graph: dict) -> None:
    page.evaluate("graph => window.app.loadGraphData(graph)", graph)
    settle(page)


def complaints(page: Page) -> list[str]:
    """The texts of all visible messages of the page."""
    texts = [
        element.inner_text() for element in page.locator(COMPLAINTS).all() if element.is_visible()
    ]
    return [" ".join(text.split()) for text in texts]


def unregistered_types(page: Page) -> list[str]:
    """The types of nodes in the open graph that the page does not know."""
    return page.evaluate(
        "() => window.app.graph.nodes.map(node => node.type)"
        ".filter(type => !window.LiteGraph.registered_node_types[type])"
    )


def count_ends(page: Page) -> None:
    """Let the page remember how runs end, in window.loomEnds."""
    page.evaluate(
        "() => { window.loomEnds = [];"
        " for (const kind of ['execution_success', 'execution_error', 'execution_interrupted'])"
        "   window.app.api.addEventListener(kind,"
        "     event => window.loomEnds.push({ kind, ...event.detail })); }"
    )


def press_run(page: Page, limit: float = RUN_LIMIT) -> dict:
    """Press Run and wait for the end, at most `limit` seconds; the event that ended it.

    A graph that the host refuses never starts: then the page complains, and no event comes.
    """
    count_ends(page)
    page.locator('[data-testid="queue-button"]:visible').first.click()
    deadline = time.monotonic() + limit
    while not page.evaluate("() => window.loomEnds.length"):
        assert complaints(page) == []
        assert time.monotonic() < deadline, f"the run did not end within {limit:.0f} s"
        page.wait_for_timeout(200)
    return page.evaluate("() => window.loomEnds[0]")


def shown_pictures(page: Page) -> list[str]:
    """The addresses of the loaded pictures that the graph's nodes show."""
    return page.evaluate(
        "() => window.app.graph.nodes.flatMap(node => node.imgs ?? [])"
        ".filter(image => image.complete && image.naturalWidth > 0).map(image => image.src)"
    )


def test_there_are_workflows_to_open():
    assert RUN_WORKFLOW in [file.stem for file in WORKFLOW_FILES]


@pytest.mark.parametrize("file", WORKFLOW_FILES, ids=lambda file: file.stem)
def test_a_workflow_opens_without_complaint(page, file, save_screenshot):
    graph = json.loads(file.read_text(encoding="utf-8"))
    load(page, graph)
    page.wait_for_timeout(COMPLAINTS_WITHIN)
    save_screenshot(page, f"open-{file.stem}")
    assert complaints(page) == []
    assert unregistered_types(page) == []
    opened = page.evaluate("() => window.app.graph.nodes.map(node => node.type)")
    assert sorted(opened) == sorted(node["type"] for node in graph["nodes"])


def test_a_missing_node_would_be_noticed(fresh_page):
    page = fresh_page
    load(page, with_unknown_node(workflow(RUN_WORKFLOW)))
    page.locator(COMPLAINTS).first.wait_for(state="visible", timeout=COMPLAINT_LIMIT)
    assert any("NoPackHasThisNode" in text for text in complaints(page))
    assert unregistered_types(page) == ["NoPackHasThisNode"]


@pytest.mark.every_page
def test_the_run_button_makes_a_picture(page, client, drawing, save_screenshot):
    load(page, workflow(RUN_WORKFLOW))
    # Kept results would make the host skip all nodes on a second run.
    client.free()
    end = press_run(page)
    assert end["kind"] == "execution_success", end.get("exception_message")
    page.wait_for_function(
        "() => window.app.graph.nodes.some(node => node.imgs?.some(image => image.naturalWidth))"
    )
    if drawing.vue:
        page.locator("[data-node-id] img:visible").first.wait_for()
    save_screenshot(page, f"run-{RUN_WORKFLOW}")
    pictures = client.history(end["prompt_id"])["outputs"].values()
    views = [view for output in pictures for view in output.get("images", [])]
    assert views
    names = "\n".join(shown_pictures(page))
    for view in views:
        assert view["filename"] in names
        picture = Image.open(io.BytesIO(client.fetch_image(view))).convert("L")
        shades = [shade for shade, count in enumerate(picture.histogram()) if count]
        assert shades[-1] - shades[0] > 50, "the picture is plain"
