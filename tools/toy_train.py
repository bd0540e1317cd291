"""The training loop of the toy model and of its LoRAs: denoising, EMA, exact resume.

Every random draw of a step comes from a generator seeded by the run's seed and the step's number,
so a run that was killed and resumed ends with the numbers of one that was not.
"""

from __future__ import annotations

import math
import os
import sys
import time
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
from torch import autocast

TIMESTEPS = 1000
# Steps with less than one part in this many of signal count less, in proportion ...
HELD_BACK = 20.0
# ... except where pictures are large: there a shape is decided in just those steps, because more
# cells agree against the noise, and they are drawn more often instead.
TILT = 2.0
# A little of each picture's mean brightness survives in the noisiest latents of SD1.5's schedule,
# and sampling starts from noise without it. Shifted noise teaches it to trust the prompt instead.
NOISE_OFFSET = 0.15
SAVE_EVERY = 100
# Two halves of a batch, each on a thread of its own, keep two cores busy; two threads inside each
# operation wait for one another at every one of them, many times longer when the machine is shared.
HALVES = 2
_WORKERS = ThreadPoolExecutor(HALVES, initializer=torch.set_num_threads, initargs=(1,))

Predict = Callable[[torch.Tensor, torch.Tensor, torch.Tensor], torch.Tensor]
Loss = Callable[[torch.Generator], torch.Tensor]


@dataclass(frozen=True)
class Plan:
    """How long and how fast to learn."""

    steps: int
    rate: float
    last_rate: float
    warmup: int = 50
    weight_decay: float = 0.01
    ema: float = 0.999
    seed: int = 0


def signal_shares() -> torch.Tensor:
    """Return SD1.5's cumulative alphas, shape (1000,), from clean to noisy."""
    betas = torch.linspace(0.00085**0.5, 0.012**0.5, TIMESTEPS, dtype=torch.float64) ** 2
    return torch.cumprod(1 - betas, 0).float()


def denoising_loss(
    predict: Predict,
    latents: torch.Tensor,
    context: torch.Tensor,
    generator: torch.Generator,
    tilted: bool = True,
) -> torch.Tensor:
    """Return the square error of the predicted velocity for latents (batch, 4, h, w).

    The velocity is noise where a picture is nearly done and the picture where it begins, so every
    timestep counts. The error of the noise alone hardly counts where colour and place are decided,
    and a small network cannot repeat noise well enough to leave a picture in what it subtracts.

    Args:
        predict: the network, given noisy latents, timesteps and context.
        latents: clean pictures.
        context: their text conditioning, on the device that trains.
        generator: draws noise and timesteps.
        tilted: draw noisy timesteps more often (large pictures); else all alike, and the noisiest,
            in which little can be known of a small picture, are held back.
    """
    batch, channels = latents.shape[:2]
    even = torch.rand(batch, generator=generator)
    steps = ((even ** (1 / TILT) if tilted else even) * TIMESTEPS).long()
    noise = torch.randn(latents.shape, generator=generator)
    noise += NOISE_OFFSET * torch.randn((batch, channels, 1, 1), generator=generator)
    share = signal_shares()[steps].view(-1, 1, 1, 1)
    noisy = share.sqrt() * latents + (1 - share).sqrt() * noise
    velocity = share.sqrt() * noise - (1 - share).sqrt() * latents
    device = context.device
    with autocast(device.type, dtype=torch.bfloat16):
        guess = predict(noisy.to(device), steps.float().to(device), context)
    error = (guess.float() - velocity.to(device)).square().mean(dim=(1, 2, 3))
    if not tilted:
        error = error * (share.flatten() * HELD_BACK).clamp(max=1).to(device)
    return error.mean()


def rate_at(plan: Plan, step: int) -> float:
    """Return the learning rate: a linear warm-up, then a cosine down to the last rate."""
    if step < plan.warmup:
        return plan.rate * (step + 1) / plan.warmup
    progress = (step - plan.warmup) / max(1, plan.steps - plan.warmup)
    falling = 0.5 * (1 + math.cos(math.pi * progress))
    return plan.last_rate + (plan.rate - plan.last_rate) * falling


def save_atomically(content: object, path: Path) -> None:
    """Write a torch file so that a kill leaves the old one or the new one, never half of it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    fresh = path.with_suffix(".new")
    torch.save(content, fresh)
    os.replace(fresh, path)


def learn(
    plan: Plan,
    parameters: Iterable[torch.nn.Parameter],
    make_loss: Callable[[], Loss],
    state_file: Path,
    name: str,
) -> list[torch.Tensor]:
    """Train the parameters in place for the plan's steps and return their moving average.

    Args:
        plan: steps and rates.
        parameters: what learns.
        make_loss: prepares the data, when there is something left to learn, and returns what draws
            half a batch with the generator it is given and returns its loss.
        state_file: where the run's state is kept; a state found there is resumed.
        name: what the printed lines call the run.

    Returns:
        The averaged parameters, in the order given.

    Raises:
        SystemExit: when the state found there belongs to another plan.
    """
    weights = list(parameters)
    optimizer = torch.optim.AdamW(
        weights, betas=(0.9, 0.99), weight_decay=plan.weight_decay, fused=True
    )
    average = [weight.detach().clone() for weight in weights]
    first = 0
    if state_file.is_file():
        state = torch.load(state_file, map_location=weights[0].device)
        if state["plan"] != asdict(plan):
            sys.exit(f"{state_file} was begun with another plan; remove it to begin afresh")
        first = state["step"]
        optimizer.load_state_dict(state["optimizer"])
        with torch.no_grad():
            for weight, kept in zip(weights, state["weights"], strict=True):
                weight.copy_(kept)
        average = state["average"]
    if first == plan.steps:
        return average
    loss_of = make_loss()
    began, shown = time.monotonic(), 0.0
    for step in range(first, plan.steps):
        loss = _one_step(plan, step, weights, average, optimizer, loss_of)
        shown = loss if step == first else 0.98 * shown + 0.02 * loss
        done = step + 1
        if done % 50 == 0:
            pace = (time.monotonic() - began) / (done - first)
            print(f"{name}: {done}/{plan.steps} loss {shown:.4f} {pace:.2f} s/step", flush=True)
        if done % SAVE_EVERY == 0 or done == plan.steps:
            state = {"plan": asdict(plan), "step": done, "weights": weights, "average": average}
            save_atomically({**state, "optimizer": optimizer.state_dict()}, state_file)
    return average


def _one_step(
    plan: Plan,
    step: int,
    weights: list[torch.nn.Parameter],
    average: list[torch.Tensor],
    optimizer: torch.optim.Optimizer,
    loss_of: Loss,
) -> float:
    for group in optimizer.param_groups:
        group["lr"] = rate_at(plan, step)

    def half(number: int) -> tuple[torch.Tensor, tuple[torch.Tensor, ...]]:
        seed = (plan.seed * 1_000_003 + step) * HALVES + number
        loss = loss_of(torch.Generator().manual_seed(seed))
        return loss.detach(), torch.autograd.grad(loss, weights)

    halves = list(_WORKERS.map(half, range(HALVES)))
    for weight, *gradients in zip(weights, *(gradients for _, gradients in halves), strict=True):
        weight.grad = torch.stack(gradients).mean(dim=0)
    torch.nn.utils.clip_grad_norm_(weights, 1.0)
    optimizer.step()
    decay = min(plan.ema, (1 + step) / (10 + step))
    with torch.no_grad():
        for smooth, weight in zip(average, weights, strict=True):
            smooth.lerp_(weight, 1 - decay)
    return float(torch.stack([loss for loss, _ in halves]).mean())
