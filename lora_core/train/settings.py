"""How long, how fast and what to train."""

from __future__ import annotations

import math
from dataclasses import dataclass, field

from ..errors import TrainError
from .branches import FAMILIES
from .choosing import PARTS
from .objective import Objective

SCHEDULES = ("cosine", "linear", "constant")


@dataclass(frozen=True)
class TrainSettings:
    """All that decides the outcome besides model and data. Checked on creation: raises TrainError.

    steps: optimizer steps. rate: the highest learning rate. batch_size: pictures at once; accumulate: batches a step.
    rank, alpha: of each branch, scale alpha / rank. parts, pattern: see adapters.chosen_layers.
    schedule: of SCHEDULES; warmup: share of the steps in which the rate rises. weight_decay: AdamW's.
    clip: highest norm of the gradient, 0 for none. ema: decay of the moving average that is saved, 0 for none.
    family: of FAMILIES; kron_block: LoKr's smaller side at most, 0 for square. ranks: see choosing.ranks_of; blocks: see
    choosing.in_blocks. text_rate: the text encoders' share of the rate, 0 to leave them alone.
    validate_every, save_every: steps; 0 for a tenth of all. keep: how many states are kept. seed: decides all draws.
    """

    steps: int = 1500
    rate: float = 1e-4
    batch_size: int = 1
    accumulate: int = 1
    rank: int = 16
    alpha: float = 16.0
    parts: str = PARTS[0]
    pattern: str = ""
    schedule: str = SCHEDULES[0]
    warmup: float = 0.05
    weight_decay: float = 0.01
    clip: float = 1.0
    ema: float = 0.99
    validate_every: int = 0
    save_every: int = 0
    keep: int = 2
    seed: int = 0
    family: str = "LoRA"
    kron_block: int = 8
    ranks: str = ""
    blocks: str = ""
    text_rate: float = 0.0
    objective: Objective = field(default_factory=Objective)

    def __post_init__(self) -> None:
        for name, low, high in (
            ("steps", 1, 10_000_000),
            ("batch_size", 1, 4096),
            ("accumulate", 1, 4096),
            ("rank", 1, 4096),
            ("keep", 1, 1000),
            ("kron_block", 0, 4096),
            ("text_rate", 0.0, 10.0),
            ("validate_every", 0, 10_000_000),
            ("save_every", 0, 10_000_000),
            ("rate", 0.0, 10.0),
            ("alpha", 0.0, 1e6),
            ("warmup", 0.0, 1.0),
            ("weight_decay", 0.0, 10.0),
            ("clip", 0.0, 1e6),
            ("ema", 0.0, 0.99999),
        ):
            value = getattr(self, name)
            if not low <= value <= high:
                raise TrainError(f"{name} is {value!r}; it must be from {low:g} to {high:g}.")
        if not self.rate or not self.alpha:
            raise TrainError("rate and alpha must be above 0; nothing would be learned.")
        _among("schedule", self.schedule, SCHEDULES)
        _among("parts", self.parts, PARTS)
        _among("family", self.family, tuple(FAMILIES))

    @property
    def validation_steps(self) -> int:
        return self.validate_every or max(1, self.steps // 10)

    @property
    def saving_steps(self) -> int:
        return self.save_every or max(1, self.steps // 10)


def rate_at(settings: TrainSettings, step: int) -> float:
    """The learning rate of a step, counted from 0: a linear warm-up, then the schedule down to 0 (or constant)."""
    rising = round(settings.warmup * settings.steps)
    if step < rising:
        return settings.rate * (step + 1) / rising
    done = (step - rising) / max(1, settings.steps - rising)
    if settings.schedule == "constant":
        return settings.rate
    if settings.schedule == "linear":
        return settings.rate * (1 - done)
    return settings.rate * 0.5 * (1 + math.cos(math.pi * done))


def _among(name: str, value: str, choices: tuple[str, ...]) -> None:
    if value not in choices:
        raise TrainError(f"{name} is {value!r}; choose one of {', '.join(choices)}.")
