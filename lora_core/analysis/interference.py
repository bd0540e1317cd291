"""How the rows of a stack get in each other's way: pairs of rows, block by block, with one sentence on what matters."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from itertools import combinations

import torch

from ..algebra.factorspace import Factors, concat
from ..errors import MergeError
from ..merge.families import said_rank
from ..merge.onbase import NOT_CONNECTED, BaseModel, on_base
from ..merge.pairing import Group
from ..merge.plan import Progress, Rows
from ..merge.weight import Weight
from ..stack.blockpresets import BUILT_IN, Preset
from ..targets import TargetMap
from .grouped import grouped
from .overlap import Directions, Overlap, directions_of, overlap_of, summed

MOST_ROWS = 16
# What a row may write into another's directions, beyond what chance writes, before a smaller strength is proposed.
TOLERATED = 0.1
# An update that is no product of factors has directions everywhere: so many of the strongest are its own.
_MOST_DIRECTIONS = 64
# A block with less of the disturbed row's energy than this is not worth a word.
_WORTH = 0.01
# Of the worst block's disturbance: blocks above this share are named with it.
_ALONGSIDE = 0.4


@dataclass(frozen=True)
class Inputs:
    """What a layer was fed: samples (count, in * kernel) float32, scaled so that samples^T samples is the mean of x x^T.

    room: how many directions they fill, tr(M)^2 / tr(M^2).
    """

    samples: torch.Tensor
    room: float


@dataclass(frozen=True)
class Pair:
    """Rows a and b (places among the rows) in every block that both have."""

    a: int
    b: int
    cells: Mapping[str, Overlap]

    @property
    def whole(self) -> Overlap:
        return summed(list(self.cells.values()))


@dataclass(frozen=True)
class Interference:
    """rows: (label, role, model, clip). blocks: in the order of the model. weighted: by inputs of the model.

    energies: row -> block -> energy. by_model: whether the blocks are the model's own, which Loom Blocks knows.
    not_measured: what has no update of its own, in words.
    """

    rows: tuple[tuple[str, str, float, float], ...]
    blocks: tuple[str, ...]
    pairs: tuple[Pair, ...]
    energies: tuple[Mapping[str, float], ...]
    weighted: bool = False
    by_model: bool = False
    not_measured: tuple[str, ...] = field(default_factory=tuple)


@dataclass(frozen=True)
class Advice:
    """Row `taker` writes `taken` of the energy of row `victim` into its directions in these blocks.

    factor: on the taker's strength there, which brings it down to what is tolerated.
    """

    taker: int
    victim: int
    blocks: tuple[str, ...]
    taken: float
    factor: float


def interference(
    rows: Rows,
    model: TargetMap | None = None,
    clip: TargetMap | None = None,
    inputs: Mapping[str, Inputs] | None = None,
    progress: Progress | None = None,
    base: BaseModel = NOT_CONNECTED,
    presets: Mapping[str, Preset] = BUILT_IN,
) -> Interference:
    """Measure every pair of the active rows. inputs: weight name -> what its layer was fed. Raises MergeError.

    Updates are at their strengths. base: the weights of what is connected; a row that depends on them is measured by what
    it alone makes of them, a layer at a time, and left out and said where they are not there.
    """
    active = [(row, file) for row, file in rows if row.active]
    if not 2 <= len(active) <= MOST_ROWS:
        raise MergeError(
            f"Interference is between rows: {len(active)} are switched on; it needs 2 to {MOST_ROWS}. "
            "Connect a LORA_STACK with the rows to compare."
        )
    active = on_base(
        active, model, clip, base, in_order=False, dtype=torch.float32, presets=presets
    )
    whole = grouped(active, model, clip, presets)
    cells: dict[tuple[int, int], dict[str, list[Overlap]]] = {}
    energies: list[dict[str, float]] = [{} for _ in active]
    blocks: dict[str, None] = {}
    for done, (group, block, weight) in enumerate(whole.weights(), 1):
        if weight is not None:
            blocks.setdefault(block)
            key = whole.key_of(group)
            fed = None if inputs is None or key is None else inputs.get(key)
            sides = _sides(group, weight, fed)
            for row, side in sides.items():
                energies[row][block] = energies[row].get(block, 0.0) + side.energy
            for a, b in combinations(sorted(sides), 2):
                part = overlap_of(sides[a], sides[b])
                cells.setdefault((a, b), {}).setdefault(block, []).append(part)
        if progress is not None:
            progress(done, len(whole))
    order = whole.ordered(blocks)
    pairs = tuple(
        Pair(a, b, {block: summed(found[block]) for block in order if block in found})
        for a, b in combinations(range(len(active)), 2)
        for found in (cells.get((a, b), {}),)
    )
    said = tuple((row.name, row.role, row.model, row.clip) for row, _ in active)
    weighted, by_model = inputs is not None, model is not None
    return Interference(said, order, pairs, tuple(energies), weighted, by_model, whole.left_out)


def _sides(group: Group, weight: Weight, fed: Inputs | None) -> dict[int, Directions]:
    """Row -> its update with directions, at its strength; on the inputs of the layer where these are known."""
    sides = {}
    for row, term, strength in zip(weight.rows, weight.terms, weight.strengths, strict=True):
        most = strongest(group, row) if term.rank >= min(term.shape) else None
        update = concat([term], [strength])
        room = None
        if fed is not None and fed.samples.shape[1] == update.shape[1]:
            update = Factors(update.up, update.down @ fed.samples.T)
            room = min(fed.room, float(update.shape[1]))
        sides[row] = directions_of(update, room, most)
    return sides


def strongest(group: Group, row: int) -> int:
    """How many directions are a row's own where its update is no product of factors: its rank, at most 64."""
    ranks = [said_rank(member.adapter) for member in group.members if member.row == row]
    return min(_MOST_DIRECTIONS, *ranks)


def advice(found: Interference) -> Advice | None:
    """The pair and blocks where one row takes most from another; None where nothing passes what is tolerated.

    A row of role "character" is never the one to be turned down in favour of one that is not.
    """
    best: tuple[float, Advice] | None = None
    for pair_, taker, victim, which in _both_ways(found):
        if found.rows[taker][1] == "character" and found.rows[victim][1] != "character":
            continue
        total = sum(found.energies[victim].values())
        excess = {
            block: cell.taken(which) - cell.taken_by_chance(which)
            for block, cell in pair_.cells.items()
            if total > 0 and found.energies[victim].get(block, 0.0) >= _WORTH * total
        }
        worst = max(excess.values(), default=0.0)
        if worst <= TOLERATED:
            continue
        floor = max(TOLERATED, _ALONGSIDE * worst)
        blocks = tuple(block for block in found.blocks if excess.get(block, 0.0) > floor)
        joint = summed([pair_.cells[block] for block in blocks])
        taken, chance = joint.taken(which), joint.taken_by_chance(which)
        harm = (taken - chance) * sum(found.energies[victim].get(b, 0.0) for b in blocks) / total
        factor = math.sqrt(TOLERATED / taken)
        if best is None or harm > best[0]:
            best = harm, Advice(taker, victim, blocks, taken, factor)
    return None if best is None else best[1]


def _both_ways(found: Interference) -> Iterator[tuple[Pair, int, int, str]]:
    """(pair, taker, victim, which of the pair the taker is)."""
    for one in found.pairs:
        yield one, one.a, one.b, "a"
        yield one, one.b, one.a, "b"


def share_of(found: Interference, row: int, block: str) -> float:
    """A block's share of all energy of a row."""
    total = sum(found.energies[row].values())
    return found.energies[row].get(block, 0.0) / total if total > 0 else 0.0
