"""What is asked of the network: noise levels, targets, weights of the loss. One function a kind of model.

noisy = x0 + s * n for eps and v (s: the host's sigma, noise over signal), noisy = (1 - s) * x0 + s * n for flow. The
loss is taken in the space that the network answers in, never between pictures.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch

from ..errors import TrainError
from .counters import number_of, uniform

KINDS = ("eps", "v", "flow")
TIMESTEPS = ("auto", "uniform", "logit-normal", "shift")


@dataclass(frozen=True, eq=False)
class NoiseLevels:
    """What a model family means by a timestep; taken from the host's model_sampling.

    kind: of KINDS. sigmas: the levels of eps and v models, from little to much noise; unused for flow, whose level is
    its position. shift: of a flow model's own sampling: t -> shift * t / (1 + (shift - 1) * t).
    """

    kind: str
    sigmas: torch.Tensor
    shift: float = 1.0

    def __post_init__(self) -> None:
        if self.kind not in KINDS:
            raise TrainError(
                f"'{self.kind}' is no known kind of model; known are {', '.join(KINDS)}."
            )

    def at(self, positions: torch.Tensor) -> torch.Tensor:
        """Sigmas, float32, for positions from 0 (no noise) to 1 (all noise)."""
        if self.kind == "flow":
            return positions.clamp(1e-4, 1.0).float()
        last = len(self.sigmas) - 1
        return self.sigmas[(positions * len(self.sigmas)).long().clamp(0, last)].float()


@dataclass(frozen=True)
class Objective:
    """How timesteps are chosen and losses weighed. Checked on creation: raises TrainError.

    timesteps: of TIMESTEPS; auto is uniform for eps and v and the model's own shift for flow. shift: for "shift" (and
    auto of flow), 0 for the model's own. low, high: the part of the positions that is trained, 0 to 1.
    min_snr: gamma of min-SNR weighting for eps and v; 0 for none. noise_offset: share of noise that is the same all
    over a channel.
    """

    timesteps: str = "auto"
    shift: float = 0.0
    low: float = 0.0
    high: float = 1.0
    min_snr: float = 5.0
    noise_offset: float = 0.0

    def __post_init__(self) -> None:
        if self.timesteps not in TIMESTEPS:
            raise TrainError(
                f"timesteps is '{self.timesteps}'; choose one of {', '.join(TIMESTEPS)}."
            )
        if not 0 <= self.low < self.high <= 1:
            raise TrainError(
                f"The timestep range is {self.low:g} to {self.high:g}; it must rise within 0 to 1."
            )
        if self.shift < 0 or self.min_snr < 0:
            raise TrainError("shift and min_snr cannot be below 0; 0 switches them off.")


def shifted(position: float, shift: float) -> float:
    """Flow matching's timestep shift, as SD3 and the host have it."""
    return shift * position / (1 + (shift - 1) * position)


def position_of(objective: Objective, levels: NoiseLevels, *counters: int | str) -> float:
    """Where from 0 (no noise) to 1 a sample is noised: the same for the same counters on every machine."""
    share = uniform("timestep", *counters)
    way = objective.timesteps
    if way == "auto":
        way = "shift" if levels.kind == "flow" else "uniform"
    if way == "logit-normal":
        angle = 2 * math.pi * uniform("timestep angle", *counters)
        normal = math.sqrt(-2 * math.log(1 - share)) * math.cos(angle)
        share = 1 / (1 + math.exp(-normal))
    elif way == "shift":
        share = shifted(share, objective.shift or levels.shift)
    return objective.low + (objective.high - objective.low) * share


def noise_of(shape: Sequence[int], offset: float, *counters: int | str) -> torch.Tensor:
    """Noise of one sample (channels, ...), float32 on the CPU, from the counters alone."""
    generator = torch.Generator().manual_seed(number_of("noise", *counters))
    noise = torch.randn(tuple(shape), generator=generator)
    if offset:
        ones = [1] * (len(shape) - 1)
        noise += offset * torch.randn((shape[0], *ones), generator=generator)
    return noise


def noised(
    kind: str, latents: torch.Tensor, noise: torch.Tensor, sigmas: torch.Tensor
) -> torch.Tensor:
    """Latents (batch, channels, ...) at their noise levels (batch,)."""
    s = _wide(sigmas, latents)
    return (1 - s) * latents + s * noise if kind == "flow" else latents + s * noise


def target_of(
    kind: str, latents: torch.Tensor, noise: torch.Tensor, sigmas: torch.Tensor
) -> torch.Tensor:
    """What the network should answer: the noise; the velocity of Salimans & Ho 2022; the flow's noise - x0."""
    if kind == "eps":
        return noise
    if kind == "flow":
        return noise - latents
    s = _wide(sigmas, latents)
    return (noise - s * latents) / (1 + s * s).sqrt()


def level_weights(kind: str, sigmas: torch.Tensor, min_snr: float) -> torch.Tensor:
    """Weight of each sample's loss by its noise level: min-SNR (Hang et al. 2023, eq. 5); 1 for flow and without it."""
    if kind == "flow" or not min_snr:
        return torch.ones_like(sigmas)
    snr = sigmas.float() ** -2
    return snr.clamp(max=min_snr) / (snr if kind == "eps" else snr + 1)


def losses(
    answer: torch.Tensor,
    target: torch.Tensor,
    weights: torch.Tensor,
    masks: torch.Tensor | None = None,
) -> torch.Tensor:
    """Loss of each sample (batch,): the mean square error in float32 times its weight.

    masks: (batch, 1, ...) weights of each place, of the latent's height and width; the mean is over all places.
    """
    error = (answer.float() - target.float()).square()
    if masks is not None:
        error = error * masks
    return error.flatten(1).mean(dim=1) * weights


def _wide(sigmas: torch.Tensor, like: torch.Tensor) -> torch.Tensor:
    return sigmas.to(like.device).view(-1, *[1] * (like.ndim - 1))
