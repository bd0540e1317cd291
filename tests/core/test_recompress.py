"""Full matrices seen block by block -> factors: near the optimum, with the kept energy said truly."""

from __future__ import annotations

import pytest
import torch

from lora_core.merge import recompress
from lora_core.merge.ranks import RankRule
from lora_core.merge.recompress import fit_blocks
from lora_core.merge.weight import RowBlocks
from tests.core.merge_rows import exact, factors

SHAPES = [(300, 90), (90, 300), (280, 280)]


def full_rank(generator: torch.Generator, out: int, inner: int) -> torch.Tensor:
    """A low-rank delta of which half the entries were dropped: what DARE leaves."""
    delta = exact(factors(generator, out, inner, 12)).float()
    return delta * (torch.rand(out, inner, generator=generator) < 0.5)


def blocks(delta: torch.Tensor) -> RowBlocks:
    return RowBlocks((delta.shape[0], delta.shape[1]), lambda rows: delta[rows])


@pytest.fixture(params=["eigenvectors", "sketch", "sketch, formed again each pass"])
def limits(request, monkeypatch):
    """Each of the ways to recompress, on matrices of a test's size. Its distance from the optimum."""
    if request.param != "eigenvectors":
        monkeypatch.setattr(recompress, "_GRAM_SIDE", 0)
    if "again" in request.param:
        monkeypatch.setattr(recompress, "_KEPT_ELEMENTS", 0)
    return 1e-5 if request.param == "eigenvectors" else 0.003


@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_recompressing_is_near_the_optimum_and_says_what_it_kept(shape, limits, generator):
    delta = full_rank(generator, *shape)
    fitted = fit_blocks(blocks(delta), RankRule("rank", 16).rank, 16, generator)
    s = torch.linalg.svdvals(delta.double())
    error = float((delta.double() - exact(fitted.factors)).norm())
    assert error <= (1 + limits) * float(s[16:].norm())
    kept = 1 - (error / float(s.norm())) ** 2
    assert fitted.kept == pytest.approx(kept, abs=1e-5)


def test_an_energy_rule_is_held_to_the_whole_matrix(limits, generator):
    delta = full_rank(generator, 300, 90)
    share = torch.linalg.svdvals(delta.double()).square()
    share = share.cumsum(0) / share.sum()
    fitted = fit_blocks(blocks(delta), RankRule("energy", 0.6).rank, 40, generator)
    assert fitted.factors.rank == pytest.approx(int((share < 0.6).sum()) + 1, abs=1)
    capped = fit_blocks(blocks(delta), RankRule("energy", 1.0).rank, 5, generator)
    assert capped.factors.rank == 5
    assert capped.kept == pytest.approx(float(share[4]), abs=1e-3)


def test_a_zero_matrix_gives_nothing(limits, generator):
    fitted = fit_blocks(blocks(torch.zeros(300, 90)), RankRule().rank, 8, generator)
    assert fitted.factors.rank == 0
