"""Every adapter family against ComfyUI's own load_lora and calculate_weight; where core is wrong, float64 decides."""

from __future__ import annotations

import logging

import comfy.lora
import comfy.weight_adapter
import pytest
import torch

from lora_core.files.parse import parse_state_dict
from lora_core.host.patching import StackAdapter
from lora_core.resolve import resolve
from lora_core.stack.rows import StackRow
from lora_core.targets import Target, TargetMap
from tools.family_formulas import expected
from tools.family_tensors import CASES, MAKERS, SHAPES, Draw, named

KEY = "diffusion_model.w.weight"
# What core gets wrong at strength 1, and how. Everything else must agree with core.
CORE_IS_WRONG = {
    "oft_constrained": "the constraint is alpha * out for both trainers, core takes alpha; core drops the rescaling",
    "lokr_tucker": "core's kron refuses the core's memory layout; it logs that and applies nothing",
    "dora_output": "core divides by the length of the weight before the change, the paper by that after it",
}
# What core does not read at all.
CORE_LACKS = {
    "ia3_output": "IA3",
    "ia3_input": "IA3",
    "ia3_peft": "IA3 of PEFT",
    "dora_peft": "PEFT's name of the magnitude",
}
# Families whose strength core applies otherwise, and how.
OTHER_STRENGTH = {
    "oft": "core multiplies by the strength twice",
    "boft": "core multiplies by the strength twice",
    "replacement": "core ignores the strength",
}


def by_core(tensors, weight: torch.Tensor, strength: float) -> torch.Tensor:
    loaded = comfy.lora.load_lora(dict(tensors), {"lora_unet_w": KEY})
    patches = [(strength, loaded[KEY], 1.0, None, None)] if KEY in loaded else []
    return comfy.lora.calculate_weight(patches, weight.clone(), KEY)


def by_us(tensors, weight: torch.Tensor, strength: float) -> torch.Tensor:
    targets = TargetMap({"lora_unet_w": Target(KEY)}, {KEY: tuple(weight.shape)})
    rows = [(StackRow("x", strength), parse_state_dict(tensors, "x"))]
    steps = resolve(rows, targets, None, "strict")[0].model.steps[Target(KEY)]
    patch = (1.0, StackAdapter({KEY}, (steps, False)), 1.0, None, None)
    return comfy.lora.calculate_weight([patch], weight.clone(), KEY)


def close(first: torch.Tensor, second: torch.Tensor) -> bool:
    """Within 2e-5 of the norm: float32 sums in another order."""
    return bool((first.double() - second.double()).norm() <= 2e-5 * second.double().norm())


@pytest.mark.parametrize(
    "dtype", [torch.float32, torch.float16, torch.bfloat16, torch.float8_e4m3fn]
)
@pytest.mark.parametrize(("kind", "layer"), CASES)
def test_ours_core_and_float64_agree_or_core_is_named_wrong(kind, layer, dtype, caplog):
    draw = Draw(1)
    weight = draw(*SHAPES[layer], spread=1.0)
    bare = {
        name: tensor.to(dtype) if tensor.dim() and tensor.is_floating_point() else tensor
        for name, tensor in MAKERS[kind](SHAPES[layer], draw).items()
    }
    tensors = named("lora_unet_w", bare)
    exact = expected(kind, weight, {name: tensor.float() for name, tensor in bare.items()})
    assert close(by_us(tensors, weight, 1.0), exact)
    with caplog.at_level(logging.ERROR):
        core = by_core(tensors, weight, 1.0)
    if kind in CORE_LACKS:
        assert not close(core, exact)
    elif kind in CORE_IS_WRONG:
        assert not close(core, exact), "core has been mended: take it off the list"
    else:
        assert close(core, exact)


@pytest.mark.parametrize("kind", OTHER_STRENGTH)
def test_a_strength_acts_once(kind):
    """Half strength is half of the way, for one rotation stage and a replaced weight."""
    draw = Draw(2)
    weight = draw(*SHAPES["Linear"], spread=1.0)
    tensors = named("lora_unet_w", MAKERS[kind](SHAPES["Linear"], draw))
    half, whole = by_us(tensors, weight, 0.5), by_us(tensors, weight, 1.0)
    if kind != "boft":
        assert close(half, 0.5 * (weight + whole))
    assert not close(half, by_core(tensors, weight, 0.5))


@pytest.mark.parametrize(
    "kind", [k for k in MAKERS if k not in {*CORE_IS_WRONG, *CORE_LACKS, *OTHER_STRENGTH}]
)
def test_half_strength_is_cores_half_strength(kind):
    layer = "Linear" if (kind, "Linear") in CASES else "Conv3x3"
    draw = Draw(3)
    weight = draw(*SHAPES[layer], spread=1.0)
    tensors = named("lora_unet_w", MAKERS[kind](SHAPES[layer], draw))
    assert close(by_us(tensors, weight, 0.5), by_core(tensors, weight, 0.5))


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
@pytest.mark.parametrize("kind", MAKERS)
def test_a_16_bit_weight_is_rounded_once(kind, dtype):
    layer = "Linear" if (kind, "Linear") in CASES else "Conv3x3"
    draw = Draw(4)
    weight = draw(*SHAPES[layer], spread=1.0).to(dtype)
    bare = MAKERS[kind](SHAPES[layer], draw)
    targets = TargetMap({"lora_unet_w": Target(KEY)}, {KEY: tuple(weight.shape)})
    rows = [(StackRow("x"), parse_state_dict(named("lora_unet_w", bare), "x"))]
    steps = resolve(rows, targets, None, "strict")[0].model.steps[Target(KEY)]
    adapter = StackAdapter({KEY}, (steps, False))
    result = adapter.calculate_weight(weight.clone(), KEY, 1.0, 1.0, None, lambda x: x, dtype)
    assert result.dtype == dtype
    ideal = expected(kind, weight, bare).to(dtype)
    assert (result != ideal).float().mean() < 2e-2


def swap_halves(rows: torch.Tensor) -> torch.Tensor:
    first, second = rows.chunk(2, dim=0)
    return torch.cat([second, first])


@pytest.mark.parametrize("kind", ["lora", "loha", "dora_output", "oft", "ia3_output"])
def test_rows_that_the_host_rearranges_are_changed_in_the_files_order(kind):
    """Flux norm_out: the file has scale before shift, the host the other way round."""
    draw = Draw(5)
    shape = SHAPES["Linear"]
    of_file = draw(*shape, spread=1.0)
    bare = MAKERS[kind](shape, draw)
    targets = TargetMap({"lora_unet_w": Target(KEY)}, {KEY: shape})
    rows = [(StackRow("x"), parse_state_dict(named("lora_unet_w", bare), "x"))]
    steps = resolve(rows, targets, None, "strict")[0].model.steps[Target(KEY)]
    adapter = StackAdapter({KEY}, (steps, True))
    weight = swap_halves(of_file).clone()
    result = adapter.calculate_weight(weight, KEY, 1.0, 1.0, None, swap_halves)
    assert result is weight
    assert close(swap_halves(result), expected(kind, of_file, bare))
