"""Everything that can be said of one LoRA: what the node that inspects shows."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch

from ..adapters import AdapterFile
from ..analysis.draw import as_images, energy_chart
from ..analysis.energy import Energies, energies, energies_by_name, energy_table
from ..report import inspect_report
from ..resolve import matches_of
from ..stack.blocktable import block_table
from ..stack.rows import StackRow
from ..stack.words import joined_words
from .stacking import account_for, facts_of, identify, open_row
from .targets import clip_targets, model_targets


@dataclass(frozen=True)
class Inspection:
    """chart: (1, height, width, 3) float32, the energy of each block."""

    report: str
    words: str
    chart: torch.Tensor


def inspect_lora(name: str, model: Any = None, clip: Any = None) -> Inspection:
    """Read a LoRA of the loras list and say all that it tells. Raises LoraError.

    With a MODEL or CLIP connected its energies are by the model's own blocks, and what of it fits is said.
    """
    opened = open_row(StackRow(name))
    (identity,) = identify([opened])
    facts = facts_of(opened)
    account = account_for(opened.adapter, model, clip)
    found = _energies(opened.adapter, model, clip)
    text = inspect_report(opened.adapter, account, identity.hashes, facts)
    lines = [*opened.notes, text, "energy by block:", energy_table(found)]
    if found.unmeasured:
        lines.append(f"  not measured: {', '.join(found.unmeasured)}")
    chart = as_images([energy_chart(found, opened.adapter.label)])
    return Inspection("\n".join(lines), joined_words([(opened.row, facts)]), chart)


def _energies(adapter: AdapterFile, model: Any, clip: Any) -> Energies:
    if model is None and clip is None:
        return energies_by_name(adapter)
    on_model = None if model is None else model_targets(model)
    on_clip = None if clip is None else clip_targets(clip)
    matches = ((m.target, m.adapter) for m in matches_of(adapter, on_model, on_clip))
    return energies(matches, block_table(on_model, on_clip))
