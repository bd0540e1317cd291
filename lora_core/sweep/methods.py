"""Merge methods as an axis: the whole stack as one LoRA, once by each method."""

from __future__ import annotations

from ..adapters import AdapterFile
from ..merge.merge import merge
from ..merge.methods import METHODS
from ..merge.plan import Plan
from ..merge.ranks import RankRule
from ..stack.rows import LoraStack, StackRow
from .axes import Scene, Step
from .values import AxisOrder, chosen, entries

# Which blocks are whose has to be written by hand.
_NEEDS_MORE = {"blockwise"}
_TWO_ROWS = {"slerp"}
_MOST_RANK = 256


def merge_methods(order: AxisOrder, scene: Scene) -> list[Step]:
    """The stack as it is, then merged by each method, all at the same rank: the sum of the rows', at most 256."""
    known = [name for name in METHODS if name not in _NEEDS_MORE]
    if order.values.strip():
        names = [chosen(entry, known, "merge method") for entry in entries(order)]
    else:
        names = [name for name in known if name not in _TWO_ROWS or len(scene.stack.rows) == 2]
    steps = [Step("stack", lambda stack: stack, reference=True)]
    for name in names:
        steps.append(Step(name, lambda stack, name=name: _merged(stack, name, scene), last=True))
    return steps


def _merged(stack: LoraStack, method: str, scene: Scene) -> LoraStack:
    """One row in place of all that are on. Raises MergeError."""
    rows = [(row, row.adapter) for row in stack.active.rows if row.adapter is not None]
    rank = min(_MOST_RANK, sum(_rank(adapter) for _, adapter in rows))
    plan = Plan(method, RankRule("rank", float(max(1, rank))))
    done = merge(
        rows, plan, scene.model, scene.clip, lambda *_: scene.advance(), presets=scene.presets
    )
    return LoraStack((StackRow(f"merged by {method}", adapter=done.file),), stack.notes)


def _rank(adapter: AdapterFile) -> int:
    return max((module.rank or 1 for module in adapter.modules.values()), default=1)
