"""What is asked of the network: noise levels, targets, weights of the loss. One function a kind of model.

noisy = x0 + s * n for eps and v (s: the host's sigma, noise over signal), noisy = (1 - s) * x0 + s * n for flow. The
loss is taken in the space that the network answers in, never between pictures.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol

import torch

from ..errors import TrainError
from .counters import number_of, uniform

KINDS = ("eps", "v", "flow", "own")
TIMESTEPS = ("auto", "uniform", "logit-normal", "shift", "sigmoid", "resolution")
WEIGHTINGS = ("auto", "min-SNR", "debiased", "none")
LOSSES = ("square", "huber")
# Tokens (patches of 2 x 2 latent pixels) and the logarithm of the shift that Flux's own sampler gives them.
_FEW, _MANY = (256, 0.5), (4096, 1.15)


class Own(Protocol):
    """How a family outside eps, v and flow noises latents, and what it then answers where it is perfect."""

    def noised(
        self, latents: torch.Tensor, noise: torch.Tensor, sigmas: torch.Tensor
    ) -> torch.Tensor: ...

    def target(
        self, latents: torch.Tensor, noise: torch.Tensor, sigmas: torch.Tensor
    ) -> torch.Tensor: ...


@dataclass(frozen=True, eq=False)
class NoiseLevels:
    """What a model family means by a timestep; taken from the host's model_sampling.

    kind: of KINDS. sigmas: the levels of all but flow models, from little to much noise; unused for flow, whose level
    is its position. shift: of a flow model's own sampling: t -> shift * t / (1 + (shift - 1) * t).
    own: the formulas of kind "own".
    """

    kind: str
    sigmas: torch.Tensor
    shift: float = 1.0
    own: Own | None = None

    def __post_init__(self) -> None:
        if self.kind not in KINDS or (self.kind == "own") != (self.own is not None):
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
    mean, spread: of logit-normal; sigmoid is its plain form (0 and 1). min_snr: gamma of min-SNR; 0 for none.
    noise_offset: share of noise that is the same all over a channel. weighting: of WEIGHTINGS; auto is min-SNR for eps,
    none for the others. loss: of LOSSES; huber: where the pseudo-Huber loss turns from square to straight.
    guidance: what models with a guidance input are told (Flux dev).
    """

    timesteps: str = "auto"
    shift: float = 0.0
    low: float = 0.0
    high: float = 1.0
    min_snr: float = 5.0
    noise_offset: float = 0.0
    mean: float = 0.0
    spread: float = 1.0
    weighting: str = "auto"
    loss: str = "square"
    huber: float = 0.1
    guidance: float = 1.0

    def __post_init__(self) -> None:
        for name, choices in (
            ("timesteps", TIMESTEPS),
            ("weighting", WEIGHTINGS),
            ("loss", LOSSES),
        ):
            if getattr(self, name) not in choices:
                raise TrainError(
                    f"{name} is '{getattr(self, name)}'; choose one of {', '.join(choices)}."
                )
        if not 0 <= self.low < self.high <= 1:
            raise TrainError(
                f"The timestep range is {self.low:g} to {self.high:g}; it must rise within 0 to 1."
            )
        if self.shift < 0 or self.min_snr < 0:
            raise TrainError("shift and min_snr cannot be below 0; 0 switches them off.")
        if self.spread <= 0 or self.huber <= 0:
            raise TrainError("The spread of logit-normal and huber must be above 0.")


def shifted(position: float, shift: float) -> float:
    """Flow matching's timestep shift, as SD3 and the host have it."""
    return shift * position / (1 + (shift - 1) * position)


def resolution_shift(tokens: int) -> float:
    """Flux's shift for a picture of so many tokens: a straight line through the logarithms at 256 and 4096 of them."""
    (few, least), (many, most) = _FEW, _MANY
    return math.exp(least + (most - least) * (tokens - few) / (many - few))


def position_of(
    objective: Objective, levels: NoiseLevels, *counters: int | str, tokens: int = 1024
) -> float:
    """Where from 0 (no noise) to 1 a sample is noised: the same for the same counters on every machine.

    tokens: a quarter of the latent's height times width; only "resolution" looks at it.
    """
    share = uniform("timestep", *counters)
    way = objective.timesteps
    if way == "auto":
        way = "shift" if levels.kind == "flow" else "uniform"
    if way in ("logit-normal", "sigmoid"):
        angle = 2 * math.pi * uniform("timestep angle", *counters)
        normal = math.sqrt(-2 * math.log(1 - share)) * math.cos(angle)
        if way == "logit-normal":
            normal = objective.mean + objective.spread * normal
        share = 1 / (1 + math.exp(-normal))
    elif way == "shift":
        share = shifted(share, objective.shift or levels.shift)
    elif way == "resolution":
        share = shifted(share, resolution_shift(tokens))
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
    levels: NoiseLevels, latents: torch.Tensor, noise: torch.Tensor, sigmas: torch.Tensor
) -> torch.Tensor:
    """Latents (batch, channels, ...) at their noise levels (batch,)."""
    if levels.own is not None:
        return levels.own.noised(latents, noise, sigmas)
    s = _wide(sigmas, latents)
    return (1 - s) * latents + s * noise if levels.kind == "flow" else latents + s * noise


