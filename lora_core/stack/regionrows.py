"""Rows that act for one conditioning only: a mark that both the row and the conditioning carry."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import replace
from typing import Any

from ..errors import StackError
from .rows import LoraStack

# Of a conditioning's own dict: the marks of the regions that it stands for.
REGIONS = "loom_regions"


def with_region(stack: LoraStack, mark: str, row: int = 0) -> LoraStack:
    """The stack with one row (1 is the first) or, for 0, all kept to the mark too. Raises StackError for a missing row."""
    if not 0 <= row <= len(stack.rows):
        raise StackError(
            f"Row {row} is not there: the stack has {len(stack.rows)} rows. 0 means all of them."
        )
    return LoraStack(
        tuple(
            replace(each, regions=(*each.regions, mark)) if row in (0, number) else each
            for number, each in enumerate(stack.rows, start=1)
        ),
        stack.notes,
    )


def marked(conditioning: Iterable[Any], mark: str, more: Mapping[str, Any]) -> list[list[Any]]:
    """A CONDITIONING with the mark, and `more` set on every entry; what came in is not changed.

    conditioning: (tensor, dict) pairs.
    """
    return [
        [tensor, {**own, **more, REGIONS: (*own.get(REGIONS, ()), mark)}]
        for tensor, own in conditioning
    ]
