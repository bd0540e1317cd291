"""What the nodes hand to the core, and what they hand out."""

from __future__ import annotations

import json

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
    model, clip, stack, words, facts = results(answer)
    assert "no MODEL connected" in model.message
    assert "no CLIP connected" in clip.message
    assert stack == [("style.safetensors", 0.8, 0.8)]
    assert (words, facts) == ("ohwx", "title: Rain")


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


def test_save_hands_the_whole_order_over_and_the_lora_on(pack):
    lora = {"x": 1}
    answer = pack.nodes["LoomSave"]().save(
        "loom/x", "kohya", "fp16", "refuse", lora_model=lora, model="M", clip="C", title="Rain"
    )
    order = ("loom/x", "kohya", "fp16", "output/loras", "refuse", "", "Rain", "")
    assert pack.applied == [(lora, "[the LORA_MODEL input]", order, "M", "C")]
    assert results(answer) == ("loom/x.safetensors", "saved", lora)
    assert answer["ui"]["text"] == ["saved"]


def test_save_takes_a_row_of_a_stack_by_its_number(pack):
    pack.nodes["LoomSave"]().save(
        "x", "keep", "keep", "refuse", lora_stack=["first", "second"], row=2, model="model"
    )
    assert pack.applied[-1][0] is None
    assert pack.applied[-1][-1] == "second"


def test_save_refuses_before_the_graph_runs_what_can_be_known(pack):
    validate = pack.nodes["LoomSave"].VALIDATE_INPUTS
    assert validate("loom/x") is True
    assert validate("loom/x", "style.safetensors") is True
    assert validate(None, None) is True
    assert "cannot be a file name" in validate("../x")
    assert "LoRA 'gone.safetensors' not found" in validate("x", "gone.safetensors")


@pytest.mark.parametrize("node_id", ["LoomLoader", "LoomInspect"])
def test_a_missing_file_is_refused_before_the_graph_runs(node_id, pack):
    validate = pack.nodes[node_id].VALIDATE_INPUTS
    assert validate("style.safetensors") is True
    assert "LoRA 'gone.safetensors' not found" in validate("gone.safetensors")
    assert validate(None) is True


def test_inspect_takes_the_stack_where_one_is_connected_and_says_what_is_needed(pack):
    node = pack.nodes["LoomInspect"]
    one = results(node().inspect("style.safetensors"))
    assert one == ("all of style.safetensors", "ohwx", "drawn", "needs", "hashes", "list")
    rows = [("style.safetensors", 0.8, 0.8), ("dir/character.safetensors", 0.9, 0.9)]
    both = results(node().inspect("[the LORA_STACK input]", lora_stack=rows))
    assert both[0] == "all of style.safetensors, dir/character.safetensors"
    assert results(node().inspect("style.safetensors", lora_stack=rows))[0] == both[0]
    assert node.VALIDATE_INPUTS("[the LORA_STACK input]") is True
    assert node.IS_CHANGED("[the LORA_STACK input]") == ""
    assert node.INPUT_TYPES()["required"]["lora_name"][0][-1] == "[the LORA_STACK input]"
    with pytest.raises(Exception, match="No LORA_STACK is connected"):
        node().inspect("[the LORA_STACK input]")


def test_index_hands_its_folder_over_and_shows_the_report(pack):
    node = pack.nodes["LoomIndex"]
    answer = node().index("people")
    assert results(answer) == ("indexed people",)
    assert answer["ui"]["text"] == ["indexed people"]
    assert node.VALIDATE_INPUTS("people") is True
    assert node.VALIDATE_INPUTS(None) is True
    assert (node.IS_CHANGED("people"), node.IS_CHANGED(None)) == ("files of people", "")


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


LOCK = '{"name": "gone.safetensors", "sha256": "' + "c" * 64 + '"}'


def test_a_name_that_is_gone_passes_where_its_lock_can_tell_the_file(pack):
    loader = pack.nodes["LoomLoader"]
    assert loader.VALIDATE_INPUTS("gone.safetensors", LOCK) is True
    assert loader.VALIDATE_INPUTS("gone.safetensors", None) is True
    assert loader.VALIDATE_INPUTS("style.safetensors", LOCK) is True
    assert "not found" in loader.VALIDATE_INPUTS("gone2.safetensors", LOCK)
    assert "lora_lock is not JSON" in loader.VALIDATE_INPUTS("style.safetensors", "{")


def test_the_loader_follows_its_lock_and_tells_the_page_what_to_keep(pack):
    loader = pack.nodes["LoomLoader"]
    assert loader.IS_CHANGED("gone.safetensors", LOCK) != loader.IS_CHANGED("gone.safetensors", "")
    answer = loader().load("M", "gone.safetensors", 1.0, 1.0, lora_lock=LOCK)
    (row,) = pack.applied[0][0].rows
    assert (row.name, row.sha256) == ("gone.safetensors", "c" * 64)
    (lock,) = answer["ui"]["loom_lock"]
    assert json.loads(lock) == {
        "name": "gone.safetensors",
        "sha256": "a" * 64,
        "autov3": "b" * 12,
        "base": None,
    }


def test_the_stack_tells_the_page_of_its_own_rows_only(pack):
    answer = pack.nodes["LoomStack"]().stack(
        '[{"lora": "style.safetensors"}]',
        lora_stack=[("dir/character.safetensors", 0.9, 0.9)],
        lora_model={"x": 1},
    )
    assert answer["ui"]["loom_rows"] == [
        {
            "lora": "style.safetensors",
            "name": "found/style.safetensors",
            "sha256": "a" * 64,
            "autov3": "b" * 12,
            "base": None,
            "model_base": None,
            "warnings": [],
        }
    ]


