"""Block strengths from a node's widgets onto the rows of a stack."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

from ..errors import StackError
from .blockpresets import BUILT_IN, Preset
from .blocks import parse_blocks
from .rows import LoraStack, StackRow

NO_PRESET = "none"


def widgets_text(
    blocks: str, dialect: str, preset: str, seed: int, presets: Mapping[str, Preset]
) -> str:
    """The widgets as one text of the block language, "" where they say nothing. Raises StackError.

    A preset of the user's own files is written out, so that the text means the same on another machine.
    """
    parse_blocks(
        blocks, presets
    )  # alone, so that an error says the line and column that the person sees
    before = []
    if preset != NO_PRESET:
        if preset not in presets:
            raise StackError(
                f"No block preset '{preset}'. Its file may be gone; choose another of the list."
            )
        own = preset not in BUILT_IN or BUILT_IN[preset] != presets[preset]
        found = presets[preset]
        said = found.text.replace("\n", ";")
        before += [f"dialect={found.dialect}", said] if own else [preset]
    if blocks.lstrip().startswith("{"):
        if before:
            raise StackError(
                "Block strengths as JSON stand alone; write entries such as IN04=0.5 to go on from a preset."
            )
        return blocks
    if not before and not blocks.strip():
        return ""
    # On one line, so that the lines of the text keep their numbers.
    drawn = [f"seed={seed}"] if seed else []
    chosen = [f"dialect={dialect}"] if before or dialect != "auto" else []
    return "; ".join([*drawn, *before, *chosen, blocks])


def with_blocks(stack: LoraStack, text: str, row: int = 0) -> LoraStack:
    """The stack with the text on one row (1 is the first) or, for 0, on all. It goes after what a row already says.

    Raises StackError for a row that the stack does not have.
    """
    if not 0 <= row <= len(stack.rows):
        raise StackError(
            f"Row {row} is not there: the stack has {len(stack.rows)} rows. 0 means all of them."
        )
    if not text:
        return stack
    return LoraStack(
        tuple(
            _after(each, text) if row in (0, number) else each
            for number, each in enumerate(stack.rows, start=1)
        )
    )


def _after(row: StackRow, text: str) -> StackRow:
    if not row.blocks.strip():
        return replace(row, blocks=text)
    if row.blocks.lstrip().startswith("{") or text.lstrip().startswith("{"):
        raise StackError(
            f"'{row.name}' already has block strengths, and JSON cannot be joined to them. Write entries: IN04=0.5."
        )
    return replace(row, blocks=f"{row.blocks}\ndialect=auto\n{text}")
