"""A linear layer and its low-rank branch as one step of autograd: no temporaries of the output's size, few kernels.

Sums over all rows of a batch are left to torch's own product, which adds them up in pieces: one chain of so many float32
numbers is off by twice as much, and by another amount where ranks share the batch.
"""

from __future__ import annotations

from typing import Any

import torch
from torch.autograd.function import once_differentiable

from ..algebra.products import times


class _Beside(torch.autograd.Function):
    """y = x W^T + b + scale (x A^T) B^T, everything added in place. What is kept for backward is x and x A^T."""

    @staticmethod
    def forward(
        ctx: Any,
        x: torch.Tensor,
        weight: torch.Tensor,
        bias: torch.Tensor | None,
        down: torch.Tensor,
        up: torch.Tensor,
        scale: float,
    ) -> torch.Tensor:
        rows = x.reshape(-1, x.shape[-1])
        y = times(rows, weight, bias)
        inner = times(rows, down)
        y.addmm_(inner, up.T, alpha=scale)
        ctx.save_for_backward(rows, inner, weight, down, up)
        ctx.scale, ctx.shape = scale, x.shape
        return y.view(*x.shape[:-1], weight.shape[0])

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        rows, inner, weight, down, up = ctx.saved_tensors
        g = gradient.reshape(-1, gradient.shape[-1])
        back = times(g, up.T).mul_(ctx.scale)
        of_x = None
        if ctx.needs_input_grad[0]:
            of_x = times(g, weight.T).addmm_(back, down).view(ctx.shape)
        # The long side last: such a product is the faster one, and turning so little around costs nothing.
        of_up = (inner.T @ g).T.mul(ctx.scale)
        return of_x, None, None, back.T @ rows, of_up, None


class _Merged(torch.autograd.Function):
    """y = x (W + scale B A)^T + b. The weight is made again in backward, so that none is kept."""

    @staticmethod
    def forward(
        ctx: Any,
        x: torch.Tensor,
        weight: torch.Tensor,
        bias: torch.Tensor | None,
        down: torch.Tensor,
        up: torch.Tensor,
        scale: float,
    ) -> torch.Tensor:
        rows = x.reshape(-1, x.shape[-1])
        merged = torch.addmm(weight, up, down, alpha=scale)
        y = times(rows, merged, bias)
        ctx.save_for_backward(rows, weight, down, up)
        ctx.scale, ctx.shape = scale, x.shape
        return y.view(*x.shape[:-1], weight.shape[0])

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        rows, weight, down, up = ctx.saved_tensors
        g = gradient.reshape(-1, gradient.shape[-1])
        of_x = None
        if ctx.needs_input_grad[0]:
            of_x = times(g, torch.addmm(weight, up, down, alpha=ctx.scale).T).view(ctx.shape)
        of_weight = (g.T @ rows).mul_(ctx.scale)
        return of_x, None, None, up.T @ of_weight, of_weight @ down.T, None


def linear_with_branch(
    x: torch.Tensor,
    weight: torch.Tensor,
    bias: torch.Tensor | None,
    down: torch.Tensor,
    up: torch.Tensor,
    scale: float,
) -> torch.Tensor:
    """(..., in) -> (..., out) with gradients to x, down (rank, in) and up (out, rank); weight and bias have none.

    All of one floating dtype, on one device. Beside or merged, whichever multiplies less for these sizes.
    """
    rows = x.numel() // x.shape[-1]
    way = _Merged if merging_is_cheaper(rows, weight.shape, down.shape[0]) else _Beside
    return way.apply(x, weight, bias, down, up, scale)


def merging_is_cheaper(rows: int, shape: torch.Size, rank: int) -> bool:
    """By multiplications beside those of the layer itself, forward and backward.

    Beside: three products each of rows by rank by in and by out. Merged: the weight twice and its two gradients, each
    in by out by rank, and the weight's whole gradient, rows by in by out.
    """
    out, inside = shape
    return out * inside * (4 * rank + rows) < 3 * rows * rank * (out + inside)
