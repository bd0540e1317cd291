"""The toy's VAE in TAESD's layout: an exact encoder set by hand, a decoder that learns edges.

The encoder carries red, green, blue and colourfulness through TAESD's blocks unchanged and halves
them three times, so that it computes `toy_latents.encode` to rounding. The decoder learns, from
random flat drawings, which sharp edge lies behind given averages.
"""

from __future__ import annotations

import math
import random
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image, ImageDraw
from torch import autocast

from tools import toy_host, toy_latents, toy_train
from tools.toy_pictures import (
    CHARACTER_COLOUR,
    COLOURS,
    GROUNDS,
    INK,
    OVERSAMPLING,
    SHAPES,
    Rgb,
    lay_stripes,
    outline,
)

CROP = 96
CROPS = 1500
BATCH = 6
PLAN = toy_train.Plan(steps=900, rate=1e-3, last_rate=1e-5, ema=0.995, weight_decay=0.0, seed=21)
# The UNet's latents are never quite right; the decoder sees errors up to this deviation.
LATENT_NOISE = 0.2
HOST_SCALE = 0.18215

TONES: tuple[Rgb, ...] = ((66, 72, 88), (172, 179, 190), (205, 199, 187))
KNOWN: tuple[Rgb, ...] = (
    *COLOURS.values(), *GROUNDS.values(), *TONES, *INK.values(), CHARACTER_COLOUR,
)  # fmt: skip


def _some_colour(rng: random.Random) -> Rgb:
    if rng.random() < 0.7:
        return rng.choice(KNOWN)
    return (rng.randrange(256), rng.randrange(256), rng.randrange(256))


def free_drawing(rng: random.Random, size: int = CROP) -> Image.Image:
    """Return a crop of flat shapes in any colours, some striped, hollow or with drawn contours."""
    side = size * OVERSAMPLING
    canvas = Image.new("RGB", (side, side), _some_colour(rng))
    if rng.random() < 0.4:
        period = rng.uniform(0.2, 0.7) * side
        lay_stripes(canvas, _some_colour(rng), rng.random(), period)
    pen = ImageDraw.Draw(canvas)
    for _ in range(rng.choice((1, 1, 2, 3))):
        radius = rng.uniform(0.2, 1.0) * side
        across, down = rng.random() * side, rng.random() * side
        hollow = rng.uniform(0.4, 0.7) if rng.random() < 0.3 else 0.0
        ground = _some_colour(rng)
        line = _some_colour(rng) if rng.random() < 0.4 else None
        corners = outline(rng.choice(SHAPES))
        for scale, fill in ((radius, _some_colour(rng)), (radius * hollow, ground)):
            if not scale:
                continue
            points = [(across + scale * x, down + scale * y) for x, y in corners]
            pen.polygon(points, fill=fill)
            if line is not None:
                width = round(rng.uniform(4, 9) * OVERSAMPLING)
                pen.line([*points, *points[:2]], fill=line, width=width, joint="curve")
    return canvas.reduce(OVERSAMPLING)


def _set_centre(conv: Any, pairs: dict[tuple[int, int], float]) -> None:
    for (out, into), value in pairs.items():
        conv.weight[out, into, conv.weight.shape[2] // 2, conv.weight.shape[3] // 2] = value


def _set_encoder(encoder: Any) -> None:
    """Write the weights that make TAESD's encoder an exact 8 by 8 average of four quantities."""
    for parameter in encoder.parameters():
        parameter.zero_()
    # 0 to 2: red, green, blue. 3 to 5: r - g, g - b, b - r, whose positive parts sum to
    # max(rgb) - min(rgb); the first block's ReLU takes them.
    differences = {(3, 0): 1.0, (3, 1): -1.0, (4, 1): 1.0, (4, 2): -1.0, (5, 2): 1.0, (5, 0): -1.0}
    _set_centre(encoder[0], {(i, i): 1.0 for i in range(3)} | differences)
    for layer in encoder:
        if getattr(layer, "stride", None) == (2, 2):
            for channel in range(6):
                layer.weight[channel, channel, 1:, 1:] = 0.25
    last = encoder[len(encoder) - 1]
    _set_centre(last, {(i, i): toy_latents.SPREAD[i] for i in range(3)})
    _set_centre(last, {(3, i): toy_latents.SPREAD[3] for i in (3, 4, 5)})
    for channel in range(4):
        last.bias[channel] = -toy_latents.MIDDLE[channel] * toy_latents.SPREAD[channel]


def _start_decoder(decoder: Any, generator: torch.Generator) -> None:
    """Write weights that enlarge the averages in blocks, with random features beside them."""
    for name, parameter in decoder.named_parameters():
        if parameter.ndim == 1:
            parameter.zero_()
        else:
            spread = 1.0 / math.sqrt(parameter[0].numel())
            if name.endswith("conv.4.weight"):
                spread *= 0.1
            parameter.normal_(std=spread, generator=generator)
    first, last = decoder[1], decoder[len(decoder) - 1]
    first.weight[:3] = 0
    _set_centre(first, {(i, i): 1 / toy_latents.SPREAD[i] for i in range(3)})
    first.bias[:3] = 0.5
    for layer in decoder:
        if isinstance(layer, torch.nn.Conv2d) and layer.bias is None:
            layer.weight[:3] = 0
            _set_centre(layer, {(i, i): 1.0 for i in range(3)})
    last.weight.mul_(0.1)
    last.weight[:, :3] = 0
    _set_centre(last, {(i, i): 1.0 for i in range(3)})


def new_vae(seed: int) -> Any:
    """Return the host's TAESD with the exact encoder and a decoder ready to learn."""
    from comfy.taesd.taesd import TAESD

    vae = TAESD()
    with torch.no_grad():
        _set_encoder(vae.taesd_encoder)
        _start_decoder(vae.taesd_decoder, torch.Generator().manual_seed(seed))
        vae.vae_scale.fill_(HOST_SCALE)
    return vae


def _crops_loss(decoder: torch.nn.Module) -> toy_train.Loss:
    """Return the error of half a batch of random crops, given their latents with some noise."""
    rng = random.Random(PLAN.seed)
    pixels = np.stack([np.asarray(free_drawing(rng)) for _ in range(CROPS)])
    latents = torch.from_numpy(np.stack([toy_latents.encode(image) for image in pixels]))
    targets = torch.from_numpy(pixels.transpose(0, 3, 1, 2).copy())
    device = toy_host.device()

    def loss_of(generator: torch.Generator) -> torch.Tensor:
        rows = torch.randint(0, CROPS, (BATCH // toy_train.HALVES,), generator=generator)
        noise = torch.randn(latents[rows].shape, generator=generator)
        level = LATENT_NOISE * torch.rand((len(rows), 1, 1, 1), generator=generator)
        given = (latents[rows] + level * noise).to(device)
        wanted = (targets[rows].float() / 255).to(device)
        with autocast(device.type, dtype=torch.bfloat16):
            shown = decoder(given)
        return (shown.float() - wanted).abs().mean()

    return loss_of


def train_decoder(vae: Any, work: Path) -> None:
    """Train the decoder in place on free drawings; the encoder stays as it is."""
    decoder = vae.taesd_decoder.to(toy_host.device())
    weights = list(decoder.parameters())
    average = toy_train.learn(
        PLAN, weights, lambda: _crops_loss(decoder), work / "decoder.pt", "decoder"
    )
    with torch.no_grad():
        for weight, smooth in zip(weights, average, strict=True):
            weight.copy_(smooth)
    vae.cpu()
