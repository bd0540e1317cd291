"""Adapters of any family as factors: exact ones where the family has them, else the whole delta and an identity."""

from __future__ import annotations

import torch

from ..adapters import Difference, LowRank
from ..algebra import lowrank
from ..algebra.factorspace import Factors, folded, of_dense

Mergeable = LowRank | Difference


def low_rank_factors(adapter: Mergeable) -> tuple[torch.Tensor, torch.Tensor] | None:
    """(B, A): (out, rank) and (rank, in * kernel) with delta = B @ A exactly, scale folded in; None without such."""
    if isinstance(adapter, LowRank):
        factors = folded(*lowrank.factors(adapter), adapter.scale)
        return factors.up, factors.down
    return None


def dense_delta(adapter: Mergeable) -> torch.Tensor:
    """The delta at strength 1 as a matrix (out, in * kernel), float32."""
    if isinstance(adapter, LowRank):
        return lowrank.delta(adapter)
    return adapter.tensor.float().flatten(1)


def row_factors(adapter: Mergeable) -> Factors:
    """The delta at strength 1 as factors. A family without exact ones gets the rank of the matrix itself."""
    found = low_rank_factors(adapter)
    return of_dense(dense_delta(adapter)) if found is None else Factors(*found)


def span(adapter: Mergeable) -> tuple[int, int]:
    """(out, in * kernel) of the delta."""
    if isinstance(adapter, LowRank):
        out = int(adapter.up.shape[0])
        return out, adapter.delta_elements // out
    out = int(adapter.tensor.shape[0])
    return out, adapter.tensor.numel() // out


def inner_shape(adapter: Mergeable) -> tuple[int, ...]:
    """The inner side as it is spelled: (in,) for a matrix, (in, *kernel) for a convolution."""
    if isinstance(adapter, LowRank):
        return (int(adapter.down.shape[1]), *adapter.kernel)
    return tuple(adapter.tensor.shape[1:])


def said_rank(adapter: Mergeable) -> int:
    """The rank that people know it by; a whole difference has that of its matrix."""
    return adapter.rank if isinstance(adapter, LowRank) else min(span(adapter))
