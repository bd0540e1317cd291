"""The toy workflows on a running host: pictures come out, and they are the right ones."""

from __future__ import annotations

import copy
import io
import json
import os
import shutil

import numpy as np
import pytest
import torch
from graphs import CHARACTER, STYLE, TWINS, only, pixels, twin, whole_twin, with_rows
from PIL import Image
from safetensors.torch import load_file, save_file

from tools.demo_lessons import cut, is_lesson, trained_file
from tools.devkit.environment import ROOT
from tools.devkit.host_client import PromptFailed
from tools.toy_reader import read
from tools.workflow_graph import api_prompt

EXAMPLES = ROOT / "example_workflows"

# What they save first is a sheet or a chart.
SHEETS = {"strength_sweep", "block_effect_map", "merge_methods", "trained_pair"}
# The trainings that take minutes, and what their picture is to show.
LESSONS = {
    "train_style": {"style"},
    "train_character": {"character"},
    "train_from_ten": {"character"},
}
ROWS = [{"lora": STYLE, "model": 0.8}, {"lora": CHARACTER, "model": 0.9}]


@pytest.mark.parametrize("name", sorted(path.stem for path in TWINS.glob("*.json")))
def test_every_toy_workflow_cut_to_a_few_steps_runs_and_saves_a_picture(client, name):
    """Trainings are cut like samplings; at their 1,500 steps they run in the next test, with LOOM_FULL."""
    picture = pixels(client, twin(client, name))
    if name in SHEETS:
        assert picture.shape[1] > 700
    else:
        assert picture.shape == (128, 128, 3)
    assert picture.std() > 1


@pytest.mark.skipif(not os.environ.get("LOOM_FULL"), reason="minutes each; LOOM_FULL=1 runs them")
@pytest.mark.parametrize("name", LESSONS)
def test_a_training_example_at_its_full_1500_steps_shows_what_it_learned(client, name):
    finished = client.run(whole_twin(client, name), timeout=3600)
    (view,) = [one for one in finished.images() if one["filename"].startswith(name)]
    seen = read(Image.open(io.BytesIO(client.fetch_image(view))))
    assert {what for what in ("style", "character") if getattr(seen, what)} == LESSONS[name]


def test_what_the_demo_cuts_of_a_training_is_its_length_and_the_pictures_in_between(client):
    whole = whole_twin(client, "train_from_ten")
    short = cut(whole, 7)
    changed = {
        (node["class_type"], name): short[key]["inputs"][name]
        for key, node in whole.items()
        for name, value in node["inputs"].items()
        if short[key]["inputs"][name] != value
    }
    assert changed == {
        ("LoomTrainSettings", "steps"): 7,
        ("LoomTrainSettings", "sample_every"): -1,
    }
    assert is_lesson(whole)
    assert not is_lesson(whole_twin(client, "style_and_character"))


def test_a_finished_training_names_its_file_in_the_loras_list_and_is_given_back_under_the_same(
    client,
):
    lesson = twin(client, "train_from_ten")
    name = trained_file(client, lesson)
    assert name in client.get("/models/loras")
    assert trained_file(client, lesson) == name


@pytest.mark.parametrize("name", sorted(path.stem for path in EXAMPLES.glob("*.json")))
def test_an_example_for_published_models_holds_values_that_its_nodes_take(client, name):
    """All but names of models and folders, which are the user's own."""
    info = client.object_info()
    workflow = json.loads((EXAMPLES / f"{name}.json").read_text("utf-8"))
    for node in api_prompt(workflow, info).values():
        about = info[node["class_type"]]["input"]
        declared = {**about["required"], **about.get("optional", {})}
        for key, value in node["inputs"].items():
            if isinstance(value, list) or key in {"ckpt_name", "lora_name"}:
                continue
            kind, *rest = declared[key]
            options = rest[0] if rest else {}
            choices = kind if isinstance(kind, list) else options.get("options")
            if choices is not None:
                assert value in choices, (node["class_type"], key)
            elif kind in ("INT", "FLOAT"):
                assert options["min"] <= value <= options["max"], (node["class_type"], key)
            else:
                assert type(value) is (bool if kind == "BOOLEAN" else str), key


