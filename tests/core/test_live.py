"""Live side paths against the same terms in the weight; and which terms have to stay in the weight."""

from __future__ import annotations

import re
from typing import Any

import pytest
import torch
from torch.nn import functional

from lora_core.adapters import Difference, LowRank
from lora_core.algebra.dora import DoRA
from lora_core.algebra.loha import LoHa
from lora_core.algebra.lokr import LoKr
from lora_core.algebra.steps import run
from lora_core.errors import StackError
from lora_core.live.bank import make_bank
from lora_core.live.mode import ModelTraits, choose
from lora_core.live.plan import exact_factors, exact_rank, plan
from lora_core.live.progress import acting
from lora_core.live.side import add_convolved, add_linear
from lora_core.resolve import PartPatches, Term
from lora_core.targets import Target

KEY = "w.weight"
CONVOLUTIONS = {1: functional.conv1d, 2: functional.conv2d, 3: functional.conv3d}


def noise(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed + sum(shape))) * 0.3


def low_rank(out: int, inside: tuple[int, ...], rank: int, seed: int = 0) -> LowRank:
    return LowRank(noise(out, rank, seed=seed), noise(rank, *inside, seed=seed + 1), alpha=3.0)


def loha_of(out: int, columns: int, rank: int) -> LoHa:
    return LoHa(
        noise(out, rank),
        noise(rank, columns),
        noise(out, rank, seed=5),
        noise(rank, columns, seed=6),
        alpha=1.5,
    )


