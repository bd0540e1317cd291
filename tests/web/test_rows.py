"""The rows of a Loom Stack, built and changed as a person does it, in every way that the page draws nodes."""

from __future__ import annotations

import io
import json

import pytest
from PIL import Image, ImageChops
from stack_page import (
    CHARACTER,
    ROWS,
    STACK,
    STYLE,
    choose,
    drag,
    look_at_stack,
    menu,
    names_of,
    open_rows,
    prompt_of,
    reload,
    row,
    rows_of,
    strength,
    text_of,
    wait_for,
)
from test_page import complaints, press_run, settle

EMPTY = '{"version": 1, "rows": []}'
TWO = [{"lora": STYLE, "model": 0.8}, {"lora": CHARACTER, "model": 0.9}]
THREE = [*TWO, {"lora": STYLE, "model": 0.3}]


def picture(page, client) -> Image.Image:
    client.free()
    end = press_run(page)
    assert end["kind"] == "execution_success", end.get("exception_message")
    outputs = client.history(end["prompt_id"])["outputs"].values()
    view = next(view for output in outputs for view in output.get("images", []))
    return Image.open(io.BytesIO(client.fetch_image(view))).convert("RGB")


@pytest.mark.every_page
def test_a_stack_built_by_hand_is_saved_reloaded_and_run_as_one_that_was_typed(
    page, client, save_screenshot
):
    open_rows(page, EMPTY)
    page.get_by_role("button", name="Add LoRA").click()
    choose(page, "toy style")
    page.locator(".loom-add").focus()
    page.keyboard.press("Enter")
    choose(page, "toy character")
    strength(page, 0).click()
    page.keyboard.type("0.8")
    page.keyboard.press("Enter")
    strength(page, 1).focus()
    page.keyboard.press("ArrowDown")
    row(page, 1).get_by_role("button", name="Role, blocks and words").click()
    row(page, 1).get_by_role("combobox", name="Role").select_option("character")
    wait_for(page, "text.includes('\"role\"')")
    save_screenshot(page, "rows-built")
    reload(page)
    built = prompt_of(page)
    made = picture(page, client)
    typed = {"version": 1, "rows": [TWO[0], {**TWO[1], "role": "character"}]}
    open_rows(page, typed)
    assert prompt_of(page) == built
    assert ImageChops.difference(picture(page, client), made).getbbox() is None


def test_a_text_that_is_not_edited_is_not_rewritten(page):
    text = json.dumps({"rows": [{"clip": 0.5, "lora": STYLE, "on": True}]}, indent=1)
    open_rows(page, text)
    assert text_of(page) == text


@pytest.mark.every_page
def test_strength_by_drag_wheel_keys_and_typing(page):
    open_rows(page, [{"lora": STYLE, "model": 1}])
    field = strength(page, 0)
    drag(page, field, 25, 0)
    assert rows_of(page)[0]["model"] == pytest.approx(1.25)
    field.hover()
    page.mouse.move(*centre(field, 3))
    page.mouse.wheel(0, 100)
    wait_for(page, "JSON.parse(text).rows[0].model === 1.15")
    page.keyboard.down("Shift")
    page.mouse.wheel(0, -100)
    page.keyboard.up("Shift")
    wait_for(page, "JSON.parse(text).rows[0].model === 1.16")
    field.focus()
    page.keyboard.press("ArrowUp")
    page.keyboard.press("Shift+ArrowUp")
    assert rows_of(page)[0]["model"] == pytest.approx(1.27)
    page.keyboard.type("-0,5")
    page.keyboard.press("Enter")
    assert rows_of(page)[0]["model"] == -0.5
    for nonsense in ("NaN", "1e999", "x"):
        field.press("Enter")
        page.locator(".loom-typed").fill(nonsense)
        page.keyboard.press("Enter")
        assert rows_of(page)[0]["model"] == -0.5
    field.press("Enter")
    page.locator(".loom-typed").fill("5000")
    page.keyboard.press("Enter")
    assert rows_of(page)[0]["model"] == 100


