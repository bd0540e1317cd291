"""A merged delta -> factors of the rank that a rule asks for, with the share of its energy that they keep."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass

import torch

from ..algebra.factorspace import Factors, bounded, decompose, tail_energy
from .weight import RowBlocks

# (falling singular values, energy of the whole) -> rank.
ChooseRank = Callable[[torch.Tensor, float], int]

# Up to this shorter side the eigenvectors of the delta's Gram matrix are cheaper than passes over random sketches.
_GRAM_SIDE = 768
# A delta of at most so many numbers (128 MiB) is kept between passes; a larger one is formed again each time.
_KEPT_ELEMENTS = 1 << 25
_OVERSAMPLE, _POWER = 16, 2


@dataclass(frozen=True)
class Fitted:
    """factors, and kept: their share of the energy of what they stand for."""

    factors: Factors
    kept: float


def fit_factors(merged: Factors, choose: ChooseRank, most: int | None = None) -> Fitted:
    """The best approximation of factors at the chosen rank; the factors themselves where they have no more.

    most: the largest rank that may be chosen, where that is known beforehand.
    """
    merged = bounded(merged)
    if most is not None and merged.rank <= most:
        return Fitted(merged, 1.0)
    found = decompose(merged)
    total = float(found.s.square().sum())
    rank = choose(found.s, total)
    if rank >= merged.rank:
        return Fitted(merged, 1.0)
    kept = 1 - tail_energy(found.s, rank) / total if total > 0 else 1.0
    return Fitted(found.truncated(rank), kept)


def fit_blocks(
    merged: RowBlocks, choose: ChooseRank, cap: int, generator: torch.Generator
) -> Fitted:
    """A low-rank approximation of a delta that is no longer low-rank, of a rank of at most `cap`.

    Up to 768 on the shorter side it is the optimum; beyond, a randomized SVD within about 0.03 % of it.
    """
    cap = min(cap, *merged.shape)
    if merged.shape[0] * merged.shape[1] <= _KEPT_ELEMENTS:
        held = list(merged)
        if min(merged.shape) <= _GRAM_SIDE:
            return _by_gram(torch.cat([block for _, block in held]), choose, cap)
        return _randomized(merged.shape, lambda: held, choose, cap, generator)
    return _randomized(merged.shape, lambda: merged, choose, cap, generator)


def _by_gram(delta: torch.Tensor, choose: ChooseRank, cap: int) -> Fitted:
    """Project onto the leading eigenvectors of delta delta^T (of the shorter side), in float64."""
    if delta.shape[0] > delta.shape[1]:
        turned = _by_gram(delta.T, choose, cap)
        return Fitted(Factors(turned.factors.down.T, turned.factors.up.T), turned.kept)
    gram = torch.zeros(delta.shape[0], delta.shape[0], dtype=torch.float64)
    for columns in delta.split(1024, dim=1):
        wide = columns.double()
        gram += wide @ wide.T
    squares, vectors = torch.linalg.eigh(gram)
    squares, vectors = squares.flip(0).clamp(min=0), vectors.flip(1)
    s, total = squares[:cap].sqrt(), float(squares.sum())
    rank = choose(s, total)
    basis = vectors[:, :rank].float()
    root = s[:rank].sqrt().float().clamp(min=1e-30)
    factors = Factors(basis * root, (basis.T @ delta) / root[:, None])
    return Fitted(factors, _share(s, rank, total))


def _randomized(
    shape: tuple[int, int],
    blocks: Callable[[], Iterable[tuple[slice, torch.Tensor]]],
    choose: ChooseRank,
    cap: int,
    generator: torch.Generator,
) -> Fitted:
    """Randomized subspace iteration over blocks of rows. Halko, Martinsson and Tropp 2011, algorithms 4.4 and 5.1.

    A power step is one pass: sum_b block_b^T (block_b @ sketch), with a QR after each.
    """
    out, inner = shape
    sketch = torch.randn(inner, min(cap + _OVERSAMPLE, out, inner), generator=generator)
    for _ in range(_POWER):
        image = torch.zeros_like(sketch)
        for _, block in blocks():
            image += block.T @ (block @ sketch)
        sketch = torch.linalg.qr(image)[0]
    image, total = torch.empty(out, sketch.shape[1]), 0.0
    for rows, block in blocks():
        image[rows] = block @ sketch
        total += float(block.double().square().sum())
    basis = torch.linalg.qr(image)[0]
    projected = torch.zeros(basis.shape[1], inner)
    for rows, block in blocks():
        projected += basis[rows].T @ block
    left, s, right = torch.linalg.svd(projected, full_matrices=False)
    s = s[:cap].double()
    rank = choose(s, total)
    root = s[:rank].sqrt().float()
    factors = Factors((basis @ left[:, :rank]) * root, root[:, None] * right[:rank])
    return Fitted(factors, _share(s, rank, total))


def _share(s: torch.Tensor, rank: int, total: float) -> float:
    return min(1.0, float(s[:rank].square().sum()) / total) if total > 0 else 1.0
