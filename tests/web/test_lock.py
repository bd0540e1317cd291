"""A Loom Loader keeps the hashes of its file after a run, in every way that the page draws nodes."""

from __future__ import annotations

import json
from typing import Any

from test_page import load, press_run, workflow

STYLE, CHARACTER = "loom_toy_style.safetensors", "loom_toy_character.safetensors"
LOADER = "window.app.graph.nodes.find(node => node.type === 'LoomLoader')"


def widget(page, name: str) -> Any:
    return page.evaluate(f"name => {LOADER}.widgets.find(w => w.name === name).value", name)


def set_widget(page, name: str, value: str) -> None:
    page.evaluate(
        f"([name, value]) => {{ {LOADER}.widgets.find(w => w.name === name).value = value; }}",
        [name, value],
    )


def run(page, client) -> None:
    client.free()
    assert press_run(page)["kind"] == "execution_success"


def wait_for_lock_of(page, name: str) -> dict[str, Any]:
    page.wait_for_function(
        f"name => {LOADER}.widgets.find(w => w.name === 'lora_lock').value.includes(name)",
        arg=json.dumps(name),
    )
    return json.loads(widget(page, "lora_lock"))


def test_a_run_fills_the_lock_which_is_saved_and_sent(page, client, save_screenshot):
    load(page, workflow("one_lora"))
    assert widget(page, "lora_lock") == ""
    run(page, client)
    lock = wait_for_lock_of(page, STYLE)
    assert len(lock["sha256"]) == 64
    assert len(lock["autov3"]) == 12
    save_screenshot(page, "lock")
    (saved,) = [
        node
        for node in page.evaluate("() => window.app.graph.serialize()")["nodes"]
        if node["type"] == "LoomLoader"
    ]
    assert json.loads(saved["widgets_values"][4]) == lock
    sent = page.evaluate("async () => (await window.app.graphToPrompt()).output")
    (loader,) = [node for node in sent.values() if node["class_type"] == "LoomLoader"]
    assert json.loads(loader["inputs"]["lora_lock"]) == lock


def test_a_lock_stands_while_the_lora_does_and_is_renewed_when_another_is_chosen(page, client):
    load(page, workflow("one_lora"))
    run(page, client)
    first = wait_for_lock_of(page, STYLE)
    kept = json.dumps({**first, "accept": True})
    set_widget(page, "lora_lock", kept)
    run(page, client)
    assert widget(page, "lora_lock") == kept
    set_widget(page, "lora_name", CHARACTER)
    run(page, client)
    assert wait_for_lock_of(page, CHARACTER)["sha256"] != first["sha256"]


def test_a_workflow_from_before_there_were_locks_opens_and_runs(page, client):
    graph = workflow("one_lora")
    for node in graph["nodes"]:
        if node["type"] == "LoomLoader":
            node["widgets_values"] = node["widgets_values"][:4]
    load(page, graph)
    assert widget(page, "lora_lock") == ""
    run(page, client)
    wait_for_lock_of(page, STYLE)


def test_the_lock_is_out_of_sight_and_within_reach(page):
    load(page, workflow("one_lora"))
    visible = f"() => {LOADER}.isWidgetVisible({LOADER}.widgets.find(w => w.name === 'lora_lock'))"
    assert page.evaluate(visible) is False
    page.evaluate(f"() => {{ {LOADER}.showAdvanced = true; }}")
    assert page.evaluate(visible) is True


STACK = "window.app.graph.nodes.find(node => node.type === 'LoomStack')"
ROWS = f"{STACK}.widgets.find(w => w.name === 'rows')"


def rows_of(page) -> dict[str, Any]:
    return json.loads(page.evaluate(f"() => {ROWS}.value"))


def test_a_run_of_the_stack_keeps_the_hashes_of_its_rows_by_name(page, client):
    load(page, workflow("style_and_character"))
    before = rows_of(page)
    run(page, client)
    page.wait_for_function(f"() => {ROWS}.value.includes('locks')")
    after = rows_of(page)
    assert after["rows"] == before["rows"]
    assert set(after["locks"]) == {STYLE, CHARACTER}
    assert all(len(lock["sha256"]) == 64 for lock in after["locks"].values())
    assert all(lock["size"] > 10_000 for lock in after["locks"].values())
    run(page, client)
    assert rows_of(page) == after


def test_tags_in_the_rows_box_are_left_as_they_were_typed(page, client):
    load(page, workflow("style_and_character"))
    tags = "<lora:loom_toy_style:0.8>"
    page.evaluate(f"tags => {{ {ROWS}.value = tags; }}", tags)
    run(page, client)
    assert page.evaluate(f"() => {ROWS}.value") == tags


def test_a_row_that_is_given_another_name_is_not_held_to_the_old_file(page, client):
    load(page, workflow("style_and_character"))
    run(page, client)
    page.wait_for_function(f"() => {ROWS}.value.includes('locks')")
    changed = rows_of(page)
    changed["rows"] = [{**changed["rows"][0], "lora": CHARACTER}]
    page.evaluate(f"text => {{ {ROWS}.value = text; }}", json.dumps(changed))
    run(page, client)
    page.wait_for_function(f"name => !{ROWS}.value.includes(name)", arg=STYLE)
    assert set(rows_of(page)["locks"]) == {CHARACTER}
