"""Trainers' names on the host's own key maps."""

from __future__ import annotations

import pytest
import torch
from small_models import small_model

from lora_core.files.parse import parse_state_dict
from lora_core.host.targets import model_targets
from lora_core.resolve import resolve
from lora_core.stack.rows import StackRow

# (module as the scheme says it, the endings of its halves) for cross attention's to_k of the first SD1.5 block.
SD15_TO_K = "diffusion_model.input_blocks.1.1.transformer_blocks.0.attn2.to_k.weight"
SCHEMES = {
    "kohya, original names": (
        "lora_unet_input_blocks_1_1_transformer_blocks_0_attn2_to_k",
        "lora_up",
        "lora_down",
    ),
    "kohya, diffusers names": (
        "lora_unet_down_blocks_0_attentions_0_transformer_blocks_0_attn2_to_k",
        "lora_up",
        "lora_down",
    ),
    "diffusers, PEFT": (
        "unet.down_blocks.0.attentions.0.transformer_blocks.0.attn2.to_k",
        "lora_B",
        "lora_A",
    ),
    "diffusers, new": (
        "unet.down_blocks.0.attentions.0.transformer_blocks.0.attn2.to_k",
        "lora.up",
        "lora.down",
    ),
    "diffusers, old processors": (
        "unet.down_blocks.0.attentions.0.transformer_blocks.0.attn2.processor.to_k_lora",
        "up",
        "down",
    ),
    "PEFT alone": (
        "base_model.model.down_blocks.0.attentions.0.transformer_blocks.0.attn2.to_k",
        "lora_B",
        "lora_A",
    ),
    "ComfyUI": (
        "diffusion_model.input_blocks.1.1.transformer_blocks.0.attn2.to_k",
        "lora_up",
        "lora_down",
    ),
}


@pytest.mark.parametrize("scheme", SCHEMES)
def test_a_module_is_found_under_every_scheme(scheme):
    targets = model_targets(small_model("SD1.5", torch.float32))
    module, up, down = SCHEMES[scheme]
    out, inner = targets.shapes[SD15_TO_K]
    tensors = {
        f"{module}.{up}.weight": torch.ones(out, 2),
        f"{module}.{down}.weight": torch.ones(2, inner),
    }
    resolved, _ = resolve(
        [(StackRow("x"), parse_state_dict(tensors, "x"))], targets, None, "strict"
    )
    assert [target.key for target in resolved.model.steps] == [SD15_TO_K]


def test_every_name_of_a_model_is_known_once_and_kept():
    model = small_model("SD1.5", torch.float32)
    assert model_targets(model) is model_targets(model.clone())


@pytest.mark.parametrize("family", ["SD1.5", "SDXL", "Flux"])
def test_the_family_is_told(family):
    assert model_targets(small_model(family, torch.float16)).base == family