def test_notes_are_shown_even_where_nothing_is_matched(pack):
    rows = json.dumps([{"lora": "style.safetensors", "sha256": "c" * 64}])
    answer = pack.nodes["LoomStack"]().stack(rows)
    assert "style.safetensors: a note" in "\n".join(answer["ui"]["text"])


def test_blocks_hands_its_widgets_over_and_gives_stack_report_and_chart(pack):
    node, rows = pack.nodes["LoomBlocks"], [("style.safetensors", 0.8, 0.8)]
    answer = node().block(rows, "IN04=0.5", 1, "hako", "SD-MIDD", 7, model="M")
    assert pack.applied == [(rows, "IN04=0.5", 1, "hako", "SD-MIDD", 7, "M", None)]
    assert results(answer) == (rows, "said", "drawn")
    assert answer["ui"]["text"] == ["said"]
    assert answer["ui"]["loom_blocks"] == [{"blocks": "IN00"}]


def test_the_editors_find_what_they_need_beside_their_text(pack):
    blocks = pack.nodes["LoomBlocks"].INPUT_TYPES()["required"]["blocks"]
    assert blocks[1]["loom_blocks"] == {"families": {"a model": "IN00"}}
    schedule = pack.nodes["LoomSchedule"].INPUT_TYPES()["required"]["schedule"]
    assert schedule[1]["loom_schedule"]["curves"] == ["linear", "step", "cosine"]


def test_blocks_offers_the_presets_and_is_changed_when_a_preset_is(pack):
    node = pack.nodes["LoomBlocks"]
    assert node.INPUT_TYPES()["required"]["preset"][0] == ["none", "SD-MIDD"]
    assert node.IS_CHANGED(preset=None) == ""
    assert node.IS_CHANGED(preset="SD-MIDD") != node.IS_CHANGED(preset="none")


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


def test_train_settings_keep_alpha_at_rank_where_none_is_given(pack):
    (settings,) = pack.nodes["LoomTrainSettings"]().make(
        learning_rate=1e-3,
        rank=8,
        alpha=0.0,
        steps=20,
        batch_size=2,
        parts="attention",
        train_seed=3,
    )
    assert (settings.rate, settings.rank, settings.alpha, settings.steps) == (1e-3, 8, 8.0, 20)
    assert settings.objective.min_snr == 5.0


def test_the_widgets_of_train_settings_stand_at_the_cores_defaults(pack):
    """Without the node Loom Train uses the core's: both must be the same."""
    node = pack.nodes["LoomTrainSettings"]
    sections = node.INPUT_TYPES()
    widgets = {**sections["required"], **sections["optional"]}
    (made,) = node().make(**{name: spec[1]["default"] for name, spec in widgets.items()})
    assert made == type(made)()


def test_train_hands_the_order_over_and_the_lora_on(pack):
    answer = pack.nodes["LoomTrain"]().train("M", "C", "V", "D", "loom/x", retrain=True)
    ((model, clip, vae, dataset, order),) = pack.made
    assert (model, clip, vae, dataset) == ("M", "C", "V", "D")
    assert order[1:] == ("loom/x", "[a new LoRA]", True, True, None, ("here", "", None))
    assert results(answer) == ({"x": 1}, "60 steps", "chart", "loom/x.safetensors", "samples")
    assert answer["ui"]["train"] == [{"step": 60}]
    validate = pack.nodes["LoomTrain"].VALIDATE_INPUTS
    assert validate("loom/x", "[a new LoRA]") is True
    assert "cannot be a file name" in validate("../x")
    assert "not found" in validate("x", "gone.safetensors")


def test_train_as_a_job_tells_the_folder_and_the_graph_and_follows_the_folder(pack):
    node = pack.nodes["LoomTrain"]
    graph = {"1": {"class_type": "CheckpointLoaderSimple", "inputs": {}}}
    node().train("M", "C", "V", "D", "loom/x", run="write a job", job_folder="j", prompt=graph)
    assert pack.made[-1][-1][-1] == ("write a job", "j", graph)
    assert node.INPUT_TYPES()["hidden"] == {"unique_id": "UNIQUE_ID", "prompt": "PROMPT"}
    assert node.IS_CHANGED(run="watch the job", filename="loom/x") == "watch the job loom/x"
    assert "cannot be a file name" in node.VALIDATE_INPUTS("x", None, "../x")


def test_the_mode_goes_to_the_model_and_a_schedule_to_its_rows(pack):
    stack = [("style.safetensors", 0.8, 0.8)]
    pack.nodes["LoomApply"]().apply("model", stack, mode="live")
    assert pack.applied[-1][-1] == "live"
    pack.nodes["LoomStack"]().stack("[]", "model", mode="baked")
    assert pack.applied[-1][-1] == "baked"
    done = pack.nodes["LoomSchedule"]().schedule(stack, "0@0,1@1", 1, "none", 20)
    assert pack.applied[-1] == (stack, "0@0,1@1", 1, "none", 20, "sum", 1)
    assert done["result"] == (stack, "said", "drawn")
    pack.nodes["LoomSchedule"]().schedule(stack, "", 0, "none", 20, "switch", 3)
    assert pack.applied[-1] == (stack, "", 0, "none", 20, "switch", 3)


def test_a_region_hands_on_what_is_connected_and_stops_what_reads_a_missing_negative(pack):
    stack = [("style.safetensors", 0.8, 0.8)]
    node = pack.nodes["LoomRegion"]()
    done = node.region(stack, ["p"], 1, ["n"], "mask", 0.5)
    assert pack.applied[-1] == (stack, ["p"], 1, ["n"], "mask", 0.5)
    assert done["result"] == (stack, ["positive"], ["n"], "said")
    missing = node.region(stack, ["p"], 0)["result"][2]
    assert "Loom Region has no negative connected" in missing.message
