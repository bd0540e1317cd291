"""The sliders of Loom Blocks say what its text says, and write nothing that the Python side would not read."""

from __future__ import annotations

import random

import pytest
from block_texts import TABLES, TEXTS, by_python
from editing import (
    drag,
    module,
    no_complaints_of_ours,
    node,
    open_on,
    saved,
    sent,
    set_value,
    show,
    value,
    wait_for_value,
    with_values,
)
from test_page import load, press_run, settle, workflow

from lora_core.analysis.block_page import block_names, editor_tables
from lora_core.stack.blockpresets import BUILT_IN
from lora_core.stack.blocktable import BlockTable

WORKFLOW = "block_strengths"
KIND = "LoomBlocks"


def by_page(page, text: str, table: BlockTable) -> dict:
    return module(
        page,
        "blocks_text.js",
        "(m, a) => { const { state, unseen } = m.evaluate(a.text, m.slidersOf(a.names), a.known);"
        " return { values: Object.fromEntries([...state].map(([name, each]) => [name, each.value])), unseen }; }",
        {"text": text, "names": block_names(table), "known": editor_tables(BUILT_IN)},
    )


@pytest.mark.parametrize("family", TEXTS)
def test_the_sliders_read_every_form_of_text_as_python_does(page, family):
    table = TABLES[family]
    for text in TEXTS[family]:
        shown = by_page(page, text, table)
        assert shown["unseen"] == [], text
        expected = by_python(text, table)
        assert {name: shown["values"][name] for name in expected} == expected, text


def test_all_presets_stand_on_the_sliders_as_python_reads_them(page):
    known = {"SD": "SD1.5", "SDXL": "SDXL", "FLUX": "Flux"}
    checked = 0
    for name, preset in BUILT_IN.items():
        family = known.get(name.split("-")[0])
        if family is None or any(letter in preset.text for letter in "RU"):
            continue
        expected = by_python(name, TABLES[family])
        shown = by_page(page, name, TABLES[family])["values"]
        assert {block: shown[block] for block in expected} == expected, name
        checked += 1
    assert checked > 40


def test_whatever_slider_is_moved_python_reads_the_text_and_only_that_slider_has_moved(page):
    generator = random.Random(5)
    edits = []
    for _ in range(150):
        family = generator.choice(list(TEXTS))
        table = TABLES[family]
        names = list(by_python("", table))
        text = generator.choice(TEXTS[family])
        edits.append([family, text, generator.choice(names), generator.randint(-40, 40) / 20])
    for family, text, name, wanted in edits:
        table = TABLES[family]
        written = module(
            page,
            "blocks_edit.js",
            "async (m, a) => { const { slidersOf } = await import('/extensions/lora-loom/blocks_text.js');"
            " return m.withValue(a.text, a.name, a.value, { sliders: slidersOf(a.names), known: a.known }); }",
            {
                "text": text,
                "name": name,
                "value": wanted,
                "names": block_names(table),
                "known": editor_tables(BUILT_IN),
            },
        )
        before, after = by_python(text, table), by_python(written, table)
        assert after[name] == wanted, (text, written)
        if name != "BASE":  # which takes the text encoders along
            others = {block: each for block, each in before.items() if block != name}
            assert {block: after[block] for block in others} == others, (text, name, written)


def track(page, name: str):
    return page.locator(f".loom-track[aria-label='{name}']")


def energy_bar(page, name: str) -> float:
    """How wide the bar behind a slider is, which tells the block's share of the energy."""
    return track(page, name).locator(".loom-energy").evaluate("bar => bar.offsetWidth")


