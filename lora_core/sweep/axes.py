"""The axes of a sweep in one table. An axis makes steps; a step is a label and a change of the stack."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property

from ..errors import SweepError
from ..files.filenames import short_name
from ..resolve import matches_of
from ..stack.blockpresets import BUILT_IN, Preset
from ..stack.blocktable import BlockTable, block_table
from ..stack.rows import LoraStack, StackRow
from ..targets import TargetMap
from .values import AxisOrder, numbers

NO_AXIS = "none"


@dataclass(frozen=True)
class Scene:
    """What is swept. stack: its rows carry their LoRAs. model, clip: the targets; clip is None where none is connected.

    advance: told after every part of a step that takes long; what it raises ends the sweep.
    """

    stack: LoraStack
    model: TargetMap
    clip: TargetMap | None = None
    presets: Mapping[str, Preset] = field(default_factory=lambda: BUILT_IN)
    advance: Callable[[], None] = lambda: None

    @cached_property
    def table(self) -> BlockTable:
        return block_table(self.model, self.clip)

    def rows(self, row: int) -> tuple[StackRow, ...]:
        """The row of this number, or all for 0. Raises SweepError."""
        if not 0 <= row <= len(self.stack.rows):
            raise SweepError(
                f"Row {row} is not there: the stack has {len(self.stack.rows)} rows. 0 means all of them."
            )
        return self.stack.rows if row == 0 else (self.stack.rows[row - 1],)

    def blocks_of(self, rows: Sequence[StackRow]) -> tuple[str, ...]:
        """The blocks that these rows' LoRAs have weights in, in the order of the model."""
        found = {
            self.table.places[match.target.key].block
            for row in rows
            if row.adapter is not None
            for match in matches_of(row.adapter, self.model, self.clip)
            if match.target.key in self.table.places
        }
        return tuple(block for block in self.table.blocks if block in found)


@dataclass(frozen=True)
class Step:
    """change: the stack before -> the stack of this step. reference: what the axis' other steps are compared with.

    last: the change needs all others to be done, because it leaves no rows to change.
    """

    label: str
    change: Callable[[LoraStack], LoraStack]
    reference: bool = False
    last: bool = False


@dataclass(frozen=True)
class Axis:
    """make: the steps. words: what it does, for people. of_row: whether it looks at one row."""

    make: Callable[[AxisOrder, Scene], list[Step]]
    words: str
    of_row: bool = True


def steps_of(order: AxisOrder, axes: Mapping[str, Axis], scene: Scene) -> list[Step]:
    """The steps of an axis; one that changes nothing for NO_AXIS. Raises LoraError."""
    if order.kind == NO_AXIS:
        return [Step("", lambda stack: stack)]
    if order.kind not in axes:
        raise SweepError(f"No axis '{order.kind}'; choose from {', '.join(axes)}.")
    return axes[order.kind].make(order, scene)


def title_of(order: AxisOrder, axes: Mapping[str, Axis], scene: Scene) -> str:
    """ "style: strength", "all rows: strength", "merge method"; "" for no axis."""
    if order.kind == NO_AXIS:
        return ""
    if not axes[order.kind].of_row:
        return order.kind
    (first, *_) = scene.rows(order.row)
    return f"{short_name(first.name) if order.row else 'all rows'}: {order.kind}"


def changed(stack: LoraStack, row: int, change: Callable[[StackRow], StackRow]) -> LoraStack:
    """The stack with a change of one row, or of all for 0."""
    return LoraStack(
        tuple(
            change(each) if row in (0, number) else each
            for number, each in enumerate(stack.rows, start=1)
        ),
        stack.notes,
    )


def strength_axis(model: bool, clip: bool) -> Callable[[AxisOrder, Scene], list[Step]]:
    """Steps that set a row's strengths. With both, clip keeps its proportion to model; all rows keep theirs too."""

    def make(order: AxisOrder, scene: Scene) -> list[Step]:
        scene.rows(order.row)
        return [_strength_step(value, order.row, model, clip) for value in numbers(order)]

    return make


def _strength_step(value: float, row: int, model: bool, clip: bool) -> Step:
    def set_on(each: StackRow) -> StackRow:
        if row == 0:
            return replace(
                each,
                model=each.model * value if model else each.model,
                clip=each.clip * value if clip else each.clip,
            )
        share = each.clip / each.model if model and each.model != 0 else 1.0
        return replace(
            each,
            model=value if model else each.model,
            clip=value * share if clip else each.clip,
        )

    return Step(f"{value:g}", lambda stack: changed(stack, row, set_on))


def without_each_row(order: AxisOrder, scene: Scene) -> list[Step]:
    """All rows, then each left out."""
    steps = [Step("all", lambda stack: stack, reference=True)]
    for number, row in _active(scene):
        steps.append(Step(f"no {short_name(row.name)}", lambda stack, n=number: _off(stack, {n})))
    return steps


def only_each_row(order: AxisOrder, scene: Scene) -> list[Step]:
    """No row, then each alone."""
    everyone = {number for number, _ in _active(scene)}
    steps = [Step("none", lambda stack: _off(stack, everyone), reference=True)]
    for number, row in _active(scene):
        others = everyone - {number}
        steps.append(Step(short_name(row.name), lambda stack, others=others: _off(stack, others)))
    return steps


def _active(scene: Scene) -> list[tuple[int, StackRow]]:
    rows = [(n, row) for n, row in enumerate(scene.stack.rows, start=1) if row.active]
    if not rows:
        raise SweepError("There are no rows to leave out: no row has a strength other than 0.")
    return rows


def _off(stack: LoraStack, numbers: set[int]) -> LoraStack:
    return LoraStack(
        tuple(
            replace(row, model=0.0, clip=0.0) if number in numbers else row
            for number, row in enumerate(stack.rows, start=1)
        ),
        stack.notes,
    )
