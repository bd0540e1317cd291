"""Text encoders that learn, a base that carries a stack already, and bases in other dtypes."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import comfy.lora
import comfy.model_management
import comfy.sd
import comfy.utils
import folder_paths
import pytest
import torch
from comfy.model_patcher import LowVramPatch
from small_models import small_model
from test_train import (
    SETTINGS,
    digest,
    own_user_folder,  # noqa: F401 - a fixture of every test
    rings,  # noqa: F401 - a fixture
    same_bytes,
    toy,  # noqa: F401 - a fixture
    trained,
)
from test_train_families import PLAIN, batch, filled

from lora_core.errors import TrainError
from lora_core.host.training_branches import attached, branches_of, dense_weight
from lora_core.host.training_data import encoded_text, fingerprint
from lora_core.host.training_model import noise_levels, ready
from lora_core.train import adapters
from lora_core.train.loop import batch_loss

LEARNING = replace(SETTINGS, text_rate=0.5)


def both_loaded(model, clip) -> None:
    with torch.inference_mode():
        comfy.model_management.load_models_gpu([model, clip.patcher])


def test_text_encoders_learn_at_their_own_rate_and_are_saved_under_kohyas_names(toy, rings):  # noqa: F811
    model, clip, _ = toy
    both_loaded(model, clip)
    before = digest(clip.cond_stage_model)
    made = trained(toy, rings, "toy/text", replace(LEARNING, steps=3))
    assert digest(clip.cond_stage_model) == before
    words = {key for key in made.tensors if key.startswith("lora_te_text_model_encoder_layers_")}
    pictures = {key for key in made.tensors if key.startswith("lora_unet_")}
    assert words | pictures == set(made.tensors)
    moved = [made.tensors[k].abs().max() for k in words if k.endswith("lora_up.weight")]
    assert len(moved) > 5
    assert sum(float(each) > 0 for each in moved) > 0.7 * len(moved)


def test_the_rate_of_the_text_is_a_share_of_the_rate(toy):  # noqa: F811
    model, clip, _ = toy
    found = branches_of(model, clip, LEARNING, None)
    assert {branch.rate for branch in found.model} == {1.0}
    assert {branch.rate for branch in found.text} == {0.5}
    assert not branches_of(model, clip, SETTINGS, None).text


def test_a_step_on_captions_is_the_step_on_what_the_encoder_makes_of_them(toy):  # noqa: F811
    model, clip, _ = toy
    both_loaded(model, clip)
    levels = noise_levels(model.model.model_sampling)
    plain = batch("SD1.5", 1, 2)
    captions = ("a ring on red", "a zwx ring on blue")
    asked = replace(plain, conditioning=tuple({"caption": each} for each in captions))
    with ready(model, clip) as predict:
        found = branches_of(model, clip, LEARNING, None)
        with torch.no_grad():
            for p in adapters.parameters_of(found.all):
                p.add_(0.02)
        with attached(model, clip, found):
            loss = batch_loss(predict, asked, levels, PLAIN)
            loss.mean().backward()
            with torch.no_grad():
                told = [encoded_text(clip, each) for each in captions]
            known = tuple({"cross_attn": each["cond"]} for each in told)
            with torch.no_grad():
                expected = batch_loss(predict, replace(plain, conditioning=known), levels, PLAIN)
    assert torch.allclose(loss, expected, rtol=1e-5)
    reached = [b.up.grad is not None and float(b.up.grad.norm()) > 0 for b in found.text]
    # A layer that the clip skip leaves out learns nothing.
    assert sum(reached) > 0.7 * len(reached)


def test_the_saved_text_half_in_cores_loader_gives_what_training_saw(toy, rings):  # noqa: F811
    model, clip, _ = toy
    made = trained(toy, rings, "toy/words", LEARNING)
    path = folder_paths.get_full_path("loras", made.name)
    assert path is not None
    both_loaded(model, clip)
    with ready(model, clip), torch.no_grad():
        found = branches_of(model, clip, LEARNING, made.name)
        base = encoded_text(clip, "a zwx ring")["cond"]
        with attached(model, clip, found):
            seen = encoded_text(clip, "a zwx ring")["cond"]
    with torch.inference_mode():
        file = comfy.utils.load_torch_file(path)
        _, patched = comfy.sd.load_lora_for_models(model, clip, file, 1.0, 1.0)
        given = encoded_text(patched, "a zwx ring")["cond"]
    # The host rounds the merged weight to the 16 bits that it keeps text encoders in.
    assert float((given - seen).norm()) < 0.1 * float((seen - base).norm())
    both_loaded(model, clip)


def test_going_on_without_the_text_half_of_a_file_is_refused(toy, rings):  # noqa: F811
    made = trained(toy, rings, "toy/halves", replace(LEARNING, steps=2))
    with pytest.raises(TrainError, match="for the text encoder, which is not trained"):
        trained(toy, rings, "toy/half", existing=made.name)
    further = trained(
        toy, rings, "toy/on", replace(LEARNING, steps=1, rate=1e-9), existing=made.name
    )
    assert further.tensors.keys() == made.tensors.keys()
    for key, tensor in made.tensors.items():
        assert torch.allclose(tensor, further.tensors[key], atol=1e-6), key


def test_a_lora_is_trained_over_the_stack_that_the_model_carries(toy, rings):  # noqa: F811
    """The character over the style: what the network answers before the first step is the style's."""
    model, clip, vae = toy
    style = trained(toy, rings, "toy/style")
    path = folder_paths.get_full_path("loras", style.name)
    with torch.inference_mode():
        file = comfy.utils.load_torch_file(path)
        styled, _ = comfy.sd.load_lora_for_models(model, None, file, 1.0, 0.0)
        comfy.model_management.load_models_gpu([styled])
    before = digest(styled.model)
    over = trained((styled, clip, vae), rings, "toy/over")
    assert digest(styled.model) == before
    alone = trained(toy, rings, "toy/alone", retrain=True)
    assert over.tensors.keys() == alone.tensors.keys()
    assert not same_bytes(over.tensors, alone.tensors)


