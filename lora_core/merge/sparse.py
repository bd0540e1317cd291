"""Methods that drop single entries of the rows' deltas. Not low-rank: formed block by block and recompressed after."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch

from ..algebra.factorspace import Factors
from .thresholds import kth_largest
from .weight import Parameters, RowBlocks, Weight, blocks_of, content, generator, required

# (rows, those rows of a delta) -> the same with entries dropped.
Sparsifier = Callable[[slice, torch.Tensor], torch.Tensor]


def ties(weight: Weight, parameters: Parameters) -> RowBlocks:
    """Trim, elect sign, merge. Yadav et al. 2023 (TIES, arXiv 2306.01708), algorithm 1; the election is among weighted deltas."""
    return _elected(weight, [_trim(term, parameters) for term in weight.terms], parameters)


def magnitude_prune(weight: Weight, parameters: Parameters) -> RowBlocks:
    """The largest entries of each row, summed: TIES' trim (Yadav et al. 2023, algorithm 1, step 1) without election."""
    return _summed(weight, [_trim(term, parameters) for term in weight.terms])


def dare_linear(weight: Weight, parameters: Parameters) -> RowBlocks:
    """Drop entries at random with rate p = 1 - density, rescale the rest by 1 / (1 - p), sum.

    Yu et al. 2024 (DARE, arXiv 2311.03099).
    """
    return _summed(weight, [_drop(weight.seed, term, parameters) for term in weight.terms])


def dare_ties(weight: Weight, parameters: Parameters) -> RowBlocks:
    """DARE's drop and rescale in the place of TIES' trim. Yu et al. 2024 (DARE); Yadav et al. 2023 (TIES)."""
    drops = [_drop(weight.seed, term, parameters) for term in weight.terms]
    return _elected(weight, drops, parameters)


def della(weight: Weight, parameters: Parameters) -> RowBlocks:
    """Drop by magnitude rank, elect sign, fuse. Deep et al. 2024 (DELLA, arXiv 2406.11617), MagPrune.

    Within a row of the matrix the entry of rank i (ascending magnitude, of n) is kept with probability
    p_i = density - epsilon + 2 epsilon i / (n - 1), and divided by p_i.
    """
    density, epsilon = parameters.density, parameters.epsilon
    room = min(density, 1 - density)
    fits = 0.0 <= epsilon < density and epsilon <= room + 1e-9
    required("epsilon", epsilon, fits, f"0 to {room:g} with a density of {density:g}")
    drops = [_drop_by_rank(weight.seed, term, parameters) for term in weight.terms]
    return _elected(weight, drops, parameters)


def breadcrumbs(weight: Weight, parameters: Parameters) -> RowBlocks:
    """Both tails dropped: the largest share `outliers`, and all below the `density` that follows. Then summed.

    Davari and Belilovsky 2024 (Model Breadcrumbs, arXiv 2312.06795).
    """
    spare = 1 - parameters.density
    fits = 0.0 <= parameters.outliers <= spare + 1e-9
    allowed = f"0 to {spare:g} with a density of {parameters.density:g}"
    required("outliers", parameters.outliers, fits, allowed)
    return _summed(weight, [_middle(term, parameters) for term in weight.terms])


def elected_sum(
    terms: Sequence[torch.Tensor], strengths: Sequence[float], normalise: bool
) -> torch.Tensor:
    """The sum of those weighted entries whose sign is that of the weighted sum. TIES, algorithm 1, steps 2 and 3.

    normalise: divided by the agreeing |w|. TIES' mean is that with equal weights; a signed sum could be near zero.
    """
    weighted = [w * term for w, term in zip(strengths, terms, strict=True)]
    total = torch.stack(weighted).sum(0)
    positive = total >= 0
    merged, share = torch.zeros_like(total), torch.zeros_like(total)
    for w, term in zip(strengths, weighted, strict=True):
        agrees = (term != 0) & ((term > 0) == positive)
        merged += torch.where(agrees, term, torch.zeros_like(term))
        share += agrees * abs(w)
    return merged / share.where(share > 0, torch.ones_like(share)) if normalise else merged


def largest(matrix: torch.Tensor, density: float) -> torch.Tensor:
    """The matrix with only its largest entries left."""
    cut = kth_largest(lambda: [matrix], _count(density, matrix.numel()))
    return torch.where(matrix.abs() >= cut, matrix, torch.zeros_like(matrix))


def _count(share: float, of: int) -> int:
    return max(1, int(share * of + 1e-9))


def _elected(
    weight: Weight, sparsifiers: Sequence[Sparsifier], parameters: Parameters
) -> RowBlocks:
    def block(rows: slice) -> torch.Tensor:
        terms = _sparse(weight.terms, sparsifiers, rows)
        return elected_sum(terms, weight.strengths, parameters.normalise)

    return RowBlocks(weight.shape, block)


def _summed(weight: Weight, sparsifiers: Sequence[Sparsifier]) -> RowBlocks:
    def block(rows: slice) -> torch.Tensor:
        terms = _sparse(weight.terms, sparsifiers, rows)
        total = torch.zeros_like(terms[0])
        for strength, term in zip(weight.strengths, terms, strict=True):
            total += strength * term
        return total

    return RowBlocks(weight.shape, block)


def _sparse(
    terms: Sequence[Factors], sparsifiers: Sequence[Sparsifier], rows: slice
) -> list[torch.Tensor]:
    return [
        sparsify(rows, blocks_of(term).block(rows))
        for term, sparsify in zip(terms, sparsifiers, strict=True)
    ]


def _trim(term: Factors, parameters: Parameters) -> Sparsifier:
    cut = _kth(term, _count(parameters.density, term.shape[0] * term.shape[1]))
    return lambda _, delta: torch.where(delta.abs() >= cut, delta, torch.zeros_like(delta))


def _middle(term: Factors, parameters: Parameters) -> Sparsifier:
    size = term.shape[0] * term.shape[1]
    dropped = int(parameters.outliers * size + 1e-9)
    low = _kth(term, min(size, dropped + _count(parameters.density, size)))
    high = _kth(term, dropped) if dropped else float("inf")

    def sparsify(_: slice, delta: torch.Tensor) -> torch.Tensor:
        kept = (delta.abs() >= low) & (delta.abs() < high)
        return torch.where(kept, delta, torch.zeros_like(delta))

    return sparsify


def _kth(term: Factors, k: int) -> float:
    return kth_largest(lambda: (delta for _, delta in blocks_of(term)), k)


def _drop(seed: int, term: Factors, parameters: Parameters) -> Sparsifier:
    said, density = content(term), parameters.density

    def sparsify(rows: slice, delta: torch.Tensor) -> torch.Tensor:
        draws = torch.rand(delta.shape, generator=generator(seed, said, rows.start))
        return torch.where(draws < density, delta / density, torch.zeros_like(delta))

    return sparsify


def _drop_by_rank(seed: int, term: Factors, parameters: Parameters) -> Sparsifier:
    said, spread = content(term), parameters.epsilon
    low = parameters.density - spread

    def sparsify(rows: slice, delta: torch.Tensor) -> torch.Tensor:
        order = delta.abs().argsort(dim=1, stable=True)
        ranks = torch.empty_like(delta)
        steps = torch.arange(delta.shape[1], dtype=delta.dtype).expand_as(delta)
        ranks.scatter_(1, order, steps)
        keep = low + 2 * spread * ranks / max(1, delta.shape[1] - 1)
        draws = torch.rand(delta.shape, generator=generator(seed, said, rows.start))
        return torch.where(draws < keep, delta / keep, torch.zeros_like(delta))

    return sparsify
