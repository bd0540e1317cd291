"""What a setting that is left open means for the model at hand: one place, each with its reason."""

from __future__ import annotations

import statistics
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from .objective import weighting_of
from .settings import TrainSettings

# The rate that trainers agree on for SDXL, Flux and all that is as wide or wider, with alpha = rank.
_RATE, _WIDTH = 1e-4, 1280
# Rates that an optimizer takes from the run itself; what is set is a factor.
_OF_ITS_OWN = {"Prodigy": 1.0}


def suited(
    settings: TrainSettings, layers: Mapping[str, Any], trigger: str, kind: str
) -> TrainSettings:
    """The settings with a rate: their own, or where that is 0 one for layers of this width; what can be preserved; the
    weighting of the loss.

    layers: those that are trained, by path; the middle one's inputs count. Adam moves every number by the rate,
    whatever its gradient; a layer of n inputs adds n such moves up, so that the same rate changes a narrow layer's
    answer less: the rate goes with 1 / n (Yang & Hu 2021, table 8), from the width of SDXL on down.
    trigger: the dataset's; without one nothing tells the concept from other prompts, and none is preserved.
    kind: of objective.KINDS.
    """
    wish = settings.objective
    settings = replace(settings, objective=replace(wish, weighting=weighting_of(kind, wish)))
    if not trigger.strip():
        settings = replace(settings, preserve=0.0)
    if settings.rate:
        return settings
    known = _OF_ITS_OWN.get(settings.optimizer)
    if known is not None:
        return replace(settings, rate=known)
    return replace(settings, rate=_RATE * max(1.0, _WIDTH / width_of(layers)))


def width_of(layers: Mapping[str, Any]) -> float:
    """Inputs of the middle layer; a convolution's channels."""
    return statistics.median(
        getattr(layer, "in_features", None) or getattr(layer, "in_channels", None) or 1
        for layer in layers.values()
    )
