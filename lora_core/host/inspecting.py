"""Everything that can be said of LoRAs: what the node that inspects shows."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch

from ..adapters import AdapterFile
from ..analysis.draw import as_images, energy_chart, message
from ..analysis.energy import Energies, energies, energies_by_name, energy_table
from ..files.bases import base_of
from ..report import inspect_report
from ..resolve import matches_of
from ..stack.blocktable import block_table
from ..stack.lock import Identified
from ..stack.rows import LoraStack, StackRow
from ..stack.sharing import Need, a1111_hashes, hash_list, needs_text
from ..stack.words import joined_words
from .stacking import OpenRow, account_for, facts_of, identify, open_rows
from .targets import clip_targets, model_targets

# The chooser's entry for "no file, but the stack that is connected".
STACK_INPUT = "[the LORA_STACK input]"


@dataclass(frozen=True)
class Inspection:
    """chart: (LoRAs, height, width, 3) float32, the energy of each block.

    needs: what a workflow with these LoRAs needs. hashes: as A1111 writes them; hash_list: as save nodes take them.
    """

    report: str
    words: str
    chart: torch.Tensor
    needs: str
    hashes: str
    hash_list: str


def inspect_stack(stack: LoraStack, model: Any = None, clip: Any = None) -> Inspection:
    """Read the LoRAs of a stack that are not at strength 0, and say all that they tell. Raises LoraError.

    With a MODEL or CLIP connected the energies are by the model's own blocks, and what of each fits is said.
    """
    opened = open_rows(stack.active.rows)
    known = {item.row: item for item in identify(opened)}
    said = [_said(item, known, model, clip) for item in opened]
    needs = [_need(item, known) for item in opened]
    needed = needs_text(needs)
    texts = [text for text, _ in said]
    report = texts[0] if len(texts) == 1 else "\n\n".join([needed, *texts])
    charts = [chart for _, chart in said] or [message("no LoRA is switched on")]
    return Inspection(
        "\n".join([*stack.notes, report]),
        joined_words([(item.row, facts_of(item)) for item in opened]),
        as_images(charts),
        needed,
        a1111_hashes(needs),
        hash_list(needs),
    )


def _said(
    item: OpenRow, known: Mapping[StackRow, Identified], model: Any, clip: Any
) -> tuple[str, Any]:
    """The report of one LoRA, and its chart."""
    account = account_for(item.adapter, model, clip)
    found = _energies(item.adapter, model, clip)
    hashes = known[item.row].hashes if item.row in known else None
    text = inspect_report(item.adapter, account, hashes, facts_of(item))
    lines = [*item.notes, text, "energy by block:", energy_table(found)]
    if found.unmeasured:
        lines.append(f"  not measured: {', '.join(found.unmeasured)}")
    return "\n".join(lines), energy_chart(found, item.adapter.label)


def _need(item: OpenRow, known: Mapping[StackRow, Identified]) -> Need:
    words = joined_words([(item.row, facts_of(item))])
    return Need(item.row, known.get(item.row), words, base_of(item.adapter))


def _energies(adapter: AdapterFile, model: Any, clip: Any) -> Energies:
    if model is None and clip is None:
        return energies_by_name(adapter)
    on_model = None if model is None else model_targets(model)
    on_clip = None if clip is None else clip_targets(clip)
    matches = ((m.target, m.adapter) for m in matches_of(adapter, on_model, on_clip))
    return energies(matches, block_table(on_model, on_clip))
