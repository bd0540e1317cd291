"""Runs the toy through the host's own nodes and lets the reader judge the pictures.

Nothing here knows how the model was made: it loads files by name with CheckpointLoaderSimple and
LoraLoader, samples with KSampler, decodes with VAEDecode, and counts what toy_reader sees.
"""

from __future__ import annotations

import importlib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image

from tools.toy_pictures import COLOURS, GROUNDS, SHAPES, caption
from tools.toy_reader import Reading, read

Loaded = tuple[Any, Any, Any]


@dataclass(frozen=True)
class Settings:
    """How to sample; these are the recommended values, and the card repeats them."""

    sampler_name: str = "euler"
    scheduler: str = "normal"
    steps: int = 20
    cfg: float = 4.0
    width: int = 256
    height: int = 256
    negative: str = ""


SETTINGS = Settings()


def node(name: str) -> Any:
    """Return a new instance of one of the host's core nodes."""
    # By name: this repository has a package called `nodes` too, and the host's comes first.
    return importlib.import_module("nodes").NODE_CLASS_MAPPINGS[name]()


def load_base(checkpoint: Path) -> Loaded:
    """Return (model, clip, vae) of a checkpoint file, loaded by the host's own node."""
    import folder_paths

    folder_paths.add_model_folder_path("checkpoints", str(checkpoint.parent), is_default=True)
    with torch.inference_mode():
        model, clip, vae = node("CheckpointLoaderSimple").load_checkpoint(checkpoint.name)[:3]
    return model, clip, vae


def with_loras(base: Loaded, loras: Iterable[tuple[Path, float]]) -> Loaded:
    """Return the loaded model with a chain of LoRA files at their strengths."""
    import folder_paths

    model, clip, vae = base
    for file, strength in loras:
        folder_paths.add_model_folder_path("loras", str(file.parent), is_default=True)
        with torch.inference_mode():
            loader = node("LoraLoader")
            model, clip = loader.load_lora(model, clip, file.name, strength, strength)
    return model, clip, vae


def sample(loaded: Loaded, prompt: str, seed: int, settings: Settings = SETTINGS) -> Image.Image:
    """Return the picture that the host's nodes make of a prompt and a seed."""
    model, clip, vae = loaded
    with torch.inference_mode():
        (positive,) = node("CLIPTextEncode").encode(clip, prompt)
        (negative,) = node("CLIPTextEncode").encode(clip, settings.negative)
        (empty,) = node("EmptyLatentImage").generate(settings.width, settings.height, 1)
        (latent,) = node("KSampler").sample(
            model, seed, settings.steps, settings.cfg, settings.sampler_name,
            settings.scheduler, positive, negative, empty,
        )  # fmt: skip
        (pixels,) = node("VAEDecode").decode(vae, latent)
    return Image.fromarray((pixels[0].cpu().numpy() * 255).round().astype(np.uint8))


@dataclass(frozen=True)
class Shown:
    """One picture, what it was asked to show, and what the reader sees."""

    prompt: str
    seed: int
    picture: Image.Image
    reading: Reading


def show(
    loaded: Loaded, prompts: Sequence[str], seeds: Sequence[int], settings: Settings = SETTINGS
) -> list[Shown]:
    """Return one picture for each pair of a prompt and a seed, with its reading."""
    shown = []
    for prompt, seed in zip(prompts, seeds, strict=True):
        picture = sample(loaded, prompt, seed, settings)
        shown.append(Shown(prompt, seed, picture, read(picture)))
    return shown


def every_prompt() -> list[tuple[str, str, str]]:
    """Return every (colour, shape, ground) that the base model knows."""
    return [(c, s, g) for c in COLOURS for s in SHAPES for g in GROUNDS]


def obedience(shown: Sequence[Shown], wanted: Sequence[tuple[str, str, str]]) -> dict[str, float]:
    """Return the share of pictures that show the wanted colour, shape and ground."""
    seen = [(s.reading.colour, s.reading.shape, s.reading.ground) for s in shown]
    hits = np.array(seen) == np.array(wanted)
    return dict(
        zip(("colour", "shape", "ground"), hits.mean(axis=0).round(4).tolist(), strict=True)
    )


def prompts_of(wanted: Sequence[tuple[str, str, str]]) -> list[str]:
    """Return the captions of (colour, shape, ground) triples."""
    return [caption(*triple) for triple in wanted]


def sheet(pictures: Sequence[Image.Image], columns: int, side: int = 128) -> Image.Image:
    """Return the pictures side by side, each `side` pixels wide."""
    rows = -(-len(pictures) // columns)
    gap = 2
    page = Image.new("RGB", (columns * (side + gap), rows * (side + gap)), "white")
    for index, picture in enumerate(pictures):
        small = picture.resize((side, side), Image.Resampling.LANCZOS)
        page.paste(small, (index % columns * (side + gap), index // columns * (side + gap)))
    return page
