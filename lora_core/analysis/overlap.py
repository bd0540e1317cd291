"""How two updates of one weight lie to each other: sums that add up over weights, and the figures made of them.

merge-maths, section 8: all of it in factor space; only the signs need rows of the formed matrices.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, fields
from typing import Any

import torch

from ..algebra.factorspace import Factors, decompose

# Rows of each matrix on which signs are compared, evenly spread: the figure is a share over millions of entries.
_SIGN_ROWS = 64


@dataclass(frozen=True)
class Side:
    """Energies of one row of a pair, summed over weights.

    own: of its update. outward, inward, both: of the part in the other's output directions, input directions, both at
    once. The same with `_chance`: what a random direction would have there. written, written_chance: of the other's
    update inside this row's own directions.
    """

    own: float = 0.0
    outward: float = 0.0
    inward: float = 0.0
    both: float = 0.0
    outward_chance: float = 0.0
    inward_chance: float = 0.0
    both_chance: float = 0.0
    written: float = 0.0
    written_chance: float = 0.0

    def __add__(self, other: Side) -> Side:
        return _added(self, other)


@dataclass(frozen=True)
class Overlap:
    """Two rows over some weights. product: <a, b>; opposed, changed: magnitude of min(|a|, |b|), opposite signs and all."""

    a: Side = Side()
    b: Side = Side()
    product: float = 0.0
    opposed: float = 0.0
    changed: float = 0.0
    weights: int = 0

    def __add__(self, other: Overlap) -> Overlap:
        return _added(self, other)

    @property
    def cosine(self) -> float:
        return _ratio(self.product, math.sqrt(self.a.own * self.b.own))

    @property
    def sign_conflict(self) -> float:
        """0.5 where signs have nothing to do with each other."""
        return _ratio(self.opposed, self.changed, 0.5)

    @property
    def joint(self) -> float:
        """|a + b| / (|a| + |b|)."""
        total = max(0.0, self.a.own + 2 * self.product + self.b.own)
        return _ratio(math.sqrt(total), self._lengths)

    @property
    def joint_unrelated(self) -> float:
        return _ratio(math.sqrt(self.a.own + self.b.own), self._lengths)

    @property
    def _lengths(self) -> float:
        return math.sqrt(self.a.own) + math.sqrt(self.b.own)

    def taken(self, which: str) -> float:
        """What row "a" or "b" writes into the other's own directions, as a share of the other's own energy."""
        victim = self.b if which == "a" else self.a
        return _ratio(victim.written, victim.own)

    def taken_by_chance(self, which: str) -> float:
        victim = self.b if which == "a" else self.a
        return _ratio(victim.written_chance, victim.own)


@dataclass(frozen=True)
class Directions:
    """An update with orthonormal bases of its output (out, rank) and input (inner, rank) sides.

    room: how many input directions there are by chance: the inner size, or on inputs of a model how many these fill.
    """

    update: Factors
    outputs: torch.Tensor
    inputs: torch.Tensor
    energy: float
    room: float

    @property
    def rank(self) -> int:
        return int(self.outputs.shape[1])


def directions_of(update: Factors, room: float | None = None) -> Directions:
    """Both bases from the singular vectors that are more than rounding. room: None for the inner size."""
    found = decompose(update)
    outputs, inputs = found.directions(found.numerical_rank)
    energy = float(found.s.square().sum())
    return Directions(update, outputs, inputs, energy, float(room or update.shape[1]))


def overlap_of(a: Directions, b: Directions) -> Overlap:
    """One weight's part in the overlap of two rows."""
    a_part, b_part = _inside(a, b), _inside(b, a)
    opposed, changed = _signs(a.update, b.update)
    a_side = _side(a, b, a_part, written=b_part["both"])
    b_side = _side(b, a, b_part, written=a_part["both"])
    return Overlap(a_side, b_side, _product(a.update, b.update), opposed, changed, 1)


def _side(one: Directions, other: Directions, parts: dict[str, float], written: float) -> Side:
    out = one.update.shape[0]
    in_chance = min(1.0, other.rank / other.room)
    out_chance = other.rank / out
    own_chance = min(1.0, one.rank / one.room) * one.rank / out
    return Side(
        one.energy,
        **parts,
        outward_chance=one.energy * out_chance,
        inward_chance=one.energy * in_chance,
        both_chance=one.energy * out_chance * in_chance,
        written=written,
        written_chance=other.energy * own_chance,
    )


def _inside(one: Directions, other: Directions) -> dict[str, float]:
    """The energies of one update inside the other's directions: |Q^T dW|^2, |dW P|^2, |Q^T dW P|^2."""
    up, down = one.update.up, one.update.down
    turned_up, turned_down = other.outputs.T @ up, down @ other.inputs
    return {
        "outward": _energy(turned_up, down),
        "inward": _energy(up, turned_down),
        "both": _energy(turned_up, turned_down),
    }


def _energy(up: torch.Tensor, down: torch.Tensor) -> float:
    up, down = up.double(), down.double()
    return max(0.0, float(((up.T @ up) * (down @ down.T)).sum()))


def _product(a: Factors, b: Factors) -> float:
    outs = a.up.double().T @ b.up.double()
    return float((outs * (a.down.double() @ b.down.double().T)).sum())


def _signs(a: Factors, b: Factors) -> tuple[float, float]:
    """Of what both change, sum of min(|a|, |b|): (where signs differ, everywhere), on rows spread over the matrix."""
    out = a.shape[0]
    rows = torch.arange(min(out, _SIGN_ROWS)) * out // min(out, _SIGN_ROWS)
    first, second = a.up[rows] @ a.down, b.up[rows] @ b.down
    shared = torch.minimum(first.abs(), second.abs()).double()
    return float(shared[first * second < 0].sum()), float(shared.sum())


def _added(first: Any, second: Any) -> Any:
    names = [field.name for field in fields(first)]
    return type(first)(**{name: getattr(first, name) + getattr(second, name) for name in names})


def _ratio(part: float, whole: float, otherwise: float = 0.0) -> float:
    return part / whole if whole > 0 else otherwise


def summed(parts: Sequence[Overlap]) -> Overlap:
    """One overlap over all weights of these."""
    total = Overlap()
    for part in parts:
        total += part
    return total
