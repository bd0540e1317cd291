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
from ..merge.recompress import ChooseRank, fit_blocks
from ..merge.weight import BLOCK_ROWS, RowBlocks, generator

# Rows of each matrix on which signs are compared, evenly spread: the figure is a share over millions of entries.
_SIGN_ROWS = 64
# Singular values of a full matrix below this share of the largest are no direction of its own.
_ROUNDING = 1e-6


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
    whole: the update as a matrix where it is no product of smaller factors.
    """

    update: Factors
    outputs: torch.Tensor
    inputs: torch.Tensor
    energy: float
    room: float
    whole: torch.Tensor | None = None

    @property
    def rank(self) -> int:
        return int(self.outputs.shape[1])

    def rows(self, which: torch.Tensor) -> torch.Tensor:
        return self.update.up[which] @ self.update.down if self.whole is None else self.whole[which]


def directions_of(
    update: Factors, room: float | None = None, most: int | None = None
) -> Directions:
    """Both bases from the singular vectors that are more than rounding, the strongest `most` of them.

    room: None for the inner size.
    """
    space = float(room or update.shape[1])
    if most is not None and update.rank >= min(update.shape):
        return _of_whole(update, space, most)
    found = decompose(update)
    rank = found.numerical_rank if most is None else min(most, found.numerical_rank)
    outputs, inputs = found.directions(rank)
    return Directions(update, outputs, inputs, float(found.s.square().sum()), space)


def _of_whole(update: Factors, room: float, most: int) -> Directions:
    """Of a full matrix, by passes over its rows: a full decomposition of a large layer would take minutes."""
    whole = update.delta
    blocks = RowBlocks(update.shape, lambda rows: whole[rows])
    energy = sum(float(block.double().square().sum()) for _, block in blocks)
    found = fit_blocks(blocks, _above_rounding(most), most, generator(0, b"directions")).factors
    outputs = torch.nn.functional.normalize(found.up, dim=0)
    inputs = torch.nn.functional.normalize(found.down, dim=1).T
    return Directions(update, outputs, inputs, energy, room, whole)


def _above_rounding(most: int) -> ChooseRank:
    return lambda s, _: min(most, int((s > _ROUNDING * s[:1]).sum()))


def overlap_of(a: Directions, b: Directions) -> Overlap:
    """One weight's part in the overlap of two rows."""
    a_part, b_part = _inside(a, b), _inside(b, a)
    opposed, changed = _signs(a, b)
    a_side = _side(a, b, a_part, written=b_part["both"])
    b_side = _side(b, a, b_part, written=a_part["both"])
    return Overlap(a_side, b_side, _product(a, b), opposed, changed, 1)


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
    if one.whole is not None:
        turned = other.outputs.T @ one.whole
        parts = (turned, one.whole @ other.inputs, turned @ other.inputs)
        found = [float(part.double().square().sum()) for part in parts]
        return dict(zip(("outward", "inward", "both"), found, strict=True))
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


def _product(a: Directions, b: Directions) -> float:
    """<a, b>."""
    if a.whole is not None and b.whole is not None:
        pairs = zip(a.whole.split(BLOCK_ROWS), b.whole.split(BLOCK_ROWS), strict=True)
        return sum(float((x.double() * y.double()).sum()) for x, y in pairs)
    if b.whole is not None:
        return _product(b, a)
    up, down = b.update.up, b.update.down
    if a.whole is not None:
        return float(((up.T @ a.whole).double() * down.double()).sum())
    outs = a.update.up.double().T @ up.double()
    return float((outs * (a.update.down.double() @ down.double().T)).sum())


def _signs(a: Directions, b: Directions) -> tuple[float, float]:
    """Of what both change, sum of min(|a|, |b|): (where signs differ, everywhere), on rows spread over the matrix."""
    out = a.update.shape[0]
    rows = torch.arange(min(out, _SIGN_ROWS)) * out // min(out, _SIGN_ROWS)
    first, second = a.rows(rows), b.rows(rows)
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