def lokr_of(out: int, columns: int) -> LoKr:
    small, rank = noise(2, 2), 3
    return LoKr(
        small, None, 2.0, w2_a=noise(out // 2, rank), w2_b=noise(rank, columns // 2, seed=4)
    )


def mixed(out: int, inside: tuple[int, ...]) -> dict[Target, tuple[Term, ...]]:
    """Three rows of three families on one weight, the second with a factor of its block."""
    columns = int(torch.tensor(inside).prod())
    return {
        Target(KEY): (
            Term(0, low_rank(out, inside, 4), 0.8),
            Term(1, loha_of(out, columns, 2), -0.5, 0.25),
            Term(2, lokr_of(out, columns), 1.3),
        )
    }


def baked(patches: PartPatches, shape: tuple[int, ...]) -> torch.Tensor:
    """What the patches add to a weight of zeros, slices in their place."""
    whole = torch.zeros(shape)
    for target, steps in patches.steps.items():
        part = whole if target.offset is None else whole.narrow(*target.offset)
        delta = run(torch.zeros(part.shape), steps)
        part += delta if target.function is None else target.function(delta)
    return whole


def all_live(patches: PartPatches, shape: tuple[int, ...]) -> Any:
    found = plan(patches, lambda key: None)
    assert not found.baked.terms
    return make_bank(found, {KEY: shape})


def strengths_of(patches: PartPatches) -> list[float]:
    rows = {term.row: term.strength for terms in patches.terms.values() for term in terms}
    return [rows.get(number, 0.0) for number in range(max(rows) + 1)]


def side_of_linear(patches: PartPatches, shape: tuple[int, ...], x: torch.Tensor) -> torch.Tensor:
    bank = all_live(patches, shape)
    (layer,) = bank.layers
    factors = bank.factors(layer, x.device, torch.float32)
    strengths = bank.strengths(strengths_of(patches))[layer.ranks]
    return add_linear(torch.zeros(*x.shape[:-1], shape[0]), x, factors, strengths)


@pytest.mark.parametrize("shape", [(40,), (3, 40), (2, 5, 40), (2, 3, 5, 40)])
def test_a_linear_layers_side_path_is_its_baked_delta_whatever_the_batch(shape):
    patches = PartPatches(mixed(32, (40,)))
    x = noise(*shape, seed=9)
    side = side_of_linear(patches, (32, 40), x)
    torch.testing.assert_close(side, x @ baked(patches, (32, 40)).T)


@pytest.mark.parametrize("space", [1, 2, 3])
@pytest.mark.parametrize("stride", [1, 2])
def test_a_convolutions_side_path_is_its_baked_delta(space, stride):
    inside = (8, *(3,) * space)
    patches = PartPatches(mixed(32, inside))
    bank = all_live(patches, (32, *inside))
    (layer,) = bank.layers
    x = noise(2, 8, *(6,) * space)

    def convolve(x: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
        return CONVOLUTIONS[space](x, weight, stride=stride, padding=1)

    expected = convolve(x, baked(patches, (32, *inside)))
    factors = bank.factors(layer, x.device, torch.float32)
    strengths = bank.strengths(strengths_of(patches))[layer.ranks]
    side = add_convolved(torch.zeros_like(expected), x, factors, strengths, convolve)
    torch.testing.assert_close(side, expected, rtol=1e-4, atol=1e-5)
    single = add_convolved(torch.zeros_like(expected[0]), x[0], factors, strengths, convolve)
    torch.testing.assert_close(single, expected[0], rtol=1e-4, atol=1e-5)


def test_slices_of_a_fused_weight_are_fed_where_they_belong():
    """q and v of a qkv weight, a slice of its inputs, halves that the host swaps, and one LoRA over all of it."""

    def swapped(delta: torch.Tensor) -> torch.Tensor:
        first, second = delta.chunk(2, dim=0)
        return torch.cat([second, first])

    patches = PartPatches(
        {
            Target(KEY, (0, 0, 8)): (Term(0, low_rank(8, (10,), 2), 0.7),),
            Target(KEY, (0, 16, 8)): (Term(1, low_rank(8, (10,), 3, seed=3), -1.0),),
            Target(KEY): (Term(0, low_rank(24, (10,), 2, seed=4), 0.7),),
            Target(KEY, (1, 4, 6)): (Term(1, low_rank(24, (6,), 2, seed=5), -1.0),),
            Target(KEY, None, swapped): (Term(0, low_rank(24, (10,), 1, seed=6), 0.7),),
        }
    )
    x = noise(2, 5, 10, seed=9)
    side = side_of_linear(patches, (24, 10), x)
    torch.testing.assert_close(side, x @ baked(patches, (24, 10)).T)


def test_parts_of_a_batch_have_strengths_of_their_own():
    patches = PartPatches(mixed(32, (8, 3, 3)))
    bank = all_live(patches, (32, 8, 3, 3))
    (layer,) = bank.layers
    factors = bank.factors(layer, torch.device("cpu"), torch.float32)
    one, two = bank.strengths([1, 0, 0.5]), bank.strengths([0, -1, 0])
    x = noise(6, 8, 5, 5)

    def side(x: torch.Tensor, strengths: torch.Tensor) -> torch.Tensor:
        out = torch.zeros(x.shape[0], 32, 5, 5)
        return add_convolved(
            out, x, factors, strengths, lambda x, w: functional.conv2d(x, w, padding=1)
        )

    found = side(x, torch.stack([one, two, one]))
    expected = torch.cat([side(x[:2], one), side(x[2:4], two), side(x[4:], one)])
    torch.testing.assert_close(found, expected)
    flat = PartPatches(mixed(32, (40,)))
    bank = all_live(flat, (32, 40))
    factors = bank.factors(bank.layers[0], torch.device("cpu"), torch.float32)
    one, two = bank.strengths([1, 0, 0.5]), bank.strengths([0, -1, 0])
    x, out = noise(4, 5, 40), torch.zeros(4, 5, 32)
    found = add_linear(out.clone(), x, factors, torch.stack([one, two]))
    expected = [
        add_linear(out[:2].clone(), x[i : i + 2], factors, s) for i, s in ((0, one), (2, two))
    ]
    torch.testing.assert_close(found, torch.cat(expected))


def test_rows_of_a_region_act_on_its_conditioning_only():
    regions = [(), ("left",), ("left", "right")]
    assert acting(regions, ()).tolist() == [1, 0, 0]
    assert acting(regions, ("left",)).tolist() == [1, 1, 1]
    assert acting(regions, ("right", "sky")).tolist() == [1, 0, 1]


def test_an_output_that_is_not_contiguous_gets_its_side_path_too():
    patches = PartPatches(mixed(32, (40,)))
    bank = all_live(patches, (32, 40))
    x, out = noise(4, 40), noise(32, 4).T
    factors = bank.factors(bank.layers[0], x.device, torch.float32)
    strengths = bank.strengths(strengths_of(patches))
    expected = out + x @ baked(patches, (32, 40)).T
    torch.testing.assert_close(add_linear(out, x, factors, strengths), expected)


@pytest.mark.parametrize("adapter", [loha_of(12, 10, 3), lokr_of(12, 10), low_rank(12, (10,), 4)])
def test_the_rank_is_told_without_making_the_factors(adapter):
    up, down = exact_factors(adapter)
    assert exact_rank(adapter) == up.shape[1] == down.shape[0]


def test_a_new_strength_uses_the_very_factors_of_before():
    bank = all_live(PartPatches(mixed(32, (40,))), (32, 40))
    device = torch.device("cpu")
    first = bank.factors(bank.layers[0], device, torch.float32)
    assert bank.factors(bank.layers[0], device, torch.float32) is first
    assert not torch.equal(bank.strengths([1, 0, 0]), bank.strengths([0, 1, 0]))
    bank.release()
    assert bank.factors(bank.layers[0], device, torch.float32) is not first


def dora_of(out: int, columns: int) -> DoRA:
    return DoRA(low_rank(out, (columns,), 2), torch.ones(out), by_output=True)


def test_what_is_made_from_the_weight_takes_its_whole_weight_with_it():
    patches = PartPatches(
        {
            Target(KEY, (0, 0, 8)): (Term(0, low_rank(8, (10,), 2), 1.0),),
            Target(KEY): (Term(1, dora_of(24, 10), 1.0),),
            Target("v.weight"): (Term(0, low_rank(8, (10,), 2), 1.0),),
        }
    )
    found = plan(patches, lambda key: None)
    assert list(found.layers) == ["v.weight"]
    assert list(found.baked.terms) == [Target(KEY, (0, 0, 8)), Target(KEY)]
    assert "DoRA LoRA is made from the weight" in found.reasons[KEY]


@pytest.mark.parametrize(
    ("adapter", "reason"),
    [
        (Difference(noise(24, 10), "weight"), "as large as the weight"),
        (LoKr(noise(4, 2), noise(6, 5), None), "LoKr of rank 10 .* as large"),
        (loha_of(24, 10, 3), "LoHa of rank 9"),
    ],
)
def test_a_dense_addition_is_baked_while_the_rest_of_its_weight_runs_live(adapter, reason):
    terms = (Term(0, low_rank(24, (10,), 2), 1.0), Term(1, adapter, 0.5))
    found = plan(PartPatches({Target(KEY): terms}), lambda key: None)
    assert [term.row for _, term in found.layers[KEY]] == [0]
    assert [term.row for term in found.baked.terms[Target(KEY)]] == [1]
    assert re.search(reason, found.reasons[KEY])


def test_a_layer_that_takes_no_side_path_is_baked_with_the_hosts_reason():
    terms = {Target(KEY): (Term(0, low_rank(24, (10,), 2), 1.0),)}
    found = plan(PartPatches(terms), lambda key: "an Embedding")
    assert not found.layers
    assert found.reasons == {KEY: "an Embedding"}
    assert list(found.baked.steps) == [Target(KEY)]


@pytest.mark.parametrize(
    ("mode", "scheduled", "traits", "live"),
    [
        ("auto", (), ModelTraits(), False),
        ("auto", ("style",), ModelTraits(), True),
        ("auto", (), ModelTraits(quantised=True), True),
        ("auto", (), ModelTraits(dynamic=True), True),
        ("baked", ("style",), ModelTraits(True, True), False),
        ("live", (), ModelTraits(), True),
    ],
)
def test_the_mode_follows_from_the_inputs_and_the_model(mode, scheduled, traits, live):
    assert choose(mode, scheduled, traits).live is live


def test_a_row_for_one_conditioning_goes_live():
    assert choose("auto", (), ModelTraits(), ["left"]).live
    assert not choose("baked", (), ModelTraits(), ["left"]).live


def test_an_unknown_mode_is_refused():
    with pytest.raises(StackError, match="No mode 'fast'"):
        choose("fast", (), ModelTraits())
