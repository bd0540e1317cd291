"""The training loop: a generator that knows neither host nor files. It yields a report for each optimizer step."""

from __future__ import annotations

import math
from collections.abc import Callable, Generator, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch

from ..errors import TrainError
from .objective import (
    NoiseLevels,
    drawn,
    level_weights,
    losses,
    noised,
    target_of,
)
from .settings import TrainSettings, rate_at
from .state import RunState

# (noisy latents, sigmas (batch,), conditioning) -> the network's own answer, of the latents' shape.
Predict = Callable[[torch.Tensor, torch.Tensor, Any], torch.Tensor]
Save = Callable[[RunState], object]
# Called once a step on all parameters when their gradients are complete, before clipping: the place to average them
# over several machines.
Reduce = Callable[[Sequence[torch.nn.Parameter]], None]

# Positions of the validation loss, from little to much noise.
QUANTILES = (0.1, 0.3, 0.5, 0.7, 0.9)
# A loss this many times above the highest of the first steps is no longer noise of the draw.
_EXPLODED, _FIRST = 10.0, 20


@dataclass(frozen=True, eq=False)
class TrainBatch:
    """Pictures to learn from at once. latents: (batch, channels, ...) float32. conditioning: as predict wants it.

    weights: (batch,) of the losses. masks: (batch, 1, ...) or None. keys: of each sample, counters that its noise and
    timestep are drawn by, so that a sample's draw does not depend on the batch it is in.
    """

    latents: torch.Tensor
    conditioning: Any
    weights: torch.Tensor
    keys: tuple[tuple[int | str, ...], ...]
    masks: torch.Tensor | None = None


@dataclass(frozen=True, eq=False)
class StepReport:
    """After an optimizer step. step: steps done. norm: of the gradient before clipping. validation: None where not due.

    note: what happened besides, in words. weights: at the very end what is to be saved, in the parameters' order.
    """

    step: int
    steps: int
    loss: float
    rate: float = 0.0
    norm: float = 0.0
    validation: float | None = None
    note: str = ""
    weights: tuple[torch.Tensor, ...] | None = None


@dataclass
class _Run:
    """What changes from step to step."""

    parameters: list[torch.nn.Parameter]
    optimizer: torch.optim.Optimizer
    average: list[torch.Tensor]
    step: int = 0
    factor: float = 1.0
    losses: list[float] = field(default_factory=list)
    validation: list[tuple[int, float]] = field(default_factory=list)
    updating: bool = False

    def state(self) -> RunState:
        tensors = {f"parameter.{i}": p for i, p in enumerate(self.parameters)}
        tensors |= {f"average.{i}": a for i, a in enumerate(self.average)}
        for i, kept in self.optimizer.state_dict()["state"].items():
            tensors |= {f"optimizer.{i}.{name}": value for name, value in kept.items()}
        owned = {name: t.detach().cpu().clone() for name, t in tensors.items()}
        facts = {"factor": self.factor, "losses": list(self.losses)}
        return RunState(self.step, owned, {**facts, "validation": list(self.validation)})

    @torch.no_grad()
    def restore(self, state: RunState) -> None:
        """Raises TrainError where the state is of other parameters."""
        kept: dict[int, dict[str, torch.Tensor]] = {}
        for name, tensor in state.tensors.items():
            kind, number, *rest = name.split(".")
            if kind == "optimizer":
                kept.setdefault(int(number), {})[rest[0]] = tensor.clone()
                continue
            into = self.parameters if kind == "parameter" else self.average
            if int(number) >= len(into) or into[int(number)].shape != tensor.shape:
                raise TrainError(
                    "The saved state is of other layers or another rank than this run."
                )
            into[int(number)].copy_(tensor)
        groups = self.optimizer.state_dict()["param_groups"]
        self.optimizer.load_state_dict({"state": kept, "param_groups": groups})
        self.step, self.factor = state.step, state.facts["factor"]
        self.losses = list(state.facts["losses"])
        self.validation = [(step, value) for step, value in state.facts["validation"]]


def train(
    predict: Predict,
    batch_at: Callable[[int], TrainBatch],
    parameters: Sequence[torch.nn.Parameter],
    levels: NoiseLevels,
    settings: TrainSettings,
    validation: Sequence[TrainBatch] = (),
    state: RunState | None = None,
    save: Save = lambda state: None,
    reduce: Reduce = lambda parameters: None,
    rates: Sequence[float] = (),
) -> Generator[StepReport, None, None]:
    """Train the parameters in place; a report for each step, the last with the weights to keep.

    batch_at: the batch of a micro-step, counted from 0 over the whole run. state: to go on from. save: is handed the
    whole state every settings.saving_steps, and when the generator is closed, interrupted or fails between two.
    rates: the share of the learning rate for each parameter; nothing: 1 for all.
    A loss that is not a number or explodes: back to the last saved state at half the rate, once; then it stops there.
    Raises TrainError, and what predict and batch_at raise. Close the generator (contextlib.closing) when leaving early.
    """
    run = _begin(parameters, settings, state, rates)
    good = run.state()
    try:
        while run.step < settings.steps:
            loss, norm = _gradients(run, predict, batch_at, levels, settings, reduce)
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
            rate = _update(run, settings, loss)
            found = None
            if validation and (
                run.step % settings.validation_steps == 0 or run.step == settings.steps
            ):
                found = validation_loss(run, predict, validation, levels, settings)
                run.validation.append((run.step, found))
            if run.step % settings.saving_steps == 0 or run.step == settings.steps:
                good = run.state()
                save(good)
            yield StepReport(run.step, settings.steps, loss, rate, norm, found)
        yield _last(run, settings)
    finally:
        if good.step < run.step and not run.updating:
            save(run.state())


