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

    strengths: (ranks,) float32, or (parts, ranks) for equal parts of the batch, one after another; the products are in
    out's dtype, the strengths are multiplied in float32.
    """
    hidden = torch.nn.functional.linear(x.to(out.dtype).reshape(-1, x.shape[-1]), factors.down)
    if strengths.dim() == 1:
        hidden.mul_(strengths)
    else:
        hidden.view(strengths.shape[0], -1, hidden.shape[1]).mul_(strengths.unsqueeze(1))
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
    """out (batch, out, *space) plus the side path of x (batch, in, *space); without a batch dimension too.

    strengths: as in add_linear; by parts only with a batch dimension.
    """
    space = factors.down.dim() - 2
    batched = out.dim() == space + 2
    whole = (out if batched else out.unsqueeze(0)).contiguous()
    hidden = convolve(x if batched else x.unsqueeze(0), factors.down.to(x.dtype))
    hidden = hidden.flatten(2)
    parts = 1 if strengths.dim() == 1 else strengths.shape[0]
    each = hidden.view(parts, -1, *hidden.shape[1:])
    each.mul_(strengths.view(parts, 1, -1, 1))
    flat = whole.view(whole.shape[0], whole.shape[1], -1)
    for part in factors.ups:
        ranks = hidden.narrow(1, part.first, part.up.shape[1])
        up = part.up.expand(flat.shape[0], *part.up.shape)
        flat.narrow(1, part.start, part.length).baddbmm_(up, ranks.to(up.dtype))
    return whole if batched else whole.squeeze(0)
