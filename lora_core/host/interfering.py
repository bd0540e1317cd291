"""Interference as the node calls it: a LORA_STACK in, with MODEL and conditioning where they are connected."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch

from ..adapters import AdapterFile
from ..analysis.draw import as_images
from ..analysis.draw_interference import heat_map
from ..analysis.interference import Inputs, interference
from ..analysis.interference_words import as_document, as_json, report
from ..errors import StackError
from ..merge.plan import Rows
from ..resolve import matches_of
from ..stack.interop import read_lora_stack
from ..targets import TargetMap
from .inputs import layer_inputs
from .merging import progress_bar
from .presets import presets_for
from .stacking import load_row
from .targets import clip_targets, model_targets
from .weights import base_of


@dataclass(frozen=True)
class Measured:
    """document: what the page draws. figures: the same as JSON. heat_map: an IMAGE, (1, height, width, 3)."""

    report: str
    heat_map: torch.Tensor
    figures: str
    document: dict[str, Any]


@dataclass(frozen=True)
class Feeding:
    """What the model is run on to see what its layers are fed with; nothing is run without `positive`."""

    positive: Any = None
    negative: Any = None
    latent: Any = None
    steps: int = 2
    seed: int = 0


def measure_stack(lora_stack: Any, model: Any, clip: Any, feeding: Feeding = Feeding()) -> Measured:
    """How the active rows of a LORA_STACK get in each other's way. Raises LoraError."""
    stack = read_lora_stack(lora_stack)
    rows = [(row, load_row(row)) for row in stack.active.rows]
    on_model = None if model is None else model_targets(model)
    on_clip = None if clip is None else clip_targets(clip)
    fed = fed_to(model, rows, on_model, feeding)
    base, presets = base_of(model, clip), presets_for(stack)
    found = interference(rows, on_model, on_clip, fed, progress_bar(), base, presets)
    chart = as_images([heat_map(found)])
    return Measured(report(found), chart, as_json(found), as_document(found))


def fed_to(
    model: Any, rows: Rows, on_model: TargetMap | None, feeding: Feeding
) -> dict[str, Inputs] | None:
    """What the layers that the rows act on are fed with; None where no conditioning is connected. Raises StackError."""
    if feeding.positive is None:
        return None
    if model is None or on_model is None:
        raise StackError(
            "A conditioning is connected and no MODEL: only a model can say what its layers are fed with. "
            "Connect MODEL, or take the conditioning off."
        )
    keys = {key for _, file in rows for key in _keys(file, on_model)}
    return layer_inputs(
        model,
        sorted(keys),
        feeding.positive,
        feeding.negative,
        feeding.latent,
        feeding.steps,
        feeding.seed,
    )


def _keys(file: AdapterFile, on_model: TargetMap) -> set[str]:
    return {match.target.key for match in matches_of(file, on_model, None)}
