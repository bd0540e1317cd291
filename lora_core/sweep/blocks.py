"""Axes over the blocks of a row: each left out, or each alone, said in the block language on the rows themselves."""

from __future__ import annotations

import json
from dataclasses import dataclass, replace

from ..errors import SweepError
from ..rowblocks import row_blocks
from ..stack.blockrows import with_blocks
from ..stack.blockselect import blocks_named, select
from ..stack.blocktokens import Token
from ..stack.rows import LoraStack, StackRow
from .axes import Scene, Step
from .values import AxisOrder, Entry, entries, placed

_EACH = "each "


@dataclass(frozen=True)
class Part:
    """What one step speaks of. selector: in the block language. blocks: all that it touches; whole: in full."""

    selector: str
    blocks: tuple[str, ...]
    whole: bool = True


def without_each_block(order: AxisOrder, scene: Scene) -> list[Step]:
    """All blocks, then each left out."""
    steps = [Step("all", lambda stack: stack, reference=True)]
    for part in _parts(order, scene):
        text = f"{part.selector}=0"
        steps.append(
            Step(
                f"no {part.selector}",
                lambda stack, text=text: with_blocks(_as_lines(stack), text, order.row),
            )
        )
    return steps


def only_each_block(order: AxisOrder, scene: Scene) -> list[Step]:
    """No block, then each alone, at the strength that it has in the row."""
    steps = [Step("none", lambda stack: with_blocks(_as_lines(stack), "*=0", order.row), True)]
    for part in _parts(order, scene):
        first = max(order.row, 1)
        texts = {n: _only(row, part, scene) for n, row in enumerate(scene.rows(order.row), first)}
        steps.append(Step(part.selector, lambda stack, t=texts: _with_texts(stack, t)))
    return steps


def _parts(order: AxisOrder, scene: Scene) -> list[Part]:
    """The parts that were written, or all blocks that the rows' LoRAs have; the text encoders are one. Raises SweepError."""
    rows = scene.rows(order.row)
    if order.values.strip():
        return [part for entry in entries(order) for part in _written(entry, scene)]
    table = scene.table
    encoders, has = table.groups.get("TE", ()), scene.blocks_of(rows)
    parts = [
        Part(block, tuple(table.groups.get(block, (block,))))
        for block in has
        if block not in encoders
    ]
    if any(block in encoders for block in has):
        parts.append(Part("TE", encoders))
    if not parts:
        raise SweepError(
            f"The LoRA of row {order.row} has no block of this model. Is it the model that it is for?"
        )
    return parts


def _written(entry: Entry, scene: Scene) -> list[Part]:
    """ "IN*" is one part, "each IN*" one for each of its blocks. Raises SweepError with the place in the text."""
    each = entry.text.lower().startswith(_EACH)
    text = entry.text[len(_EACH) :].strip() if each else entry.text
    if "=" in text or text.endswith("?"):
        raise entry.error(
            f"'{entry.text}' says more than a block; write {text.split('=')[0].rstrip('?')}."
        )

    def found(token: Token) -> tuple[str, ...]:
        named = replace(token, text=text)
        select(scene.table, named)
        return tuple(blocks_named(scene.table, replace(named, text=text.split(".")[0])))

    blocks = placed(entry, found)
    if not blocks:
        raise entry.error(f"'{text}' touches nothing: connect CLIP to sweep the text encoder.")
    head, dot, inner = text.partition(".")
    if each:
        return [Part(block + dot + inner, (block,), not dot) for block in blocks]
    return [Part(text, blocks, not dot)]


def _only(row: StackRow, part: Part, scene: Scene) -> str:
    """The row's blocks text that leaves this part alone."""
    own = row_blocks(row, scene.table, scene.presets)
    if own is None:
        return f"*=0; {part.selector}=1"
    if not part.whole:
        raise SweepError(
            f"'{row.name}' has block strengths of its own, so '{part.selector}' alone has no one strength. "
            "Sweep whole blocks, or take the row's block strengths off."
        )
    kept = ["*=0"]
    for block in part.blocks:
        low, high = own.of_block(block)
        if low != high:
            raise SweepError(
                f"'{row.name}' gives the parts of {block} different strengths, so it cannot stand alone at one. "
                "Sweep with 'blocks: leave one out', or take these strengths off."
            )
        kept.append(f"{block}={low!r}")
    return "; ".join(kept)


def _with_texts(stack: LoraStack, texts: dict[int, str]) -> LoraStack:
    """The stack with other block strengths on the rows of these numbers."""
    return LoraStack(
        tuple(
            replace(row, blocks=texts.get(number, row.blocks))
            for number, row in enumerate(stack.rows, start=1)
        ),
        stack.notes,
    )


def _as_lines(stack: LoraStack) -> LoraStack:
    """Block strengths in JSON as the entries that they stand for, because entries can be added to."""
    return LoraStack(tuple(_lines(row) for row in stack.rows), stack.notes)


def _lines(row: StackRow) -> StackRow:
    if not row.blocks.lstrip().startswith("{"):
        return row
    pairs = json.loads(row.blocks)
    return replace(row, blocks="\n".join(f"{name}={value}" for name, value in pairs.items()))
