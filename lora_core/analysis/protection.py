"""A style kept off a character's strongest directions, exactly in factor space. merge-maths, section 8.

dW' = dW - p QQ^T dW ("output"), dW - p dW PP^T ("input"), dW - p QQ^T dW PP^T ("joint"), with Q and P orthonormal bases of
the character's strongest output and input directions. At p = 1 <dW', character> = 0 as far as these directions go.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace

import torch

from ..adapters import AdapterFile, LowRank
from ..algebra.factorspace import Factors, concat, decompose, energy, rank_for_share
from ..errors import MergeError
from ..merge.families import inner_shape
from ..merge.pairing import Group
from ..merge.plan import Progress, Rows
from ..merge.ranks import RankRule
from ..merge.recompress import fit_factors
from ..merge.tensors import common_dtype, low_rank
from ..merge.weight import Weight
from ..stack.blockpresets import BUILT_IN, Preset
from ..targets import TargetMap
from .grouped import grouped

PROTECTED, YIELDING = "character", ("style", "detail")


def off_output(update: Factors, outs: torch.Tensor, _: torch.Tensor, much: float) -> Factors:
    """The update without `much` of its part in these output directions; the rank stays."""
    return Factors(update.up - much * (outs @ (outs.T @ update.up)), update.down)


def off_input(update: Factors, _: torch.Tensor, ins: torch.Tensor, much: float) -> Factors:
    """The update without `much` of its part that reads these input directions; the rank stays."""
    return Factors(update.up, update.down - much * ((update.down @ ins) @ ins.T))


def off_both(update: Factors, outs: torch.Tensor, ins: torch.Tensor, much: float) -> Factors:
    """The update without `much` of what reads these inputs and writes these outputs at once: up to twice the rank."""
    up = torch.cat([update.up, -much * (outs @ (outs.T @ update.up))], 1)
    return Factors(up, torch.cat([update.down, (update.down @ ins) @ ins.T]))


SIDES: dict[str, Callable[[Factors, torch.Tensor, torch.Tensor, float], Factors]] = {
    "joint": off_both,
    "input": off_input,
    "output": off_output,
}


@dataclass(frozen=True)
class Protection:
    """much: 0 to 1, how much is taken away. side: one of SIDES. directions: the share of the character's energy whose
    directions are protected. Raises MergeError.
    """

    much: float = 1.0
    side: str = "joint"
    directions: float = 0.95

    def __post_init__(self) -> None:
        if self.side not in SIDES:
            raise MergeError(f"No side '{self.side}' to protect; choose one of {', '.join(SIDES)}.")
        for name, value in (("protection", self.much), ("directions", self.directions)):
            if not 0 <= value <= 1:
                raise MergeError(f"The {name} is {100 * value:g} %; it must be 0 to 100 %.")


@dataclass(frozen=True)
class Changed:
    """One row after protection. row: its place. adapters: new ones by module name; replaced: the modules they stand for.

    kept: the share of the energy of its changed weights that is left; of_all: that of all its weights.
    """

    row: int
    adapters: Mapping[str, LowRank]
    replaced: tuple[str, ...]
    kept: float
    of_all: float


def protect(
    rows: Rows,
    protection: Protection,
    model: TargetMap | None = None,
    clip: TargetMap | None = None,
    progress: Progress | None = None,
    presets: Mapping[str, Preset] = BUILT_IN,
) -> list[Changed]:
    """What becomes of each row of role style or detail beside the rows of role character; no entry for unchanged rows.

    rows: the active ones. Where no character has a weight, or nothing is to be taken away, nothing changes. A yielding
    row's own strengths and block strengths stay on the row: they scale what comes out here. Raises MergeError.
    """
    roles = [row.role for row, _ in rows]
    if protection.much == 0 or PROTECTED not in roles or not set(roles) & set(YIELDING):
        return []
    # Its blocks stay text on the row, so they must not be in the numbers too.
    bare = [(replace(row, blocks="") if row.role in YIELDING else row, file) for row, file in rows]
    whole = grouped(bare, model, clip, presets)
    found: dict[int, _Row] = {
        number: _Row(common_dtype([file]))
        for number, (row, file) in enumerate(rows)
        if row.role in YIELDING
    }
    for done, (group, _, weight) in enumerate(whole.weights(), 1):
        if weight is not None:
            _protect_weight(group, weight, protection, found)
        if progress is not None:
            progress(done, len(whole))
    return [each.changed(number) for number, each in found.items() if each.adapters]


class _Row:
    """What is gathered of one yielding row."""

    def __init__(self, dtype: torch.dtype) -> None:
        self.dtype = dtype
        self.adapters: dict[str, LowRank] = {}
        self.replaced: list[str] = []
        self.before = self.after = self.untouched = 0.0

    def changed(self, row: int) -> Changed:
        kept = self.after / self.before if self.before > 0 else 1.0
        total = self.before + self.untouched
        of_all = (self.after + self.untouched) / total if total > 0 else 1.0
        return Changed(row, self.adapters, tuple(self.replaced), kept, of_all)


def _protect_weight(
    group: Group, weight: Weight, protection: Protection, found: Mapping[int, _Row]
) -> None:
    """Put what becomes of the yielding rows' updates of one weight into their gatherings."""
    basis = _protected(weight, protection.directions)
    for term, row in zip(weight.terms, weight.rows, strict=True):
        if row not in found:
            continue
        gathered, size = found[row], energy(term)
        if basis is None or size == 0:
            gathered.untouched += size
            continue
        members = [member for member in group.members if member.row == row]
        name = members[0].name if len(members) == 1 and members[0].slice is None else group.name
        moved = SIDES[protection.side](term, *basis, protection.much)
        fitted = fit_factors(moved, RankRule("all").rank).factors
        shape = group.whole[1:] if group.whole else inner_shape(members[0].adapter)
        if fitted.rank:
            gathered.adapters[name] = low_rank(name, fitted, shape, gathered.dtype)
        gathered.replaced += [member.name for member in members]
        gathered.before += size
        gathered.after += energy(fitted)


def _protected(weight: Weight, share: float) -> tuple[torch.Tensor, torch.Tensor] | None:
    """(output directions, input directions) of the characters' sum that hold this share of its energy."""
    places = [i for i, row in enumerate(weight.rows) if weight.roles[row] == PROTECTED]
    if not places:
        return None
    kept = concat([weight.terms[i] for i in places], [weight.strengths[i] for i in places])
    found = decompose(kept)
    rank = min(rank_for_share(found.s, share), found.numerical_rank)
    return found.directions(rank) if rank else None


def applied(file: AdapterFile, changed: Changed) -> AdapterFile:
    """The row's LoRA with its new adapters in the place of the old."""
    modules = {name: each for name, each in file.modules.items() if name not in changed.replaced}
    differences = {
        key: each
        for key, each in file.differences.items()
        if not (key[0] in changed.replaced and key[1] == "weight")
    }
    return replace(file, modules=modules | dict(changed.adapters), differences=differences)


def consumed(file: AdapterFile, replaced: Sequence[str]) -> set[str]:
    """The file's tensor names of the adapters that were replaced."""
    old = [file.modules[name] for name in replaced if name in file.modules]
    old += [
        file.differences[name, "weight"]
        for name in replaced
        if (name, "weight") in file.differences
    ]
    return {key for each in old for key in each.keys}
