"""A file that LoomSave wrote puts the same weights on: through core's own loader, through ours, over HTTP."""

from __future__ import annotations

import copy
import json
from pathlib import Path

import comfy.model_management
import comfy.sd
import folder_paths
import numpy as np
import pytest
import torch
from graphs import STYLE, pixels, twin
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from small_models import SAMPLED, kohya_lora, small_model

from lora_core.errors import SaveError
from lora_core.files.schemes import COMFY, KEEP, KOHYA, PEFT, Names
from lora_core.host.saving import NO_FILE, NUMBER, SaveOrder, row_to_save, save_lora
from lora_core.host.stacking import apply_stack
from lora_core.host.targets import clip_targets, model_targets
from lora_core.stack.rows import LoraStack, StackRow
from tools.devkit.base_directory import TOY_MODEL
from tools.devkit.host_client import PromptFailed

pytestmark = pytest.mark.usefixtures("as_in_the_host")

# The weights of the small models are float32; the factors are stored in fp16 and rounded once more where alpha / rank
# is no power of two, each by half a unit at most, relative to a delta.
TOLERANCE = 2**-10
# Core reads no module of a UNet under today's diffusers names; ours does.
NOT_CORES = {("SD1.5", PEFT), ("SDXL", PEFT)}


@pytest.fixture
def output(tmp_path, monkeypatch) -> Path:
    """An own output folder, whose loras the host lists."""
    monkeypatch.setattr(folder_paths, "output_directory", str(tmp_path))
    folders, extensions = folder_paths.folder_names_and_paths["loras"]
    ours = ([str(tmp_path / "models"), str(tmp_path / "loras")], extensions)
    monkeypatch.setitem(folder_paths.folder_names_and_paths, "loras", ours)
    (tmp_path / "models").mkdir()
    return tmp_path / "loras"


def weights(patcher, inner) -> dict[str, torch.Tensor]:
    comfy.model_management.load_models_gpu([patcher], force_full_load=True)
    state = inner.state_dict()
    # The toy's text projection is in no checkpoint: its numbers are whatever the memory held.
    return {key: weight.detach().cpu().double().nan_to_num() for key, weight in state.items()}


def deltas(before, after) -> dict[str, torch.Tensor]:
    return {
        key: after[key] - before[key] for key in before if not torch.equal(before[key], after[key])
    }


def assert_same(ours, theirs) -> None:
    assert ours.keys() == theirs.keys()
    for key, delta in theirs.items():
        assert float((ours[key] - delta).norm() / delta.norm()) < TOLERANCE, key


def core_deltas(model, tensors):
    before = weights(model, model.model)
    patched, _ = comfy.sd.load_lora_for_models(model, None, tensors, 0.8, 0.0)
    return deltas(before, weights(patched, model.model))


def our_deltas(model, name):
    before = weights(model, model.model)
    patched = apply_stack(LoraStack((StackRow(name, 0.8, 0.0),)), model, None, "strict").model
    return deltas(before, weights(patched, model.model))


def lora_for(model, alpha: float = 3.0):
    """kohya's naming for every weight of rank 4, which each of the models knows."""
    shapes = dict(model_targets(model).shapes)
    return kohya_lora(shapes, rank=4, alpha=alpha, seed=3)


@pytest.mark.parametrize("scheme", [KOHYA, COMFY, PEFT])
@pytest.mark.parametrize("family", SAMPLED)
def test_a_converted_file_puts_the_same_weights_on_in_core_and_here(family, scheme, output):
    model = small_model(family, torch.float32)
    tensors = lora_for(model)
    if scheme == PEFT:
        tensors = with_diffusers_names(model, tensors)
    expected = core_deltas(model, tensors)
    assert len(expected) > 20
    saved = save_lora(tensors, NO_FILE, SaveOrder(f"{family}/x", scheme), model)
    path = output / saved.name
    assert_same(our_deltas(model, saved.name), expected)
    if (family, scheme) in NOT_CORES:
        assert not core_deltas(model, {k: t for k, t in load_file(path).items() if ".attn" in k})
    else:
        assert_same(core_deltas(model, load_file(path)), expected)
    # And back: what was slices or folded is what it was.
    back = save_lora(None, saved.name, SaveOrder("back", KOHYA), model)
    assert_same(core_deltas(model, load_file(output / back.name)), expected)


def with_diffusers_names(model, tensors):
    """Without the layers that have no diffusers name in the host's map; most have one."""
    modules = {key.split(".")[0] for key in tensors}
    names = Names.of(PEFT, modules, model_targets(model), None)
    known = {module for module in modules if names.places(module)}
    assert len(known) > len(modules) // 2
    return {key: tensor for key, tensor in tensors.items() if key.split(".")[0] in known}


