"""Products of matrices where torch's own are slow: base + up @ down with one rounding, piece by piece, and x @ y.T."""

from __future__ import annotations

import functools
from collections.abc import Callable

import torch

# Elements that are widened at a time: what the caches of a CPU hold; on a device few launches count more.
_CPU_PIECE = 1 << 20
_DEVICE_PIECE = 1 << 24
# Of oneDNN's product: nothing done to what it gives; and no bias.
_AS_IT_IS: tuple[object, ...] = ("none", [], "")
_PLAIN: tuple[object, ...] = (None, *_AS_IT_IS)
# Elements of the second factor and rows of the first below which its setting up takes longer than it saves. A row alone
# is added up in another order than among others; from a few rows on its bits do not depend on how many there are, so that
# ranks that share a batch find what one process finds.
_FEW, _FEW_ROWS = 1 << 12, 8


@functools.cache
def _quick_product() -> Callable[..., torch.Tensor] | None:
    """oneDNN's product x @ y.T of float32 matrices, where torch has it and the CPU has AVX-512, else None.

    torch.mm of float32 goes to MKL, which takes its slower instructions on processors of another maker: oneDNN was
    2.2 times as fast there. It has no public name in torch for float32; torch.compile calls it by this one.
    """
    if not torch.backends.mkldnn.is_available():
        return None
    if torch.backends.cpu.get_cpu_capability() != "AVX512":
        return None
    found = getattr(torch.ops.mkldnn, "_linear_pointwise", None)
    try:
        return found if found is not None and _multiplies(found) else None
    except (RuntimeError, TypeError):  # a torch that has the name for something else
        return None


def _multiplies(product: Callable[..., torch.Tensor]) -> bool:
    x, y = torch.eye(2), torch.tensor([[1.0, 2.0], [3.0, 4.0]])
    return torch.equal(product(x, y, *_PLAIN), y.T)


def times(x: torch.Tensor, y: torch.Tensor, bias: torch.Tensor | None = None) -> torch.Tensor:
    """x @ y.T + bias without gradient. x: (rows, inner), y: (out, inner), bias: (out,), of one dtype, on one device.

    Transposed views cost nothing: times(x.T, y.T) is x.T @ y.
    """
    worth = x.shape[0] >= _FEW_ROWS and y.numel() >= _FEW
    if worth and x.device.type == "cpu" and x.dtype == torch.float32:
        quick = _quick_product()
        if quick is not None:
            return quick(x, y, bias, *_AS_IT_IS)
    return x @ y.T if bias is None else torch.addmm(bias, x, y.T)


def add_product(weight: torch.Tensor, up: torch.Tensor, down: torch.Tensor) -> torch.Tensor:
    """weight += up @ down in place, accumulated in float32 and rounded once. Returns the weight.

    weight: (out, in, *kernel), any layout, fp32, fp16 or bf16. up: (out, rank), down: (rank, in * kernel), float32 on
    the weight's device.
    """
    return write_sum(weight, weight, up, down)


def write_sum(
    into: torch.Tensor, base: torch.Tensor, up: torch.Tensor, down: torch.Tensor
) -> torch.Tensor:
    """into = base + up @ down, accumulated in float32 and rounded once to into's dtype. Returns `into`.

    into, base: (out, in, *kernel), any layout, fp32, fp16 or bf16; they may be one tensor. up: (out, rank),
    down: (rank, in * kernel), float32, all on one device. The bits depend on the shapes and values alone.
    """
    on_cpu = into.device.type == "cpu"
    quick = _quick_product() if on_cpu else None
    piece = _CPU_PIECE if on_cpu else _DEVICE_PIECE
    rows = max(1, piece // down.shape[1])
    for start in range(0, into.shape[0], rows):
        part = slice(start, start + rows)
        if quick is None:
            _add(into[part], base[part], up[part], down)
        else:
            _add_delta(into[part], base[part], quick(up[part], down.T, *_PLAIN))
    return into


def _add(into: torch.Tensor, base: torch.Tensor, up: torch.Tensor, down: torch.Tensor) -> None:
    wide = base.reshape(base.shape[0], -1).to(torch.float32)
    if into.dtype == torch.float32 and into.is_contiguous():
        torch.addmm(wide, up, down, out=into.view(wide.shape))
    else:
        into.copy_(torch.addmm(wide, up, down).reshape(into.shape))


def _add_delta(into: torch.Tensor, base: torch.Tensor, delta: torch.Tensor) -> None:
    """delta: (out, in * kernel) float32, changed."""
    delta = delta.reshape(base.shape)
    if into.dtype == torch.float32:
        torch.add(base, delta, out=into)
    else:
        into.copy_(delta.add_(base))
