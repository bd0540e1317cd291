"""What a run matched is shown under the node, in every way that the page draws nodes."""

from __future__ import annotations

import json

import pytest
from test_page import load, press_run, workflow

WORKFLOW = "style_and_character"


@pytest.mark.every_page
def test_the_stack_says_under_itself_what_matched(page, client, save_screenshot):
    load(page, workflow(WORKFLOW))
    before = page.evaluate("async () => (await window.app.graphToPrompt()).output")
    client.free()
    assert press_run(page)["kind"] == "execution_success"
    report = page.locator(".loom-report", has_text="loom_toy_style.safetensors").first
    report.wait_for(state="visible")
    save_screenshot(page, "report")
    text = report.inner_text()
    assert "model keys" in text
    assert "loom_toy_character.safetensors" in text
    box = report.bounding_box()
    assert box is not None
    assert box["height"] > 10
    # What is shown is not sent: the graph asks for the same run, and keeps which files its rows meant.
    after = page.evaluate("async () => (await window.app.graphToPrompt()).output")
    (stack,) = [key for key, node in after.items() if node["class_type"] == "LoomStack"]
    now, then = (json.loads(each[stack]["inputs"].pop("rows")) for each in (after, before))
    assert now["rows"] == then["rows"]
    assert after == before


def test_a_node_that_has_not_run_shows_nothing_and_keeps_its_values(page):
    graph = workflow(WORKFLOW)
    load(page, graph)
    saved = page.evaluate("() => window.app.graph.serialize()")
    values = {
        node["id"]: node["widgets_values"] for node in graph["nodes"] if node["type"] == "LoomStack"
    }
    for node in saved["nodes"]:
        if node["type"] == "LoomStack":
            expected = values[int(node["id"])]
            assert node["widgets_values"][: len(expected)] == expected