def test_the_text_encoder_part_is_named_by_the_clip(output):
    import tools.toy_pack  # noqa: F401 - registers the toy with the host

    model, clip, *_ = comfy.sd.load_checkpoint_guess_config(
        str(TOY_MODEL / "loom_toy.safetensors"), output_vae=False
    )
    name = "lora_te_text_model_encoder_layers_0_mlp_fc1"
    shape = clip_targets(clip).shapes[
        "clip_l.transformer.text_model.encoder.layers.0.mlp.fc1.weight"
    ]
    tensors = {
        f"{name}.lora_up.weight": torch.randn(
            shape[0], 2, generator=torch.Generator().manual_seed(1)
        ),
        f"{name}.lora_down.weight": torch.randn(
            2, shape[1], generator=torch.Generator().manual_seed(2)
        ),
        f"{name}.alpha": torch.tensor(1.0),
    }

    def of(lora):
        before = weights(clip.patcher, clip.cond_stage_model)
        _, patched = comfy.sd.load_lora_for_models(None, clip, lora, 0.0, 0.8)
        return deltas(before, weights(patched.patcher, clip.cond_stage_model))

    for scheme in (COMFY, PEFT, KOHYA):
        saved = save_lora(tensors, NO_FILE, SaveOrder(f"te_{scheme[:4]}", scheme), model, clip)
        assert_same(of(load_file(output / saved.name)), of(tensors))


def test_a_name_must_stay_in_the_folder_be_valid_and_be_the_one_that_loaders_open(output):
    tensors = {"a.diff": torch.ones(2)}
    for bad in (
        "../x",
        "/x",
        "C:\\x",
        "a//b",
        "con",
        "x?",
        "a/../../x",
        "",
        "x" * 300,
        "x" * 300 + "/a",
        "a/" * 2000 + "a",
        "\ud800",
    ):
        with pytest.raises(SaveError, match="cannot be a file name"):
            save_lora(tensors, NO_FILE, SaveOrder(bad))
    save_lora(tensors, NO_FILE, SaveOrder("same", folder="models/loras"))
    with pytest.raises(SaveError, match="Another loras folder has a same"):
        save_lora(tensors, NO_FILE, SaveOrder("same"))
    assert save_lora(tensors, NO_FILE, SaveOrder("sub/same")).name == "sub/same.safetensors"
    (output / "out").symlink_to("/")
    with pytest.raises(SaveError, match="leads out of output/loras"):
        save_lora(tensors, NO_FILE, SaveOrder("out/x"))


def test_a_number_is_added_where_asked(output):
    names = [
        save_lora(
            {"a.diff": torch.full((2,), float(n))}, NO_FILE, SaveOrder("x", if_exists=NUMBER)
        ).name
        for n in range(3)
    ]
    assert names == ["x.safetensors", "x_2.safetensors", "x_3.safetensors"]
    with pytest.raises(SaveError, match="is already there"):
        save_lora({"a.diff": torch.ones(3)}, NO_FILE, SaveOrder("x"))


def test_exactly_one_lora_is_wanted(output):
    with pytest.raises(SaveError, match="neither is given"):
        save_lora(None, NO_FILE, SaveOrder("x"))
    with pytest.raises(SaveError, match="both are given"):
        save_lora({"a.diff": torch.ones(2)}, "some.safetensors", SaveOrder("x"))


BLOCKS = {
    "Flux": "D00=0.4; D01.attn.q=0; D01.attn.k=0.25; S01=0",
    "SD1.5": "IN01=0.4; OUT00=0; OUT01.cross=0.25",
    "SDXL": "IN01=0.4; OUT00=0; OUT01.cross=0.25",
}


