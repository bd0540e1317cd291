"""Rows that depend on the base model's weight, merged on a known one: the sum is what the stack makes of that weight."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from lora_core.adapters import Difference
from lora_core.errors import MergeError
from lora_core.merge.certificate import Certificate
from lora_core.merge.merge import merge, resize
from lora_core.merge.onbase import BaseModel
from lora_core.merge.plan import Plan
from lora_core.merge.ranks import RankRule
from lora_core.resolve import resolve
from lora_core.targets import Target, TargetMap
from tests.core.lora_tensors import pair
from tests.core.merge_rows import delta, low_rank, row
from tools.family_formulas import expected
from tools.family_tensors import CASES, MAKERS, SHAPES, Draw, named

KINDS = {
    "glora",
    "glora_old",
    "oft",
    "oft_constrained",
    "boft",
    "ia3_output",
    "ia3_input",
    "ia3_peft",
}
KINDS |= {"replacement", "dora_output", "dora_input", "dora_loha", "dora_peft"}
ROTATIONS = {"oft", "oft_constrained", "boft"}
DEPENDENT = [(kind, layer) for kind, layer in CASES if kind in KINDS]
NAME = "lora_unet_w"


def on(weights, targets=None):
    """TargetMap and weights of a model that has these weights under their own names."""
    names = targets or {NAME: Target("w.weight")}
    shapes = {key: tuple(weight.shape) for key, weight in weights.items()}
    return TargetMap(names, shapes), BaseModel(weights.__getitem__)


def weight_of(layer: str) -> torch.Tensor:
    return Draw(9)(*SHAPES[layer], spread=1.0)


def merged_delta(rows, plan: Plan, weights, targets=None) -> torch.Tensor:
    model, base = on(weights, targets)
    file = merge(rows, plan, model, base=base).file
    if file.modules:
        return delta(file.modules[NAME])
    (item,) = file.differences.values()
    return item.tensor.double().flatten(1)


def test_the_families_are_all_that_depend_on_the_weight():
    assert {kind for kind, _ in DEPENDENT} == KINDS <= set(MAKERS)


@pytest.mark.parametrize(("kind", "layer"), DEPENDENT)
@pytest.mark.parametrize("first", [True, False])
def test_each_family_is_merged_with_others_as_the_stack_puts_them_on(kind, layer, first):
    """In float64 by the papers' formulas: each row acts on what the rows before it left."""
    weight, draw = weight_of(layer), Draw(3)
    odd, plain = MAKERS[kind](SHAPES[layer], draw), MAKERS["lora"](SHAPES[layer], draw)
    strength = 1.0 if kind in ROTATIONS else 0.7
    rows = [row("odd", named(NAME, odd), strength), row("plain", named(NAME, plain), -0.4)]
    wanted = weight.double()
    for (stack_row, _), tensors, how in sorted(
        zip(rows, (odd, plain), (kind, "lora"), strict=True),
        key=lambda item: item[2] == "lora",
        reverse=not first,
    ):
        wanted = wanted + stack_row.model * (expected(how, wanted, tensors) - wanted)
    found = merged_delta(rows if first else rows[::-1], Plan("concat"), {"w.weight": weight})
    added = (wanted - weight.double()).flatten(1)
    assert float((found.reshape(added.shape) - added).norm() / added.norm()) <= 2e-6


def test_a_fraction_of_a_rotation_is_what_the_stack_makes_of_it():
    from lora_core.algebra.steps import run

    weight = weight_of("Linear")
    tensors = named(NAME, MAKERS["boft"](SHAPES["Linear"], Draw(3)))
    rows = [row("turn", tensors, 0.6)]
    model, _ = on({"w.weight": weight})
    steps = resolve(rows, model, None)[0].model.steps[Target("w.weight")]
    added = run(weight.double(), steps) - weight.double()
    found = merged_delta(rows, Plan("concat"), {"w.weight": weight})
    assert float((found - added).norm() / added.norm()) <= 2e-6


def test_parts_of_a_fused_weight_and_a_row_on_all_of_it_meet(generator):
    """Two DoRA slices of one file after a low-rank row on the whole weight."""
    whole = torch.randn(48, 12, generator=generator)
    targets = {
        NAME: Target("w.weight"),
        "lora_unet_q": Target("w.weight", (0, 0, 16)),
        "lora_unet_v": Target("w.weight", (0, 32, 16)),
    }
    parts = {n: MAKERS["dora_output"]((16, 12), Draw(i)) for i, n in enumerate(("q", "v"))}
    sliced = {k: t for n, part in parts.items() for k, t in named(f"lora_unet_{n}", part).items()}
    plain = MAKERS["lora"]((48, 12), Draw(5))
    rows = [row("plain", named(NAME, plain), 0.5), row("parts", sliced, 0.8)]
    wanted = whole.double()
    wanted = wanted + 0.5 * (expected("lora", wanted, plain) - wanted)
    for name, start in (("q", 0), ("v", 32)):
        part = wanted[start : start + 16]
        part += 0.8 * (expected("dora_output", part, parts[name]) - part)
    added = wanted - whole.double()
    found = merged_delta(rows, Plan("concat"), {"w.weight": whole}, targets)
    assert float((found - added).norm() / added.norm()) <= 2e-6


