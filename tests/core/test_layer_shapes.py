"""Cutting to a rank is the Eckart-Young optimum to 1e-6 in float32, on every layer shape of SD1.5, SDXL and Flux.

A seeded sample of the shapes; all of them with LOOM_FULL=1 (`dev.py test --full`).
"""

from __future__ import annotations

import os
import random

import pytest
import torch

from lora_core.algebra.factorspace import Factors, bounded, decompose

# (out, in * kernel): attention, feed-forward, projections, 1x1 and 3x3 convolutions, time and text projections.
_UNET_WIDTHS = (320, 640, 1280)
SD15 = {
    *((w, w) for w in _UNET_WIDTHS),
    *((w, 768) for w in _UNET_WIDTHS),
    *((8 * w, w) for w in _UNET_WIDTHS),
    *((w, 4 * w) for w in _UNET_WIDTHS),
    *((w, 1280) for w in _UNET_WIDTHS),
    *((out, 9 * inner) for out, inner in (
        (320, 4), (320, 320), (640, 320), (640, 640), (1280, 640), (1280, 1280), (1280, 2560),
        (1280, 1920), (640, 1920), (640, 1280), (640, 960), (320, 960), (320, 640), (4, 320),
    )),
    *((out, inner) for out, inner in (
        (640, 320), (1280, 640), (1280, 2560), (1280, 1920), (640, 1920), (640, 1280), (640, 960),
        (320, 960), (320, 640), (1280, 320), (768, 768), (3072, 768), (768, 3072),
    )),
}  # fmt: skip
SDXL = {
    *((w, w) for w in _UNET_WIDTHS),
    *((w, 2048) for w in (640, 1280)),
    *((8 * w, w) for w in (640, 1280)),
    *((w, 4 * w) for w in (640, 1280)),
    (1280, 2816), (5120, 1280), (1280, 1280),
    *((out, 9 * inner) for out, inner in (
        (320, 4), (320, 320), (640, 320), (640, 640), (1280, 640), (1280, 1280), (1280, 2560),
        (1280, 1920), (640, 1920), (640, 1280), (640, 960), (320, 960), (320, 640), (4, 320),
    )),
}  # fmt: skip
FLUX = {
    (9216, 3072), (3072, 3072), (12288, 3072), (3072, 12288), (21504, 3072), (3072, 15360),
    (18432, 3072), (9216, 3072), (6144, 3072), (3072, 64), (64, 3072), (3072, 4096), (3072, 256),
    (3072, 768), (768, 768), (3072, 768), (768, 3072),
}  # fmt: skip
ALL = sorted(SD15 | SDXL | FLUX)
FULL = bool(os.environ.get("LOOM_FULL"))
SHAPES = ALL if FULL else random.Random(5).sample(ALL, 12)
JOINT, RANK = 64, 24


def in_float64(up: torch.Tensor, down: torch.Tensor) -> torch.Tensor:
    """The singular values of up @ down by two QRs in float64."""
    return torch.linalg.svdvals(torch.linalg.qr(up)[1] @ torch.linalg.qr(down.T)[1].T)


@pytest.mark.parametrize("shape", SHAPES, ids=lambda shape: f"{shape[0]}x{shape[1]}")
def test_the_cut_is_the_optimum_to_a_millionth(shape):
    out, inner = shape
    generator = torch.Generator().manual_seed(out * 31 + inner)
    falling = torch.arange(1, JOINT + 1).float() ** -0.7
    up = torch.randn(out, JOINT, generator=generator) * falling
    whole = bounded(Factors(up, torch.randn(JOINT, inner, generator=generator)))
    rank = min(RANK, whole.rank - 1)
    best = float(in_float64(whole.up.double(), whole.down.double())[rank:].norm())
    cut = decompose(whole).truncated(rank)
    both = torch.cat([whole.up, -cut.up], 1).double(), torch.cat([whole.down, cut.down]).double()
    error = float(in_float64(*both).norm())
    assert error <= best * (1 + 1e-6)