def _begin(
    parameters: Sequence[torch.nn.Parameter],
    settings: TrainSettings,
    state: RunState | None,
    rates: Sequence[float],
) -> _Run:
    shares = rates or [1.0] * len(parameters)
    optimizer = torch.optim.AdamW(
        [
            {"params": list(group), "share": share}
            for share, group in _by_share(parameters, shares).items()
        ],
        lr=settings.rate,
        betas=(0.9, 0.99),
        weight_decay=settings.weight_decay,
        fused=True,
    )
    average = [p.detach().clone() for p in parameters] if settings.ema else []
    run = _Run(list(parameters), optimizer, average)
    if state is not None:
        run.restore(state)
    return run


def _by_share(
    parameters: Sequence[torch.nn.Parameter], shares: Sequence[float]
) -> dict[float, list[torch.nn.Parameter]]:
    found: dict[float, list[torch.nn.Parameter]] = {}
    for parameter, share in zip(parameters, shares, strict=True):
        found.setdefault(share, []).append(parameter)
    return found


def _gradients(
    run: _Run,
    predict: Predict,
    batch_at: Callable[[int], TrainBatch],
    levels: NoiseLevels,
    settings: TrainSettings,
    reduce: Reduce,
) -> tuple[float, float]:
    """Gradients of one step; returns the mean loss and the norm before clipping."""
    run.optimizer.zero_grad(set_to_none=True)
    total = 0.0
    for part in range(settings.accumulate):
        batch = batch_at(run.step * settings.accumulate + part)
        loss = batch_loss(predict, batch, levels, settings).mean() / settings.accumulate
        loss.backward()
        total += float(loss.detach())
    reduce(run.parameters)
    norm = torch.nn.utils.clip_grad_norm_(run.parameters, settings.clip or math.inf)
    return total, float(norm)


def batch_loss(
    predict: Predict,
    batch: TrainBatch,
    levels: NoiseLevels,
    settings: TrainSettings,
    position: float | None = None,
) -> torch.Tensor:
    """Loss of each sample of a batch (batch,). position: the noise level for all instead of each one's own draw."""
    wish, like = settings.objective, batch.latents
    noise, sigmas = drawn(wish, levels, like, settings.seed, batch.keys, position)
    weights = level_weights(levels, sigmas, wish) * batch.weights.to(like.device)
    answer = predict(noised(levels, like, noise, sigmas), sigmas, batch.conditioning)
    huber = wish.huber if wish.loss == "huber" else None
    return losses(answer, target_of(levels, like, noise, sigmas), weights, batch.masks, huber)


@torch.no_grad()
def validation_loss(
    run: _Run,
    predict: Predict,
    batches: Sequence[TrainBatch],
    levels: NoiseLevels,
    settings: TrainSettings,
) -> float:
    """Mean loss over the held-out pictures at fixed noise and fixed positions, with the weights that would be saved."""
    kept = [p.detach().clone() for p in run.parameters]
    try:
        for parameter, value in zip(run.parameters, run.average or kept, strict=True):
            parameter.copy_(value)
        found = [
            batch_loss(predict, batch, levels, settings, position)
            for batch in batches
            for position in QUANTILES
        ]
        return float(torch.cat(found).mean())
    finally:
        for parameter, value in zip(run.parameters, kept, strict=True):
            parameter.copy_(value)


@torch.no_grad()
def _update(run: _Run, settings: TrainSettings, loss: float) -> float:
    """One optimizer step and the average; returns the rate."""
    rate = rate_at(settings, run.step) * run.factor
    for group in run.optimizer.param_groups:
        group["lr"] = rate * group["share"]
    run.updating = True
    run.optimizer.step()
    # The first steps weigh less than the decay says, or the average would stay near its beginning.
    decay = min(settings.ema, (1 + run.step) / (10 + run.step))
    for smooth, parameter in zip(run.average, run.parameters, strict=False):
        smooth.lerp_(parameter, 1 - decay)
    run.losses.append(loss)
    run.step += 1
    run.updating = False
    return rate


def _is_bad(loss: float, norm: float, before: Sequence[float]) -> bool:
    if not (math.isfinite(loss) and math.isfinite(norm)):
        return True
    return len(before) >= _FIRST and loss > _EXPLODED * max(before[:_FIRST])


def _bad_note(step: int, good: int, loss: float, again: bool) -> str:
    what = "is not a number" if not math.isfinite(loss) else f"exploded to {loss:.3g}"
    then = "goes on from there at half the rate" if again else "stops there, for the second time"
    way = "" if again else ". Lower the learning rate"
    return f"step {step + 1}: the loss {what}; training is back at step {good} and {then}{way}."


def _last(run: _Run, settings: TrainSettings, note: str = "") -> StepReport:
    weights = tuple(value.detach().cpu().clone() for value in run.average or run.parameters)
    loss = run.losses[-1] if run.losses else math.nan
    return StepReport(run.step, settings.steps, loss, note=note, weights=weights)