def centre(locator, off: float = 0) -> tuple[float, float]:
    box = locator.bounding_box()
    assert box is not None
    return box["x"] + box["width"] / 2 + off, box["y"] + box["height"] / 2


def test_the_wheel_leaves_a_strength_that_slid_under_a_still_pointer(page):
    open_rows(page, TWO)
    before = text_of(page)
    x, y = centre(strength(page, 0))
    # The pointer is there before the field is: what comes under it while a canvas is zoomed is not meant.
    page.evaluate(
        "() => { window.app.canvas.ds.offset[1] += 300; window.app.canvas.setDirty(true, true); }"
    )
    page.mouse.move(x, y)
    settle(page)
    look_at_stack(page)
    page.mouse.wheel(0, 100)
    page.wait_for_timeout(600)
    assert text_of(page) == before


def test_clip_goes_its_own_way_and_comes_back(page):
    open_rows(page, TWO)
    row(page, 0).get_by_role("button", name="Model and clip strength apart").click()
    assert rows_of(page)[0] == {"lora": STYLE, "model": 0.8, "clip": 0.8}
    row(page, 0).get_by_role("spinbutton", name="Clip strength").focus()
    page.keyboard.press("ArrowDown")
    assert rows_of(page)[0] == {"lora": STYLE, "model": 0.8, "clip": 0.7}
    drag(page, row(page, 0).get_by_role("spinbutton", name="Clip strength"), -30, 0)
    drag(page, row(page, 0).get_by_role("spinbutton", name="Model strength"), 10, 0)
    assert rows_of(page)[0] == {"lora": STYLE, "model": 0.9, "clip": 0.4}
    drag(page, strength(page, 1), -40, 0)
    assert rows_of(page)[1] == {"lora": CHARACTER, "model": 0.5}
    row(page, 0).get_by_role("button", name="One strength for model and clip").click()
    assert rows_of(page)[0] == {"lora": STYLE, "model": 0.9}


@pytest.mark.every_page
def test_rows_are_moved_by_drag_and_by_keys(page):
    open_rows(page, THREE)
    grips = page.locator(".loom-grip")
    drag(page, grips.nth(0), 0, 60)
    assert rows_of(page) == [CHAR_ROW, STYLE_ROW, LAST_ROW]
    grips.nth(2).focus()
    page.keyboard.press("Alt+ArrowUp")
    page.keyboard.press("Alt+ArrowUp")
    assert rows_of(page) == [LAST_ROW, CHAR_ROW, STYLE_ROW]
    shown = page.locator(".loom-file").all_inner_texts()
    assert shown == [row["lora"].removesuffix(".safetensors") for row in rows_of(page)]


STYLE_ROW, CHAR_ROW, LAST_ROW = THREE


def test_rows_are_switched_duplicated_and_removed(page):
    open_rows(page, TWO)
    row(page, 0).get_by_role("switch").click()
    assert rows_of(page) == [{**STYLE_ROW, "on": False}, CHAR_ROW]
    page.get_by_role("switch", name="All rows on").click()
    assert rows_of(page) == TWO
    page.get_by_role("switch", name="All rows on").click()
    assert [row["on"] for row in rows_of(page)] == [False, False]
    page.get_by_role("switch", name="All rows on").click()
    row(page, 0).locator(".loom-name").focus()
    page.keyboard.press("Control+d")
    assert rows_of(page) == [STYLE_ROW, STYLE_ROW, CHAR_ROW]
    nodes = page.evaluate("() => window.app.graph.nodes.length")
    page.keyboard.press("Delete")
    assert rows_of(page) == TWO
    # The key is the row's: the canvas must not take it for the node.
    assert page.evaluate("() => window.app.graph.nodes.length") == nodes
    row(page, 1).get_by_role("button", name="Role, blocks and words").click()
    row(page, 1).get_by_role("button", name="Duplicate").click()
    assert rows_of(page) == [STYLE_ROW, CHAR_ROW, CHAR_ROW]
    row(page, 1).get_by_role("button", name="Remove").click()
    assert rows_of(page) == TWO


