"""base + up @ down with one rounding, piece by piece, so that no second copy of a weight is ever held."""

from __future__ import annotations

import torch

# Elements that are widened at a time: what the caches of a CPU hold; on a device few launches count more.
_CPU_PIECE = 1 << 20
_DEVICE_PIECE = 1 << 24


def _find_quick() -> object | None:
    """oneDNN's product x @ y.T of float32 matrices, where torch has it and the CPU has AVX-512, else None.

    torch.mm of float32 goes to MKL, which takes its slower instructions on processors of another maker: oneDNN was
    2.2 times as fast there. It has no public name in torch for float32; torch.compile calls it by this one.
    """
    if not torch.backends.mkldnn.is_available():
        return None
    if torch.backends.cpu.get_cpu_capability() != "AVX512":
        return None
    return getattr(torch.ops.mkldnn, "_linear_pointwise", None)


_quick = _find_quick()


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
    rows = max(1, (_CPU_PIECE if on_cpu else _DEVICE_PIECE) // down.shape[1])
    add = _add_quickly if on_cpu and _quick is not None else _add
    for start in range(0, into.shape[0], rows):
        piece = slice(start, start + rows)
        add(into[piece], base[piece], up[piece], down)
    return into


def _add(into: torch.Tensor, base: torch.Tensor, up: torch.Tensor, down: torch.Tensor) -> None:
    wide = base.reshape(base.shape[0], -1).to(torch.float32)
    if into.dtype == torch.float32 and into.is_contiguous():
        torch.addmm(wide, up, down, out=into.view(wide.shape))
    else:
        into.copy_(torch.addmm(wide, up, down).reshape(into.shape))


def _add_quickly(
    into: torch.Tensor, base: torch.Tensor, up: torch.Tensor, down: torch.Tensor
) -> None:
    delta = _quick(up, down.t(), None, "none", [], "").reshape(base.shape)  # type: ignore[operator]
    if into.dtype == torch.float32:
        torch.add(base, delta, out=into)
    else:
        into.copy_(delta.add_(base))