def target_of(
    levels: NoiseLevels, latents: torch.Tensor, noise: torch.Tensor, sigmas: torch.Tensor
) -> torch.Tensor:
    """What the network should answer: the noise; the velocity of Salimans & Ho 2022; the flow's noise - x0."""
    if levels.own is not None:
        return levels.own.target(latents, noise, sigmas)
    if levels.kind == "eps":
        return noise
    if levels.kind == "flow":
        return noise - latents
    s = _wide(sigmas, latents)
    return (noise - s * latents) / (1 + s * s).sqrt()


def weighting_of(kind: str, wish: Objective) -> str:
    """What is wished for, auto said plainly: min-SNR for eps alone, whose loss asks most for what the cleanest pictures lack.

    A loss of v asks for all levels alike, as the model was trained; min-SNR would take the noisy ones away from it (0.5 %
    is left at SD's last level), and there a prompt decides what there is to be and in what colour.
    """
    if wish.weighting == "auto":
        return "min-SNR" if kind == "eps" and wish.min_snr else "none"
    return wish.weighting


def level_weights(levels: NoiseLevels, sigmas: torch.Tensor, wish: Objective) -> torch.Tensor:
    """Weight of each sample's loss by its noise level; 1 where no weighting is asked for.

    Raises TrainError where the model has no signal-to-noise ratio to weigh by.
    """
    way = weighting_of(levels.kind, wish)
    if way == "none" or (way == "min-SNR" and not wish.min_snr):
        return torch.ones_like(sigmas)
    if levels.kind not in ("eps", "v"):
        raise TrainError(f"{way} weighs losses of eps and v models; for this model choose none.")
    return _WEIGHINGS[way](levels.kind, sigmas.float() ** -2, wish)


def _min_snr(kind: str, snr: torch.Tensor, wish: Objective) -> torch.Tensor:
    """Hang et al. 2023, eq. 5; for v by snr + 1."""
    return snr.clamp(max=wish.min_snr) / (snr if kind == "eps" else snr + 1)


def _debiased(kind: str, snr: torch.Tensor, wish: Objective) -> torch.Tensor:
    """Yu et al. 2023: 1 / sqrt(snr), held to snr <= 1000; for v 1 / (snr + 1), as sd-scripts has them."""
    snr = snr.clamp(max=1000)
    return snr.rsqrt() if kind == "eps" else 1 / (snr + 1)


_WEIGHINGS: dict[str, Callable[[str, torch.Tensor, Objective], torch.Tensor]] = {
    "min-SNR": _min_snr,
    "debiased": _debiased,
}


def losses(
    answer: torch.Tensor,
    target: torch.Tensor,
    weights: torch.Tensor,
    masks: torch.Tensor | None = None,
    huber: float | None = None,
) -> torch.Tensor:
    """Loss of each sample (batch,): the mean error in float32 times its weight.

    masks: (batch, 1, ...) weights of each place, of the latent's height and width; the mean is over all places.
    huber: None for the square d^2, else c of the pseudo-Huber 2 c (sqrt(d^2 + c^2) - c), as sd-scripts has it.
    """
    error = (answer.float() - target.float()).square()
    if huber is not None:
        error = 2 * huber * ((error + huber * huber).sqrt() - huber)
    if masks is not None:
        error = error * masks
    return error.flatten(1).mean(dim=1) * weights


def drawn(
    wish: Objective,
    levels: NoiseLevels,
    latents: torch.Tensor,
    seed: int,
    keys: Sequence[tuple[int | str, ...]],
    position: float | None = None,
) -> tuple[torch.Tensor, torch.Tensor]:
    """Noise like the latents and sigmas (batch,), each sample by its own key, on the latents' device.

    position: the noise level for all instead of each one's own draw.
    """
    noise = torch.stack(
        [noise_of(latents.shape[1:], wish.noise_offset, seed, *key) for key in keys]
    )
    tokens = max(1, latents.shape[-1] * latents.shape[-2] // 4)
    where = [
        position_of(wish, levels, seed, *key, tokens=tokens) if position is None else position
        for key in keys
    ]
    sigmas = levels.at(torch.tensor(where, dtype=torch.float64))
    return noise.to(latents.device), sigmas.to(latents.device)


def _wide(sigmas: torch.Tensor, like: torch.Tensor) -> torch.Tensor:
    return sigmas.to(like.device).view(-1, *[1] * (like.ndim - 1))