@pytest.mark.every_page
def test_the_node_grows_and_shrinks_with_its_rows(page):
    open_rows(page, TWO)

    def height() -> float:
        settle(page)
        return page.evaluate(f"() => {STACK}.size[1]")

    before = height()
    row(page, 0).locator(".loom-name").focus()
    for _ in range(3):
        page.keyboard.press("Control+d")
    grown = height()
    assert grown > before + 80
    row(page, 0).locator(".loom-name").focus()
    for _ in range(3):
        page.keyboard.press("Delete")
    assert height() == pytest.approx(before, abs=8)


@pytest.mark.every_page
def test_undo_and_redo_are_those_of_the_page(page):
    open_rows(page, TWO)
    # The page remembers a graph that it has opened a moment later, as what undo goes back to.
    page.wait_for_function(
        "() => window.app.extensionManager.workflow.activeWorkflow.changeTracker.activeState.nodes"
        f".some(node => node.type === 'LoomStack' && node.widgets_values[0] === {ROWS}.value)"
    )
    row(page, 0).locator(".loom-name").focus()
    page.keyboard.press("Control+d")
    page.wait_for_timeout(500)
    page.evaluate("() => document.activeElement.blur()")
    page.keyboard.press("Control+z")
    wait_for(page, "(JSON.parse(text).rows ?? JSON.parse(text)).length === 2")
    assert rows_of(page) == TWO
    settle(page)
    page.keyboard.press("Control+y")
    wait_for(page, "JSON.parse(text).rows?.length === 3")


def test_words_are_chosen_by_chips(page):
    open_rows(page, TWO)
    row(page, 0).get_by_role("button", name="Role, blocks and words").click()
    chip = row(page, 0).locator(".loom-chip").first
    chip.wait_for()
    word = chip.inner_text()
    chip.click()
    assert rows_of(page)[0]["words"] == []
    box = row(page, 0).get_by_label("add a word")
    box.fill("misty")
    box.press("Enter")
    assert rows_of(page)[0]["words"] == ["misty"]
    row(page, 0).locator(".loom-chip", has_text=word).click()
    assert rows_of(page)[0]["words"] == [word, "misty"]
    row(page, 0).locator(".loom-chip", has_text="misty").click()
    assert "words" not in rows_of(page)[0]


def test_blocks_that_no_run_would_read_are_not_written(page):
    open_rows(page, TWO)
    row(page, 0).get_by_role("button", name="Role, blocks and words").click()
    box = row(page, 0).get_by_role("textbox", name="Blocks")
    box.fill("IN04=lots")
    box.press("Tab")
    fault = row(page, 0).locator(".loom-fault")
    fault.wait_for(state="visible")
    assert "'lots' is not a finite number" in fault.inner_text()
    assert rows_of(page) == TWO
    box.fill("IN04=0.5, OUT*=0.8")
    box.press("Tab")
    wait_for(page, "text.includes('IN04=0.5, OUT*=0.8')")
    fault.wait_for(state="hidden")


def test_a_missing_file_is_marked_and_there_is_a_way_out(page, save_screenshot):
    open_rows(page, [{"lora": "gone/loom_toy_stile.safetensors", "model": 0.8}])
    mark = row(page, 0).get_by_role("button", name="Notes on")
    mark.click()
    save_screenshot(page, "rows-missing")
    page.get_by_role("menuitem", name=f"Use {STYLE}").click()
    assert rows_of(page) == [STYLE_ROW]
    mark.wait_for(state="hidden")


def test_another_file_under_the_name_is_marked_and_may_be_kept(page, client):
    open_rows(page, TWO)
    client.free()
    assert press_run(page)["kind"] == "execution_success"
    wait_for(page, "text.includes('locks')")
    held = json.loads(text_of(page))
    held["locks"][STYLE] = {"sha256": "a" * 64}
    open_rows(page, held)
    mark = row(page, 0).get_by_role("button", name="Notes on")
    mark.wait_for()
    mark.click()
    page.get_by_role("menuitem", name="Use the file that is there").click()
    assert set(json.loads(text_of(page))["locks"]) == {CHARACTER}
    assert press_run(page)["kind"] == "execution_success"
    mark.wait_for(state="hidden")


