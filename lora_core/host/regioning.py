"""Rows of a stack tied to a conditioning, and to a mask."""

from __future__ import annotations

import uuid
from dataclasses import dataclass
from typing import Any

import torch

from ..stack.interop import StackList, read_lora_stack
from ..stack.regionrows import marked, with_region
from .stacking import outgoing

_OTHER_PACKS = (
    "Regions travel beside the list: Loom nodes keep them on MODEL, other packs apply the rows everywhere. "
    "A text encoder takes the rows for every prompt that it encodes."
)


@dataclass(frozen=True)
class Regional:
    """stack: for the LORA_STACK socket. positive, negative: CONDITIONING with the mark; negative None where none came in."""

    stack: StackList
    positive: list[Any]
    negative: list[Any] | None
    report: str


def region_stack(
    lora_stack: Any,
    positive: Any,
    row: int,
    negative: Any = None,
    mask: torch.Tensor | None = None,
    mask_strength: float = 1.0,
) -> Regional:
    """Let rows act for these conditionings only, and with a mask only inside of it. Raises LoraError.

    mask: (height, width) or (batch, height, width) from 0 to 1; the conditionings are kept to it, as core's node does.
    """
    mark = uuid.uuid4().hex
    stack = with_region(read_lora_stack(lora_stack), mark, row)
    more: dict[str, Any] = {}
    if mask is not None:
        whole = mask if mask.dim() == 3 else mask.unsqueeze(0)
        more = {"mask": whole, "mask_strength": mask_strength, "set_area_to_bounds": False}
    sides = "positive" if negative is None else "positive and negative"
    where = "" if mask is None else ", inside the mask"
    said = [
        f"{each.name}: acts for this {sides} conditioning only{where}"
        for each in stack.rows
        if mark in each.regions
    ]
    return Regional(
        outgoing(stack),
        marked(positive, mark, more),
        None if negative is None else marked(negative, mark, more),
        "\n".join([*said, _OTHER_PACKS]),
    )
