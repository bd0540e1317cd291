"""Rank rules on hand-made spectra, and a budget shared over layers against every other way to share it."""

from __future__ import annotations

import itertools

import pytest
import torch

from lora_core.errors import MergeError
from lora_core.merge.ranks import RULE_NAMES, Cost, RankRule, shared_ranks

FALLING = torch.tensor([4.0, 2.0, 1.0, 0.5, 0.0], dtype=torch.float64)
TOTAL = float(FALLING.square().sum())


@pytest.mark.parametrize(
    ("kind", "value", "rank"),
    [
        ("all", 0, 4),
        ("rank", 1, 1),
        ("rank", 3, 3),
        ("rank", 9, 4),
        ("energy", 16 / TOTAL, 1),
        ("energy", 0.9, 2),
        ("energy", 1.0, 4),
        ("frobenius", 0.9, 2),
        ("frobenius", 0.97, 2),
        ("frobenius", 0.98, 3),
        ("ratio", 3.9, 2),
        ("ratio", 4.1, 3),
    ],
)
def test_a_rule_gives_the_smallest_rank_that_meets_it(kind, value, rank):
    assert RankRule(kind, value).rank(FALLING, TOTAL) == rank


def test_the_knee_is_where_the_spectrum_falls_farthest_below_its_chord():
    assert RankRule("knee").rank(torch.tensor([8.0, 7.5, 1.0, 0.5, 0.2]), 121.54) == 2
    assert RankRule("knee").rank(FALLING, TOTAL) == 1


@pytest.mark.parametrize("kind", [name for name in RULE_NAMES if name != "size"])
def test_a_layer_of_rank_one_stays_rank_one(kind):
    one = torch.tensor([3.0, 0.0], dtype=torch.float64)
    value = {"ratio": 2.0, "rank": 1.0, "energy": 0.5, "frobenius": 0.5}.get(kind, 0.0)
    assert RankRule(kind, value).rank(one, 9.0) == 1


def test_energy_counts_what_the_spectrum_does_not_show():
    """A sketch holds only the leading values: the share is of the whole."""
    assert RankRule("energy", 0.5).rank(FALLING[:2], 2 * TOTAL) == 2


@pytest.mark.parametrize(
    ("kind", "value", "said"),
    [
        ("best", 1, "No rank rule 'best'; choose one of all, rank"),
        ("rank", 0, "'rank' needs 1 or more; found 0"),
        ("energy", 1.5, "'energy' needs above 0 and at most 1"),
        ("ratio", 1.0, "'ratio' needs above 1"),
        ("size", 0.0, "'size' needs above 0 MB"),
        ("rank", float("nan"), "'rank' needs"),
    ],
)
def test_a_rule_that_makes_no_sense_is_refused(kind, value, said):
    with pytest.raises(MergeError, match=said):
        RankRule(kind, value)


def kept(spectra, ranks) -> float:
    return sum(float(s[: ranks[name]].square().sum()) for name, s in spectra.items())


def price(costs, ranks) -> int:
    return sum(rank * costs[n].rank + (rank > 0) * costs[n].once for n, rank in ranks.items())


def test_a_budget_is_kept_and_no_other_sharing_of_it_holds_more(generator):
    spectra = {
        name: torch.randn(4, generator=generator).abs().sort(descending=True).values
        for name in "abc"
    }
    even = {name: Cost(10, 0) for name in "abc"}
    for budget in (0, 10, 35, 60, 200):
        ranks = shared_ranks(spectra, even, budget)
        assert price(even, ranks) <= budget
        best = max(
            kept(spectra, dict(zip("abc", choice, strict=True)))
            for choice in itertools.product(range(5), repeat=3)
            if price(even, dict(zip("abc", choice, strict=True))) <= budget
        )
        assert kept(spectra, ranks) == pytest.approx(best)


def test_a_dear_layer_that_brings_little_is_left_out(generator):
    spectra = {"thin": torch.tensor([1.0, 0.9]), "wide": torch.tensor([1.0, 0.9])}
    costs = {"thin": Cost(10, 5), "wide": Cost(100, 5)}
    assert shared_ranks(spectra, costs, 30) == {"thin": 2, "wide": 0}
    assert shared_ranks(spectra, costs, 130) == {"thin": 2, "wide": 1}
    assert shared_ranks({}, {}, 130) == {}
