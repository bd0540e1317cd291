"""Schedules from a node's widgets onto the rows of a stack, and what they come to in words."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from ..errors import StackError
from .rows import LoraStack, StackRow
from .schedule import PRESETS, Schedule, read_schedule

NO_PRESET = "none"

# How rows act together: all at once, in turns of steps, or each in a model call of its own, which are averaged.
COMBINE = ("sum", "switch", "composite")


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


def with_schedule(
    stack: LoraStack, text: str, row: int = 0, combine: str = "sum", every: int = 1
) -> LoraStack:
    """The stack with the schedule on one row (1 is the first) or, for 0, on all. Raises StackError.

    combine: one of COMBINE; with switch each row acts for `every` steps in its turn. Rows at model strength 0 have no turn.
    """
    if not 0 <= row <= len(stack.rows):
        raise StackError(
            f"Row {row} is not there: the stack has {len(stack.rows)} rows. 0 means all of them."
        )
    if combine != "sum":
        return _shared(stack, text, row, combine, every)
    return LoraStack(
        tuple(
            replace(each, schedule=text) if row in (0, number) else each
            for number, each in enumerate(stack.rows, start=1)
        ),
        stack.notes,
    )


def _shared(stack: LoraStack, text: str, row: int, combine: str, every: int) -> LoraStack:
    """Every row with its place among those that act."""
    if combine not in COMBINE:
        raise StackError(f"Rows cannot combine as '{combine}'; choose of {', '.join(COMBINE)}.")
    if row != 0:
        raise StackError(
            f"One row alone cannot {combine}. Set row to 0 for all rows, or write turn=1/2 or composite=1/2 into the "
            "schedule of each row that shall take part."
        )
    given = read_schedule(text)
    if given is not None and (given.turn or given.composite):
        raise StackError(
            f"Schedule '{text}' names turns already. Take them out, or set combine to sum."
        )
    acting = [each for each in stack.rows if each.model != 0]
    rows = []
    for each in stack.rows:
        place = f"{len([r for r in rows if r.model != 0]) + 1}/{len(acting)}"
        said = f"turn={place}:every={every}" if combine == "switch" else f"composite={place}"
        own = ":".join(filter(None, [text, said])) if each.model != 0 else text
        rows.append(replace(each, schedule=own))
    return LoraStack(tuple(rows), stack.notes)


def composite_calls(schedules: Sequence[Schedule | None]) -> tuple[tuple[bool, ...], ...]:
    """For each model call of a composite, whether each row acts in it; one call of all rows where there is no composite.

    A row outside of the composite acts in every call. A place that no row has is left out, so that a row which is
    switched off does not thin out the others. Raises StackError where rows name different numbers of places.
    """
    places = [schedule.composite if schedule else None for schedule in schedules]
    counts = {place.count for place in places if place}
    if len(counts) > 1:
        raise StackError(
            f"The rows of a composite disagree on how many they are ({', '.join(map(str, sorted(counts)))}). "
            "Put one Loom Schedule with composite behind all of them, or write composite=1/2 and 2/2."
        )
    numbers = sorted({place.number for place in places if place}) or [0]
    return tuple(
        tuple(place is None or place.number == number for place in places) for number in numbers
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
