"""bench train: a training step of ours against core's TrainLoraNode, same model, layers, rank, batch, pictures, on fp32.

Cases: `time <toy|sd15> b<batch> <px>` (s, one step) and `memory <toy|sd15> b<batch> <px>` (MiB, the peak of a few steps above
the model); with ` again` behind it, both with gradient checkpointing. Rank 16, captions that differ within a batch. Core
adapts the layers that ours chooses, and besides their biases. A step is what passes between two updates of AdamW, in both,
so that setting up is not counted. toy: the toy checkpoint. sd15: one level of SD1.5 at its own widths with random weights,
which cost what trained ones do. `loss toy b<batch> 256 <seconds>s`: the loss that is reached in that time, see
train_after_time.py.
"""

from __future__ import annotations

import argparse
import importlib
import statistics
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import pairwise, product
from typing import Any

import torch
from torch.optim.optimizer import register_optimizer_step_post_hook

from tools import toy_host
from tools.benching import BenchRow, interleaved, median_row, peak, publish, reset_peak
from tools.make_toy_model import CHECKPOINT
from tools.models_for_benches import (  # first: it says the device before the host is imported
    random_model,
)

# isort: split
import comfy.model_management
import comfy.sd

from lora_core.host.training_model import noise_levels, ready
from lora_core.train import adapters
from lora_core.train.blocks import wrapped_blocks
from lora_core.train.choosing import PARTS, chosen_layers
from lora_core.train.loop import TrainBatch, train
from lora_core.train.settings import SampleWish, TrainSettings
from tools.train_after_time import loss_rows, make_lesson

RANK = 16
_BATCHES, _PIXELS = (1, 4), (128, 256)
# Above so many seconds a step, one step is timed in a turn in place of `--steps`.
_SLOW = 5.0


def _toy(others: bool = False) -> Any:
    """Not under inference mode: core cannot train norms that were loaded there. others: CLIP and VAE beside MODEL."""
    toy_host.add_host(None)
    found = comfy.sd.load_checkpoint_guess_config(str(CHECKPOINT), others, others)
    return found[:3] if others else found[0]


MODELS: dict[str, Callable[[], Any]] = {
    "toy": _toy,
    "sd15": lambda: random_model("sd15 level", torch.float32),
}


@dataclass(frozen=True, eq=False)
class Case:
    """One comparison. latents: (batch, 4, px / 8, px / 8). texts: one a picture, (1, 77, the model's text width)."""

    model: Any
    latents: torch.Tensor
    texts: tuple[torch.Tensor, ...]
    again: bool


