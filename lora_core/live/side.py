"""The side path of one layer: out += up @ (strengths * (down @ x)), two products for the whole stack."""

from __future__ import annotations

from collections.abc import Callable

import torch

from .bank import Factors

# A layer's own convolution without bias: (x, weight) -> out, with its stride, padding and dilation.
Convolve = Callable[[torch.Tensor, torch.Tensor], torch.Tensor]


def add_linear(
    out: torch.Tensor, x: torch.Tensor, factors: Factors, strengths: torch.Tensor
) -> torch.Tensor:
    """out (..., out) plus the side path of x (..., in). Changed in place where its memory allows.

    strengths: (ranks,) float32; the products are in out's dtype, the strengths are multiplied in float32.
    """
    hidden = torch.nn.functional.linear(x.to(out.dtype).reshape(-1, x.shape[-1]), factors.down)
    hidden.mul_(strengths)
    whole = out if out.is_contiguous() else out.contiguous()
    rows = whole.view(-1, whole.shape[-1])
    for part in factors.ups:
        ranks = hidden.narrow(1, part.first, part.up.shape[1])
        rows.narrow(1, part.start, part.length).addmm_(ranks, part.up.t())
    return whole


def add_convolved(
    out: torch.Tensor,
    x: torch.Tensor,
    factors: Factors,
    strengths: torch.Tensor,
    convolve: Convolve,
) -> torch.Tensor:
    """out (batch, out, *space) plus the side path of x (batch, in, *space); without a batch dimension too."""
    space = factors.down.dim() - 2
    batched = out.dim() == space + 2
    whole = (out if batched else out.unsqueeze(0)).contiguous()
    hidden = convolve(x if batched else x.unsqueeze(0), factors.down.to(x.dtype))
    hidden = hidden.mul_(strengths.view(-1, *(1,) * space)).flatten(2)
    flat = whole.view(whole.shape[0], whole.shape[1], -1)
    for part in factors.ups:
        ranks = hidden.narrow(1, part.first, part.up.shape[1])
        up = part.up.expand(flat.shape[0], *part.up.shape)
        flat.narrow(1, part.start, part.length).baddbmm_(up, ranks.to(up.dtype))
    return whole if batched else whole.squeeze(0)
