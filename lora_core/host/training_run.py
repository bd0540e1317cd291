"""One training from its first step to its last, wherever it runs: in the graph, or as a rank of a job."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, closing, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import comfy.model_management
import torch

from ..errors import TrainError
from ..train import adapters
from ..train.blocks import wrapped_blocks
from ..train.branches import UP
from ..train.curve import Curve
from ..train.estimate import Estimate, in_words, measured
from ..train.log import training_log
from ..train.loop import BatchAt, Predict, StepReport, TrainBatch, train
from ..train.ranks import Ranks
from ..train.settings import TrainSettings
from ..train.state import RunState, save_state
from .training_branches import Branches, attached
from .training_follow import Followed, Listeners, followed, last_of
from .training_model import noise_levels, ready
from .training_room import opened
from .training_samples import Sampler
from .watching import Teller

_OUT_OF_MEMORY = (
    "Out of memory after step {step}; the state is saved. Switch checkpointing on in Loom Train Settings (the run then goes "
    "on from its state), or lower batch_size, rank or the dataset's resolution and train anew."
)
Wrap = Callable[[Iterator[StepReport]], Iterator[StepReport]]


@dataclass(frozen=True, eq=False)
class Parts:
    """What a training is made of. clip: None where no text encoder learns. folder, key: of its states.

    trial: what a step is measured on. pictures, steps_per_epoch: of the data, in words. state: to go on from.
    sampler: makes the sample pictures; None for a rank that makes none. around: sees the reports on their way.
    load: makes the model ready to be opened.
    """

    model: Any
    clip: Any
    branches: Branches
    settings: TrainSettings
    batches: BatchAt
    trial: TrainBatch
    validation: Sequence[TrainBatch]
    pictures: int
    steps_per_epoch: int
    folder: Path
    key: str
    state: RunState | None
    sampler: Sampler | None
    stop: Callable[[], bool]
    load: Callable[[], None]
    ranks: Ranks = field(default_factory=Ranks)
    around: Wrap = lambda steps: steps
    predict: Callable[[Predict], Predict] = lambda predict: predict


def run_to_end(parts: Parts, curve: Curve, teller: Teller) -> tuple[Followed, str]:
    """Train; what came of it and what was said at its beginning. Called outside of inference mode, with gradients.

    Rank 0 alone writes states and log, and makes pictures. Raises TrainError, LoraFileError, the host's interrupt.
    """
    settings, ranks = parts.settings, parts.ranks
    first = parts.state.step if parts.state else 0
    levels = noise_levels(parts.model.model.model_sampling)
    parameters = adapters.parameters_of(parts.branches.all)
    curve.begin_with(parts.state.facts if parts.state else {})
    with ExitStack() as within:
        room = within.enter_context(opened(lambda: _acting(parts)))
        network = parts.model.model.diffusion_model
        estimate = measured(room.predict, parts.trial, levels, settings, parameters, network)
        said = _beginning(parts, first, estimate)
        steps = train(
            room.predict,
            parts.batches,
            parameters,
            levels,
            settings,
            parts.validation,
            parts.state,
            _saving(parts),
            rates=rates_of(parts.branches.all, settings.plus_ratio),
            stop=parts.stop,
            ranks=ranks,
        )
        within.enter_context(closing(steps))
        try:
            if ranks.rank:
                return last_of(parts.around(steps), curve), said
            teller.say(said)
            note = within.enter_context(training_log(parts.folder, first))
            to = Listeners(curve, teller, note, parts.sampler, room, parts.stop)
            return followed(parts.around(steps), to), said
        except comfy.model_management.OOM_EXCEPTION as error:
            raise TrainError(_OUT_OF_MEMORY.format(step=len(curve.losses))) from error


def _saving(parts: Parts) -> Callable[[RunState], object]:
    if parts.ranks.rank:
        return lambda state: None
    return lambda state: save_state(state, parts.folder, parts.key, parts.settings.keep)


@contextmanager
def _acting(parts: Parts) -> Iterator[Predict]:
    """Model and CLIP with gradients and with the branches on them, within the block."""
    settings, network = parts.settings, parts.model.model.diffusion_model
    parts.load()
    with (
        ready(parts.model, parts.clip, settings) as predict,
        attached(parts.model, parts.clip, parts.branches),
        wrapped_blocks(network, settings.checkpointing, settings.compile),
    ):
        yield parts.predict(predict)


def load_whole(model: Any, clip: Any) -> None:
    """Model and, where it learns, CLIP onto the device. In the host's own mode: it changes weights in place, which
    ordinary mode refuses.
    """
    with torch.inference_mode():
        loaded = [model] if clip is None else [model, clip.patcher]
        comfy.model_management.load_models_gpu(loaded)


def rates_of(branches: Sequence[adapters.Branch], plus_ratio: float) -> list[float]:
    """Each branch's own; by LoRA+ the up matrices learn faster than the down ones."""
    return [
        branch.rate * (plus_ratio if name == UP else 1.0)
        for branch in branches
        for name in branch.factors
    ]


def _beginning(parts: Parts, first: int, estimate: Estimate) -> str:
    settings, branches = parts.settings, parts.branches.all
    parameters = adapters.parameters_of(branches)
    count = sum(p.numel() for p in parameters)
    base = sum(p.numel() for p in parts.model.model.diffusion_model.parameters())
    epochs = settings.steps * settings.accumulate / parts.steps_per_epoch
    others = f"{settings.preserve:.0%}" if settings.preserve else "none"
    went_on = f", resumed at step {first}" if first else ""
    return (
        f"{len(branches)} layers, {count:,} trainable parameters ({100 * count / base:.2f} % of the base), "
        f"{4 * count / 1e6:.1f} MB; {settings.steps} steps at a rate of {settings.rate:.2g}, {epochs:.1f} epochs of "
        f"{parts.pictures} pictures{went_on}, {others} of the showings to preserve other prompts; "
        + in_words(estimate, settings, settings.steps - first, parameters)
    )
