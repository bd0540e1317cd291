"""bench ranks: one training by several processes of this machine, one thread each, against one process. Same batch a step.

Cases: `step b<batch> <n> ranks` (s, the median step; rival: one process), `sum b<batch> <n> ranks` (s, of it the sum of the
gradients; rival: the whole step), `sent` (MB a rank gives into a step's sum; rival: the adapter), `weights`, `memory` and
`loading in pieces` (MB of the rank with the most, with --deep blocks: of weights held, at the peak of a step, and at the peak
before the first, both over what the process had before the network; rival: the network whole on each rank), `estimate <n> GPUs`
(s, from the measured step of one picture and the adapter's bytes over links of --bandwidth; rival: the step of one). The network
is plain torch: --depth blocks of two Linears, --width wide, on 256 tokens; ranks talk over gloo. Needs no host.
"""

from __future__ import annotations

import argparse
import importlib
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from lora_core.train.adapters import attached, new_branches, parameters_of
from lora_core.train.choosing import trainable_layers
from lora_core.train.loop import TrainBatch, train
from lora_core.train.objective import NoiseLevels
from lora_core.train.pieces import bytes_held, in_pieces, mesh_of
from lora_core.train.ranks import Ranks, joined, leave
from lora_core.train.settings import TrainSettings
from tools.benching import BenchRow, publish, reset_resident_peak, resident_peak
from tools.devkit.environment import ROOT

TOKENS, LEVELS = 256, NoiseLevels("flow", torch.empty(0))
# Seconds of one hop of a message between two GPUs: what is usual, not measured here.
HOP = 25e-6


class Block(torch.nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.up, self.down = torch.nn.Linear(width, 4 * width), torch.nn.Linear(4 * width, width)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x + self.down(torch.nn.functional.gelu(self.up(x)))


class Network(torch.nn.Module):
    def __init__(self, width: int, depth: int) -> None:
        super().__init__()
        self.blocks = torch.nn.ModuleList(Block(width) for _ in range(depth))
        self.requires_grad_(False)

    def forward(self, noisy: torch.Tensor, sigmas: torch.Tensor, said: Any) -> torch.Tensor:
        x = noisy.flatten(2).transpose(1, 2)
        for block in self.blocks:
            x = block(x)
        return x.transpose(1, 2).reshape(noisy.shape).clone()


class Timed(Ranks):
    """Ranks that know how long their last sum took, without the wait for the slowest."""

    took = 0.0

    def summed(self, parameters: Any, loss: float) -> float:
        self.gathered(0)
        start = time.perf_counter()
        found = super().summed(parameters, loss)
        self.took = time.perf_counter() - start
        return found


def child(options: argparse.Namespace) -> None:
    """One rank: trains a few steps and tells what they took."""
    torch.set_num_threads(1)
    torch.manual_seed(0)
    # What pieces need is large, and is not what a network takes.
    importlib.import_module("torch.distributed.fsdp")
    with joined(torch.device("cpu")) as found:
        ranks = Timed(found.rank, found.world, found.local, found.local_world)
        ranks.in_step = options.pieces and ranks.world > 1
        before = reset_resident_peak()
        network = Network(options.width, options.depth)
        if ranks.in_step:
            in_pieces(network, mesh_of(torch.device("cpu"), ranks.world))
        settings = TrainSettings(
            steps=options.steps, rate=1e-4, rank=16, alpha=16.0, ema=0.0, save_every=options.steps
        )
        branches = new_branches(_layers(options), 16, 16.0, 0)
        # Each rank has had the whole network for a moment.
        loading = resident_peak() - before
        reset_resident_peak()
        took, sums = _run(network, branches, settings, ranks, options)
        told = {
            "step": statistics.median(took[1:]),
            "sum": statistics.median(sums[1:]),
            "sent": ranks.sent,
            "adapter": sum(p.numel() * p.element_size() for p in parameters_of(branches)),
            "weights": bytes_held(network),
            "memory": resident_peak() - before,
            "loading": loading,
        }
        everyone = ranks.gathered(told)
        if not ranks.rank:
            Path(options.child).write_text(json.dumps(everyone))


def _layers(options: argparse.Namespace) -> dict[str, Any]:
    """Layers like the network's, which may be in pieces."""
    with torch.device("meta"):
        return trainable_layers(Network(options.width, options.depth))


def _run(
    network: Any,
    branches: Any,
    settings: TrainSettings,
    ranks: Timed,
    options: argparse.Namespace,
) -> tuple[list[float], list[float]]:
    latents = torch.randn(options.batch, options.width, 16, TOKENS // 16)

    def batch_at(number: int) -> TrainBatch | None:
        mine = list(ranks.share(0, options.batch))
        if not mine:
            return None
        keys = tuple((number, row) for row in mine)
        whole = TrainBatch(latents[mine], None, torch.ones(len(mine)), keys)
        return replace(whole, of=options.batch)

    took, sums = [], []
    with attached(network, branches):
        start = time.perf_counter()
        for _ in train(network, batch_at, parameters_of(branches), LEVELS, settings, ranks=ranks):
            took.append(time.perf_counter() - start)
            sums.append(ranks.took)
            start = time.perf_counter()
    return took[:-1], sums[:-1]


def measured(
    ranks: int, options: argparse.Namespace, pieces: bool = False, giving_back: bool = False
) -> list[dict[str, Any]]:
    """What each rank told. giving_back: freed memory goes back to the system at once, which costs time.

    Without it glibc keeps pieces that are put together and freed by turns, and the peak tells of its heap (twice as much).
    """
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder) / "told.json"
        command = [sys.executable, "-m", "torch.distributed.run", "--standalone"]
        command += ["--nproc-per-node", str(ranks), "-m", "tools.bench_ranks", "--child", str(out)]
        for name in ("width", "depth", "batch", "steps"):
            command += [f"--{name}", str(getattr(options, name))]
        command += ["--pieces"] if pieces else []
        variables = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}
        variables |= {"MALLOC_MMAP_THRESHOLD_": "65536"} if giving_back else {}
        subprocess.run(command, env=variables, cwd=ROOT, check=True)
        return json.loads(out.read_text())


