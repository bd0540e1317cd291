"""Schedules onto a stack, with their curves in words and as a picture."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch

from ..analysis.draw import as_images
from ..analysis.draw_schedule import schedule_chart
from ..stack.interop import StackList, read_lora_stack
from ..stack.schedulerows import (
    composite_calls,
    curve_line,
    curve_of,
    schedule_text,
    with_schedule,
)
from .stacking import outgoing

_OTHER_PACKS = (
    "Schedules travel beside the list: Loom nodes follow them on MODEL, other packs apply the rows without them. "
    "The text encoder keeps its constant strength."
)


@dataclass(frozen=True)
class Scheduled:
    """stack: for the LORA_STACK socket. images: (1, height, width, 3) float32, the curves of all rows."""

    stack: StackList
    report: str
    images: torch.Tensor


def schedule_stack(
    lora_stack: Any,
    schedule: str,
    row: int,
    preset: str,
    steps: int,
    combine: str = "sum",
    every: int = 1,
) -> Scheduled:
    """Put a schedule onto rows of a LORA_STACK, or take it away with an empty text. Raises LoraError.

    steps: for how many steps the curves are said and drawn; sampling goes by the sampler's own.
    combine, every: see with_schedule.
    """
    text = schedule_text(schedule, preset)
    stack = with_schedule(read_lora_stack(lora_stack), text, row, combine, every)
    said = [curve_line(each, steps) for each in stack.rows]
    calls = len(composite_calls([each.timeline for each in stack.rows]))
    if calls > 1:
        said.append(
            f"Composite: {calls} model calls for every one, each with its own row; their predictions are averaged."
        )
    if any(each.schedule for each in stack.rows):
        said.append(_OTHER_PACKS)
    chart = schedule_chart([(each.name, curve_of(each, steps)) for each in stack.rows])
    return Scheduled(outgoing(stack), "\n".join(said), as_images([chart]))