@pytest.mark.parametrize("scheme", [KEEP, KOHYA, COMFY, PEFT])
@pytest.mark.parametrize("family", BLOCKS)
def test_a_block_weighted_row_as_a_file_puts_the_same_weights_on_at_strength_1(
    family, scheme, output
):
    """Flux' q of a fused weight included; through core's own loader where it reads the naming."""
    model = small_model(family, torch.float32)
    tensors = lora_for(model)
    if scheme == PEFT:
        tensors = with_diffusers_names(model, tensors)
    name = save_lora(tensors, NO_FILE, SaveOrder("source"), model).name
    blocks = BLOCKS[family]
    row = StackRow(name, 0.7, 0.0, blocks=blocks)
    before = weights(model, model.model)
    stacked = apply_stack(LoraStack((row,)), model, None, "strict").model
    expected = deltas(before, weights(stacked, model.model))
    saved = save_lora(None, NO_FILE, SaveOrder("weighted", scheme), model, row=row)
    assert "use it at strength 1" in saved.report
    again = apply_stack(LoraStack((StackRow(saved.name, 1.0, 0.0),)), model, None, "strict").model
    assert_same(deltas(before, weights(again, model.model)), expected)
    if (family, scheme) not in NOT_CORES:
        patched, _ = comfy.sd.load_lora_for_models(
            model, None, load_file(output / saved.name), 1.0, 0.0
        )
        assert_same(deltas(before, weights(patched, model.model)), expected)
    with safe_open(output / saved.name, "pt") as file:
        assert json.loads(file.metadata()["loom_strengths"])["blocks"] == blocks


def test_a_row_with_blocks_needs_its_model_and_a_row_that_is_there(output):
    model = small_model("SD1.5", torch.float32)
    name = save_lora(lora_for(model), NO_FILE, SaveOrder("source"), model).name
    row = StackRow(name, blocks="IN01=0.5")
    with pytest.raises(SaveError, match="Connect MODEL"):
        save_lora(None, NO_FILE, SaveOrder("x"), row=row)
    with pytest.raises(SaveError, match="has a schedule"):
        save_lora(None, NO_FILE, SaveOrder("x"), model, row=StackRow(name, schedule="0@0,1@1"))
    with pytest.raises(SaveError, match="Row 2 is not there: the LORA_STACK has 1 rows"):
        row_to_save([(name, 1.0, 1.0)], 2)


def save_prompt(client, **inputs):
    """One LoRA and a picture, with a LoomSave of the style beside it; and the saver's node id."""
    prompt = twin(client, "one_lora")
    checkpoint = next(k for k, n in prompt.items() if n["class_type"] == "CheckpointLoaderSimple")
    prompt["save"] = {
        "class_type": "LoomSave",
        "inputs": {
            "filename": "saved/style",
            "naming": "keep",
            "dtype": "keep",
            "if_exists": "refuse",
            "lora_name": STYLE,
            "model": [checkpoint, 0],
            "clip": [checkpoint, 1],
            **inputs,
        },
    }
    return prompt


def picture_with_core(client, prompt, name):
    """The picture of the graph with core's LoraLoader in the place of ours."""
    changed = copy.deepcopy(prompt)
    changed.pop("save")
    loader = next(k for k, n in changed.items() if n["class_type"] == "LoomLoader")
    inputs = {k: v for k, v in changed[loader]["inputs"].items() if k not in ("matching",)}
    changed[loader] = {"class_type": "LoraLoader", "inputs": inputs | {"lora_name": name}}
    ours = [k for k, n in changed.items() if n["class_type"].startswith(("Loom", "Preview"))]
    for key in ours:
        changed.pop(key)
    return pixels(client, changed)


@pytest.mark.parametrize("naming", [KOHYA, COMFY])
def test_a_saved_file_gives_the_picture_of_its_source_in_cores_loader(client, host, naming):
    name = f"saved/{naming}"
    prompt = save_prompt(
        client, filename=name, naming=naming, metadata="note=from a test", title=""
    )
    (report,) = client.run(prompt).outputs["save"]["text"]
    assert "read back and compared" in report
    path = host.base / "output" / "loras" / f"{name}.safetensors"
    with safe_open(path, "pt") as file:
        metadata = file.metadata()
    assert metadata["ss_network_module"] == "networks.lora"
    assert metadata["note"] == "from a test"
    assert len(metadata["sshs_model_hash"]) == 64
    original = picture_with_core(client, prompt, STYLE)
    assert (
        np.abs(
            original.astype(int) - picture_with_core(client, prompt, f"{name}.safetensors")
        ).max()
        <= 2
    )


def test_saving_over_a_file_fails_on_the_node_and_the_file_stays(client, host):
    path = host.base / "output" / "loras" / "saved" / "taken.safetensors"
    path.parent.mkdir(parents=True, exist_ok=True)
    save_file({"x": torch.ones(1)}, path)
    before = path.read_bytes()
    with pytest.raises(PromptFailed, match="already there") as failure:
        client.run(save_prompt(client, filename="saved/taken"))
    assert failure.value.node_type == "LoomSave"
    assert path.read_bytes() == before
    with pytest.raises(PromptFailed, match="cannot be a file name"):
        client.run(save_prompt(client, filename="../../x"))
