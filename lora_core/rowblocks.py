"""A stack row's block strengths on the models that it is put on, and what is said of them in the account."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from .analysis.energy import block_line, energies
from .errors import StackError
from .stack.blockpresets import BUILT_IN, Preset
from .stack.blockstrengths import BlockStrengths, block_strengths
from .stack.blocktable import BlockTable
from .stack.rows import StackRow
from .targets import Target


def row_blocks(
    row: StackRow, table: BlockTable, presets: Mapping[str, Preset] = BUILT_IN
) -> BlockStrengths | None:
    """None where the row has no block strengths. Raises StackError that names the row."""
    if not row.blocks.strip():
        return None
    try:
        return block_strengths(row.blocks, table, presets)
    except StackError as error:
        raise StackError(f"'{row.name}': {error}") from error


def said_of_blocks(
    matches: Iterable[tuple[Target, Any]], blocks: BlockStrengths | None
) -> tuple[str, ...]:
    """Which blocks the LoRA has, which were changed, what energy is left, and how the text was read."""
    if blocks is None:
        return ()
    found = energies(matches, blocks.table, blocks)
    return (block_line(found, blocks), *(f"block strengths: {line}" for line in blocks.readings))
