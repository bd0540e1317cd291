"""Runs a training to its end: the node's bar, the page's events, the log, the sample pictures."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

import torch

from ..train.chart import loss_chart
from ..train.curve import Curve
from ..train.log import Write
from ..train.loop import StepReport
from .progress import progress_of
from .training_room import Room
from .training_samples import Sampler
from .watching import Teller

# How often in a run the chart is drawn into the node.
_CHARTS = 20


@dataclass(frozen=True, eq=False)
class Listeners:
    """Who is told of each step, and who makes pictures. stopping: whether a person ends the training early."""

    curve: Curve
    teller: Teller
    note: Write
    sampler: Sampler | None
    room: Room
    stopping: Callable[[], bool]


@dataclass
class Followed:
    """What a run came to. weights: what is to be saved. notes: in words, what happened. stopped: by the person."""

    weights: tuple[torch.Tensor, ...] = ()
    notes: list[str] = field(default_factory=list)
    stopped: bool = False


def followed(steps: Iterator[StepReport], to: Listeners) -> Followed:
    """Until the last report. Raises what the training raises, the host's interrupt among it."""
    told, curve = Followed(), to.curve
    advance = progress_of(curve.steps)
    _sample(to, 0, None)
    for report in steps:
        to.note(report)
        if report.note:
            told.notes.append(report.note)
            to.teller.say(report.note)
        if report.is_last:
            told.weights = report.weights or ()
            told.stopped = to.stopping() and report.step < curve.steps
            return told
        if report.note:
            curve.back_to(report.step)
            continue
        curve.losses.append(report.loss)
        if report.validation is not None:
            curve.validation.append((report.step, report.validation))
        to.teller.step(report.loss, report.validation)
        show = report.step % max(1, curve.steps // _CHARTS) == 0
        chart = loss_chart(curve.losses, curve.validation, curve.steps) if show else None
        advance(report.step, chart)
        if report.weights is not None:
            _sample(to, report.step, report.weights)
    return told


def last_of(steps: Iterator[StepReport], curve: Curve) -> Followed:
    """Until the last report, with nobody told of any: for all ranks but the first."""
    told = Followed()
    for report in steps:
        if report.is_last:
            told.weights = report.weights or ()
        elif report.note:
            curve.back_to(report.step)
        else:
            curve.losses.append(report.loss)
    return told


def _sample(to: Listeners, step: int, weights: tuple[torch.Tensor, ...] | None) -> None:
    if to.sampler is None or not to.sampler.prompts:
        return
    with to.room.left():
        made = to.sampler.base() if weights is None else to.sampler.of(step, weights)
    if made is not None:
        to.curve.samples.append(made)
        to.teller.show(made)
