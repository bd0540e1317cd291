"""DoRA: the changed weight brought back to a learned length, row by row or column by column. Liu et al. 2024 (arXiv 2402.09353), eq. 5."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from ..adapters import LowRank
from .loha import LoHa
from .lokr import LoKr


@dataclass(frozen=True)
class DoRA:
    """W' = magnitude * (W + delta) / || W + delta ||, the norm taken along every other axis.

    inner: gives delta. magnitude: one number for each output (by_output) or for each input channel.
    """

    inner: LowRank | LoHa | LoKr
    magnitude: torch.Tensor
    by_output: bool
    keys: tuple[str, ...] = ()

    @property
    def family(self) -> str:
        return f"DoRA {self.inner.family}"

    @property
    def rank(self) -> int | None:
        return self.inner.rank

    @property
    def alpha(self) -> float | None:
        return self.inner.alpha

    @property
    def tensors(self) -> tuple[torch.Tensor, ...]:
        return (*self.inner.tensors, self.magnitude)

    @property
    def span(self) -> tuple[int, int]:
        """(out, in * kernel) of the delta."""
        return self.inner.span


def decomposed(
    weight: torch.Tensor,
    delta: torch.Tensor,
    magnitude: torch.Tensor,
    by_output: bool,
    strength: float,
) -> torch.Tensor:
    """weight + strength * (W' - weight), all (out, in, *kernel), so that a strength of 0.5 is half of the way.

    The norm is that of the changed weight on either axis, as the paper and the trainers have it.
    """
    changed = weight + delta.reshape(weight.shape)
    axis = 0 if by_output else 1
    others = tuple(dim for dim in range(weight.dim()) if dim != axis)
    norm = torch.linalg.vector_norm(changed, dim=others, keepdim=True)
    norm = norm + torch.finfo(weight.dtype).eps
    shape = [1] * weight.dim()
    shape[axis] = -1
    whole = changed * (magnitude.reshape(shape) / norm)
    return whole if strength == 1.0 else weight + strength * (whole - weight)
