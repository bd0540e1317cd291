"""When to stop, which weights to keep, and what the curves say, from the validation loss."""

from __future__ import annotations

from collections.abc import Sequence

from .chart import running_mean
from .settings import TrainSettings

Measured = Sequence[tuple[int, float]]

# By how much of itself the last validation loss must be above the lowest before that one's weights are kept instead.
_CLEARLY = 0.02
# From here on the pictures are being learned by heart.
_OVERFIT = 0.05


def is_past_best(validation: Measured, settings: TrainSettings) -> bool:
    """Whether the loss did not fall below its lowest for so many measurements as settings.patience says."""
    return bool(settings.patience) and _since_best(validation) >= settings.patience


def stop_note(validation: Measured, step: int, settings: TrainSettings) -> str:
    """Why a run ended before its last step; "" where it did not."""
    if step >= settings.steps or not is_past_best(validation, settings):
        return ""
    return (
        f"stopped at step {step} of {settings.steps}: the validation loss was lowest at step {_best(validation)[0]} and "
        f"did not fall for {settings.patience} measurements"
    )


def better_step(validation: Measured) -> tuple[int, str]:
    """(step whose weights are clearly better than the last, what to say of it); (0, "") where the last are as good."""
    if not validation:
        return 0, ""
    step, lowest = _best(validation)
    last = validation[-1][1]
    if last <= lowest * (1 + _CLEARLY):
        return 0, ""
    said = f"kept are the weights of step {step}, whose validation loss {lowest:.4f} is below the last one's {last:.4f}"
    return step, said


def warning(losses: Sequence[float], validation: Measured) -> str:
    """In plain words, where the run learned its pictures by heart; "" where not."""
    if len(validation) < 3 or not losses:
        return ""
    step, lowest = _best(validation)
    last = validation[-1][1]
    means = running_mean(losses)
    if last <= lowest * (1 + _OVERFIT) or means[-1] >= means[min(step, len(means)) - 1]:
        return ""
    return (
        f"Overfit: since step {step} the loss on the training pictures fell on, but on the held-out ones it rose from "
        f"{lowest:.4f} to {last:.4f}. It learns these pictures by heart. About {step} steps are enough; more or more "
        "different pictures, a lower rank or a lower rate help too."
    )


def _best(validation: Measured) -> tuple[int, float]:
    return min(validation, key=lambda each: (each[1], each[0]))


def _since_best(validation: Measured) -> int:
    """Measurements after the lowest one."""
    if not validation:
        return 0
    best = _best(validation)[0]
    return sum(1 for step, _ in validation if step > best)
