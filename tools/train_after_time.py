"""Loss after the same wall time: Loom Train with its defaults against core's TrainLoraNode, on the toy.

Both get twelve pictures of a concept that the toy has never seen, with the same captions, and train the same layers at
rank 16 in float32 with AdamW; core at its own default rate. Each takes as many steps as fit into the time by its own
calibration; ours counts encoding, states and its own validation in. Both LoRAs are then put on by the host, and one
function measures them on twelve other pictures: fixed noise, fixed noise levels, in the space that the network answers in.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import comfy.model_management
import comfy.sd
import folder_paths
import numpy as np
import torch

from lora_core.host.training import TrainOrder, train_lora
from lora_core.host.training_model import noise_levels, ready
from lora_core.train.captions import plain_caption
from lora_core.train.dataset import Dataset
from lora_core.train.loop import QUANTILES, TrainBatch, batch_loss
from lora_core.train.settings import SampleWish, TrainSettings
from tools import toy_concept
from tools.benching import BenchRow, seconds

# Core's own default; with alpha 1 at rank 16.
CORE_RATE = 5e-4
# Steps of the two runs by which a step's time is found. Ours saves and measures ten times in any run of ten or more.
_OURS, _CORE = (10, 30), (2, 6)
# How near to the wanted seconds a training must end, and how often it is tried.
_NEAR, _MOST_TRIES = 0.1, 3
CoreTraining = Callable[[Any, list[Any], list[Any], int, int, float], Mapping[str, torch.Tensor]]


@dataclass(frozen=True, eq=False)
class Lesson:
    """A toy that was loaded outside of inference mode, what is learned, and what is measured on."""

    model: Any
    clip: Any
    vae: Any
    dataset: Dataset
    held_out: tuple[TrainBatch, ...]
    batch: int


def make_lesson(loaded: tuple[Any, Any, Any], batch: int, pixels: int) -> Lesson:
    """loaded: MODEL, CLIP and VAE."""
    taught, other = (toy_concept.concept(seed, pixels) for seed in (40, 41))
    return Lesson(*loaded, taught, _measured_on(loaded, other), batch)


@torch.no_grad()
def _encoded(loaded: tuple[Any, Any, Any], dataset: Dataset) -> list[tuple[torch.Tensor, Any]]:
    """The VAE's latent (1, 4, h, w) and the conditioning of each picture, as core's nodes make them."""
    _, clip, vae = loaded
    found = []
    for image in dataset.images:
        pixels = torch.from_numpy(np.asarray(image.source, dtype=np.float32) / 255)[None]
        said = clip.encode_from_tokens_scheduled(
            clip.tokenize(plain_caption(image, dataset.settings))
        )
        found.append((vae.encode(pixels), said))
    return found


def _measured_on(loaded: tuple[Any, Any, Any], dataset: Dataset) -> tuple[TrainBatch, ...]:
    inner, device = loaded[0].model, loaded[0].load_device
    batches = []
    for place, (latent, said) in enumerate(_encoded(loaded, dataset)):
        latents = inner.process_latent_in(latent).float().to(device)
        conditioning = ({"cross_attn": said[0][0].clone().to(device)},)
        batches.append(TrainBatch(latents, conditioning, torch.ones(1), (("held out", place),)))
    return tuple(batches)


def loss_with(lesson: Lesson, tensors: Mapping[str, torch.Tensor]) -> float:
    """Mean loss over the held-out pictures and noise levels with a LoRA that the host has put on at 1; {} for none."""
    model = lesson.model
    if tensors:
        model, _ = comfy.sd.load_lora_for_models(model, None, dict(tensors), 1.0, 0.0)
    comfy.model_management.load_models_gpu([model])
    levels, settings = noise_levels(model.model.model_sampling), TrainSettings()
    with ready(model) as predict, torch.no_grad():
        found = [
            batch_loss(predict, batch, levels, settings, position)
            for batch in lesson.held_out
            for position in QUANTILES
        ]
    comfy.model_management.unload_all_models()
    return float(torch.cat(found).mean())


def our_lora(lesson: Lesson, steps: int, preserve: float | None) -> dict[str, torch.Tensor]:
    """All defaults but the batch, and no pictures in between, which core does not make either.

    preserve: how much other prompts are held, which core does not do; None for the default.
    """
    settings = TrainSettings(steps=steps, batch_size=lesson.batch, samples=SampleWish(-1))
    if preserve is not None:
        settings = replace(settings, preserve=preserve)
    with tempfile.TemporaryDirectory() as folder:
        folder_paths.set_output_directory(str(Path(folder) / "output"))
        folder_paths.set_user_directory(str(Path(folder) / "user"))
        folder_paths.add_model_folder_path("loras", str(Path(folder) / "output" / "loras"))
        order = TrainOrder(settings, "after_time", retrain=True)
        return train_lora(lesson.model, lesson.clip, lesson.vae, lesson.dataset, order).tensors


def trained_within(
    train: Callable[[int], Mapping[str, torch.Tensor]], limit: float, tried: tuple[int, int]
) -> tuple[Mapping[str, torch.Tensor], int, float]:
    """A LoRA of about so many seconds, its steps, and the seconds that it took.

    A first run warms up; two short ones say what a run costs at all, and what a step does. Where the machine was faster
    or slower then, the training is done once more with other steps.
    """
    few, more = [seconds(lambda steps=steps: train(steps)) for steps in (tried[0], *tried)][1:]
    each = max((more - few) / (tried[1] - tried[0]), more / tried[1] / 4)
    steps = max(tried[0], int((limit - few) / each) + tried[0])
    tries = 0
    while True:
        made: list[Mapping[str, torch.Tensor]] = []
        took = seconds(lambda made=made, steps=steps: made.append(train(steps)))
        tries += 1
        if abs(took / limit - 1) <= _NEAR or tries == _MOST_TRIES:
            return made[0], steps, took
        steps = max(1, round(steps * limit / took))


def loss_rows(name: str, lesson: Lesson, limit: float, core: CoreTraining) -> list[BenchRow]:
    """`name`: ours with its defaults. `name alone`: ours for the pictures alone, as core trains; the same rival.

    core: (model, latents, conditionings, batch, steps, rate) -> the LoRA of core's node.
    """
    loaded = lesson.model, lesson.clip, lesson.vae
    latents, said = zip(*_encoded(loaded, lesson.dataset), strict=True)
    given = [{"samples": one} for one in latents]

    def rival(steps: int) -> Mapping[str, torch.Tensor]:
        return core(lesson.model, given, list(said), lesson.batch, steps, CORE_RATE)

    def ours(preserve: float | None) -> Callable[[int], Mapping[str, torch.Tensor]]:
        return lambda steps: our_lora(lesson, steps, preserve)

    print(f"  without a LoRA: loss {loss_with(lesson, {}):.4f}", flush=True)
    found = {}
    sides = {"ours": (ours(None), _OURS), "ours alone": (ours(0.0), _OURS), "core": (rival, _CORE)}
    for who, (train, tried) in sides.items():
        made, steps, took = trained_within(train, limit, tried)
        comfy.model_management.unload_all_models()
        found[who] = loss_with(lesson, made)
        print(f"  {who}: {steps} steps in {took:.1f} s, loss {found[who]:.4f}", flush=True)
    return [
        BenchRow(name, "loss", found["ours"], found["core"]),
        BenchRow(f"{name} alone", "loss", found["ours alone"], found["core"]),
    ]
