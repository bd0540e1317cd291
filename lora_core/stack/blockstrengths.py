"""Block text on a model's table -> a factor for every weight, and an account of how the text was read."""

from __future__ import annotations

import random
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace

from ..errors import StackError
from ..targets import Slice, Target
from .blockparts import Piece
from .blockpresets import BUILT_IN, Preset
from .blocks import Assign, BlockText, Elements, Vector, parse_blocks
from .blockselect import blocks_named, in_runs, listed, select
from .blocktable import BlockTable
from .blockvectors import KINDS, kind_of, layout_of, value_of


@dataclass(frozen=True)
class Share:
    """Rows start to start + length of a target (length None: all of it) and their factor."""

    start: int
    length: int | None
    factor: float


@dataclass(frozen=True)
class BlockStrengths:
    """factors: weight -> a factor for each of its pieces; a weight that is not named has 1.

    touched: the blocks that some entry spoke of, in the order of the model. readings: how the text was read, a line each.
    """

    table: BlockTable
    factors: Mapping[str, tuple[float, ...]] = field(default_factory=dict)
    touched: tuple[str, ...] = ()
    readings: tuple[str, ...] = ()

    def shares(self, target: Target) -> tuple[Share, ...]:
        """The factors of a weight or slice, row by row; one share where all its rows have the same.

        Raises StackError where the rows differ and the host rearranges the delta, so that rows have no place.
        """
        place, factors = self.table.places.get(target.key), self.factors.get(target.key)
        if place is None or factors is None:
            return (Share(0, None, 1.0),)
        if len(set(factors)) == 1:
            return (Share(0, None, factors[0]),)
        dimension = target.offset[0] if target.offset is not None else 0
        if target.function is not None or dimension != 0:
            raise StackError(
                f"Block strengths: '{target.key}' is rearranged as a whole; its parts cannot differ."
            )
        return _joined(_cut(place.pieces, factors, target.offset))

    def factor_of(self, target: Target) -> float:
        """The one factor of a weight or slice. Raises StackError where its rows differ: then ask for shares."""
        first, *others = self.shares(target)
        if others:
            raise StackError(f"Block strengths: the rows of '{target.key}' differ.")
        return first.factor

    def of_block(self, block: str) -> tuple[float, float]:
        """The least and the greatest factor among a block's weights."""
        found = [
            factor
            for key in self.table.weights.get(block, ())
            for factor in self.factors.get(key, (1.0,))
        ]
        return (min(found), max(found)) if found else (1.0, 1.0)


def block_strengths(
    text: str,
    table: BlockTable,
    presets: Mapping[str, Preset] = BUILT_IN,
    generator: random.Random | None = None,
) -> BlockStrengths:
    """What the text says of this model. generator: draws R and U up to the first seed=7 of the text; None takes seed 0.

    Raises StackError with line and column: an entry that touches nothing, a vector of a wrong length, an empty range,
    a preset for another kind of model.
    """
    parsed = parse_blocks(text, presets)
    _check_layouts(parsed, table)
    work = _Work(table, parsed, generator or random.Random(0))
    for statement in parsed.statements:
        if isinstance(statement, Assign):
            work.assign(statement)
        elif isinstance(statement, Vector):
            work.vector(statement)
        elif isinstance(statement, Elements):
            work.elements(statement)
        else:
            work.generator = random.Random(statement.seed)
    touched = tuple(block for block in table.blocks if block in work.touched)
    factors = {key: tuple(values) for key, values in work.factors.items()}
    return BlockStrengths(table, factors, touched, tuple(work.readings))


def _check_layouts(parsed: BlockText, table: BlockTable) -> None:
    kind = kind_of(table)
    for token, layout in parsed.layouts:
        if table.complete and kind != layout:
            raise token.error(
                f"'{token.origin}' is for models with the blocks of {layout}; this model has "
                f"{f'those of {kind}' if kind else 'others'}. Choose a preset for it, or name blocks: "
                f"{listed(table.blocks)}."
            )


