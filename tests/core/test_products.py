"""A weight plus a product of factors: float32 sums, one rounding, whatever the layout and by either kernel."""

from __future__ import annotations

import pytest
import torch

from lora_core.algebra import products
from lora_core.algebra.products import add_product, times, write_sum

RANK = 40
SHAPES = [(1, 5), (320, 320), (77, 33, 3, 3), (3000, 640), (300, 40, 1, 1)]
# Of the delta's norm: float32 sums of 40 terms on a weight 16 times as large, and half a unit in the last place.
BOUNDS = {torch.float32: 1e-5, torch.float16: 2e-2, torch.bfloat16: 1.6e-1}


@pytest.fixture(params=["quick", "plain"])
def kernel(request, monkeypatch):
    """oneDNN's product where this machine has it, and torch's own."""
    if request.param == "plain":
        monkeypatch.setattr(products, "_quick_product", lambda: None)


def drawn(shape, dtype):
    generator = torch.Generator().manual_seed(sum(shape))
    weight = torch.randn(shape, generator=generator).to(dtype)
    up = torch.randn(shape[0], RANK, generator=generator) * 0.1
    down = torch.randn(RANK, weight[0].numel(), generator=generator) * 0.1
    return weight, up, down


def exact(weight, up, down):
    return weight.double() + (up.double() @ down.double()).reshape(weight.shape)


@pytest.mark.parametrize("dtype", BOUNDS, ids=str)
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_the_sum_is_the_exact_one_rounded_once(kernel, shape, dtype):
    weight, up, down = drawn(shape, dtype)
    expected = exact(weight, up, down)
    found = add_product(weight.clone(), up, down)
    delta = (expected - weight.double()).norm()
    assert (found.double() - expected).norm() <= BOUNDS[dtype] * delta
    if dtype != torch.float32:
        # Rounded once: the nearest number, but where a float32 sum lies between two of them.
        assert (found != expected.to(dtype)).double().mean() <= 0.01


@pytest.mark.parametrize("dtype", BOUNDS, ids=str)
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_writing_elsewhere_gives_the_bits_of_adding_in_place(kernel, shape, dtype):
    weight, up, down = drawn(shape, dtype)
    before = weight.clone()
    found = write_sum(torch.empty_like(weight), weight, up, down)
    assert torch.equal(weight, before)
    assert torch.equal(found, add_product(weight.clone(), up, down))


@pytest.mark.parametrize("dtype", BOUNDS, ids=str)
def test_a_slice_of_another_weight_is_written_and_nothing_beside_it(kernel, dtype):
    weight, up, down = drawn((64, 48), dtype)
    wider = torch.zeros(128, 96, dtype=dtype)
    view = wider[::2, 48:]
    view.copy_(weight)
    assert torch.equal(add_product(view, up, down), add_product(weight.clone(), up, down))
    assert not wider[1::2].any()
    assert not wider[:, :48].any()


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16], ids=str)
def test_a_weight_of_16_bits_is_its_float32_sum_rounded(kernel, dtype):
    weight, up, down = drawn((3000, 640), dtype)
    wide = add_product(weight.float(), up, down)
    assert torch.equal(add_product(weight, up, down), wide.to(dtype))


def test_both_kernels_agree_to_the_order_of_the_sums(monkeypatch):
    weight, up, down = drawn((320, 320), torch.float32)
    first = add_product(weight.clone(), up, down)
    monkeypatch.setattr(products, "_quick_product", lambda: None)
    torch.testing.assert_close(first, add_product(weight, up, down), rtol=1e-6, atol=1e-6)


# Below and above the size from which oneDNN is asked.
@pytest.mark.parametrize("size", [(3, 5, 7), (256, 320, 64), (40, 2048, 77)], ids=str)
@pytest.mark.parametrize("turned", [False, True])
@pytest.mark.parametrize("with_bias", [False, True])
def test_a_product_is_that_of_float64_however_its_factors_lie(kernel, size, turned, with_bias):
    rows, inner, out = size
    generator = torch.Generator().manual_seed(rows)
    shapes = ((inner, rows), (inner, out)) if turned else ((rows, inner), (out, inner))
    x, y = (torch.randn(shape, generator=generator) for shape in shapes)
    x, y = (x.T, y.T) if turned else (x, y)
    bias = torch.randn(out, generator=generator) if with_bias else None
    expected = x.double() @ y.double().T + (0 if bias is None else bias.double())
    found = times(x, y, bias)
    assert found.shape == (rows, out)
    assert float((found.double() - expected).norm()) <= 1e-6 * float(expected.norm())
    exact = times(x.double(), y.double(), None if bias is None else bias.double())
    torch.testing.assert_close(exact, expected, rtol=1e-12, atol=1e-12)