def test_the_info_panel_is_opened_by_mouse_and_by_key_and_gives_the_focus_back(
    page, save_screenshot
):
    open_rows(page, TWO)
    name = row(page, 0).locator(".loom-name")
    name.focus()
    page.keyboard.press("i")
    panel = page.get_by_role("dialog", name="Info on loom_toy_style")
    panel.get_by_text("rank 2 to 15").first.wait_for()
    save_screenshot(page, "rows-info")
    page.keyboard.press("Escape")
    panel.wait_for(state="detached")
    assert page.evaluate("() => document.activeElement.className") == "loom-name"
    row(page, 1).locator(".loom-picture").click()
    page.get_by_role("dialog", name="Info on loom_toy_character").wait_for()
    page.keyboard.press("Escape")


def test_presets_are_saved_in_the_workflow(page):
    open_rows(page, TWO)
    menu(page, "Save these rows as a preset")
    page.get_by_label("Name of the preset").fill("both")
    page.keyboard.press("Enter")
    menu(page, "Remove all rows")
    assert names_of(page) == []
    reload(page)
    look_at_stack(page)
    menu(page, "Use both")
    assert rows_of(page) == TWO
    menu(page, "Delete preset both")
    assert page.evaluate(f"() => {STACK}.properties.loom_presets") == {}


@pytest.mark.every_page
def test_rows_that_come_by_a_link_are_not_edited(page, drawing):
    open_rows(page, TWO)
    page.evaluate(
        f"() => {{ const graph = window.app.graph, stack = {STACK};"
        " const text = window.LiteGraph.createNode('PrimitiveStringMultiline'); graph.add(text);"
        " text.pos = [stack.pos[0] - 300, stack.pos[1] + 300];"
        " text.connect(0, stack, stack.inputs.findIndex(input => input.widget?.name === 'rows')); }"
    )
    # The newer page hides a widget that is linked, however it draws.
    if drawing.version is None:
        page.get_by_text("The rows come by the link.").wait_for()
    row(page, 0).wait_for(state="hidden")
    page.evaluate(
        f"() => {{ const stack = {STACK};"
        " stack.disconnectInput(stack.inputs.findIndex(input => input.widget?.name === 'rows')); }"
    )
    row(page, 1).wait_for()
    assert rows_of(page) == TWO


def test_text_that_is_no_rows_stays_text(page):
    tags = "<lora:loom_toy_style:0.8>"
    open_rows(page, tags)
    box = page.locator(".loom-text")
    assert box.input_value() == tags
    box.fill(json.dumps(TWO))
    page.get_by_role("button", name="Back to rows").click()
    row(page, 1).wait_for()
    assert rows_of(page) == TWO


@pytest.mark.every_page
def test_a_stack_that_is_copied_bypassed_or_put_into_a_subgraph_keeps_its_rows(page):
    open_rows(page, TWO)
    page.evaluate(
        f"() => {{ const canvas = window.app.canvas; canvas.deselectAll?.(); canvas.select({STACK});"
        " canvas.copyToClipboard(); canvas.pasteFromClipboard(); }"
    )
    settle(page)
    texts = page.evaluate(
        "() => window.app.graph.nodes.filter(node => node.type === 'LoomStack')"
        ".map(node => node.widgets.find(widget => widget.name === 'rows').value)"
    )
    assert [json.loads(text) for text in texts] == [TWO, TWO]
    open_rows(page, TWO)
    for mode in (4, 2):  # bypassed, muted
        page.evaluate(f"mode => {{ {STACK}.mode = mode; }}", mode)
        assert not any(node["class_type"] == "LoomStack" for node in prompt_of(page).values())
    page.evaluate(f"() => {{ {STACK}.mode = 0; }}")
    assert rows_of(page) == TWO
    page.evaluate(
        f"() => {{ const canvas = window.app.canvas; canvas.deselectAll?.(); canvas.select({STACK});"
        " window.app.graph.convertToSubgraph(canvas.selectedItems); }"
    )
    settle(page)
    reload(page)
    (stack,) = [node for node in prompt_of(page).values() if node["class_type"] == "LoomStack"]
    rows = stack["inputs"]["rows"]
    assert (rows if isinstance(rows, list) else rows["rows"]) == TWO
    assert complaints(page) == []


