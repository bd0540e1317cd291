"""Two axes -> points: which stack each has, where it stands, and what the sheet and the charts need to know of it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

from ..stack.rows import LoraStack, StackRow
from .axes import (
    Axis,
    Scene,
    Step,
    only_each_row,
    steps_of,
    strength_axis,
    title_of,
    without_each_row,
)
from .blocks import only_each_block, without_each_block
from .methods import merge_methods
from .values import AxisOrder, check_count

AXES: dict[str, Axis] = {
    "strength": Axis(strength_axis(True, True), "the row's strength; clip keeps its proportion"),
    "model strength": Axis(strength_axis(True, False), "the row's strength on MODEL alone"),
    "clip strength": Axis(strength_axis(False, True), "the row's strength on CLIP alone"),
    "blocks: leave one out": Axis(without_each_block, "all blocks, then each left out"),
    "blocks: only one": Axis(only_each_block, "no block, then each alone"),
    "rows: leave one out": Axis(without_each_row, "all rows, then each left out", of_row=False),
    "rows: only one": Axis(only_each_row, "no row, then each alone", of_row=False),
    "merge method": Axis(merge_methods, "the stack, then merged by each method", of_row=False),
}


@dataclass(frozen=True)
class AxisLabels:
    """title: "" where there is no such axis; then there is one label, ""."""

    title: str
    labels: tuple[str, ...]


@dataclass(frozen=True)
class Point:
    """col, row: its place among the labels of x and y. rows: of the stack, without the LoRAs themselves.

    reference: what the other points of its line are compared with. energy: of what the swept rows add to the
    weights (squared Frobenius norm), None where it was not measured. merge: the method by which the rows were made into one.
    """

    col: int
    row: int
    x: str
    y: str
    reference: bool
    rows: tuple[StackRow, ...]
    energy: float | None = None
    merge: str = ""

    @property
    def label(self) -> str:
        return f"{self.x}, {self.y}" if self.y else self.x


@dataclass(frozen=True)
class Sweep:
    """What goes over the LOOM_SWEEP socket. points: line by line. hashes: LoRA's name -> sha256 of its file."""

    x: AxisLabels
    y: AxisLabels
    points: tuple[Point, ...]
    hashes: Mapping[str, str] = field(default_factory=dict)

    def reference_of(self, point: Point) -> Point | None:
        """The point of the same line, else of the same column, that it is compared with; None where there is none."""
        in_line = (p for p in self.points if p.reference and p.row == point.row)
        in_column = (p for p in self.points if p.reference and p.col == point.col)
        return next(in_line, None) or next(in_column, None)


def plan_sweep(
    x: AxisOrder, y: AxisOrder, scene: Scene
) -> tuple[AxisLabels, AxisLabels, list[tuple[Step, Step]]]:
    """The labels of both axes, and the steps of every point, line by line. Raises LoraError."""
    across, down = steps_of(x, AXES, scene), steps_of(y, AXES, scene)
    check_count(len(across) * len(down), f"{len(across)} by {len(down)} steps")
    labels = tuple(
        AxisLabels(title_of(order, AXES, scene), tuple(step.label for step in steps))
        for order, steps in ((x, across), (y, down))
    )
    return labels[0], labels[1], [(step, line) for line in down for step in across]


def stack_of(steps: Sequence[Step], stack: LoraStack) -> LoraStack:
    """The stack after these steps; one that needs the others done is done last."""
    for step in sorted(steps, key=lambda step: step.last):
        stack = step.change(stack)
    return stack


def point_of(
    index: int, width: int, steps: tuple[Step, Step], stack: LoraStack, energy: float | None
) -> Point:
    """The point number `index` of lines that are `width` long. stack: before the point's steps."""
    rows = stack_of([step for step in steps if not step.last], stack).rows
    return Point(
        index % width,
        index // width,
        steps[0].label,
        steps[1].label,
        steps[0].reference or steps[1].reference,
        tuple(replace(row, adapter=None) for row in rows),
        energy,
        ", ".join(step.label for step in steps if step.last),
    )
