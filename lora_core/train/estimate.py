"""What a training will take, from one step that is thrown away."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch

from .loop import Predict, TrainBatch, batch_loss
from .objective import NoiseLevels
from .pieces import own_part
from .settings import TrainSettings

# Weights, gradients, two moments and the average of each parameter.
_COPIES = 5


@dataclass(frozen=True)
class Estimate:
    """seconds: of one micro-step, its first slow calls not counted. kept: bytes that backward keeps of one batch."""

    seconds: float
    kept: int


def measured(
    predict: Predict,
    batch: TrainBatch,
    levels: NoiseLevels,
    settings: TrainSettings,
    parameters: Sequence[torch.nn.Parameter],
    network: torch.nn.Module,
) -> Estimate:
    """Two forward and backward passes that leave nothing behind; the second is timed."""
    frozen = {own_part(p).untyped_storage().data_ptr() for p in network.parameters()}
    found: dict[int, int] = {}

    def note(tensor: torch.Tensor) -> torch.Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in frozen:
            found[storage.data_ptr()] = storage.nbytes()
        return tensor

    took = 0.0
    for _ in range(2):
        start = time.perf_counter()
        with torch.autograd.graph.saved_tensors_hooks(note, lambda tensor: tensor):
            loss = batch_loss(predict, batch, levels, settings).mean()
        loss.backward()
        float(loss.detach())  # waits for the device
        took = time.perf_counter() - start
    for parameter in parameters:
        parameter.grad = None
    return Estimate(took, sum(found.values()))


def in_words(
    estimate: Estimate, settings: TrainSettings, left: int, parameters: Sequence[Any]
) -> str:
    """left: steps to go."""
    # A preserved sample asks the network once more, without backward.
    seconds = estimate.seconds * (1 + settings.preserve / 3) * settings.accumulate * left
    own = _COPIES * sum(p.numel() * p.element_size() for p in parameters)
    return (
        f"about {duration(seconds)} ({seconds / max(1, left):.2g} s a step), and beside the model about "
        f"{(estimate.kept + own) / 1e6:.0f} MB: {estimate.kept / 1e6:.0f} for backward, {own / 1e6:.0f} for weights "
        "and optimizer"
    )


def duration(seconds: float) -> str:
    if seconds < 120:
        return f"{seconds:.0f} s"
    if seconds < 7200:
        return f"{seconds / 60:.0f} min"
    return f"{seconds / 3600:.1f} h"
