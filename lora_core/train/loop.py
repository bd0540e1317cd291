"""The training loop: a generator that knows neither host nor files. It yields a report for each optimizer step."""

from __future__ import annotations

import math
from collections.abc import Callable, Generator, Sequence
from dataclasses import dataclass
from typing import Any

import torch

from . import judging
from .objective import (
    NoiseLevels,
    drawn,
    level_weights,
    losses,
    noised,
    target_of,
)
from .ranks import Ranks
from .run import Run, begin, holding
from .settings import TrainSettings
from .state import RunState

# (noisy latents, sigmas (batch,), conditioning) -> the network's own answer, of the latents' shape.
Predict = Callable[[torch.Tensor, torch.Tensor, Any], torch.Tensor]
Save = Callable[[RunState], object]

# Positions of the validation loss, from little to much noise.
QUANTILES = (0.1, 0.3, 0.5, 0.7, 0.9)
# A loss this many times above the highest of the first steps is no longer noise of the draw.
_EXPLODED, _FIRST = 10.0, 20


@dataclass(frozen=True, eq=False)
class TrainBatch:
    """Pictures to learn from at once. latents: (batch, channels, ...) float32. conditioning: as predict wants it.

    weights: (batch,) of the losses. masks: (batch, 1, ...) or None. keys: of each sample, counters that its noise and
    timestep are drawn by, so that a sample's draw does not depend on the batch it is in. preserved: whether the sample
    teaches the network to answer as it did before step 1; empty for none. of: samples of the whole batch that this is
    one rank's share of; 0 where it is the whole. compared: ask what the network answered before step 1 though none is
    preserved here: another rank asks for it, and a network in pieces answers all at once or none.
    """

    latents: torch.Tensor
    conditioning: Any
    weights: torch.Tensor
    keys: tuple[tuple[int | str, ...], ...]
    masks: torch.Tensor | None = None
    preserved: tuple[bool, ...] = ()
    of: int = 0
    compared: bool = False


# The batch of a micro-step, counted from 0 over the whole run; None for a rank that has no share in it.
BatchAt = Callable[[int], TrainBatch | None]


@dataclass(frozen=True, eq=False)
class StepReport:
    """After an optimizer step. step: steps done. norm: of the gradient before clipping. validation: None where not due.

    note: what happened besides, in words. weights: in the parameters' order, where sample pictures are due; and at the
    very end (is_last) what is to be saved.
    """

    step: int
    steps: int
    loss: float
    rate: float = 0.0
    norm: float = 0.0
    validation: float | None = None
    note: str = ""
    weights: tuple[torch.Tensor, ...] | None = None
    is_last: bool = False


def train(
    predict: Predict,
    batch_at: BatchAt,
    parameters: Sequence[torch.nn.Parameter],
    levels: NoiseLevels,
    settings: TrainSettings,
    validation: Sequence[TrainBatch] = (),
    state: RunState | None = None,
    save: Save = lambda state: None,
    rates: Sequence[float] = (),
    stop: Callable[[], bool] = lambda: False,
    ranks: Ranks | None = None,
) -> Generator[StepReport, None, None]:
    """Train the parameters in place; a report for each step, the last with the weights to keep.

    batch_at: the batch of a micro-step, counted from 0 over the whole run. state: to go on from. save: is handed the
    whole state every settings.saving_steps, and when the generator is closed, interrupted or fails between two.
    rates: of each parameter, its share of the settings' rate; empty for 1. stop: asked after each step; when it
    says so the state is saved and the run ends with what it has. ranks: those that train together, each calling this
    with its share of every batch, all of the validation, and the rest alike; None for one alone.
    A loss that is not a number or explodes: back to the last saved state at half the rate, once; then it stops there.
    Raises TrainError, and what predict and batch_at raise. Close the generator (contextlib.closing) when leaving early.
    """
    run, ranks = begin(parameters, rates, settings, state), ranks or Ranks()
    good = run.state()
    try:
        while run.step < settings.steps and not judging.is_past_best(run.validation, settings):
            loss, norm = _gradients(run, predict, batch_at, levels, settings, ranks)
            if _is_bad(loss, norm, run.losses):
                again = run.factor == 1.0
                note = _bad_note(run.step, good.step, loss, again)
                run.restore(good)
                run.factor *= 0.5
                if not again:
                    yield _last(run, settings, note)
                    return
                good = run.state()
                yield StepReport(run.step, settings.steps, loss, note=note)
                continue
            rate = run.update(settings, loss)
            found = _validated(run, predict, validation, levels, settings, ranks)
            stopped = stop() and run.step < settings.steps
            if stopped or run.step % settings.saving_steps == 0 or run.step == settings.steps:
                good = run.state()
                save(good)
            yield StepReport(
                run.step, settings.steps, loss, rate, norm, found, weights=_due(run, settings)
            )
            if stopped:
                yield _last(
                    run, settings, f"stopped at step {run.step} of {settings.steps} on your wish"
                )
                return
        yield _last(run, settings, judging.stop_note(run.validation, run.step, settings))
    finally:
        if good.step < run.step and not run.updating:
            save(run.state())


