"""What someone does who walks through the examples: open one from the side, look whether all is well, read about a node."""

from __future__ import annotations

import json
import re

from playwright.sync_api import Page
from test_page import COMPLAINT_LIMIT, COMPLAINTS_WITHIN, settle

# Nodes that cover each other, as they are seen, and those that the page marks as faulty.
COVERED = """() => {
  const view = window.app.canvas, at = view.canvas.getBoundingClientRect();
  const seen = node => {
    const drawn = window.LiteGraph.vueNodesMode && document.querySelector(`[data-node-id="${node.id}"]`);
    if (!drawn) return [...node.getBounding()];
    const { left, top, width, height } = drawn.getBoundingClientRect(), { scale, offset } = view.ds;
    return [(left - at.left) / scale - offset[0], (top - at.top) / scale - offset[1], width / scale, height / scale];
  };
  const boxes = window.app.graph.nodes.map(node => [`${node.type} ${node.id}`, seen(node)]);
  const common = (one, other, way) => Math.min(one[way] + one[way + 2], other[way] + other[way + 2]) - Math.max(one[way], other[way]);
  return boxes.flatMap(([name, box], place) => boxes.slice(place + 1)
    .filter(([, other]) => common(box, other, 0) > 2 && common(box, other, 1) > 2)
    .map(([other]) => `${name} and ${other}`));
}"""
FAULTY = "() => window.app.graph.nodes.filter(node => node.has_errors).map(node => node.type)"
# Whether every node that shows pictures has them.
ARRIVED = """() => window.app.graph.nodes
  .filter(node => ['SaveImage', 'PreviewImage', 'LoomSweepGrid'].includes(node.type))
  .every(node => node.imgs?.length && node.imgs.every(image => image.complete && image.naturalWidth > 0))
  && [...document.querySelectorAll('.loom-cell img')].every(image => image.naturalWidth > 0)"""


def open_from_the_side(page: Page, name: str) -> None:
    """The workflow of this name, by a click in the page's list of workflows."""
    listed = page.locator(".comfyui-workflows-browse")
    page.evaluate("() => document.activeElement?.blur()")
    if not listed.is_visible():
        page.keyboard.press("w")
    listed.get_by_text(re.compile(rf"^{re.escape(name)}(\.json)?$")).first.click()
    page.wait_for_function(
        "end => window.app.extensionManager.workflow.activeWorkflow?.path.endsWith(end)",
        arg=f"/{name}.json",
    )
    page.keyboard.press("w")
    listed.wait_for(state="hidden")
    page.wait_for_timeout(COMPLAINTS_WITHIN)


def fit(page: Page) -> None:
    """The whole graph into the window, nothing chosen."""
    page.evaluate(
        "() => { window.app.canvas.deselectAll?.();"
        " return window.app.extensionManager.command.execute('Comfy.Canvas.FitView'); }"
    )
    settle(page)


def put_alone(page: Page, kind: str) -> tuple[float, float]:
    """A new node of a type in an empty graph; where its title is, to be clicked."""
    page.evaluate("() => window.app.loadGraphData({ nodes: [], links: [], version: 0.4 })")
    return tuple(
        page.evaluate(
            "kind => { const { graph, canvas } = window.app, node = window.LiteGraph.createNode(kind);"
            " graph.add(node); node.pos = [0, 0]; canvas.ds.scale = 1; canvas.ds.offset = [380, 330];"
            " canvas.setDirty(true, true); const { x, y } = canvas.canvas.getBoundingClientRect();"
            " return [x + 380 + 120, y + 330 - 15]; }",
            kind,
        )
    )


def read_help(page: Page, title: tuple[float, float]) -> str:
    """Select the node, press the button with the i; the text that is shown, once all its pictures are there."""
    settle(page)
    page.mouse.click(*title)
    page.locator('[data-testid="info-button"]:visible').first.click()
    shown = page.locator(".node-help-content:visible")
    shown.locator("h1, h2").first.wait_for(timeout=COMPLAINT_LIMIT)
    page.wait_for_function(
        "() => [...document.querySelectorAll('.node-help-content img')].every(each => each.complete)"
    )
    return shown.inner_text()


def help_pictures(page: Page) -> list[int]:
    """The widths of the pictures of the open help; 0 is one that did not load."""
    return page.evaluate(
        "() => [...document.querySelectorAll('.node-help-content img')].map(each => each.naturalWidth)"
    )


def file_names(graph: dict) -> set[str]:
    """All LoRAs and checkpoints that a graph names."""
    return set(
        re.findall(
            r"[\w.-]+\.safetensors", json.dumps([n["widgets_values"] for n in graph["nodes"]])
        )
    )