@pytest.mark.parametrize("kind", adapters.FAMILIES)
@pytest.mark.parametrize("dtype", [torch.float8_e4m3fn, torch.float16], ids=["fp8", "fp16"])
def test_a_frozen_base_of_few_bits_is_trained_with_float32_branches(dtype, kind):
    with torch.inference_mode():
        model = small_model("Flux", dtype, compute=torch.bfloat16)
        comfy.model_management.load_models_gpu([model])
    network = model.model.diffusion_model
    levels = noise_levels(model.model.model_sampling)
    before = digest(model.model)
    with ready(model) as predict:
        branches = filled(model, kind)
        with adapters.attached(network, branches, dense_weight):
            batch_loss(predict, batch("Flux", 1, 2), levels, PLAIN).mean().backward()
    gradients = [p.grad for p in adapters.parameters_of(branches)]
    found = [g for g in gradients if g is not None]
    assert len(found) == len(gradients)
    assert all(g.dtype == torch.float32 and bool(g.isfinite().all()) for g in found)
    assert sum(float(g.norm()) > 0 for g in found) > 0.9 * len(found)
    assert digest(model.model) == before


def test_a_weight_of_eight_bits_is_read_as_the_layer_computes_with_it():
    model = small_model("Flux", torch.float8_e4m3fn, compute=torch.bfloat16)
    layer = model.model.diffusion_model.double_blocks[0].img_attn.qkv
    assert torch.equal(dense_weight(layer), layer.weight.float())


def test_nothing_that_can_learn_is_told_before_the_first_step(toy, rings):  # noqa: F811
    for wrong, message in (
        ({"blocks": "OUT77=0"}, "Blocks to train"),
        ({"ranks": "nowhere = 4"}, "no chosen layer has 'nowhere'"),
        ({"pattern": "nowhere"}, "No layer of the model is chosen"),
    ):
        with pytest.raises(TrainError, match=message):
            trained(toy, rings, "toy/wrong", replace(SETTINGS, **wrong))


def test_patches_that_are_put_on_at_use_are_part_of_a_models_name():
    """With little memory, or dynamic memory, a LoRA is in no weight: the host adds it as it computes."""
    layer: Any = torch.nn.Sequential(torch.nn.Linear(4, 4))
    plain = fingerprint(layer)

    def named(value: float, strength: float = 1.0) -> str:
        patch = ("diff", (torch.full((4, 4), value),))
        patches = {"0.weight": [(strength, patch, 1.0, None, None)]}
        at_use = LowVramPatch("0.weight", patches, None, None)
        layer[0].weight_function = [at_use]
        by_list = fingerprint(layer)
        layer[0].weight_function = []
        layer[0].weight_lowvram_function = at_use
        assert fingerprint(layer) == by_list
        layer[0].weight_lowvram_function = None
        return by_list

    assert len({plain, named(1.0), named(2.0), named(1.0, 0.5)}) == 4
    assert named(1.0) == named(1.0)
    assert fingerprint(layer) == plain