def memory_rows(count: int, options: argparse.Namespace) -> list[BenchRow]:
    """Of a deeper network, in pieces and whole, trained by as many ranks: the rank with the most of each."""
    deep = argparse.Namespace(**{**vars(options), "depth": options.deep, "steps": 3})
    cut, whole = (measured(count, deep, pieces, giving_back=True) for pieces in (True, False))
    rows = []
    for name in ("weights", "memory", "loading"):
        ours, rival = (max(told[name] for told in everyone) / 1e6 for everyone in (cut, whole))
        rows.append(BenchRow(f"{name} in pieces {count} ranks", "MB", ours, rival))
    return rows


def estimate(seconds: float, adapter: int, count: int, bandwidth: float) -> float:
    """A step of `count` GPUs with one picture each: a ring moves 2 (N - 1) / N of the adapter over each link."""
    return seconds + 2 * (count - 1) * (adapter / count / bandwidth + HOP)


def main() -> int:
    parser = argparse.ArgumentParser(
        prog="bench ranks", description=__doc__.splitlines()[0] if __doc__ else None
    )
    parser.add_argument("--json", help="write the table to this file")
    parser.add_argument("--ranks", type=int, nargs="*", default=[2])
    parser.add_argument("--width", type=int, default=768)
    parser.add_argument("--depth", type=int, default=8)
    parser.add_argument("--deep", type=int, default=24, help="blocks where memory is measured")
    parser.add_argument("--batch", type=int, default=4)
    parser.add_argument("--steps", type=int, default=9)
    parser.add_argument("--bandwidth", type=float, default=25e9, help="bytes a second, of a link")
    parser.add_argument("--child", help=argparse.SUPPRESS)
    parser.add_argument("--pieces", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.child:
        child(options)
        leave(0)
    (one,), rows, mega = measured(1, options), [], 1e6
    for count in options.ranks:
        told = measured(count, options)[0]
        case = f"b{options.batch} {count} ranks"
        rows.append(BenchRow(f"step {case}", "s", told["step"], one["step"]))
        rows.append(BenchRow(f"sum {case}", "s", told["sum"], told["step"]))
        rows.append(BenchRow(f"sent {case}", "MB", told["sent"] / mega, told["adapter"] / mega))
        rows += memory_rows(count, options)
    each = one["step"] / options.batch
    for count in (8, 64):
        guess = estimate(each, one["adapter"], count, options.bandwidth)
        rows.append(BenchRow(f"estimate {count} GPUs, a picture each", "s", guess, each))
    publish("ranks", rows, options.json)
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
