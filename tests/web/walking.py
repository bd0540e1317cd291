"""What someone does who walks through the examples: open one from the side, look whether all is well, read about a node."""

from __future__ import annotations

import json
import re

from editing import set_value
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
# Whether every node that shows pictures has them. Of several at once Nodes 2.0 tells in the document only.
ARRIVED = """() => window.app.graph.nodes
  .filter(node => ['SaveImage', 'PreviewImage', 'LoomSweepGrid'].includes(node.type))
  .map(node => node.imgs?.length ? node.imgs : [...document.querySelectorAll(`[data-node-id="${node.id}"] img`)])
  .every(images => images.length && images.every(image => image.complete && image.naturalWidth > 0))
  && [...document.querySelectorAll('.loom-cell img')].every(image => image.naturalWidth > 0)"""

# What a walk cuts short, by workflow and type of node: a whole training takes minutes, a sweep as many runs as points.
_FEW_STEPS = {"LoomTrainSettings": {"steps": 4, "sample_steps": 2}}
_FEW_METHODS = {"LoomSweep": {"x_values": "svd, ties"}}
_FEW_STRENGTHS = {"LoomSweep": {"x_values": "0.6, 0.8", "y_values": "0.7, 0.9"}}
_SHORTENED = {
    "train_style": _FEW_STEPS,
    "train_character": _FEW_STEPS,
    "train_on_style": _FEW_STEPS,
    "train_from_ten": _FEW_STEPS,
    "train_then_stack": _FEW_STEPS,
    "merge_methods": _FEW_METHODS,
    "trained_pair": _FEW_STRENGTHS,
    "strength_sweep": _FEW_STRENGTHS,
}


def shorten(page: Page, name: str) -> None:
    """Set what the walk does not need in full, as someone would in the nodes."""
    for kind, values in _SHORTENED.get(name, {}).items():
        for widget, value in values.items():
            set_value(page, kind, widget, value)


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
