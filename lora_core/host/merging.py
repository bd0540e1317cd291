"""Merge and resize as the nodes call them: names and sockets in, a LORA_MODEL with report, chart and certificate out."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from functools import cache
from typing import Any

import torch

from ..adapters import AdapterFile
from ..analysis.draw import as_images
from ..errors import MergeError
from ..files.parse import parse_state_dict
from ..merge.draw import draw_certificate
from ..merge.merge import Merge, merge, resize, with_choices
from ..merge.plan import Plan, Progress
from ..merge.ranks import RankRule
from ..merge.tensors import DTYPES, state_dict
from ..stack.rows import LoraStack, StackRow
from .presets import presets_for
from .progress import progress_of
from .stacking import load_named, load_row
from .targets import clip_targets, model_targets
from .weights import base_of


@dataclass(frozen=True)
class Answer:
    """lora_model: tensors by name. chart: an IMAGE, (1, height, width, 3) of 0 to 1. certificate: JSON."""

    lora_model: dict[str, torch.Tensor]
    report: str
    chart: torch.Tensor
    certificate: str


def merge_stack(
    stack: LoraStack,
    in_memory: Iterable[tuple[Mapping[str, torch.Tensor] | None, float]],
    plan: Plan,
    dtype: str,
    blocks: str = "",
    model: Any = None,
    clip: Any = None,
) -> Answer:
    """Merge the rows of a stack, then the LORA_MODELs that are connected, each with its strength. Raises LoraError.

    dtype: one of DTYPES. blocks: which row owns which block, for the method "blockwise".
    model, clip: where connected, their key maps decide which names mean the same weight, and rows that depend on their
    weights are merged as what they do to these.
    """
    rows = [(row, load_row(row)) for row in stack.active.rows]
    for number, (tensors, strength) in enumerate(in_memory, 1):
        if tensors is not None:
            adapter = _parsed(tensors, f"LORA_MODEL {number}")
            rows.append((StackRow(adapter.label, strength, strength), adapter))
    if not rows:
        raise MergeError(
            "Nothing to merge: connect a LORA_STACK with rows that are switched on, or LORA_MODELs."
        )
    on_model = None if model is None else model_targets(model)
    on_clip = None if clip is None else clip_targets(clip)
    plan = with_choices(replace(plan, dtype=DTYPES[dtype]), blocks, rows)
    base, presets = base_of(model, clip), presets_for(stack)
    return answer_of(merge(rows, plan, on_model, on_clip, progress_bar(), base, presets))


def resize_one(
    name: str | None, tensors: Mapping[str, torch.Tensor] | None, rule: RankRule, dtype: str
) -> Answer:
    """Resize a LORA_MODEL, or where none is connected the file of this name. Raises LoraError."""
    if tensors is not None:
        adapter = _parsed(tensors, "the LORA_MODEL input")
    elif name is not None:
        adapter = load_named(name)
    else:
        raise MergeError("Nothing to resize: choose a LoRA file, or connect a LORA_MODEL.")
    return answer_of(resize(adapter, rule, DTYPES[dtype], progress_bar()))


def progress_bar() -> Progress:
    """The running node's bar, made when the number of weights is known; raises where the user pressed stop."""
    bar_of = cache(progress_of)
    return lambda done, of: bar_of(of)(done)


def _parsed(tensors: Mapping[str, torch.Tensor], label: str) -> AdapterFile:
    return parse_state_dict({key: t.detach().cpu() for key, t in tensors.items()}, label)


def answer_of(merged: Merge) -> Answer:
    """The node's four outputs."""
    certificate = merged.certificate
    chart = as_images([draw_certificate(certificate)])
    return Answer(state_dict(merged.file), certificate.text(), chart, certificate.as_json())