@pytest.mark.every_page
def test_a_stack_inside_a_subgraph_hears_of_its_run(page, client):
    open_rows(page, TWO)
    page.evaluate(
        f"() => {{ const canvas = window.app.canvas; canvas.deselectAll?.(); canvas.select({STACK});"
        " window.app.graph.convertToSubgraph(canvas.selectedItems); }"
    )
    client.free()
    assert press_run(page)["kind"] == "execution_success"
    inside = (
        "window.app.graph.nodes.find(node => node.subgraph).subgraph.nodes[0]"
        ".widgets.find(widget => widget.name === 'rows').value"
    )
    page.wait_for_function(f"() => {inside}.includes('locks')")
    found = json.loads(page.evaluate(f"() => {inside}"))
    assert found["rows"] == TWO
    assert set(found["locks"]) == {STYLE, CHARACTER}
    page.evaluate(
        "() => { const canvas = window.app.canvas;"
        " canvas.setGraph(window.app.graph.nodes.find(node => node.subgraph).subgraph);"
        " const node = canvas.graph.nodes[0]; canvas.ds.scale = 1;"
        " canvas.ds.offset = [120 - node.pos[0], 140 - node.pos[1]]; canvas.setDirty(true, true); }"
    )
    page.locator(".loom-report", has_text="94 of 94 model keys").wait_for(state="visible")


def test_a_run_that_failed_inside_a_subgraph_is_told_at_its_node(fresh_page):
    """The host names such a node with those that it stands in before it."""
    page = fresh_page
    open_rows(page, TWO)
    page.evaluate(
        f"() => window.app.api.dispatchEvent(new CustomEvent('execution_error', {{ detail: {{"
        f" node_id: `9:${{{STACK}.id}}`, node_type: 'LoomStack', exception_type: 'LoraError',"
        " exception_message: 'it does not fit', traceback: [], prompt_id: 'x' } }))"
    )
    page.locator(".loom-report", has_text="it does not fit").wait_for(state="attached")


@pytest.mark.every_page
def test_a_group_that_is_dragged_takes_its_stack_along(page):
    open_rows(page, TWO)
    at = page.evaluate(
        f"() => {{ const canvas = window.app.canvas, node = {STACK};"
        " const group = new window.LiteGraph.LGraphGroup('both');"
        " group.pos = [node.pos[0] - 30, node.pos[1] - 90];"
        " group.size = [node.size[0] + 60, node.size[1] + 130];"
        " canvas.graph.add(group); group.recomputeInsideNodes();"
        # Below the page's own bars.
        " canvas.ds.offset = [120 - node.pos[0], 330 - node.pos[1]]; canvas.setDirty(true, true);"
        " const { x, y } = canvas.canvas.getBoundingClientRect();"
        " return [x + group.pos[0] + canvas.ds.offset[0] + 60, y + group.pos[1] + canvas.ds.offset[1] + 15]; }"
    )
    settle(page)
    before = row(page, 0).bounding_box()
    page.mouse.move(*at)
    page.mouse.down()
    page.mouse.move(at[0] + 40, at[1] + 60, steps=6)
    page.mouse.up()
    settle(page)
    after = row(page, 0).bounding_box()
    assert before is not None
    assert after is not None
    moved = after["x"] - before["x"], after["y"] - before["y"]
    assert moved == (pytest.approx(40, abs=12), pytest.approx(60, abs=12))
    reload(page)
    assert page.evaluate("() => window.app.graph.groups.length") == 1
    assert rows_of(page) == TWO


def test_the_rows_follow_the_declared_text(page):
    open_rows(page, EMPTY)
    assert page.evaluate(f"() => typeof {ROWS}.value") == "string"
    page.evaluate(f"text => {{ {ROWS}.value = text; }}", json.dumps(TWO))
    row(page, 1).wait_for()
    assert page.locator(".loom-file").all_inner_texts() == ["loom_toy_style", "loom_toy_character"]