def _validated(
    run: Run,
    predict: Predict,
    batches: Sequence[TrainBatch],
    levels: NoiseLevels,
    settings: TrainSettings,
    ranks: Ranks,
) -> float | None:
    """The validation loss where it is due; the weights of the lowest are remembered."""
    step = run.step
    if not batches or (step % settings.validation_steps and step != settings.steps):
        return None
    found = validation_loss(run, predict, batches, levels, settings, ranks)
    if all(found < value for _, value in run.validation):
        run.best = [value.detach().clone() for value in run.kept()]
    run.validation.append((step, found))
    return found


def _due(run: Run, settings: TrainSettings) -> tuple[torch.Tensor, ...] | None:
    """The weights for sample pictures, where they are due."""
    due = settings.samples.is_due(run.step, settings.steps)
    return tuple(value.detach().clone() for value in run.kept()) if due else None


def _gradients(
    run: Run,
    predict: Predict,
    batch_at: BatchAt,
    levels: NoiseLevels,
    settings: TrainSettings,
    ranks: Ranks,
) -> tuple[float, float]:
    """Gradients of one step over all ranks; returns the mean loss and the norm before clipping."""
    for parameter in run.parameters:
        parameter.grad = None
    total = 0.0

    def before(*asked: Any) -> torch.Tensor:
        with holding(run.parameters, run.first):
            return predict(*asked)

    for part in range(settings.accumulate):
        batch = batch_at(run.step * settings.accumulate + part)
        if batch is None:
            continue
        found = batch_loss(predict, batch, levels, settings, before=before)
        loss = found.sum() / (batch.of or len(found))
        (loss / settings.accumulate).backward()
        total += float(loss.detach()) / settings.accumulate
    total = ranks.summed(run.parameters, total)
    norm = torch.nn.utils.clip_grad_norm_(run.parameters, settings.clip or math.inf)
    return total, float(norm)


def batch_loss(
    predict: Predict,
    batch: TrainBatch,
    levels: NoiseLevels,
    settings: TrainSettings,
    position: float | None = None,
    before: Predict | None = None,
) -> torch.Tensor:
    """Loss of each sample of a batch (batch,). position: the noise level for all instead of each one's own draw.

    before: predict as it was before step 1, for batches with preserved samples.
    """
    wish, like = settings.objective, batch.latents
    noise, sigmas = drawn(wish, levels, like, settings.seed, batch.keys, position)
    weights = level_weights(levels, sigmas, wish) * batch.weights.to(like.device)
    noisy = noised(levels, like, noise, sigmas)
    target = target_of(levels, like, noise, sigmas)
    if before is not None and (batch.compared or any(batch.preserved)):
        preserved = batch.preserved or (False,) * len(batch.keys)
        chosen = torch.tensor(preserved, device=like.device)
        asked = before(noisy, sigmas, batch.conditioning)
        target = torch.where(chosen.view(-1, *[1] * (like.ndim - 1)), asked, target)
    answer = predict(noisy, sigmas, batch.conditioning)
    huber = wish.huber if wish.loss == "huber" else None
    return losses(answer, target, weights, batch.masks, huber)


@torch.no_grad()
def validation_loss(
    run: Run,
    predict: Predict,
    batches: Sequence[TrainBatch],
    levels: NoiseLevels,
    settings: TrainSettings,
    ranks: Ranks,
) -> float:
    """Mean loss over the held-out pictures at fixed noise and fixed positions, with the weights that would be saved.

    Each rank measures its share of them; all of them where the network is in pieces.
    """
    mine = batches if ranks.in_step else batches[ranks.rank :: ranks.world]
    with holding(run.parameters, run.kept()):
        found = [
            batch_loss(predict, batch, levels, settings, position)
            for batch in mine
            for position in QUANTILES
        ]
        nothing = batches[0].latents.new_zeros(0)
        return ranks.mean(torch.cat(found) if found else nothing)


def _is_bad(loss: float, norm: float, before: Sequence[float]) -> bool:
    if not (math.isfinite(loss) and math.isfinite(norm)):
        return True
    return len(before) >= _FIRST and loss > _EXPLODED * max(before[:_FIRST])


def _bad_note(step: int, good: int, loss: float, again: bool) -> str:
    what = "is not a number" if not math.isfinite(loss) else f"exploded to {loss:.3g}"
    then = "goes on from there at half the rate" if again else "stops there, for the second time"
    way = "" if again else ". Lower the learning rate"
    return f"step {step + 1}: the loss {what}; training is back at step {good} and {then}{way}."


def _last(run: Run, settings: TrainSettings, note: str = "") -> StepReport:
    """The end, with the weights to keep: those of the best validation where the last are clearly worse."""
    found = run.kept()
    if run.best and settings.keep_best:
        place, said = judging.better_step(run.validation)
        if place:
            found, note = run.best, "; ".join(filter(None, (note, said)))
    weights = tuple(value.detach().cpu().clone() for value in found)
    loss = run.losses[-1] if run.losses else math.nan
    return StepReport(run.step, settings.steps, loss, note=note, weights=weights, is_last=True)
