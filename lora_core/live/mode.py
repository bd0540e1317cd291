"""Baked into the weights or live beside them: decided from the inputs and the model alone, never from history."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from ..errors import StackError

MODES = ("auto", "baked", "live")


@dataclass(frozen=True)
class ModelTraits:
    """What of a model speaks for live mode. quantised: weights of 8 bits or less; dynamic: uploaded at every use."""

    quantised: bool = False
    dynamic: bool = False


@dataclass(frozen=True)
class Choice:
    """live or baked, and why, in words for the report."""

    live: bool
    why: str


def choose(
    mode: str, scheduled: Sequence[str], traits: ModelTraits, regional: Sequence[str] = ()
) -> Choice:
    """The mode for a MODEL. Raises StackError for another mode.

    scheduled, regional: names of the rows with a schedule, and of those that act for one conditioning only.
    """
    if mode not in MODES:
        raise StackError(f"No mode '{mode}'; choose one of {', '.join(MODES)}.")
    if mode != "auto":
        return Choice(mode == "live", "as chosen")
    if scheduled:
        return Choice(True, f"{', '.join(scheduled)}: strengths that follow the steps")
    if regional:
        return Choice(True, f"{', '.join(regional)}: for one conditioning only")
    if traits.quantised:
        return Choice(True, "the model's weights are quantised, and live leaves them untouched")
    if traits.dynamic:
        return Choice(True, "the host loads this model piece by piece, and live reloads nothing")
    return Choice(False, "constant strengths on plain weights cost nothing per step")
