"""LoRA and LoCon: the two factors of an adapter, and its delta."""

from __future__ import annotations

import torch

from ..adapters import LowRank


def factors(adapter: LowRank) -> tuple[torch.Tensor, torch.Tensor]:
    """Two matrices B: (out, rank) and A: (rank, in * kernel) with delta = scale * B @ A.

    The dtype is the file's, except that a CP-decomposed adapter (mid) has its A contracted in float32:
    A[p, i, kh, kw] = sum_q mid[p, q, kh, kw] * down[q, i]. Yeh et al. 2023 (LyCORIS), LoCon with Tucker core.
    """
    up, down = adapter.matrices
    if adapter.mid is None:
        return up, down
    mid = adapter.mid.float()
    contracted = torch.einsum("pq...,qi->pi...", mid, down.float())
    return up, contracted.flatten(1)


def delta(adapter: LowRank, dtype: torch.dtype = torch.float32) -> torch.Tensor:
    """delta = scale * B @ A as a matrix (out, in * kernel), computed and returned in `dtype`."""
    b, a = factors(adapter)
    return adapter.scale * (b.to(dtype) @ a.to(dtype))
