"""Sums, best approximations and overlaps in factor space against full float64 decompositions of the formed delta."""

from __future__ import annotations

import math

import pytest
import torch

from lora_core.adapters import LowRank
from lora_core.algebra import lowrank
from lora_core.algebra.factorspace import (
    Factors,
    bounded,
    concat,
    cosine,
    decompose,
    distance,
    energy,
    equilibrated,
    fastest_route,
    folded,
    of_dense,
    principal_cosines,
    product,
    products,
    rank_for_share,
    tail_energy,
)

ROUTES = ("qr", "gram", "dense")
# (out, in, rank): square, tall, wide, a 3x3 convolution, rank near and at the matrix's own.
SHAPES = [
    (96, 96, 12),
    (400, 60, 16),
    (60, 400, 16),
    (64, 32 * 9, 24),
    (40, 50, 36),
    (24, 30, 24),
    (7, 5, 1),
]


def some(generator: torch.Generator, out: int, inner: int, rank: int, decay: float = 0.7):
    """Factors whose singular values fall like a trained LoRA's."""
    scale = torch.arange(1, rank + 1).float() ** -decay
    up = torch.randn(out, rank, generator=generator) * scale
    mixed = torch.linalg.qr(torch.randn(rank, rank, generator=generator))[0]
    return Factors(up @ mixed, mixed.T @ torch.randn(rank, inner, generator=generator))


def exact(factors: Factors) -> torch.Tensor:
    return factors.up.double() @ factors.down.double()


def optimum(delta: torch.Tensor, rank: int) -> float:
    """The error of the best approximation, from the full spectrum in float64."""
    return float(torch.linalg.svdvals(delta)[rank:].norm())


