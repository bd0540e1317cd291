"""OFT and BOFT: the weight's rows turned by small rotations. Qiu et al. 2023 (arXiv 2306.07280); Liu et al. 2024 (2311.06243); as LyCORIS and kohya train."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch


@dataclass(frozen=True)
class Rotation:
    """W' = rescale * R^T W for OFT, rescale * (B_m ... B_1) W for BOFT, R and B made of small orthogonal blocks.

    blocks: (blocks, size, size) for OFT, (stages, blocks, size, size) for BOFT: generators Q = X - X^T of the
    Cayley transform R = (I + Q)(I - Q)^-1. rescale: (out, 1, ...) or None.
    alpha: the constraint: || Q || is held to alpha * out; 0 or None is none.
    """

    blocks: torch.Tensor
    rescale: torch.Tensor | None
    alpha: float | None
    keys: tuple[str, ...] = ()

    rank = None

    @property
    def family(self) -> str:
        return "BOFT" if self.blocks.dim() == 4 else "OFT"

    @property
    def tensors(self) -> tuple[torch.Tensor, ...]:
        return (self.blocks,) if self.rescale is None else (self.blocks, self.rescale)

    @property
    def span(self) -> tuple[int, None]:
        """(out, None): any number of inputs."""
        return int(self.blocks.shape[-3] * self.blocks.shape[-1]), None


def rotations(blocks: torch.Tensor, constraint: float) -> torch.Tensor:
    """R = (I + Q)(I - Q)^-1 for each block, Q = X - X^T scaled down to a norm of `constraint` where that is positive."""
    skew = blocks - blocks.transpose(-1, -2)
    if constraint > 0:
        norm = torch.linalg.vector_norm(skew) + 1e-8
        skew = skew * (constraint / norm).clamp(max=1.0)
    eye = torch.eye(blocks.shape[-1], dtype=blocks.dtype, device=blocks.device)
    # X (I - Q)^-1 without an inverse: (I - Q)^T = I + Q, and R = (I - Q)^-1 (I + Q) since both commute.
    return torch.linalg.solve(eye - skew, eye + skew)


def rotated(
    weight: torch.Tensor,
    blocks: torch.Tensor,
    rescale: torch.Tensor | None,
    constraint: float,
    strength: float,
) -> torch.Tensor:
    """The turned weight (out, in * kernel). Every rotation R is blended to strength * R + (1 - strength) * I.

    A strength of 1 is as trained, 0 gives the weight back. The rescaling is blended in the same way.
    """
    eye = torch.eye(blocks.shape[-1], dtype=blocks.dtype, device=blocks.device)
    turns = strength * rotations(blocks, constraint) + (1 - strength) * eye
    turned = _oft(weight, turns) if turns.dim() == 3 else _boft(weight, turns)
    if rescale is None:
        return turned
    return turned * (1 + strength * (rescale.reshape(-1, 1) - 1))


def _oft(weight: torch.Tensor, turns: torch.Tensor) -> torch.Tensor:
    count, size, _ = turns.shape
    return torch.einsum("knm,kni->kmi", turns, weight.reshape(count, size, -1)).reshape(
        weight.shape
    )


def _boft(weight: torch.Tensor, turns: torch.Tensor) -> torch.Tensor:
    """The butterfly: stage i pairs rows that lie 2^i half-blocks apart, turns each group, and sorts them back."""
    size = turns.shape[-1]
    turned = weight
    for stage, blocks in enumerate(turns):
        stride = 2**stage * (size // 2)
        grouped = turned.unflatten(0, (-1, 2, stride)).transpose(1, 2).flatten(0, 2)
        grouped = torch.einsum("bij,bjn->bin", blocks, grouped.unflatten(0, (-1, size)))
        turned = grouped.flatten(0, 1).unflatten(0, (-1, stride, 2)).transpose(1, 2).flatten(0, 2)
    return turned


def fits_rows(adapter: Rotation) -> bool:
    """Whether the blocks are square and, for BOFT, every stage divides the rows."""
    size = adapter.blocks.shape[-1]
    if adapter.blocks.shape[-2] != size or adapter.blocks.dim() not in (3, 4):
        return False
    if adapter.blocks.dim() == 3:
        return True
    rows, stages = adapter.span[0], adapter.blocks.shape[0]
    return size % 2 == 0 and all(
        rows % (math.prod((2, 2**stage, size // 2))) == 0 for stage in range(stages)
    )