def test_each_lora_and_both_together_change_the_picture(client):
    base = twin(client, "style_and_character")
    pictures = [
        pixels(client, with_rows(copy.deepcopy(base), rows))
        for rows in ([], ROWS[:1], ROWS[1:], ROWS)
    ]
    for i, one in enumerate(pictures):
        for other in pictures[i + 1 :]:
            assert np.abs(one.astype(int) - other).mean() > 1


def test_the_stack_gives_the_picture_of_a_chain_of_core_loaders(client):
    ours = with_rows(twin(client, "style_and_character"), ROWS)
    core = copy.deepcopy(ours)
    (stack_id,) = [key for key, node in core.items() if node["class_type"] == "LoomStack"]
    inputs = core.pop(stack_id)["inputs"]
    model, clip = inputs["model"], inputs["clip"]
    for index, row in enumerate(ROWS):
        name = f"core{index}"
        strengths = {"strength_model": row["model"], "strength_clip": row["model"]}
        core[name] = {
            "class_type": "LoraLoader",
            "inputs": {"model": model, "clip": clip, "lora_name": row["lora"], **strengths},
        }
        model, clip = [name, 0], [name, 1]
    for node in core.values():
        for key, value in node["inputs"].items():
            if isinstance(value, list) and value[0] == stack_id:
                node["inputs"][key] = [model, clip][value[1]]
    # Four steps amplify the last bit of a weight; two grey levels of 255 are far below what is seen.
    assert np.abs(pixels(client, ours).astype(int) - pixels(client, core)).max() <= 2


def test_through_lora_stack_comes_the_very_same_picture(client):
    direct, through = twin(client, "style_and_character"), twin(client, "lora_stack")
    assert np.array_equal(pixels(client, direct), pixels(client, through))


def test_without_the_stack_the_base_is_as_before(client):
    base = with_rows(twin(client, "style_and_character"), [])
    before = pixels(client, base)
    changed = pixels(client, with_rows(copy.deepcopy(base), ROWS))
    assert not np.array_equal(before, changed)
    assert np.array_equal(before, pixels(client, base))


def test_a_replaced_file_is_read_again(client, host):
    loras = host.base / "models" / "loras"
    shutil.copyfile(loras / STYLE, loras / "replaced.safetensors")
    prompt = with_rows(twin(client, "style_and_character"), [{"lora": "replaced.safetensors"}])
    first = pixels(client, prompt)
    assert client.run(prompt).executed == ()
    shutil.copyfile(loras / CHARACTER, loras / "replaced.safetensors")
    second = pixels(client, prompt)
    assert np.abs(first.astype(int) - second).mean() > 1


def test_a_name_without_extension_or_with_foreign_separators_is_found(client, host):
    folder = host.base / "models" / "loras" / "people"
    folder.mkdir(exist_ok=True)
    shutil.copyfile(host.base / "models" / "loras" / CHARACTER, folder / "leah.safetensors")
    plain = twin(client, "style_and_character")
    expected = pixels(
        client, with_rows(copy.deepcopy(plain), [{"lora": "people/leah.safetensors"}])
    )
    for spelling in ("people\\\\leah.safetensors", "people/leah"):
        rows = f'[{{"lora": "{spelling}"}}]'
        assert np.array_equal(expected, pixels(client, with_rows(copy.deepcopy(plain), rows)))


def test_inspect_shows_its_report_and_what_fits(client):
    prompt = twin(client, "one_lora")
    (node_id,) = [key for key, node in prompt.items() if node["class_type"] == "LoomInspect"]
    prompt[node_id]["inputs"]["lora_name"] = CHARACTER
    (report,) = client.run(prompt).outputs[node_id]["text"]
    assert CHARACTER in report
    assert "trigger words: zwx" in report
    assert "on the connected model:" in report


def test_a_loader_without_clip_leaves_the_text_encoder_alone(client):
    prompt = twin(client, "one_lora")
    del only(prompt, "LoomLoader")["inputs"]["clip"]
    loader = next(key for key, node in prompt.items() if node["class_type"] == "LoomLoader")
    with pytest.raises(
        PromptFailed, match="Loom Loader has no CLIP connected, so it has none to give"
    ):
        client.run(prompt)
    checkpoint = next(
        key for key, node in prompt.items() if node["class_type"] == "CheckpointLoaderSimple"
    )
    for node in prompt.values():
        if node["class_type"] == "CLIPTextEncode":
            assert node["inputs"]["clip"] == [loader, 1]
            node["inputs"]["clip"] = [checkpoint, 1]
    assert pixels(client, prompt).shape == (128, 128, 3)


