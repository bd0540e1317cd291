"""Methods that give each row one coefficient: the sum, and blends along the sphere. Exact in factor space."""

from __future__ import annotations

import math

import torch

from ..algebra.factorspace import Factors, concat, products
from ..errors import MergeError
from .weight import Parameters, Weight

_STEPS = 200
_STILL = 1e-10


def weighted_sum(weight: Weight, _: Parameters) -> Factors:
    """sum_i w_i dW_i, what a stack of loaders applies: the factors side by side, ranks add up."""
    return concat(weight.terms, weight.strengths)


def slerp(weight: Weight, _: Parameters) -> Factors:
    """Spherical interpolation of two deltas, Shoemake 1985:

    m * (sin((1-t) a) / sin a * dW_1 + sin(t a) / sin a * dW_2), a the angle between them.
    t = |w_2| / (|w_1| + |w_2|), m = the strengths' mean weighted by themselves; a negative strength turns its delta.
    """
    if len(weight.terms) > 2:
        raise MergeError(
            f"slerp blends two rows; {len(weight.terms)} have '{weight.name}'. Use karcher for more than two."
        )
    shares, mean, signs = _proportions(weight)
    table = products(weight.terms) * torch.outer(signs, signs)
    length = math.sqrt(float(table[0, 0] * table[1, 1]))
    angle = math.acos(max(-1.0, min(1.0, float(table[0, 1]) / length))) if length > 0 else 0.0
    bent = math.sin(angle) > 1e-6
    blend = torch.sin(shares * angle) / math.sin(angle) if bent else shares
    return concat(weight.terms, (mean * blend * signs).tolist())


def karcher(weight: Weight, _: Parameters) -> Factors:
    """The Karcher mean on the sphere of the deltas' directions (Karcher 1977, Riemannian centre of mass):

    the x with sum_i p_i log_x(u_i) = 0, u_i = dW_i / ||dW_i||, found by x <- exp_x(sum_i p_i log_x(u_i)).
    p_i = |w_i| / sum |w|; the length is the mean of the norms, both times the mean strength as in `slerp`.
    All of it happens in coefficients, through the table of inner products.
    """
    shares, mean, signs = _proportions(weight)
    table = products(weight.terms) * torch.outer(signs, signs)
    norms = table.diagonal().clamp(min=0).sqrt()
    there = norms > 0
    if not bool(there.any()):
        return concat(weight.terms, [0.0] * len(weight.terms))
    inverse = torch.where(there, 1 / norms, torch.zeros_like(norms))
    cosines = table * torch.outer(inverse, inverse)
    shares = shares * there
    mix = _sphere_mean(cosines, shares / shares.sum(), weight.name)
    size = mean * float((shares * norms).sum())
    return concat(weight.terms, (size * mix * inverse * signs).tolist())


def _sphere_mean(cosines: torch.Tensor, shares: torch.Tensor, name: str) -> torch.Tensor:
    """Coefficients over unit vectors with these cosines of their mean on the sphere."""
    mix = shares / _length(cosines, shares, name)
    for _ in range(_STEPS):
        towards = (cosines @ mix).clamp(-1 + 1e-12, 1)
        angle = torch.acos(towards)
        stretch = torch.where(angle < 1e-7, torch.ones_like(angle), angle / torch.sin(angle))
        pull = shares * stretch
        tangent = pull - (pull * towards).sum() * mix
        step = math.sqrt(max(0.0, float(tangent @ cosines @ tangent)))
        if step < _STILL:
            break
        mix = math.cos(step) * mix + math.sin(step) / step * tangent
        mix = mix / _length(cosines, mix, name)
    return mix


def _length(cosines: torch.Tensor, mix: torch.Tensor, name: str) -> float:
    length = math.sqrt(max(0.0, float(mix @ cosines @ mix)))
    if length < 1e-9:
        raise MergeError(
            f"The rows cancel in '{name}': they point in opposite directions, so they have no mean on the sphere. "
            "Change a strength, or use svd."
        )
    return length


def _proportions(weight: Weight) -> tuple[torch.Tensor, float, torch.Tensor]:
    """(share of each row, mean strength weighted by the shares, sign of each strength)."""
    strengths = torch.tensor(weight.strengths, dtype=torch.float64)
    shares = strengths.abs() / strengths.abs().sum()
    return shares, float((shares * strengths.abs()).sum()), strengths.sign()
