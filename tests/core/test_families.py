"""Every adapter family on every kind of layer: what the steps make of a weight is what the paper's formula gives."""

from __future__ import annotations

import pytest
import torch

from lora_core.adapters import LowRank
from lora_core.algebra import loha, lokr, lowrank
from lora_core.algebra.steps import is_linear, run
from lora_core.errors import LoraKeyError, MatchError
from lora_core.files.parse import parse_state_dict
from lora_core.resolve import resolve
from lora_core.stack.rows import StackRow
from lora_core.targets import Target, TargetMap
from tools.family_formulas import expected
from tools.family_tensors import CASES, MAKERS, SHAPES, Draw, named

TARGET = Target("w.weight")
DTYPES = [torch.float32, torch.float16, torch.bfloat16, torch.float8_e4m3fn]
DELTAS = {LowRank: lowrank.delta, loha.LoHa: loha.delta, lokr.LoKr: lokr.delta}
FACTORS = {LowRank: lowrank.factors, loha.LoHa: loha.factors, lokr.LoKr: lokr.factors}


def steps_for(shape, *files, strengths=None):
    """The steps of a stack of state dicts on one weight of this shape, under strict matching."""
    targets = TargetMap({"lora_unet_w": TARGET}, {"w.weight": tuple(shape)})
    rows = [
        (StackRow(str(index), strength), parse_state_dict(tensors, "x"))
        for index, (tensors, strength) in enumerate(
            zip(files, strengths or [1.0] * len(files), strict=True)
        )
    ]
    resolved, _ = resolve(rows, targets, None, "strict")
    return resolved.model.steps[TARGET]


def in_dtype(tensors, dtype):
    """The floating-point matrices stored in another dtype; alphas and switches stay."""
    return {
        name: tensor.to(dtype) if tensor.dim() and tensor.is_floating_point() else tensor
        for name, tensor in tensors.items()
    }


@pytest.mark.parametrize("dtype", DTYPES, ids=lambda d: str(d).removeprefix("torch."))
@pytest.mark.parametrize(("kind", "layer"), CASES)
def test_the_weight_is_what_the_formula_gives(kind, layer, dtype):
    """Against float64 full matrices: 2e-5 of the weight's norm in float32, whatever dtype the file stores."""
    shape, draw = SHAPES[layer], Draw(1)
    weight = draw(*shape, spread=1.0)
    tensors = in_dtype(MAKERS[kind](shape, draw), dtype)
    result = run(weight.clone(), steps_for(shape, named("lora_unet_w", tensors)))
    exact = expected(kind, weight, {name: t.float() for name, t in tensors.items()})
    assert result.dtype == torch.float32
    assert (result.double() - exact).norm() <= 2e-5 * exact.norm()


@pytest.mark.parametrize(("kind", "layer"), CASES)
def test_half_strength_lies_between_and_zero_gives_the_weight_back(kind, layer):
    shape, draw = SHAPES[layer], Draw(2)
    weight = draw(*shape, spread=1.0)
    tensors = named("lora_unet_w", MAKERS[kind](shape, draw))
    at = {
        s: run(weight.double(), steps_for(shape, tensors, strengths=[s])) for s in (1e-9, 0.5, 1.0)
    }
    torch.testing.assert_close(at[1e-9], weight.double(), atol=1e-7, rtol=0)
    if kind != "boft" and "constrained" not in kind:  # products of blended factors are not linear
        torch.testing.assert_close(at[0.5], 0.5 * (weight.double() + at[1.0]))
    assert not torch.allclose(at[0.5], weight.double())


@pytest.mark.parametrize(
    ("kind", "layer"), [case for case in CASES if case[0].startswith(("lora", "loha", "lokr"))]
)
def test_delta_and_factors_agree_with_the_steps(kind, layer):
    """A forward through the factors, x -> B (A x), is a forward through the delta."""
    shape, draw = SHAPES[layer], Draw(3)
    tensors = named("lora_unet_w", MAKERS[kind](shape, draw))
    adapter = parse_state_dict(tensors, "x").modules["lora_unet_w"]
    dense = run(torch.zeros(shape), steps_for(shape, tensors)).flatten(1)
    torch.testing.assert_close(DELTAS[type(adapter)](adapter), dense, atol=1e-5, rtol=1e-5)
    up, down = FACTORS[type(adapter)](adapter)
    x = draw(dense.shape[1], 5)
    through = getattr(adapter, "scale") * (up @ (down @ x))  # noqa: B009 - every one of these has it
    torch.testing.assert_close(through, dense @ x, atol=1e-4, rtol=1e-4)
    assert adapter.span == tuple(dense.shape)


def test_linear_rows_share_one_product_and_the_others_keep_their_place():
    shape, draw = SHAPES["Linear"], Draw(4)
    weight = draw(*shape, spread=1.0)
    kinds = ("lora", "loha", "lora", "dora_output", "lora", "oft", "replacement", "lora")
    files = [named("lora_unet_w", MAKERS[kind](shape, draw)) for kind in kinds]
    steps = steps_for(shape, *files)
    assert [kind for kind, _, _ in steps] == [
        "loha", "low_rank", "dora", "low_rank", "rotation", "set", "low_rank",
    ]  # fmt: skip
    in_order = weight.double()
    for kind, file in zip(kinds, files, strict=True):
        bare = {name.removeprefix("lora_unet_w."): tensor for name, tensor in file.items()}
        in_order = expected(kind, in_order, bare)
    torch.testing.assert_close(run(weight.double(), steps), in_order, atol=1e-6, rtol=1e-6)
    assert is_linear(steps[:2])
    assert not is_linear(steps)


