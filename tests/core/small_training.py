"""A training of seconds in plain torch: a tiny network with branches, and data that are functions of the step."""

from __future__ import annotations

import sys
from dataclasses import replace
from pathlib import Path

import torch
from torch.nn import Conv2d, Linear

from lora_core.train.adapters import (
    Branch,
    attached,
    new_branches,
    parameters_of,
    state_dict_of,
    trainable_layers,
)
from lora_core.train.loop import TrainBatch, train
from lora_core.train.objective import NoiseLevels
from lora_core.train.settings import TrainSettings
from lora_core.train.state import load_latest, save_state

SETTINGS = TrainSettings(steps=24, rate=1e-2, rank=3, alpha=3.0, save_every=1, seed=5)
LEVELS = NoiseLevels("eps", torch.linspace(0.05, 8.0, 1000))


class Tiny(torch.nn.Module):
    """(batch, 2, 4, 4), sigma, (batch, 3) -> an answer of the latents' shape; no mixing over the batch."""

    def __init__(self) -> None:
        super().__init__()
        generator = torch.Generator().manual_seed(0)
        with torch.random.fork_rng():
            self.first, self.last = Conv2d(2, 6, 3, padding=1), Conv2d(6, 2, 1)
            self.words = Linear(4, 6)
        for parameter in self.parameters():
            parameter.data = torch.randn(parameter.shape, generator=generator) * 0.3
            parameter.requires_grad_(False)

    def forward(self, x, sigmas, context):
        told = self.words(torch.cat([context, sigmas[:, None].log()], dim=1))
        scaled = x / (1 + sigmas.view(-1, 1, 1, 1) ** 2).sqrt()
        return self.last(torch.tanh(self.first(scaled) + told[:, :, None, None]))


def batch(*numbers: int) -> TrainBatch:
    """The samples of these numbers."""
    made = []
    for number in numbers:
        generator = torch.Generator().manual_seed(number)
        made.append(
            (torch.randn(2, 4, 4, generator=generator), torch.randn(3, generator=generator))
        )
    return TrainBatch(
        torch.stack([one for one, _ in made]),
        torch.stack([words for _, words in made]),
        torch.ones(len(numbers)),
        tuple((number,) for number in numbers),
    )


def branches_of(network: Tiny, settings: TrainSettings = SETTINGS) -> list[Branch]:
    return new_branches(trainable_layers(network), settings.rank, settings.alpha, settings.seed)


def batch_at(step: int) -> TrainBatch:
    return batch(2 * step % 8, (2 * step + 1) % 8)


def run(folder: Path | None, settings: TrainSettings = SETTINGS, pace=None, **options):
    """All reports of a run that goes on from what it finds in the folder; and the branches."""
    network = Tiny()
    branches = branches_of(network, settings)
    state = None if folder is None else load_latest(folder, "job")
    if folder is not None:
        options["save"] = lambda state: save_state(state, folder, "job", settings.keep)
    options = {"batch_at": batch_at, "validation": [batch(100, 101)], **options}
    reports = []
    with attached(network, branches):
        for report in train(
            network,
            parameters=parameters_of(branches),
            levels=LEVELS,
            settings=settings,
            state=state,
            **options,
        ):
            reports.append(report)
            if pace:
                pace()
    return reports, branches


def result_bytes(reports, branches) -> bytes:
    import safetensors.torch

    return safetensors.torch.save(state_dict_of(branches, reports[-1].weights))


if __name__ == "__main__":
    torch.set_num_threads(1)
    where = Path(sys.argv[1])
    sys.stdout.write("begun\n")
    sys.stdout.flush()
    done = run(where / "states", replace(SETTINGS, steps=int(sys.argv[2])))
    (where / "result").write_bytes(result_bytes(*done))
