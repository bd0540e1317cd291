"""The host's own sampling on the small models: a latent from a seed, with any sampler and part of its sigmas."""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import Any

import comfy.samplers
import torch

# Every sampler of the host with --full, else a part of them.
SAMPLERS = comfy.samplers.SAMPLER_NAMES[:: 1 if os.environ.get("LOOM_FULL") else 5]

_VIDEO = {family: (16, 1, 8, 8) for family in ("Wan", "Qwen-Image", "Cosmos")}
_IMAGE = {family: (16, 8, 8) for family in ("Flux", "SD3", "Lumina2", "Z-Image")}
LATENTS = {"SD1.5": (4, 8, 8), "SDXL": (4, 8, 8), **_IMAGE, **_VIDEO}
# Widths of the text and of the pooled text; families without the latter ignore it.
_CONTEXT = {"SD1.5": 768, "SDXL": 2048, "Flux": 64, "SD3": 64}
_POOLED = {"SDXL": 1280}


def conditioning(family: str, seed: int) -> list[Any]:
    generator = torch.Generator().manual_seed(seed)
    context = torch.randn(1, 7, _CONTEXT.get(family, 32), generator=generator)
    pooled = torch.randn(1, _POOLED.get(family, 32), generator=generator)
    return [[context, {"pooled_output": pooled}]]


def sigmas_of(model: Any, steps: int, scheduler: str = "normal") -> torch.Tensor:
    sampling = model.get_model_object("model_sampling")
    return comfy.samplers.calculate_sigmas(sampling, scheduler, steps)


def sampled(
    model: Any,
    family: str,
    *,
    steps: int = 3,
    sampler: str = "euler",
    sigmas: torch.Tensor | None = None,
    latent: torch.Tensor | None = None,
    callback: Callable[..., None] | None = None,
) -> torch.Tensor:
    """The latent after sampling, noise only where `latent` is not given (then it goes on from there)."""
    shape = (2, *LATENTS[family])
    noise = torch.randn(shape, generator=torch.Generator().manual_seed(7))
    start = torch.zeros(shape) if latent is None else latent
    guider = comfy.samplers.CFGGuider(model)
    guider.set_conds(conditioning(family, 1), conditioning(family, 2))
    guider.set_cfg(3.0)
    return guider.sample(
        noise if latent is None else torch.zeros(shape),
        start,
        comfy.samplers.sampler_object(sampler),
        sigmas_of(model, steps) if sigmas is None else sigmas,
        callback=callback,
        disable_pbar=True,
        seed=7,
    )


def distance(first: torch.Tensor, second: torch.Tensor) -> float:
    """|| first - second || as a share of || second ||."""
    return float((first.double() - second.double()).norm() / second.double().norm())
