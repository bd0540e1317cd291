"""How much a LoRA changes each block: the squared Frobenius norm of its deltas, from the factors alone.

|s B A|^2 = s^2 * trace((B^T B)(A A^T)): two products of rank x rank, never the full matrix. Energy is of the file's own
deltas (strength 1); what is left of it is times the square of the block strengths.
"""

from __future__ import annotations

import re
import weakref
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

from ..adapters import AdapterFile, Difference, LowRank
from ..algebra import loha, lokr
from ..algebra.lowrank import factors
from ..blockwise import by_share
from ..files.naming import bare_name, is_text_encoder
from ..stack.blockselect import in_runs, listed
from ..stack.blockstrengths import BlockStrengths
from ..stack.blocktable import BlockTable
from ..targets import Target


@dataclass(frozen=True)
class BlockEnergy:
    """energy: of all deltas of one block; left: what the block strengths leave; weights: how many the LoRA has there."""

    block: str
    energy: float
    left: float
    weights: int


@dataclass(frozen=True)
class Energies:
    """One LoRA on one model: the blocks that it has, in the order of the model. unmeasured: kinds without a measure."""

    blocks: tuple[BlockEnergy, ...]
    unmeasured: tuple[str, ...] = ()

    @property
    def total(self) -> float:
        return sum(each.energy for each in self.blocks)

    @property
    def left(self) -> float:
        return sum(each.left for each in self.blocks)

    @property
    def share_left(self) -> float:
        """Of all energy, 0 to 1 (above 1 where strengths are above 1). A LoRA of zeros has all of it left."""
        return self.left / self.total if self.total > 0 else 1.0


def _low_rank(adapter: LowRank) -> float:
    up, down = (factor.double() for factor in factors(adapter))
    return float(adapter.scale**2 * ((up.T @ up) * (down @ down.T)).sum())


def _difference(adapter: Difference) -> float:
    return float((adapter.scale * adapter.tensor.double()).square().sum())


def _loha(adapter: loha.LoHa) -> float:
    return float(loha.delta(adapter).double().square().sum())


def _lokr(adapter: lokr.LoKr) -> float:
    """|kron(w1, w2)| = |w1| |w2|."""
    sides = (b.double() if a is None else b.double() @ a.double() for b, a in lokr.sides(adapter))
    first, second = (float(side.square().sum()) for side in sides)
    return adapter.scale**2 * first * second


# A kind of adapter -> its energy. The others (DoRA, OFT, ...) change a weight by what it is: a file alone has none.
ENERGY: dict[type, Callable[[Any], float]] = {
    LowRank: _low_rank,
    Difference: _difference,
    loha.LoHa: _loha,
    lokr.LoKr: _lokr,
}


def energies(
    matches: Iterable[tuple[Target, Any]],
    table: BlockTable,
    strengths: BlockStrengths | None = None,
) -> Energies:
    """The energy of every block. matches: (weight or slice, adapter) of one LoRA, as resolve finds them."""
    sums: dict[str, list[float]] = {}
    unmeasured: dict[str, None] = {}
    for target, adapter in matches:
        place = table.places.get(target.key)
        block = place.block if place is not None else "OTHER"
        entry = sums.setdefault(block, [0.0, 0.0, 0])
        entry[2] += 1
        measure = ENERGY.get(type(adapter))
        if measure is None or getattr(adapter, "replaces", False):
            unmeasured.setdefault(adapter.family)
            continue
        for _, rows, factor in by_share(target, adapter, strengths):
            energy = _measured(rows, measure)
            entry[0] += energy
            entry[1] += factor**2 * energy
    order = [*table.blocks, "OTHER"]
    blocks = sorted(sums, key=order.index)
    return Energies(
        tuple(BlockEnergy(b, sums[b][0], sums[b][1], int(sums[b][2])) for b in blocks),
        tuple(unmeasured),
    )


# Adapters that live, by id, with their energy: block strengths scale it and need no new products.
_known: dict[int, tuple[weakref.ref[Any], float]] = {}


def _measured(adapter: Any, measure: Callable[[Any], float]) -> float:
    known = _known.get(id(adapter))
    if known is not None and known[0]() is adapter:
        return known[1]
    energy, place = measure(adapter), id(adapter)

    def forget(gone: weakref.ref[Any]) -> None:
        if place in _known and _known[place][0] is gone:
            del _known[place]

    _known[place] = (weakref.ref(adapter, forget), energy)
    return energy


# The first numbered part of a layer's name, with the number of the part inside it where diffusers counts these too.
_NUMBERED = re.compile(
    r"^(.*?[a-z]_\d+(?:_(?:attentions|resnets|downsamplers|upsamplers)_\d+)?)(?=_|$)"
)
_SHORT = (
    ("lora_", ""), ("_text_model_encoder_layers_", " "), ("text_encoder", "te"), ("_blocks_", " "),
    ("_block_", " "), ("_attentions_", " a"), ("_resnets_", " r"), ("_downsamplers_", " d"), ("_upsamplers_", " u"),
)  # fmt: skip


def energies_by_name(adapter: AdapterFile) -> Energies:
    """The same without a model, by the numbered blocks in the file's own names, in the file's order."""
    sums: dict[str, list[float]] = {}
    unmeasured: dict[str, None] = {}
    wholes = [(name, item) for (name, _), item in adapter.differences.items()]
    for name, item in [*adapter.modules.items(), *wholes]:
        entry = sums.setdefault(block_name(name), [0.0, 0])
        entry[1] += 1
        measure = ENERGY.get(type(item))
        if measure is None or getattr(item, "replaces", False):
            unmeasured.setdefault(item.family)
            continue
        entry[0] += measure(item)
    blocks = (BlockEnergy(b, energy, energy, int(count)) for b, (energy, count) in sums.items())
    return Energies(tuple(blocks), tuple(unmeasured))


def block_name(module: str) -> str:
    """The numbered block that a module's own name tells of, short."""
    bare = module.replace(".", "_") if is_text_encoder(module) else bare_name(module)
    match = _NUMBERED.match(bare)
    short = match[1] if match else "others"
    for long, said in _SHORT:
        short = short.replace(long, said)
    return short


def block_line(found: Energies, strengths: BlockStrengths) -> str:
    """One line for people: which blocks a LoRA has, which were touched, what energy is left."""
    has = [each.block for each in found.blocks]
    changed = [(b, *strengths.of_block(b)) for b in has if strengths.of_block(b) != (1.0, 1.0)]
    whole = [(block, low) for block, low, high in changed if low == high]
    mixed = [block for block, low, high in changed if low != high]
    said = in_runs(whole) + (f"{'; ' if whole else ''}in part: {listed(mixed)}" if mixed else "")
    missed = [block for block in strengths.touched if block not in has]
    line = f"blocks: the LoRA has {listed(has) or 'none'}; changed: {said or 'none'}; "
    line += f"{100 * found.share_left:.3g} % of its energy is left"
    if missed:
        line += f"; named but not in the LoRA: {listed(missed)}"
    if found.unmeasured:
        line += f"; not measured: {', '.join(found.unmeasured)}"
    return line


def energy_table(found: Energies) -> str:
    """A line for each block: its share of the energy before, and what is left of it."""
    total = found.total or 1.0
    rows = [
        f"  {e.block:<10} {100 * e.energy / total:6.2f} %  ->  {100 * e.left / total:6.2f} %   ({e.weights} weights)"
        for e in found.blocks
    ]
    return "\n".join(rows)