def test_a_lora_trained_in_the_graph_is_a_row_and_a_listed_file(client, host):
    """LORA_MODEL from core's trainer: applied in the same run, and kept under a name that LORA_STACK can carry."""
    prompt = with_rows(twin(client, "lora_stack"), [])
    checkpoint = next(
        key for key, node in prompt.items() if node["class_type"] == "CheckpointLoaderSimple"
    )
    stack = next(key for key, node in prompt.items() if node["class_type"] == "LoomStack")
    positive = next(key for key, node in prompt.items() if node["class_type"] == "CLIPTextEncode")
    prompt["image"] = {
        "class_type": "EmptyImage",
        "inputs": {"width": 64, "height": 64, "batch_size": 2, "color": 0},
    }
    prompt["encode"] = {
        "class_type": "VAEEncode",
        "inputs": {"pixels": ["image", 0], "vae": [checkpoint, 2]},
    }
    # One latent a list item: with a single batch the trainer of 0.3.75 stops on an unset variable.
    prompt["list"] = {
        "class_type": "RebatchLatents",
        "inputs": {"latents": ["encode", 0], "batch_size": 1},
    }
    prompt[positive]["inputs"]["clip"] = [checkpoint, 1]
    info = client.object_info("TrainLoraNode")["input"]["required"]
    settings = {
        name: spec[1]["default"]
        for name, spec in info.items()
        if len(spec) > 1 and "default" in spec[1]
    }
    prompt["train"] = {
        "class_type": "TrainLoraNode",
        "inputs": settings
        | {"model": [checkpoint, 0], "latents": ["list", 0], "positive": [positive, 0]}
        | {
            "steps": 2,
            "rank": 2,
            "training_dtype": "fp32",
            "lora_dtype": "fp32",
            "existing_lora": "[None]",
        },
    }
    lora_output = client.object_info("TrainLoraNode")["output"].index("LORA_MODEL")
    prompt[stack]["inputs"] |= {"lora_model": ["train", lora_output], "lora_model_strength": 0.7}
    folder = host.base / "output" / "loras" / "loom"
    before = set(folder.glob("*.safetensors"))
    client.run(prompt)
    kept = list(set(folder.glob("*.safetensors")) - before)
    assert len(kept) == 1
    assert all(not key.endswith(".tmp") for key in client.get("/models/loras"))
    assert any(kept[0].name in name for name in client.get("/models/loras"))
    assert all(torch.isfinite(tensor).all() for tensor in load_file(kept[0]).values())


def test_a_lora_of_which_a_few_keys_are_left_over_runs_and_says_so(client, host):
    loras = host.base / "models" / "loras"
    tensors = load_file(loras / STYLE) | {"lora_unet_nowhere.alpha": torch.tensor(1.0)}
    tensors |= {
        "lora_unet_nowhere.lora_up.weight": torch.ones(2, 1),
        "lora_unet_nowhere.lora_down.weight": torch.ones(1, 2),
    }
    save_file(tensors, loras / "with_leftovers.safetensors")
    prompt = twin(client, "one_lora")
    only(prompt, "LoomLoader")["inputs"]["lora_name"] = "with_leftovers.safetensors"
    only(prompt, "LoomInspect")["inputs"]["lora_name"] = "with_leftovers.safetensors"
    (inspect,) = [key for key, node in prompt.items() if node["class_type"] == "LoomInspect"]
    (report,) = client.run(prompt).outputs[inspect]["text"]
    assert "not applied: lora_unet_nowhere: the model has no weight of this name" in report
    assert "with_leftovers.safetensors: not applied: lora_unet_nowhere" in host.log()
    only(prompt, "LoomLoader")["inputs"]["matching"] = "strict"
    with pytest.raises(PromptFailed, match="1 of its keys are left over"):
        client.run(prompt)
