"""Schedules from a node's widgets onto the rows of a stack, and what they come to in words."""

from __future__ import annotations

from dataclasses import replace

from ..errors import StackError
from .rows import LoraStack, StackRow
from .schedule import PRESETS, read_schedule

NO_PRESET = "none"


def schedule_text(text: str, preset: str) -> str:
    """The widgets as one schedule text, "" where they say nothing. Raises StackError."""
    if preset == NO_PRESET:
        read_schedule(text)
        return text.strip()
    if text.strip():
        raise StackError(
            f"Both the preset '{preset}' and a schedule are given. Empty the text, or set the preset to {NO_PRESET}."
        )
    if preset not in PRESETS:
        raise StackError(f"No schedule preset '{preset}'; choose of {', '.join(PRESETS)}.")
    return PRESETS[preset]


def with_schedule(stack: LoraStack, text: str, row: int = 0) -> LoraStack:
    """The stack with the schedule on one row (1 is the first) or, for 0, on all. Raises StackError for a missing row."""
    if not 0 <= row <= len(stack.rows):
        raise StackError(
            f"Row {row} is not there: the stack has {len(stack.rows)} rows. 0 means all of them."
        )
    return LoraStack(
        tuple(
            replace(each, schedule=text) if row in (0, number) else each
            for number, each in enumerate(stack.rows, start=1)
        )
    )


def curve_of(row: StackRow, steps: int) -> tuple[float, ...]:
    """The row's model strength in each of `steps` steps."""
    timeline = row.timeline
    if timeline is None:
        return (row.model,) * steps
    return tuple(timeline.strength(row.model, step, steps) for step in range(steps))


def curve_line(row: StackRow, steps: int) -> str:
    """One line for people: the text and the strengths, runs of equal ones once."""
    if not row.schedule:
        return f"{row.name}: {row.model:g} in every step"
    runs: list[tuple[int, int, float]] = []
    for step, value in enumerate(curve_of(row, steps)):
        if runs and abs(runs[-1][2] - value) < 5e-7:
            runs[-1] = (runs[-1][0], step, value)
        else:
            runs.append((step, step, value))
    said = [
        f"{first}: {value:.3g}" if first == last else f"{first}-{last}: {value:.3g}"
        for first, last, value in runs
    ]
    return f"{row.name}: '{row.schedule}' in {steps} steps is {', '.join(said)}"
