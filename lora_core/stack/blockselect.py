"""Selectors of the block language on a table: "IN01-IN05.attn.q" -> weights and their pieces; and names for people."""

from __future__ import annotations

import difflib
import fnmatch
import re
from collections.abc import Sequence
from dataclasses import replace

from .blockparts import WORDS
from .blocktable import BlockTable
from .blocktokens import Token

# What may be said of text encoders while no CLIP is connected: it cannot be checked then.
_ENCODER_NAMES = re.compile(r"^(?:TE|CLIP|M?T5|UMT5|LLAMA|QWEN|GEMMA|BERT|MISTRAL)")
_OWN_WORDS_SHOWN = 12


def select(table: BlockTable, selector: Token, optional: bool = False) -> list[tuple[str, int]]:
    """(weight, index of its piece) of all that a selector means.

    Raises StackError where that is nothing, unless it is optional or speaks of a socket with nothing connected.
    """
    head, *parts = selector.text.split(".")
    wanted = {part.strip().lower() for part in parts}
    blocks = blocks_named(table, replace(selector, text=head.strip()), optional)
    found = [
        (key, index)
        for block in blocks
        for key in table.weights[block]
        for index, piece in enumerate(table.places[key].pieces)
        if wanted <= piece.parts
    ]
    if not found and blocks and not optional:
        raise selector.error(
            f"'{selector.text}' touches nothing: no weight of {listed(blocks)} is of the part "
            f"'{'.'.join(parts)}'; there are {', '.join(parts_in(table, blocks))}."
        )
    return found


def parts_in(table: BlockTable, blocks: Sequence[str]) -> list[str]:
    """The parts that these blocks have: the common words first, then some of the model's own."""
    pieces = (p for b in blocks for key in table.weights[b] for p in table.places[key].pieces)
    known = {part for piece in pieces for part in piece.parts}
    return [word for word in WORDS if word in known] + sorted(known - set(WORDS))[:_OWN_WORDS_SHOWN]


def blocks_named(table: BlockTable, head: Token, optional: bool = False) -> list[str]:
    """The blocks that one name, group, wildcard or range means, in the order of the model. Raises StackError."""
    name = head.text.upper()
    if "-" in name:
        return _range(table, head, optional)
    if (
        name in table.groups
    ):  # before the blocks: BASE says all that lies outside, not its one block
        return list(table.groups[name])
    if "*" in name:
        found = [block for block in table.blocks if fnmatch.fnmatchcase(block, name)]
    else:
        one = _one(table, name)
        found = [] if one is None else [one]
    if not found and not optional and not _unchecked(table, name):
        raise head.error(_unknown(table, head.text))
    return found


def _unchecked(table: BlockTable, name: str) -> bool:
    return not table.complete or (
        not table.groups.get("TE") and _ENCODER_NAMES.match(name) is not None
    )


def _one(table: BlockTable, name: str) -> str | None:
    """A block by its name, with or without the leading zeros of its number."""
    if name in table.weights:
        return name
    match = re.fullmatch(r"(.*?)0*(\d+)", name)
    if match is None:
        return None
    same = re.compile(rf"{re.escape(match[1])}0*{match[2]}")
    return next((block for block in table.blocks if same.fullmatch(block)), None)


def _range(table: BlockTable, head: Token, optional: bool) -> list[str]:
    first, _, last = (part.strip() for part in head.text.upper().partition("-"))
    if last.isdigit():
        last = first.rstrip("0123456789") + last
    low, high = _one(table, first), _one(table, last)
    if low is None or high is None:
        if optional or _unchecked(table, first):
            return []
        raise head.error(_unknown(table, first if low is None else last))
    start, end = table.blocks.index(low), table.blocks.index(high)
    if start > end:
        raise head.error(f"the range {head.text} is empty; write {high}-{low}.")
    return list(table.blocks[start : end + 1])


def _unknown(table: BlockTable, name: str) -> str:
    known = [*table.blocks, *(group for group, blocks in table.groups.items() if blocks)]
    close = difflib.get_close_matches(name.upper(), known, n=3, cutoff=0.5)
    nearest = f" Nearest: {', '.join(close)}." if close else ""
    return (
        f"this model has no block '{name}'.{nearest} It has {listed(table.blocks)}. "
        f"Write {name}? instead of {name} where a model may lack it."
    )


def listed(blocks: Sequence[str]) -> str:
    """Names of blocks, neighbours as ranges: IN00-IN11, M00, OUT00-OUT11."""
    return ", ".join(_span(run) for run in _neighbours([(block, None) for block in blocks]))


def in_runs(named: Sequence[tuple[str, float]]) -> str:
    """Blocks with their values, neighbours of one value together: BASE=1, IN01-IN05=0."""
    return ", ".join(f"{_span(run)}={run[0][1]:g}" for run in _neighbours(named))


def _span(run: Sequence[tuple[str, object]]) -> str:
    return run[0][0] if len(run) == 1 else f"{run[0][0]}-{run[-1][0]}"


def _neighbours(named: Sequence[tuple[str, float | None]]) -> list[list[tuple[str, float]]]:
    """Names of one kind with numbers that follow each other and one value, as runs."""
    runs: list[list[tuple]] = []
    for name, value in named:
        if runs and runs[-1][-1][1] == value and _follows(runs[-1][-1][0], name):
            runs[-1].append((name, value))
        else:
            runs.append([(name, value)])
    return runs


def _follows(before: str, name: str) -> bool:
    kind = before.rstrip("0123456789")
    index, after = before[len(kind) :], name[len(kind) :]
    return (
        name.startswith(kind)
        and index.isdigit()
        and after.isdigit()
        and int(after) == int(index) + 1
    )
