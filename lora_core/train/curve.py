"""How a training goes, as the page is told it: few points however long the run is."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from .chart import running_mean

# Points of the loss that the page gets at most.
_POINTS = 400


@dataclass
class Curve:
    """What a run told so far. losses: of each step from 1 on, those before a resume too.

    validation: (step, loss). samples: pictures in the host's temp folder, in the host's own words. note: the last thing that
    was said in words.
    """

    steps: int
    losses: list[float] = field(default_factory=list)
    validation: list[tuple[int, float]] = field(default_factory=list)
    samples: list[dict[str, Any]] = field(default_factory=list)
    seconds_left: float | None = None
    running: bool = True
    stopping: bool = False
    note: str = ""

    def begin_with(self, facts: Mapping[str, Any]) -> None:
        """What a state has of the part before."""
        self.losses = list(facts.get("losses", ()))
        self.validation = [(step, value) for step, value in facts.get("validation", ())]

    def back_to(self, step: int) -> None:
        """Forget what came after a step: the run was rolled back."""
        del self.losses[step:]
        self.validation = [each for each in self.validation if each[0] <= step]

    def told(self) -> dict[str, Any]:
        """Plain JSON values: see web/docs/LoomTrain.md."""
        return {
            "step": len(self.losses),
            "steps": self.steps,
            "loss": thinned(self.losses),
            "validation": [
                [step, rounded(value)] for step, value in self.validation if math.isfinite(value)
            ],
            "samples": list(self.samples),
            "seconds_left": self.seconds_left,
            "running": self.running,
            "stopping": self.stopping,
            "note": self.note,
        }


def thinned(losses: Sequence[float], points: int = _POINTS) -> list[list[float]]:
    """(step, running mean) at evenly spread steps, the last one among them."""
    means = running_mean(losses)
    apart = max(1, -(-len(means) // points))
    places = range((len(means) - 1) % apart, len(means), apart) if means else ()
    return [[place + 1, rounded(means[place])] for place in places]


def rounded(value: float) -> float:
    """Five digits: more are noise, and make messages long."""
    return float(f"{value:.5g}")
