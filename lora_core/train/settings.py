"""How long, how fast and what to train."""

from __future__ import annotations

import math
from dataclasses import dataclass, field, replace

from ..errors import TrainError
from .branches import FAMILIES
from .choosing import PARTS
from .objective import Objective
from .optimizers import OPTIMIZERS

SCHEDULES = ("cosine", "linear", "constant")


@dataclass(frozen=True)
class SampleWish:
    """Pictures while it trains, at fixed seeds, with and without the LoRA. They change nothing of what is learned.

    every: steps between two; 0 for a quarter of all, -1 for none. prompts: one a line; "" for a caption as it is taught
    and the same without the trigger. steps, cfg: of the host's sampler; cfg 0 for what suits the family.
    """

    every: int = 0
    prompts: str = ""
    steps: int = 20
    cfg: float = 0.0

    def is_due(self, step: int, of: int) -> bool:
        apart = self.every or max(1, of // 4)
        return apart > 0 and (step % apart == 0 or step == of)


@dataclass(frozen=True)
class TrainSettings:
    """All that decides the outcome besides model and data. Checked on creation: raises TrainError.

    steps: optimizer steps. rate: the highest learning rate; 0 for what suits the model, see suited.py. batch_size: pictures at once; accumulate: batches a step.
    rank, alpha: of each branch, scale alpha / rank. parts, pattern: see adapters.chosen_layers.
    schedule: of SCHEDULES; warmup: share of the steps in which the rate rises. weight_decay: AdamW's.
    clip: highest norm of the gradient, 0 for none. ema: decay of the moving average that is saved, 0 for none.
    family: of FAMILIES; kron_block: LoKr's smaller side at most, 0 for square. ranks: see choosing.ranks_of; blocks: see
    choosing.in_blocks. text_rate: the text encoders' share of the rate, 0 to leave them alone.
    validate_every, save_every: steps; 0 for a tenth of all. keep: how many states are kept. seed: decides all draws.
    optimizer: of OPTIMIZERS. plus_ratio: LoRA+: the rate of the up matrices over the down ones' (Hayou et al. 2024).
    preserve: share of the samples that teach to leave other prompts as they are, 0 to 0.9: see preserve.py.
    keep_best: give the weights of the lowest validation loss where the last are clearly worse. patience: measurements
    without a lower one before the run ends, 0 for never. checkpointing: compute each block again in backward instead of
    keeping its insides. compile: let torch compile each block. samples: pictures while it trains.
    """

    steps: int = 1500
    rate: float = 0.0
    batch_size: int = 1
    accumulate: int = 1
    rank: int = 16
    alpha: float = 16.0
    parts: str = PARTS[1]
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
    optimizer: str = "AdamW"
    plus_ratio: float = 1.0
    preserve: float = 0.5
    keep_best: bool = True
    patience: int = 0
    checkpointing: bool = False
    compile: bool = False
    samples: SampleWish = field(default_factory=SampleWish)
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
            ("plus_ratio", 0.01, 1000.0),
            ("preserve", 0.0, 0.9),
            ("patience", 0, 1000),
        ):
            value = getattr(self, name)
            if not low <= value <= high:
                raise TrainError(f"{name} is {value!r}; it must be from {low:g} to {high:g}.")
        if not self.alpha:
            raise TrainError("alpha must be above 0; nothing would be learned.")
        _among("schedule", self.schedule, SCHEDULES)
        _among("parts", self.parts, PARTS)
        _among("optimizer", self.optimizer, tuple(OPTIMIZERS))
        _among("family", self.family, tuple(FAMILIES))

    @property
    def deciding(self) -> TrainSettings:
        """The settings without those that change nothing of the outcome."""
        return replace(self, keep=2, samples=SampleWish(), checkpointing=False)

    @property
    def validation_steps(self) -> int:
        return self.validate_every or max(1, self.steps // 10)

    @property
    def saving_steps(self) -> int:
        return self.save_every or max(1, self.steps // 10)


def rate_at(settings: TrainSettings, step: int) -> float:
    """The learning rate of a step, counted from 0: a linear warm-up, then the schedule down to 0 (or constant).

    Raises TrainError where the settings leave it to the model.
    """
    if not settings.rate:
        raise TrainError("The learning rate is 0; suited.suited finds one for the model.")
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
