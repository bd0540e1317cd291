"""Cutting to a rank is the Eckart-Young optimum to 1e-6 in float32, on every layer shape of SD1.5, SDXL and Flux.

A seeded sample of the shapes; all of them with LOOM_FULL=1 (`dev.py test --full`).
"""

from __future__ import annotations

import os
import random

import pytest
import torch

from lora_core.algebra.factorspace import Factors, bounded, decompose
from tools.layer_shapes import ALL

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