def test_a_replaced_bias_is_what_it_adds_to_the_base(generator):
    bias, new = (torch.randn(16, generator=generator) for _ in range(2))
    weights = {"w.weight": weight_of("Linear"), "w.bias": bias}
    model, base = on(weights)
    rows = [row("set", {f"{NAME}.set_weight": new})]
    named_bias = TargetMap({NAME: Target("w.bias")}, model.shapes)
    found = merge(rows, Plan("concat"), named_bias, base=base).file
    (item,) = found.differences.values()
    assert isinstance(item, Difference)
    assert not item.replaces
    torch.testing.assert_close(item.tensor, new - bias, rtol=1e-6, atol=1e-6)


def certificate_of(rank: int, layer: str = "Linear") -> tuple[Certificate, torch.Tensor]:
    weight = weight_of(layer)
    tensors = named(NAME, MAKERS["dora_output"](SHAPES[layer], Draw(3)))
    model, base = on({"w.weight": weight})
    done = merge([row("dora", tensors)], Plan("svd", RankRule("rank", rank)), model, base=base)
    added = expected("dora_output", weight, MAKERS["dora_output"](SHAPES[layer], Draw(3)))
    return done.certificate, (added - weight.double()).flatten(1)


@pytest.mark.parametrize("layer", ["Linear", "Conv3x3"])
def test_cut_to_a_rank_it_is_the_optimum_and_the_certificate_says_how_far_it_is(layer):
    certificate, added = certificate_of(3, layer)
    s = torch.linalg.svdvals(added)
    best = float((s[3:].square().sum() / s.square().sum()).sqrt())
    assert certificate.error == pytest.approx(best, rel=1e-4)
    assert certificate.kept == pytest.approx(1 - best**2, rel=1e-4)
    assert any("1 modules depend on the base model's weight" in note for note in certificate.notes)


@pytest.mark.parametrize("method", ["ties", "knots_ties", "slerp", "orthogonal"])
def test_other_methods_take_what_the_row_adds(method):
    weight, draw = weight_of("Linear"), Draw(3)
    odd, plain = MAKERS["dora_output"]((16, 12), draw), MAKERS["lora"]((16, 12), draw)
    rows = [row("odd", named(NAME, odd)), row("plain", named(NAME, plain))]
    found = merged_delta(rows, Plan(method), {"w.weight": weight})
    change = (expected("dora_output", weight, odd) - weight.double()).float()
    whole = row("odd", {f"{NAME}.diff": change})
    other = delta(merge([whole, rows[1]], Plan(method)).file.modules[NAME])
    assert float((found - other).norm() / other.norm()) <= 1e-4


def test_without_the_base_it_is_refused_with_the_way_out():
    rows = [row("odd", named(NAME, MAKERS["dora_output"]((16, 12), Draw(1))))]
    with pytest.raises(
        MergeError, match="'odd': 'lora_unet_w' .*depends on the base.*Connect the MODEL"
    ):
        merge(rows, Plan("svd"))
    with pytest.raises(MergeError, match="Give it to Loom Merge, with the MODEL"):
        resize(rows[0][1], RankRule("rank", 4))


def test_a_base_without_that_weight_is_refused_by_name():
    rows = [row("odd", named(NAME, MAKERS["dora_output"]((16, 12), Draw(1))))]
    for shape in ((16, 14), None):
        weights = {} if shape is None else {"w.weight": torch.ones(shape)}
        model, base = on(weights)
        with pytest.raises(MergeError, match="the connected MODEL has no weight of this name and"):
            merge(rows, Plan("svd"), model, base=base)


def test_a_text_encoder_module_asks_for_the_clip():
    name = "lora_te_text_model_encoder_layers_0_mlp_fc1"
    rows = [row("odd", named(name, MAKERS["ia3_output"]((16, 12), Draw(1))))]
    model, base = on({"w.weight": torch.ones(16, 12)})
    with pytest.raises(MergeError, match="Connect the CLIP that it is for"):
        merge(rows, Plan("svd"), model, base=base)


def test_a_base_that_is_not_finite_is_named():
    rows = [row("odd", named(NAME, MAKERS["dora_output"]((16, 12), Draw(1))))]
    model, base = on({"w.weight": torch.full((16, 12), float("nan"))})
    with pytest.raises(MergeError, match="'w.weight' of the connected model has numbers that are"):
        merge(rows, Plan("svd"), model, base=base)


def test_a_grown_weight_is_refused_with_a_base_too(generator):
    file = row("grown", pair(NAME, generator, out=16, inner=12, rank=2))
    lora = replace(low_rank(file[1].modules[NAME]), grown=(16, 12))
    grown = replace(file[1], modules={NAME: lora})
    model, base = on({"w.weight": torch.ones(16, 8)})
    with pytest.raises(MergeError, match="it grows the weight. Leave this row out"):
        merge([(file[0], grown)], Plan("svd"), model, base=base)