@pytest.mark.parametrize("route", ROUTES)
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_truncation_is_the_eckart_young_optimum(shape, route, generator):
    out, inner, joint = shape
    whole = some(generator, out, inner, joint)
    delta = exact(whole)
    found = decompose(whole, route)
    for rank in {1, joint // 4, joint // 2, joint - 1} - {0}:
        error = float((delta - exact(found.truncated(rank))).norm())
        best = optimum(delta, rank)
        # Writing the result in float32 adds its own rounding, which is all there is where nothing is lost.
        assert error <= math.hypot(best * (1 + 1e-6), 1e-6 * float(delta.norm()))
        assert math.sqrt(tail_energy(found.s, rank)) == pytest.approx(
            best, rel=1e-5, abs=1e-6 * float(delta.norm())
        )


@pytest.mark.parametrize("route", ROUTES)
def test_the_spectrum_is_that_of_the_formed_delta(route, generator):
    whole = some(generator, 90, 70, 20)
    expected = torch.linalg.svdvals(exact(whole))[:20]
    torch.testing.assert_close(decompose(whole, route).s[:20], expected, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("route", ROUTES)
def test_rank_deficient_factors_lose_nothing(route, generator):
    once = some(generator, 80, 60, 6)
    twice = concat([once, once], [0.7, 0.5])
    found = decompose(twice, route)
    assert found.numerical_rank == 6
    back = exact(found.truncated(6))
    assert float((back - 1.2 * exact(once)).norm()) <= 2e-6 * math.sqrt(energy(once))


@pytest.mark.parametrize("route", ROUTES)
def test_factor_columns_of_very_different_length_lose_nothing(route, generator):
    """A column of up may be a millionth of its row of down: the Gram route must make them equal first."""
    even = some(generator, 100, 80, 16)
    tilt = 10.0 ** torch.linspace(-4, 4, 16)
    tilted = Factors(even.up * tilt, even.down / tilt[:, None])
    delta = exact(tilted)
    error = float((delta - exact(decompose(tilted, route).truncated(5))).norm())
    assert error <= optimum(delta, 5) * (1 + 1e-5)


@pytest.mark.parametrize("route", ROUTES)
def test_a_zero_delta_has_no_rank(route):
    nothing = Factors(torch.zeros(8, 3), torch.ones(3, 6))
    found = decompose(nothing, route)
    assert found.numerical_rank == 0
    assert float(found.truncated(2).delta.abs().sum()) == 0


def test_minus_itself_leaves_only_rounding(generator):
    once = some(generator, 80, 60, 6)
    gone = concat([once, once], [1.0, -1.0])
    assert energy(gone) <= 1e-12 * energy(once)


@pytest.mark.parametrize("scale", [1.0, 0.5, -0.3, 7.0, 1e-6, -1024.0])
def test_a_folded_scale_is_the_scale(scale, generator):
    one = some(generator, 9, 8, 3)
    error = exact(folded(one.up, one.down, scale)) - scale * exact(one)
    assert float(error.norm()) <= 1e-7 * abs(scale) * float(exact(one).norm())


def test_a_power_of_two_rounds_nothing(generator):
    one = some(generator, 9, 8, 3)
    half = folded(one.up.half(), one.down.half(), 0.125)
    assert torch.equal(half.up.half().float(), half.up)
    assert torch.equal(half.down.half().float(), half.down)


def test_a_sum_is_exact_over_ranks_and_signs(generator):
    terms = [some(generator, 30, 40, rank) for rank in (3, 8, 5)]
    weights = [0.8, -0.5, 1.3]
    joint = concat(terms, weights)
    assert joint.rank == 16
    expected = torch.stack([w * exact(t) for w, t in zip(weights, terms, strict=True)]).sum(0)
    assert float((exact(joint) - expected).norm()) <= 1e-6 * float(expected.norm())
    assert concat(terms, [0.8, 0.0, 1.0]).rank == 8
    assert concat(terms, [0.0, 0.0, 0.0]).shape == (30, 40)


def test_more_ranks_than_the_matrix_holds_fold_into_it(generator):
    terms = [some(generator, 12, 20, 8) for _ in range(4)]
    joint = concat(terms, [1.0] * 4)
    assert bounded(joint).rank == 12
    torch.testing.assert_close(bounded(joint).delta, joint.delta)
    torch.testing.assert_close(of_dense(joint.delta.T).delta, joint.delta.T)
    assert bounded(terms[0]) is terms[0]


def test_a_convolution_is_its_flattened_kernel(generator):
    up, down = torch.randn(16, 4, 1, 1, generator=generator), torch.randn(4, 6, 3, 3)
    adapter = LowRank(up, down, alpha=2.0)
    factors = folded(*lowrank.factors(adapter), adapter.scale)
    torch.testing.assert_close(factors.delta, lowrank.delta(adapter))
    best = decompose(factors).truncated(2)
    # As a convolution: 2 channels between, the kernel in down.
    again = LowRank(best.up.reshape(16, 2, 1, 1), best.down.reshape(2, 6, 3, 3), alpha=2.0)
    error = float((lowrank.delta(again) - lowrank.delta(adapter)).norm())
    assert error == pytest.approx(optimum(lowrank.delta(adapter, torch.float64), 2), rel=1e-5)


def test_a_cp_core_is_contracted_and_may_be_written_without_it(generator):
    up, mid, down = (
        torch.randn(16, 4, 1, 1, generator=generator),
        torch.randn(4, 4, 3, 3, generator=generator),
        torch.randn(4, 6, 1, 1, generator=generator),
    )
    adapter = LowRank(up, down, alpha=1.0, mid=mid)
    factors = folded(*lowrank.factors(adapter), adapter.scale)
    expected = 0.25 * torch.einsum("op,pqhw,qi->oihw", up.flatten(1), mid, down.flatten(1))
    torch.testing.assert_close(factors.delta.reshape(16, 6, 3, 3), expected)


def test_inner_products_are_those_of_the_formed_deltas(generator):
    terms = [some(generator, 30, 40, rank) for rank in (3, 8, 5)]
    deltas = [exact(term) for term in terms]
    table = products(terms)
    for i, a in enumerate(deltas):
        for j, b in enumerate(deltas):
            assert float(table[i, j]) == pytest.approx(float((a * b).sum()), rel=1e-9, abs=1e-9)
            assert product(terms[i], terms[j]) == pytest.approx(float((a * b).sum()), rel=1e-9)
    a, b = deltas[:2]
    assert energy(terms[0]) == pytest.approx(float(a.square().sum()), rel=1e-12)
    assert distance(terms[0], terms[1]) == pytest.approx(float((a - b).norm()), rel=1e-9)
    expected = float((a * b).sum() / (a.norm() * b.norm()))
    assert cosine(terms[0], terms[1]) == pytest.approx(expected, rel=1e-9)
    assert cosine(terms[0], Factors(torch.zeros(30, 1), torch.zeros(1, 40))) == 0


def test_principal_cosines_find_the_shared_directions(generator):
    outs = torch.linalg.qr(torch.randn(30, 6, generator=generator))[0]
    ins = torch.linalg.qr(torch.randn(40, 6, generator=generator))[0]
    # Both use output direction 2; they share no input direction.
    a = Factors(outs[:, :3], ins[:, :3].T)
    b = Factors(outs[:, 2:5], ins[:, 3:6].T)
    on_output, on_input = principal_cosines(a, b)
    torch.testing.assert_close(on_output, torch.tensor([1.0, 0, 0]), atol=1e-5, rtol=0)
    torch.testing.assert_close(on_input, torch.zeros(3), atol=1e-5, rtol=0)


def test_equilibrating_moves_only_exponents(generator):
    one = some(generator, 9, 8, 3)
    tilted = Factors(one.up * 2.0**-20, one.down)
    even = equilibrated(tilted)
    assert torch.equal(exact(even), exact(tilted))
    ratio = even.up.norm(dim=0) / even.down.norm(dim=1)
    assert bool(((ratio >= 0.5) & (ratio <= 2)).all())


def test_the_share_of_energy_gives_the_smallest_rank():
    s = torch.tensor([2.0, 1.0, 1.0, 0.0])
    assert [rank_for_share(s, share) for share in (0.5, 4 / 6, 0.7, 5 / 6, 0.9, 1.0)] == [
        1,
        1,
        2,
        2,
        3,
        3,
    ]
    assert rank_for_share(torch.zeros(3), 0.9) == 0


def test_the_route_follows_the_sizes(generator):
    assert fastest_route(some(generator, 90, 70, 60)) == "dense"
    assert fastest_route(some(generator, 90, 70, 40)) == "qr"
    assert fastest_route(some(generator, 90, 70, 10)) == "gram"