def test_a_lora_that_adds_inputs_grows_the_weight_and_others_keep_acting_on_theirs():
    """A Flux control LoRA: img_in grows from 12 to 20 inputs, the new ones start at zero."""
    draw = Draw(5)
    weight = draw(16, 12)
    wide = lora_of((16, 20), draw) | {"reshape_weight": torch.tensor([16, 20])}
    plain = lora_of((16, 12), draw)
    for first, second in ((wide, plain), (plain, wide)):
        steps = steps_for((16, 12), named("lora_unet_w", first), named("lora_unet_w", second))
        result = run(weight.double(), steps)
        exact = torch.zeros(16, 20, dtype=torch.float64)
        exact[:, :12] = expected("lora", weight, plain)
        exact = expected("lora", exact, wide)
        torch.testing.assert_close(result, exact, atol=1e-6, rtol=1e-6)


def lora_of(shape, draw):
    return MAKERS["lora"](shape, draw)


def test_the_bias_of_a_peft_lora_is_scaled_as_its_matrices_are():
    draw = Draw(6)
    tensors = named("lora_unet_w", lora_of((16, 12), draw) | {"lora_B.bias": torch.ones(16)})
    targets = TargetMap({"lora_unet_w": TARGET}, {"w.weight": (16, 12), "w.bias": (16,)})
    resolved, _ = resolve(
        [(StackRow("x", 0.5), parse_state_dict(tensors, "x"))], targets, None, "strict"
    )
    bias = run(torch.zeros(16), resolved.model.steps[Target("w.bias")])
    torch.testing.assert_close(bias, torch.full((16,), 0.5 * 3.0 / 2))


@pytest.mark.parametrize(
    ("settings", "scale"),
    [
        ('{"transformer.lora_alpha": 8, "transformer.r": 2}', 4.0),
        ('{"transformer.lora_alpha": 8, "transformer.use_rslora": true}', 8 / 2**0.5),
        ('{"transformer.lora_alpha": 8, "transformer.alpha_pattern": {"to_q": 1}}', 0.5),
        ('{"transformer.lora_alpha": 8, "transformer.alpha_pattern": {"o_q": 1}}', 4.0),
        ('{"transformer.lora_alpha": "8"}', 1.0),
        ("{broken", 1.0),
    ],
)
def test_alpha_comes_from_pefts_settings_where_the_file_has_no_alpha_keys(settings, scale):
    draw = Draw(7)
    tensors = {
        "transformer.block.to_q.lora_B.weight": draw(16, 2),
        "transformer.block.to_q.lora_A.weight": draw(2, 12),
    }
    file = parse_state_dict(tensors, "x", {"lora_adapter_metadata": settings})
    adapter = file.modules["transformer.block.to_q"]
    assert isinstance(adapter, LowRank)
    assert adapter.scale == pytest.approx(scale)


BROKEN = {
    "a half of a LoHa": (
        {"hada_w1_a": (4, 2), "hada_w1_b": (2, 4), "hada_w2_a": (4, 2)},
        "no hada_w2_b",
    ),
    "ranks of a LoHa": (
        {"hada_w1_a": (4, 2), "hada_w1_b": (3, 4), "hada_w2_a": (4, 2), "hada_w2_b": (2, 4)},
        "ranks do not agree",
    ),
    "one Tucker core": (
        {
            "hada_w1_a": (2, 4),
            "hada_w1_b": (2, 4),
            "hada_w2_a": (2, 4),
            "hada_w2_b": (2, 4),
            "hada_t1": (2, 2, 3, 3),
        },
        "one of the two Tucker cores",
    ),
    "a LoKr without its second side": ({"lokr_w1": (2, 2)}, "no lokr_w2_a"),
    "ranks of a GLoRA": (
        {"a1.weight": (5, 2), "a2.weight": (3, 5), "b1.weight": (4, 2), "b2.weight": (2, 5)},
        "four matrices",
    ),
    "a rotation that is not square": ({"oft_blocks": (4, 4, 3)}, "rotations must be"),
    "two families": (
        {"lora_up.weight": (4, 2), "lora_down.weight": (2, 4), "lokr_w1": (2, 2)},
        "mixes LoRA and LoKr",
    ),
    "a magnitude alone": ({"dora_scale": (4, 1)}, "a magnitude without matrices"),
    "a magnitude beside a rotation": (
        {"oft_blocks": (2, 2, 2), "dora_scale": (4, 1)},
        "beside OFT",
    ),
}


@pytest.mark.parametrize(("shapes", "message"), BROKEN.values(), ids=BROKEN)
def test_parts_that_do_not_make_an_adapter_are_refused_by_name(shapes, message):
    tensors = {f"lora_unet_w.{part}": torch.ones(shape) for part, shape in shapes.items()}
    with pytest.raises(LoraKeyError, match=f"x: 'lora_unet_w'.*{message}"):
        parse_state_dict(tensors, "x")


MISFITS = {
    "rotation of other rows": ("oft", (12, 12)),
    "magnitude of other columns": ("dora_input", (16, 11)),
    "gain of other inputs": ("ia3_input", (16, 11)),
    "gain of other outputs": ("ia3_output", (12, 12)),
    "mixing of other inputs": ("glora", (16, 11)),
    "whole of another shape": ("whole", (12, 16)),
}


@pytest.mark.parametrize(("kind", "shape"), MISFITS.values(), ids=MISFITS)
def test_an_adapter_that_does_not_fit_its_weight_is_a_clash(kind, shape):
    tensors = named("lora_unet_w", MAKERS[kind](SHAPES["Linear"], Draw(8)))
    with pytest.raises(MatchError, match="shapes do not fit this model"):
        steps_for(shape, tensors)
