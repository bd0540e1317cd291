"""What a run matched is shown under the node, in every way that the page draws nodes."""

from __future__ import annotations

import json

import pytest
from test_page import SETTLE, load, press_run, workflow

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


@pytest.mark.every_page
def test_a_long_report_is_scrolled_and_does_not_make_the_node_a_tower(page):
    """A node is as tall as twelve lines make it, and the wheel moves the text, not the canvas."""
    load(page, workflow(WORKFLOW))
    stack = "window.app.graph.nodes.find(node => node.type === 'LoomStack')"
    before = page.evaluate(f"() => {stack}.size[1]")
    text = "\n".join(f"line {number} of a report that goes on" for number in range(300))
    page.evaluate(f"text => {stack}.onExecuted({{ text: [text] }})", text)
    page.evaluate(
        f"() => {{ const node = {stack}, view = window.app.canvas; view.ds.scale = 1;"
        " view.ds.offset = [120 - node.pos[0], 140 - node.pos[1]]; view.setDirty(true, true); }"
    )
    report = page.locator(".loom-report", has_text="line 299").first
    report.wait_for(state="visible")
    page.wait_for_timeout(SETTLE)
    assert report.bounding_box()["height"] <= 12 * 14
    assert page.evaluate(f"() => {stack}.size[1]") <= before + 200
    report.click()
    page.mouse.wheel(0, 300)
    page.wait_for_function("report => report.scrollTop > 0", arg=report.element_handle())
    assert page.evaluate("() => window.app.canvas.ds.scale") == 1
    report.press("End")
    page.wait_for_function("report => report.scrollTop > 3000", arg=report.element_handle())


@pytest.mark.parametrize("kind", ["LoomBlocks", "LoomSchedule", "LoomInterference", "LoomTrain"])
def test_the_report_stands_below_the_editor(page, kind):
    """In whatever order the page has loaded the scripts."""
    names = page.evaluate(
        "kind => window.LiteGraph.createNode(kind).widgets.map(widget => widget.name)", kind
    )
    assert names[-1] == "report"
    assert names[-2] in ("block sliders", "schedule curve", "interference map", "training")


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
