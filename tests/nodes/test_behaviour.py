"""What the nodes hand to the core, and what they hand out."""

from __future__ import annotations

import pytest


def results(answer: dict) -> tuple:
    """The outputs of a node that also shows something."""
    return answer["result"]


def test_the_loader_hands_one_row_over_and_gives_clones_out(pack):
    answer = pack.nodes["LoomLoader"]().load("M", "style.safetensors", 0.8, 0.5, clip="C")
    model, clip, words, report = results(answer)
    stack, *rest = pack.applied[0]
    assert [(row.name, row.model, row.clip) for row in stack.rows] == [
        ("style.safetensors", 0.8, 0.5)
    ]
    assert rest == ["M", "C", "auto"]
    assert (model, clip, words) == ("patched M", "patched C", "ohwx")
    assert answer["ui"]["text"] == [report]


def test_an_unconnected_clip_stops_whoever_reads_it_with_a_plain_message(pack):
    _, clip, *_ = results(pack.nodes["LoomLoader"]().load("M", "style.safetensors", 1.0, 1.0))
    assert (
        clip.message
        == "Loom Loader has no CLIP connected, so it has none to give. Connect CLIP to Loom Loader."
    )


def test_a_stack_without_a_model_only_hands_the_stack_on(pack):
    answer = pack.nodes["LoomStack"]().stack('[{"lora": "style.safetensors", "model": 0.8}]')
    model, clip, stack, words = results(answer)
    assert "no MODEL connected" in model.message
    assert "no CLIP connected" in clip.message
    assert stack == [("style.safetensors", 0.8, 0.8)]
    assert words == "ohwx"


def test_rows_come_in_the_order_incoming_own_memory(pack):
    answer = pack.nodes["LoomStack"]().stack(
        '[{"lora": "style.safetensors"}]',
        model="M",
        lora_stack=[("dir/character.safetensors", 0.9, 0.9)],
        lora_model={"x": 1, "y": 2},
        lora_model_strength=0.4,
        lora_clip_strength=0.3,
    )
    assert results(answer)[2] == [
        ("dir/character.safetensors", 0.9, 0.9),
        ("style.safetensors", 1.0, 1.0),
        ("memory of 2", 0.4, 0.3),
    ]


def test_an_incoming_stack_is_not_changed(pack):
    incoming = [("dir/character.safetensors", 0.9, 0.9)]
    pack.nodes["LoomStack"]().stack('[{"lora": "style.safetensors"}]', lora_stack=incoming)
    assert incoming == [("dir/character.safetensors", 0.9, 0.9)]


def test_apply_reads_a_stack_of_another_pack(pack):
    pack.nodes["LoomApply"]().apply(
        "M", [("style.safetensors", 0.8, 0.5, "additive", "*")], matching="strict"
    )
    stack, model, clip, matching = pack.applied[0]
    assert [(row.name, row.model, row.clip) for row in stack.rows] == [
        ("style.safetensors", 0.8, 0.5)
    ]
    assert (model, clip, matching) == ("M", None, "strict")


@pytest.mark.parametrize("node_id", ["LoomLoader", "LoomInspect"])
def test_a_missing_file_is_refused_before_the_graph_runs(node_id, pack):
    validate = pack.nodes[node_id].VALIDATE_INPUTS
    assert validate("style.safetensors") is True
    assert "LoRA 'gone.safetensors' not found" in validate("gone.safetensors")
    assert validate(None) is True


def test_bad_rows_are_refused_before_the_graph_runs(pack):
    validate = pack.nodes["LoomStack"].VALIDATE_INPUTS
    assert validate('[{"lora": "style.safetensors"}]') is True
    assert "not JSON" in validate("{")
    assert "'gone'" in validate('[{"lora": "gone"}]')
    assert validate(None) is True


def test_a_change_of_file_is_a_change_of_the_node(pack):
    changed = pack.nodes["LoomStack"].IS_CHANGED
    assert changed('[{"lora": "a"}]') != changed('[{"lora": "b"}]')
    assert changed(None) == ""


def test_the_dataset_node_hands_every_widget_over(pack):
    node = pack.nodes["LoomDataset"]
    inputs = node.INPUT_TYPES()
    widgets = {
        name: spec[1]["default"]
        for section in ("required", "optional")
        for name, spec in inputs[section].items()
        if "default" in spec[1]
    }
    changed = {
        **widgets,
        "folder": "set",
        "dropout": 0.2,
        "flip": True,
        "data_seed": 7,
        "repeats": 3,
    }
    prompt = {"4": {"inputs": {"folder": "set", "regularisation": ["9", 0]}}}
    answer = node().make(**changed, images="I", mask="M", prompt=prompt, unique_id="4")
    assert results(answer) == ("dataset", "12 pictures", "sheet")
    assert answer["ui"]["text"] == ["12 pictures"]
    settings, folder, regularisation, captions, repeats, images, mask, typed = pack.made[0]
    assert (folder, regularisation, captions, repeats, images, mask) == ("set", "", "", 3, "I", "M")
    assert (settings.dropout, settings.flip, settings.seed, settings.step) == (0.2, True, 7, 64)
    assert typed == (True, False)


def test_the_widgets_of_the_dataset_node_have_the_defaults_of_the_core(pack):
    """A workflow that leaves an optional widget out must mean the same as one that leaves it alone."""
    node = pack.nodes["LoomDataset"]
    required = {"folder": "set", "trigger": "o", "template": "{caption}", "resolution": 512}
    optional = {
        name: spec[1]["default"]
        for name, spec in node.INPUT_TYPES()["optional"].items()
        if "default" in spec[1]
    }
    prompt = {"4": {"inputs": required}}
    node().make(**required, prompt=prompt, unique_id="4")
    node().make(**required, **optional, prompt=prompt, unique_id="4")
    assert pack.made[0] == pack.made[1]


def test_a_missing_folder_is_refused_before_the_graph_runs(pack):
    validate = pack.nodes["LoomDataset"].VALIDATE_INPUTS
    assert validate("set", "") is True
    assert validate(None, None) is True
    assert "'gone'" in validate("set", "gone")


def test_braces_in_the_dataset_nodes_texts_reach_the_server(pack):
    """The page replaces {a|b} in texts that allow dynamic prompts; {caption} must stay."""
    inputs = pack.nodes["LoomDataset"].INPUT_TYPES()
    texts = [
        spec
        for section in ("required", "optional")
        for spec in inputs[section].values()
        if spec[0] == "STRING"
    ]
    assert len(texts) == 5
    assert all(spec[1]["dynamicPrompts"] is False for spec in texts)