def make_case(model: Any, batch: int, pixels: int, again: bool) -> Case:
    generator = torch.Generator().manual_seed(batch * pixels)
    width = model.model.model_config.unet_config["context_dim"]
    latents = torch.randn(batch, 4, pixels // 8, pixels // 8, generator=generator)
    texts = tuple(torch.randn(1, 77, width, generator=generator) * 0.1 for _ in range(batch))
    return Case(model, latents, texts, again)


def layers_of(model: Any) -> dict[str, torch.nn.Module]:
    return chosen_layers(model.model.diffusion_model, PARTS[1])


def of_one_step(run: Callable[[Case, int], None], case: Case, steps: int) -> float:
    """Median seconds of `steps` steps after a first one: from update to update of the optimizer."""
    moments: list[float] = []
    hook = register_optimizer_step_post_hook(lambda *_: moments.append(time.perf_counter()))
    try:
        run(case, steps + 1)
    finally:
        hook.remove()
    if len(moments) != steps + 1:
        raise RuntimeError(f"{steps + 1} steps made {len(moments)} updates")
    return statistics.median(later - sooner for sooner, later in pairwise(moments))


@contextmanager
def our_steps(case: Case, steps: int) -> Iterator[Any]:
    batch = len(case.latents)
    settings = TrainSettings(
        steps=steps, rate=1e-4, batch_size=batch, rank=RANK, alpha=RANK, ema=0.0, save_every=10**6,
        preserve=0.0,
        samples=SampleWish(-1),
    )  # fmt: skip
    comfy.model_management.load_models_gpu([case.model])
    network, device = case.model.model.diffusion_model, case.model.load_device
    levels = noise_levels(case.model.model.model_sampling)
    with ready(case.model) as predict:
        made = adapters.new_branches(layers_of(case.model), RANK, float(RANK), 0, device)
        said = tuple({"cross_attn": text.clone().to(device)} for text in case.texts)
        latents = case.latents.clone().to(device)

        def batch_at(number: int) -> TrainBatch:
            keys = tuple((number, place) for place in range(batch))
            return TrainBatch(latents, said, torch.ones(batch), keys)

        with adapters.attached(network, made), wrapped_blocks(network, case.again):
            parameters = adapters.parameters_of(made)
            yield train(predict, batch_at, parameters, levels, settings)


@contextmanager
def only_our_layers(model: Any) -> Iterator[None]:
    """Core's node sees the layers that ours adapts, and no others; a plain instance attribute, taken off again."""
    inner = model.model
    chosen = {f"diffusion_model.{path}" for path in layers_of(model)}
    whole = list(inner.named_modules())
    found = [(name, module) for name, module in whole if name in chosen]
    inner.__dict__["named_modules"] = lambda *_, **__: iter(found)
    try:
        yield
    finally:
        del inner.__dict__["named_modules"]


def core_lora(
    model: Any,
    latents: Sequence[Any],
    positive: Sequence[Any],
    batch: int,
    steps: int,
    rate: float,
    again: bool = False,
) -> Mapping[str, torch.Tensor]:
    """The LoRA of core's node. latents, positive: one LATENT and one CONDITIONING a picture, two at least."""
    node = importlib.import_module("comfy_extras.nodes_train").TrainLoraNode
    with only_our_layers(model):
        made = node.execute(
            [model], list(latents), list(positive), [batch], [steps], [1], [rate], [RANK], ["AdamW"], ["MSE"], [0],
            ["fp32"], ["fp32"], ["LoRA"], [again], ["[None]"],
        )  # fmt: skip
    return made.result[1]


def core_run(case: Case, steps: int) -> None:
    # A list of single latents: one batched tensor fails in this version of the host.
    latents = [{"samples": each[None].clone()} for each in case.latents]
    positive = [[[text.clone(), {}]] for text in case.texts]
    if len(latents) == 1:
        latents, positive = latents * 2, positive * 2
    core_lora(case.model, latents, positive, len(case.latents), steps, 1e-4, case.again)


def memory(case: Case, run: Callable[[], object]) -> float:
    """MiB at the peak of a few steps above what was there before."""
    before = reset_peak()
    run()
    return max((peak() - before) / 2**20, 1.0)


def our_run(case: Case, steps: int) -> None:
    with our_steps(case, steps) as following:
        for _ in range(steps):
            next(following)


def bench_case(name: str, case: Case, rounds: int, steps: int) -> list[BenchRow]:
    our_run(case, 1)
    core = memory(case, lambda: core_run(case, 2))
    ours = memory(case, lambda: our_run(case, 2))
    steps = steps if of_one_step(core_run, case, 1) < _SLOW else 1
    times = interleaved(
        lambda: of_one_step(our_run, case, steps),
        lambda: of_one_step(core_run, case, steps),
        rounds,
    )
    return [median_row(f"time {name}", *times), BenchRow(f"memory {name}", "MiB", ours, core)]


def main() -> int:
    parser = argparse.ArgumentParser(
        prog="bench train", description=__doc__.splitlines()[0] if __doc__ else None
    )
    parser.add_argument("--json", help="write the table to this file")
    parser.add_argument("--rounds", type=int, default=3, help="turns of each side per case")
    parser.add_argument("--steps", type=int, default=3, help="steps that are timed in a turn")
    parser.add_argument("--models", nargs="*", default=list(MODELS), choices=list(MODELS))
    parser.add_argument("--batches", type=int, nargs="*", default=list(_BATCHES))
    parser.add_argument("--pixels", type=int, nargs="*", default=list(_PIXELS))
    parser.add_argument("--no-again", action="store_true", help="without the checkpointed cases")
    parser.add_argument(
        "--after",
        type=float,
        nargs="*",
        default=[60.0],
        help="seconds of training for the loss cases",
    )
    options = parser.parse_args()
    rows: list[BenchRow] = []
    for which in options.models:
        model = MODELS[which]()
        for batch, pixels in product(options.batches, options.pixels):
            for again in (False,) if options.no_again else (False, True):
                name = f"{which} b{batch} {pixels}" + (" again" if again else "")
                print(f"train {name} ...", flush=True)
                case = make_case(model, batch, pixels, again)
                rows += bench_case(name, case, options.rounds, options.steps)
        comfy.model_management.unload_all_models()
        del model
    for batch, seconds in product(options.batches, options.after):
        name = f"loss toy b{batch} 256 {seconds:g}s"
        print(f"train {name} ...", flush=True)
        rows += loss_rows(name, make_lesson(_toy(True), batch, 256), seconds, core_lora)
    publish("train", rows, options.json)
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
