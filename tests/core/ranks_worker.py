"""What torchrun starts in test_train_ranks.py: the tiny training of small_training.py, by as many ranks as there are.

    ranks_worker.py FOLDER STEPS [die=RANK@STEP] [unlike] [refuse=RANK] [stop] [pieces]

The first argument is where states and results go. Nothing of the host is needed.
"""

from __future__ import annotations

import json
import os
import signal
import sys
from dataclasses import replace
from pathlib import Path

import safetensors.torch
import torch

from lora_core.errors import TrainError
from lora_core.train.adapters import attached, new_branches, parameters_of, trainable_layers
from lora_core.train.loop import TrainBatch, train
from lora_core.train.pieces import bytes_held, in_pieces, mesh_of, own_part
from lora_core.train.ranks import Ranks, digest_of, joined, leave
from lora_core.train.settings import TrainSettings
from lora_core.train.state import load_latest, save_state
from tests.core.small_training import LEVELS, SETTINGS, Tiny, batch, branches_of

# Samples of a step, in micro-steps that are not all of one size, as the last batch of a bucket is.
GLOBAL = ((0, 1, 2, 3), (4, 5, 6))


def batches(ranks: Ranks):
    """A rank's share of a micro-step."""
    size = sum(map(len, GLOBAL))

    def at(number: int) -> TrainBatch | None:
        step, part = divmod(number, len(GLOBAL))
        first = step * size + sum(map(len, GLOBAL[:part]))
        mine = ranks.share(first, first + len(GLOBAL[part]))
        if not mine:
            return None
        return replace(batch(*(row % 12 for row in mine)), of=len(GLOBAL[part]))

    return at


def settings_of(steps: int) -> TrainSettings:
    return replace(SETTINGS, steps=steps, accumulate=len(GLOBAL), save_every=5, validate_every=5)


def main(folder: Path, steps: int, asked: dict[str, str]) -> None:
    settings = settings_of(steps)
    with joined(torch.device("cpu")) as ranks:
        if "unlike" in asked:
            try:
                ranks.refuse_unlike({"the pack's version": f"1.{ranks.rank}"})
            except TrainError as error:
                sys.stderr.write(f"rank {ranks.rank} hears: {error}\n")
        with ranks.told():
            if asked.get("refuse") == str(ranks.rank):
                raise TrainError("data-00002.safetensors is missing")
        network = Tiny()
        branches = branches_of(network, settings)
        parameters = parameters_of(branches)
        frozen = digest_of([p.data for p in network.parameters()])
        state = ranks.handed(load_latest(folder, "job") if ranks.rank == 0 else None)
        if "stop" in asked:
            ranks.wish = (folder / "stop").is_file
        sent, last = set(), None
        losses: list[tuple[int, float, float | None]] = []

        def save(kept):
            if ranks.rank == 0:
                save_state(kept, folder, "job", settings.keep)

        with attached(network, branches):
            for report in train(
                network,
                batches(ranks),
                parameters,
                LEVELS,
                settings,
                [batch(100, 101), batch(102), batch(103)],
                state,
                save,
                stop=lambda: ranks.stopping,
                ranks=ranks,
            ):
                last = report
                sent.add(ranks.sent)
                losses.append((report.step, report.loss, report.validation))
                ranks.refuse_apart(report.step, digest_of(parameters))
                first_time = os.environ.get("TORCHELASTIC_RESTART_COUNT") == "0"
                if asked.get("die") == f"{ranks.rank}@{report.step}" and first_time:
                    os.kill(os.getpid(), signal.SIGKILL)
                if "stop" in asked and report.step == 7 and ranks.rank == 0:
                    (folder / "stop").touch()
        alike = set(ranks.gathered(digest_of([p.data for p in network.parameters()])))
        assert last is not None
        if ranks.rank == 0:
            told = {
                "losses": losses[:-1],
                "sent": max(sent),
                "adapter": sum(p.numel() * p.element_size() for p in parameters),
                "frozen": sorted(alike | {frozen}),
                "began": state.step if state else 0,
                "note": last.note,
            }
            (folder / "told.json").write_text(json.dumps(told))
            weights = {str(n): each for n, each in enumerate(last.weights or ())}
            safetensors.torch.save_file(weights, folder / "result.safetensors")


class Blocks(torch.nn.Module):
    """Three blocks of two layers, as networks have them."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(1)
        made = [torch.nn.Sequential(torch.nn.Linear(8, 32), torch.nn.Linear(32, 8)) for _ in "123"]
        self.blocks, self.last = torch.nn.ModuleList(made), torch.nn.Linear(8, 8)
        self.requires_grad_(False)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        for block in self.blocks:
            for layer in block.children():  # as a host may, never the block itself
                x = torch.tanh(layer(x))
        return self.last(x)


def apart(one: torch.Tensor, other: torch.Tensor) -> float:
    """The largest difference, as a share of the largest number; infinite where there is none."""
    size = float(one.abs().max())
    return float((one - other).abs().max()) / size if size else float("inf")


def cut(folder: Path) -> None:
    """The answer and the adapter's gradients of a network in pieces, against those of the whole."""
    with joined(torch.device("cpu")) as ranks:
        whole, pieces = Blocks(), Blocks()
        in_pieces(pieces, mesh_of(torch.device("cpu"), ranks.world))
        branches = new_branches(trainable_layers(whole), 3, 3.0, 5)
        parameters = parameters_of(branches)
        torch.manual_seed(2)
        with torch.no_grad():
            for parameter in parameters:
                parameter.add_(torch.randn_like(parameter) * 0.1)
        before = digest_of([own_part(p.data) for p in pieces.parameters()])
        x, found = torch.randn(4, 8) * (1 + ranks.rank), []
        for network in (whole, pieces):
            with attached(network, branches):
                answer = network(x)
                gradients = torch.autograd.grad(answer.square().mean(), parameters)
            found.append([answer, *gradients])
        (answer, *gradients), (in_parts, *of_parts) = found
        told = {
            "answer": apart(answer.detach(), in_parts.detach()),
            "gradients": [apart(*pair) for pair in zip(gradients, of_parts, strict=True)],
            "share": bytes_held(pieces) / bytes_held(whole),
            "kept": before == digest_of([own_part(p.data) for p in pieces.parameters()]),
        }
        (folder / f"rank-{ranks.rank}.json").write_text(json.dumps(told))


if __name__ == "__main__":
    torch.set_num_threads(1)
    if "cut" in sys.argv:
        cut(Path(sys.argv[1]))
        leave(0)
    words = {word.partition("=")[0]: word.partition("=")[2] for word in sys.argv[3:]}
    try:
        main(Path(sys.argv[1]), int(sys.argv[2]), words)
    except TrainError as error:
        sys.exit(f"rank {os.environ.get('RANK', '0')} refuses: {error}")
    leave(0)