class _Work:
    """The factors while the statements are gone through; later ones overwrite."""

    def __init__(self, table: BlockTable, parsed: BlockText, generator: random.Random) -> None:
        self.table, self.letters, self.generator = table, parsed.letters, generator
        self.factors: dict[str, list[float]] = {}
        self.touched: set[str] = set()
        self.readings: list[str] = []

    def assign(self, entry: Assign) -> None:
        reading = "inspire" if entry.dialect == "auto" else entry.dialect
        value = value_of(entry.selector, entry.value, reading, self.letters, self.generator)
        touched = select(self.table, entry.selector, entry.optional)
        self.set(touched, value)
        drawn = f" ({entry.value})" if entry.value.isalpha() else ""
        said = f"{entry.selector.text}={value:g}{drawn}"
        self.readings.append(said if touched else f"{said}: touches nothing here")

    def vector(self, vector: Vector) -> None:
        if not self.table.complete:
            self.readings.append(f"{len(vector.values)} values: no MODEL connected to read them on")
            return
        layout = layout_of(vector, self.table)
        named: dict[str, float] = {}
        for name, token in zip(layout.names, vector.values, strict=True):
            named[name] = value_of(token, token.text, layout.reading, self.letters, self.generator)
        spoken = {name.split(".")[0] for name in named}
        known = [
            b for prefix in KINDS[kind_of(self.table) or ""] for b in self.table.numbered(prefix)
        ]
        unnamed = [block for block in known if block not in spoken]
        self.set_blocks(unnamed, 0.0)
        self.set_blocks(set(self.table.numbered()) - set(known), named.get("BASE", 1.0))
        for name, value in named.items():
            self.set(select(self.table, replace(vector.where, text=name), optional=True), value)
        self.readings.append(_vector_reading(vector, layout.reading, named, unnamed))

    def elements(self, entry: Elements) -> None:
        """hako's rule: blocks by name, elements by what occurs in the weight's name with underscores.

        The name is taken without its "diffusion_model", in which "ff" occurs too.
        """
        value = float(entry.value)
        inverse = entry.blocks[:1] == ("NOT",)
        names = [
            block
            for name in entry.blocks[inverse:]
            for block in blocks_named(self.table, replace(entry.where, text=name))
        ]
        wanted = [b for b in self.table.blocks if not entry.blocks or (b in names) != inverse]
        without = entry.elements[:1] == ("NOT",)
        marks = entry.elements[without:]
        touched = [
            (key, None)
            for block in wanted
            for key in self.table.weights[block]
            if not marks or any(mark in _underscored(key) for mark in marks) != without
        ]
        if not touched and self.table.complete:
            raise entry.where.error(f"'{entry.where.text}' touches no weight of this model.")
        self.set(touched, value)
        self.readings.append(f"{entry.where.text}: {len(touched)} weights at {value:g}")

    def set_blocks(self, blocks: Iterable[str], value: float) -> None:
        self.set([(key, None) for block in blocks for key in self.table.weights[block]], value)

    def set(self, touched: Iterable[tuple[str, int | None]], value: float) -> None:
        """(weight, piece or None for all of them) = value."""
        for key, piece in touched:
            place = self.table.places[key]
            factors = self.factors.setdefault(key, [1.0] * len(place.pieces))
            for index in range(len(factors)) if piece is None else (piece,):
                factors[index] = value
            self.touched.add(place.block)


def _underscored(key: str) -> str:
    return key.removeprefix("diffusion_model.").replace(".", "_")


def _cut(pieces: Sequence[Piece], factors: Sequence[float], offset: Slice | None) -> list[Share]:
    """The pieces' factors on the rows of a slice, counted from the slice's own first row."""
    first, length = (offset[1], offset[2]) if offset else (0, None)
    shares = []
    for piece, factor in zip(pieces, factors, strict=True):
        end = piece.start + (piece.length or 0)  # where pieces differ each has a length
        low, high = max(piece.start, first), end if length is None else min(end, first + length)
        if high > low:
            shares.append(Share(low - first, high - low, factor))
    return shares


def _joined(shares: Sequence[Share]) -> tuple[Share, ...]:
    """Neighbours of one factor as one; all of one factor as the whole."""
    if len({share.factor for share in shares}) == 1:
        return (Share(0, None, shares[0].factor),)
    joined: list[Share] = []
    for share in shares:
        if joined and joined[-1].factor == share.factor:
            last = joined.pop()
            share = Share(last.start, (last.length or 0) + (share.length or 0), share.factor)
        joined.append(share)
    return tuple(joined)


def _vector_reading(
    vector: Vector, reading: str, named: Mapping[str, float], unnamed: Sequence[str]
) -> str:
    said = f"'{vector.where.origin}', " if vector.where.origin else ""
    how = "as asked" if vector.dialect == reading else "detected"
    if vector.dialect == "auto" and any(token.text in "RrUu" for token in vector.values):
        how += "; hako draws R and U from other ranges: dialect=hako"
    rest = f"; not in the vector, so 0: {listed(unnamed)}" if unnamed else ""
    return f"{said}{len(named)} values in {reading}'s order ({how}): {in_runs(list(named.items()))}{rest}"