@pytest.mark.every_page
def test_dragged_typed_and_moved_by_keys_it_sends_what_typing_the_text_sends(
    page, client, save_screenshot
):
    with no_complaints_of_ours(page):
        open_on(page, WORKFLOW, KIND)
        set_value(page, KIND, "blocks", "")
        client.free()
        assert press_run(page)["kind"] == "execution_success"
        page.wait_for_function(f"() => {node(KIND)}.properties.loom_blocks?.includes('IN00-IN05')")
        assert page.locator(".loom-track").count() == 18  # 16 blocks and names, 2 groups
        show(page, KIND)
        bars = {name: energy_bar(page, name) for name in ("M00", "OUT02", "OUT00")}
        assert bars["M00"] > bars["OUT02"] > bars["OUT00"] > 0
        assert energy_bar(page, "IN00") == 0
        box = track(page, "OUT04").bounding_box()
        drag(page, track(page, "OUT04"), -box["width"] / 4)
        assert value(page, KIND, "blocks") == "OUT04=0.5"
        track(page, "IN01").focus()
        for key in ("ArrowLeft", "ArrowLeft", "Shift+ArrowLeft"):
            page.keyboard.press(key)
        assert value(page, KIND, "blocks") == "OUT04=0.5, IN01=0.89"
        page.keyboard.press("ArrowDown")
        page.keyboard.type("1.25")
        page.keyboard.press("Enter")
        typed = "OUT04=0.5, IN01=0.89, IN02=1.25"
        wait_for_value(page, KIND, "blocks", typed)
        save_screenshot(page, "blocks-editor")
        by_sliders = sent(page)
        graph = saved(page)
        load(page, graph)
        assert sent(page) == by_sliders
        load(page, with_values(workflow(WORKFLOW), KIND, v0=typed))
        typed_by_hand = sent(page)
        (key,) = [key for key, each in typed_by_hand.items() if each["class_type"] == KIND]
        assert by_sliders[key] == typed_by_hand[key]
        show(page, KIND)
        client.free()
        assert press_run(page)["kind"] == "execution_success"


def test_the_sliders_follow_the_text_and_the_pages_own_undo(page, client):
    open_on(page, WORKFLOW, KIND)
    set_value(page, KIND, "blocks", "IN04=0.3")
    assert track(page, "IN04").get_attribute("aria-valuenow") == "0.3"
    set_value(page, KIND, "preset", "SD-OUTALL")
    assert track(page, "IN02").get_attribute("aria-valuenow") == "0"
    assert track(page, "IN04").get_attribute("aria-valuenow") == "0.3"
    page.mouse.click(700, 860)
    track(page, "M00").focus()
    page.keyboard.press("Home")
    page.keyboard.press("End")
    wait_for_value(page, KIND, "blocks", "IN04=0.3, M00=2")
    page.keyboard.press("Control+z")
    wait_for_value(page, KIND, "blocks", "IN04=0.3")
    page.wait_for_function("() => document.querySelector('.loom-track')")
    page.keyboard.press("Control+y")
    wait_for_value(page, KIND, "blocks", "IN04=0.3, M00=2")


def test_groups_and_all_buttons_keep_what_was_written_beside_them(page):
    open_on(page, WORKFLOW, KIND)
    set_value(page, KIND, "blocks", "# mine\nOUT03.attn=0.5\nIN04=0.3, IN05=0.2")
    track(page, "IN*").focus()
    page.keyboard.press("Home")
    wait_for_value(page, KIND, "blocks", "# mine\nOUT03.attn=0.5\nIN*=0")
    assert track(page, "IN08").get_attribute("aria-valuenow") == "0"
    page.get_by_role("button", name="All 0").click()
    wait_for_value(page, KIND, "blocks", "*=0")
    page.get_by_role("button", name="All 1").click()
    wait_for_value(page, KIND, "blocks", "")


def test_all_57_blocks_of_flux_are_there_before_any_run(page, save_screenshot):
    open_on(page, WORKFLOW, KIND)
    set_value(page, KIND, "blocks", "FLUX-SINGLE-11to20\nD04=0.35")
    page.locator(".loom-family").select_option(label="Flux, 57 blocks")
    page.wait_for_timeout(600)
    blocks = [f"D{index:02}" for index in range(19)] + [f"S{index:02}" for index in range(38)]
    assert [track(page, name).count() for name in blocks] == [1] * 57
    assert track(page, "S12").get_attribute("aria-valuenow") == "1"
    assert track(page, "S30").get_attribute("aria-valuenow") == "0"
    assert track(page, "D04").get_attribute("aria-valuenow") == "0.35"
    show(page, KIND)
    save_screenshot(page, "blocks-editor-flux")
    track(page, "S37").scroll_into_view_if_needed()
    track(page, "S37").focus()
    page.keyboard.press("End")
    wait_for_value(page, KIND, "blocks", "FLUX-SINGLE-11to20\nD04=0.35, S37=2")
    graph = saved(page)
    load(page, graph)
    assert track(page, "S37").get_attribute("aria-valuenow") == "2"


