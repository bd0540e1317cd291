"""The name of a training: everything that decides its outcome, and nothing else."""

from __future__ import annotations

import hashlib
from dataclasses import replace
from typing import Any

import torch

from ..train.counters import number_of
from ..train.job import sha256_of
from ..train.samples import Plan
from ..train.settings import TrainSettings
from .paths import find_lora
from .repatch import FOLLOWS
from .training_data import Encoders, batch_of, fingerprint
from .training_model import noise_levels, ready

# Raised when the same inputs would give another LoRA than before.
_FORMAT = 3
# Numbers of an answer that are looked at, and where; two digits of each are the same on every machine, nearly always.
_LOOKED_AT, _DIGITS, _SIGMAS = 128, 2, (0.4, 0.9)


def job_key(
    model: Any, encoders: Encoders, plan: Plan, settings: TrainSettings, existing: str | None
) -> str:
    """sha256 of a loaded MODEL as it is patched, CLIP, VAE, pictures, settings and the LoRA to go on from."""
    parts = (
        _FORMAT,
        fingerprint(model.model.diffusion_model),
        sampling_of(model),
        _beside(model, encoders, plan),
        encoders.vae_id,
        encoders.clip_id,
        plan.dataset.fingerprint,
        "" if existing is None else sha256_of(find_lora(existing)[1]),
        settings.deciding,
    )
    return hashlib.sha256(repr(parts).encode()).hexdigest()


def sampling_of(model: Any) -> tuple[str, float, str]:
    """What a node such as ModelSamplingDiscrete changes: kind, shift, noise levels."""
    levels = noise_levels(model.model.model_sampling)
    table = levels.sigmas.contiguous().numpy().tobytes()
    return levels.kind, levels.shift, hashlib.sha256(table).hexdigest()


def acts_beside(model: Any) -> bool:
    """Whether a live stack, patches of attention or wrappers act on the model beside its weights.

    What a baked stack hangs on writes weights, in time for a sampling; those are told by the weights themselves.
    """
    options = model.model_options.get("transformer_options", {})
    acting = [model.injections, options.get("patches"), options.get("patches_replace")]
    wrappers = [model.wrappers, options.get("wrappers")]
    kinds = [keyed for each in wrappers if each for keyed in each.values()]
    return any(acting) or any(
        some for keyed in kinds for key, some in keyed.items() if key != FOLLOWS
    )


def _beside(model: Any, encoders: Encoders, plan: Plan) -> str:
    """What acts on the model beside its weights (a live stack, wrappers), by what it answers; "" where nothing does."""
    if not acts_beside(model):
        return ""
    first = batch_of(plan, (plan.sample(0, 0),), replace(encoders, text_learns=False))
    generator = torch.Generator().manual_seed(number_of("behaviour"))
    noise = torch.randn(first.latents.shape, generator=generator).to(first.latents.device)
    said = []
    with ready(model) as predict, torch.no_grad():
        for sigma in _SIGMAS:
            answer = predict(
                noise, torch.full((1,), sigma, device=noise.device), first.conditioning
            )
            flat = answer.float().cpu().reshape(-1)
            said += flat[:: max(1, flat.numel() // _LOOKED_AT)].tolist()
    return " ".join(f"{value:.{_DIGITS}g}" for value in said)
