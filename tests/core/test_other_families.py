"""Adapter families against LyCORIS' own modules and functions, on weights they know: what they make of it is what we make.

lycoris-lora is needed by this file alone; CONTRIBUTING.md says how to have it. At strength 1: for DoRA and OFT a part of
the way is another thing in LyCORIS than in the host, which we follow.
"""

from __future__ import annotations

from typing import Any

import pytest
import torch

from lora_core.algebra.dora import decomposed
from lora_core.algebra.steps import run, steps_of
from lora_core.files.parse import parse_state_dict
from tools.family_formulas import expected
from tools.family_tensors import MAKERS, SHAPES, Draw, named

LINEAR, KERNEL = "Linear", "Conv3x3"
# (family, layer, strengths at which LyCORIS and the host mean the same).
MODULES = [
    *((kind, layer, 0.6) for kind in ("lora", "glora", "whole") for layer in SHAPES),
    ("lora_cp", KERNEL, 0.6),
    *(("lokr_whole", layer, 0.6) for layer in SHAPES),
    *(("oft_constrained", layer, 1.0) for layer in SHAPES),
    *(("dora_output", layer, 1.0) for layer in SHAPES),
]
# Families whose scale LyCORIS' get_merged_weight applies twice (4.1.3), its forward pass once.
TWICE = [("loha", LINEAR), ("loha_tucker", KERNEL), ("lokr_second", LINEAR)]


def relative(found: torch.Tensor, wanted: torch.Tensor, weight: torch.Tensor) -> float:
    """The error of what was added, in units of what was added."""
    return float((found.double() - wanted.double()).norm() / (wanted.double() - weight).norm())


def layer_of(layer: str) -> torch.nn.Linear | torch.nn.Conv2d:
    shape = SHAPES[layer]
    with torch.random.fork_rng():
        torch.manual_seed(3)
        if len(shape) == 2:
            return torch.nn.Linear(shape[1], shape[0], bias=False)
        return torch.nn.Conv2d(shape[1], shape[0], shape[2], padding=shape[2] // 2, bias=False)


def weight_of(module: torch.nn.Linear | torch.nn.Conv2d) -> torch.Tensor:
    return module.weight.detach().double().clone()


def ours(kind: str, layer: str, weight: torch.Tensor, strength: float = 1.0) -> torch.Tensor:
    file = parse_state_dict(named("lora_unet_w", MAKERS[kind](SHAPES[layer], Draw(1))), "x")
    (adapter,) = (*file.modules.values(), *file.differences.values())
    return run(weight.clone(), steps_of([(adapter, strength)]))


def theirs(kind: str, layer: str, module: torch.nn.Module) -> Any:
    modules = pytest.importorskip("lycoris.modules", reason="lycoris-lora is not installed")
    tensors = named("lora_unet_w", MAKERS[kind](SHAPES[layer], Draw(1)))
    found, parameters = modules.get_module(tensors, "lora_unet_w")
    return modules.make_module(found, parameters, "lora_unet_w", module).eval()


@pytest.mark.parametrize(("kind", "layer", "strength"), MODULES)
def test_what_lycoris_merges_into_a_weight_is_ours(kind, layer, strength):
    module = layer_of(layer)
    weight = weight_of(module)
    with torch.no_grad():
        merged = theirs(kind, layer, module).get_merged_weight(strength)[0]
    assert (
        relative(merged.reshape(weight.shape), ours(kind, layer, weight, strength), weight) <= 1e-5
    )


@pytest.mark.parametrize(("kind", "layer"), TWICE)
def test_what_lycoris_trains_is_ours_and_what_it_merges_has_the_scale_twice(kind, layer):
    """Its forward pass scales by alpha / rank once, as the formula; its get_merged_weight once more."""
    module = layer_of(layer)
    weight = weight_of(module)
    adapter = theirs(kind, layer, module)
    found = ours(kind, layer, weight)
    formula = expected(kind, weight, MAKERS[kind](SHAPES[layer], Draw(1)))
    assert relative(found, formula, weight) <= 1e-6
    inputs = torch.randn((5, *SHAPES[layer][1:]), generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        merged = adapter.get_merged_weight(1)[0].reshape(weight.shape)
        passed = adapter(inputs).double()
        module.weight.copy_(found)
        assert relative(passed, module(inputs), torch.zeros(())) <= 1e-5
    assert relative(merged, weight + 1.5 * (formula - weight), weight) <= 1e-5


@pytest.mark.parametrize("layer", SHAPES)
def test_boft_is_lycoris_butterfly(layer):
    boft = pytest.importorskip("lycoris.functional.boft", reason="lycoris-lora is not installed")
    weight = weight_of(layer_of(layer))
    blocks = MAKERS["boft"](SHAPES[layer], Draw(1))["oft_blocks"]
    for strength in (1.0, 0.6):
        change = boft.diff_weight(weight.float(), blocks, None, scale=strength)
        assert relative(weight + change, ours("boft", layer, weight, strength), weight) <= 1e-5


@pytest.mark.parametrize("layer", SHAPES)
@pytest.mark.parametrize("on_input", [False, True])
def test_ia3_is_lycoris_scaling(on_input, layer):
    modules = pytest.importorskip("lycoris.modules.ia3", reason="lycoris-lora is not installed")
    module = layer_of(layer)
    weight = weight_of(module)
    kind = "ia3_input" if on_input else "ia3_output"
    scaling = modules.IA3Module("lora_unet_w", module, 1, train_on_input=on_input)
    scaling.weight.data.copy_(MAKERS[kind](SHAPES[layer], Draw(1))["weight"])
    with torch.no_grad():
        merged = scaling.get_merged_weight(0.6)[0]
    assert relative(merged, ours(kind, layer, weight, 0.6), weight) <= 1e-5


@pytest.mark.parametrize("layer", SHAPES)
@pytest.mark.parametrize("by_output", [True, False])
def test_dora_is_lycoris_decomposition_on_either_axis(by_output, layer):
    general = pytest.importorskip(
        "lycoris.functional.general", reason="lycoris-lora is not installed"
    )
    weight = weight_of(layer_of(layer))
    kind = "dora_output" if by_output else "dora_input"
    tensors = MAKERS[kind](SHAPES[layer], Draw(1))
    delta = expected("lora", torch.zeros_like(weight), tensors)
    made = general.weight_decompose(weight + delta, tensors["dora_scale"].double(), 1, by_output)
    found = decomposed(weight, delta, tensors["dora_scale"].double(), by_output, 1.0)
    assert relative(made, found, weight) <= 1e-6
    assert relative(ours(kind, layer, weight), found, weight) <= 1e-6


def test_norms_and_biases_are_lycoris_differences():
    norms = pytest.importorskip("lycoris.modules.norms", reason="lycoris-lora is not installed")
    module = torch.nn.LayerNorm(12)
    draw = Draw(2)
    tensors = {"w_norm": draw(12), "b_norm": draw(12)}
    adapter = norms.NormModule("lora_unet_w", module, 1)
    adapter.w_norm.data.copy_(tensors["w_norm"])
    adapter.b_norm.data.copy_(tensors["b_norm"])
    with torch.no_grad():
        merged = adapter.get_merged_weight(0.6)
    file = parse_state_dict(named("lora_unet_w", tensors), "x")
    for kind, own, found in zip(
        ("weight", "bias"), (module.weight, module.bias), merged, strict=True
    ):
        item = file.differences["lora_unet_w", kind]
        wanted = run(own.detach().double().clone(), steps_of([(item, 0.6)]))
        torch.testing.assert_close(found.double(), wanted, rtol=1e-6, atol=1e-7)