def test_the_blocks_of_sd15_are_grouped_and_labelled_by_the_models_own_names(page):
    open_on(page, WORKFLOW, KIND)
    set_value(page, KIND, "blocks", "")
    page.locator(".loom-family").select_option(label="SD1.5, 16 blocks")
    groups = page.locator(".loom-group-name")
    groups.nth(3).wait_for()
    assert [" ".join(text.split()) for text in groups.all_inner_texts()] == [
        "outside the blocks",
        "IN input",
        "M middle",
        "OUT output",
    ]
    inputs = [f"IN{number:02}" for number in (1, 2, 4, 5, 7, 8)]
    outputs = [f"OUT{number:02}" for number in range(3, 12)]
    # BASE and the 16 blocks are the 17 of the LBW vectors; TE is the text encoder.
    for name in ("BASE", "TE", *inputs, "M00", *outputs):
        assert track(page, name).count() == 1, name
    set_value(page, KIND, "blocks", "1,0,0,0,1,1,1,1,1,1,1,1,0,0,0,0,0")
    shown = [track(page, name).get_attribute("aria-valuenow") for name in (*inputs, "M00")]
    assert shown == ["0", "0", "0", "1", "1", "1", "1"]


def test_text_that_comes_by_a_link_locks_the_sliders(page):
    open_on(page, WORKFLOW, KIND)
    set_value(page, KIND, "blocks", "IN04=0.5")
    page.evaluate(
        "() => { const text = window.LiteGraph.createNode('PrimitiveStringMultiline');"
        " window.app.graph.add(text);"
        f" const target = {node(KIND)};"
        " text.connect(0, target, target.inputs.findIndex(input => input.name === 'blocks')); }"
    )
    page.wait_for_timeout(600)
    track(page, "IN04").focus()
    page.keyboard.press("End")
    page.wait_for_timeout(300)
    assert value(page, KIND, "blocks") == "IN04=0.5"
    assert page.locator(".loom-note", has_text="by a link").count() == 1


@pytest.mark.every_page
def test_a_copy_has_sliders_of_its_own_and_works_inside_a_subgraph(page):
    open_on(page, WORKFLOW, KIND)
    set_value(page, KIND, "blocks", "IN04=0.5")
    page.evaluate(
        f"() => {{ const view = window.app.canvas, one = {node(KIND)};"
        " view.selectItems([one]); view.copyToClipboard([one]); view.pasteFromClipboard();"
        " const copy = window.app.graph.nodes.at(-1);"
        # A widget out of sight takes no focus, and a paste lands where the pointer last was.
        " copy.pos = [one.pos[0] + one.size[0] + 40, one.pos[1]]; view.setDirty(true, true); }"
    )
    settle(page)
    texts = (
        f"() => window.app.graph.nodes.filter(node => node.type === '{KIND}')"
        ".map(node => node.widgets.find(w => w.name === 'blocks').value)"
    )
    assert page.evaluate(texts) == ["IN04=0.5"] * 2
    assert track(page, "IN04").count() == 2
    track(page, "IN04").last.focus()
    page.keyboard.press("Home")
    page.wait_for_timeout(300)
    assert sorted(page.evaluate(texts)) == ["IN04=0", "IN04=0.5"]
    page.evaluate(
        f"() => {{ const one = {node(KIND)};"
        " const { subgraph } = window.app.graph.convertToSubgraph(new Set([one]));"
        " window.app.canvas.setGraph(subgraph); }"
    )
    settle(page)
    page.evaluate(
        "() => { const view = window.app.canvas, one = view.graph.nodes[0]; view.ds.scale = 1;"
        " view.ds.offset = [330 - one.pos[0], 90 - one.pos[1]]; view.setDirty(true, true); }"
    )
    settle(page)
    inside = "() => window.app.canvas.graph.nodes[0].widgets.find(w => w.name === 'blocks').value"
    before = page.evaluate(inside)
    shown = track(page, "OUT03").locator("visible=true")
    shown.first.focus()
    page.keyboard.press("Home")
    page.wait_for_timeout(300)
    assert page.evaluate(inside) == f"{before}, OUT03=0"


def test_hostile_names_in_a_workflow_run_nothing_and_hold_up_nothing(page):
    graph = workflow(WORKFLOW)
    for each in graph["nodes"]:
        if each["type"] == KIND:
            each["properties"]["loom_blocks"] = (
                "<img src=x onerror=window.loomHurt=1> IN00-IN99999999 \u202eevil A" + "x" * 10_000
            )
            each["widgets_values"][0] = (
                "<img src=x onerror=window.loomHurt=1>=1\n" + "\U0001f600" * 2_000
            )
    with no_complaints_of_ours(page):
        open_on(page, graph, KIND)
    assert page.locator(".loom-track").count() <= 610
    assert page.evaluate("() => window.loomHurt") is None
    assert page.locator(".loom-blocks img").count() == 0
