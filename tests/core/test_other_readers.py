"""A saved file in PEFT's and diffusers' own hands: the same deltas and the same picture noise.

Needs the packages peft and diffusers, which nothing else here does. To run it, make an environment with them beside
torch and run this file with its Python.
"""

from __future__ import annotations

from typing import Any

import pytest
import torch

pytest.importorskip("peft", reason="peft is not installed; it is needed by this test alone")
pytest.importorskip(
    "diffusers", reason="diffusers is not installed; it is needed by this test alone"
)

from diffusers.loaders.lora_pipeline import StableDiffusionLoraLoaderMixin as Mixin
from diffusers.models.unets.unet_2d_condition import UNet2DConditionModel
from peft import LoraConfig, inject_adapter_in_model, set_peft_model_state_dict
from safetensors.torch import load_file

from lora_core.algebra.lowrank import delta
from lora_core.files.convert import convert
from lora_core.files.parse import parse_state_dict
from lora_core.files.schemes import KEEP, KOHYA, PEFT
from lora_core.files.writer import write_lora
from lora_core.targets import Target, TargetMap
from tests.core.lora_tensors import low_rank, pair

# float32 sums in another order, relative to the delta of a weight and to the difference that the LoRA makes.
WEIGHTS, PICTURE = 1e-5, 1e-4


@pytest.fixture
def unet() -> UNet2DConditionModel:
    torch.manual_seed(0)
    return UNet2DConditionModel(
        sample_size=8,
        in_channels=4,
        out_channels=4,
        layers_per_block=1,
        block_out_channels=(32, 64),
        down_block_types=("CrossAttnDownBlock2D", "DownBlock2D"),
        up_block_types=("UpBlock2D", "CrossAttnUpBlock2D"),
        cross_attention_dim=16,
        norm_num_groups=8,
        attention_head_dim=4,
    ).eval()


def layers(unet) -> dict[str, Any]:
    """What a trainer adapts: attention, feed-forward, projections and convolutions."""
    kinds = (torch.nn.Linear, torch.nn.Conv2d)
    return {
        name: module
        for name, module in unet.named_modules()
        if isinstance(module, kinds) and ("attentions" in name or ".conv" in name)
    }


def names_of(unet) -> TargetMap:
    """As the host's key map says them: kohya's and old diffusers' names of each weight."""
    names, shapes = {}, {}
    for name, module in layers(unet).items():
        target = Target(f"diffusion_model.{name}.weight")
        names["lora_unet_" + name.replace(".", "_")] = target
        old = name.replace(".to_", ".processor.to_")
        names["unet." + (old[:-2] if old.endswith(".to_out.0") else old)] = target
        shapes[target.key] = tuple(module.weight.shape)
    return TargetMap(names, shapes, "SD1.5")


def kohya_lora(unet, ranks: tuple[int, ...]) -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(3)
    tensors = {}
    for index, (name, module) in enumerate(layers(unet).items()):
        out, inner, *kernel = module.weight.shape
        tensors |= pair(
            "lora_unet_" + name.replace(".", "_"),
            generator,
            out=out,
            inner=inner,
            kernel=tuple(kernel),
            rank=ranks[index % len(ranks)],
            alpha=1.5,
        )
    return {key: t if t.dim() == 0 else 0.1 * t for key, t in tensors.items()}


def merged(unet, tensors) -> dict[str, torch.Tensor]:
    """Our weights: W + delta of each module, in place; returns the deltas."""
    adapter = parse_state_dict(tensors, "x")
    deltas = {}
    for name, layer in layers(unet).items():
        module = low_rank(adapter, "lora_unet_" + name.replace(".", "_"))
        deltas[name] = delta(module).reshape(layer.weight.shape)
        layer.weight.data += deltas[name]
    return deltas


@torch.no_grad()
def noise(unet) -> torch.Tensor:
    generator = torch.Generator().manual_seed(5)
    latent = torch.randn(2, 4, 8, 8, generator=generator)
    words = torch.randn(2, 6, 16, generator=generator)
    return unet(latent, torch.tensor([10, 700]), encoder_hidden_states=words).sample


def saved(unet, tensors, scheme: str, path) -> None:
    converted = convert(tensors, parse_state_dict(tensors, "x"), scheme, names_of(unet))
    write_lora(converted.tensors, {}, path, replace=False)


def by_diffusers(unet, path) -> None:
    state, alphas = Mixin.lora_state_dict(str(path), unet_config=unet.config)
    Mixin.load_lora_into_unet(state, alphas, unet, adapter_name="saved")


def by_peft(unet, path) -> None:
    state = {key.removeprefix("unet."): tensor for key, tensor in load_file(path).items()}
    ranks = {
        key.removesuffix(".lora_A.weight"): len(t) for key, t in state.items() if "lora_A" in key
    }
    config = LoraConfig(target_modules=list(ranks), rank_pattern=ranks, alpha_pattern=ranks)
    inject_adapter_in_model(config, unet, adapter_name="saved")
    result = set_peft_model_state_dict(unet, state, adapter_name="saved")
    assert not result.unexpected_keys


CASES = [
    pytest.param(PEFT, by_diffusers, (4,), id="diffusers reads PEFT naming"),
    pytest.param(PEFT, by_diffusers, (4, 2), id="diffusers reads PEFT naming, mixed ranks"),
    pytest.param(KOHYA, by_diffusers, (4,), id="diffusers reads kohya naming"),
    pytest.param(KEEP, by_diffusers, (4, 2), id="diffusers reads a file kept as it was"),
    pytest.param(PEFT, by_peft, (4, 2), id="PEFT reads PEFT naming"),
]


@pytest.mark.parametrize(("scheme", "load", "ranks"), CASES)
def test_a_saved_file_acts_there_as_it_does_here(scheme, load, ranks, unet, tmp_path):
    tensors = kohya_lora(unet, ranks)
    before = noise(unet)
    saved(unet, tensors, scheme, tmp_path / "x.safetensors")
    pristine = {key: tensor.clone() for key, tensor in unet.state_dict().items()}
    deltas = merged(unet, tensors)
    ours = noise(unet)
    unet.load_state_dict(pristine)
    load(unet, tmp_path / "x.safetensors")
    adapted = {n: m for n, m in unet.named_modules() if hasattr(m, "get_delta_weight")}
    assert adapted.keys() == deltas.keys()
    for name, expected in deltas.items():
        theirs = adapted[name].get_delta_weight("saved").detach().reshape(expected.shape)
        assert float((theirs - expected).norm() / expected.norm()) < WEIGHTS, name
    assert float((noise(unet) - ours).norm() / (ours - before).norm()) < PICTURE
