"""delta and the forward through the factors are the same map, in float64."""

from __future__ import annotations

import torch
from torch.nn import functional

from lora_core.adapters import LowRank
from lora_core.algebra.lowrank import delta, factors


def random(generator: torch.Generator, *shape: int) -> torch.Tensor:
    return torch.randn(*shape, generator=generator, dtype=torch.float64)


def test_a_linear_delta_is_the_forward_through_its_factors(generator):
    up, down, x = random(generator, 6, 3), random(generator, 3, 5), random(generator, 4, 5)
    adapter = LowRank(up, down, alpha=1.5)
    through_factors = 0.5 * functional.linear(functional.linear(x, down), up)
    torch.testing.assert_close(functional.linear(x, delta(adapter, torch.float64)), through_factors)


def test_a_convolution_delta_is_the_forward_through_its_factors(generator):
    up, down = random(generator, 6, 3, 1, 1), random(generator, 3, 5, 3, 3)
    x = random(generator, 2, 5, 8, 8)
    matrix = delta(LowRank(up, down, alpha=3.0), torch.float64).reshape(6, 5, 3, 3)
    through_factors = functional.conv2d(functional.conv2d(x, down, padding=1), up)
    torch.testing.assert_close(functional.conv2d(x, matrix, padding=1), through_factors)


def test_a_cp_delta_is_the_forward_through_its_three_factors(generator):
    up, mid, down = (
        random(generator, 6, 3, 1, 1),
        random(generator, 3, 3, 3, 3),
        random(generator, 3, 5, 1, 1),
    )
    x = random(generator, 2, 5, 8, 8)
    matrix = delta(LowRank(up, down, alpha=3.0, mid=mid), torch.float64).reshape(6, 5, 3, 3)
    hidden = functional.conv2d(functional.conv2d(x, down), mid, padding=1)
    expected = functional.conv2d(hidden, up)
    # mid is contracted in float32: 24 bits of mantissa.
    torch.testing.assert_close(
        functional.conv2d(x, matrix, padding=1), expected, rtol=1e-4, atol=1e-5
    )


def test_factors_are_matrices_whose_product_is_the_unscaled_delta(generator):
    adapter = LowRank(random(generator, 6, 3, 1, 1), random(generator, 3, 5, 3, 3), alpha=1.0)
    up, down = factors(adapter)
    assert up.shape == (6, 3)
    assert down.shape == (3, 45)
    torch.testing.assert_close(adapter.scale * up @ down, delta(adapter, torch.float64))


def test_delta_elements_counts_the_delta(generator):
    plain = LowRank(random(generator, 6, 3, 1, 1), random(generator, 3, 5, 3, 3), None)
    cp = LowRank(plain.up, random(generator, 3, 5, 1, 1), None, mid=random(generator, 3, 3, 3, 3))
    assert plain.delta_elements == cp.delta_elements == delta(plain).numel() == delta(cp).numel()
