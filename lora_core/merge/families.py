"""Adapters of any family as factors: exact ones where the family has them, else the whole delta and an identity."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch

from ..adapters import Adapter, Difference, LowRank
from ..algebra import loha, lokr, lowrank
from ..algebra.factorspace import Factors, folded, of_dense
from ..algebra.loha import LoHa
from ..algebra.lokr import LoKr

# How the reason of an adapter ends that a known base model makes mergeable.
DEPENDS = "depends on the base model's weight"
GROWS = "it grows the weight"


@dataclass(frozen=True)
class OnBase:
    """An adapter that depends on the weight, as what it adds to one that is known.

    shape: of that weight or its slice. delta: -> (out, in * kernel) float32 at strength 1, made when asked for.
    """

    adapter: Adapter | Difference
    shape: tuple[int, ...]
    delta: Callable[[], torch.Tensor]

    alpha = None

    @property
    def family(self) -> str:
        return f"{self.adapter.family} on the base model"

    @property
    def keys(self) -> tuple[str, ...]:
        return self.adapter.keys

    @property
    def tensors(self) -> tuple[torch.Tensor, ...]:
        return self.adapter.tensors

    @property
    def span(self) -> tuple[int, int]:
        return self.shape[0], math.prod(self.shape[1:])

    @property
    def rank(self) -> int | None:
        return None if isinstance(self.adapter, Difference) else self.adapter.rank


Mergeable = Adapter | Difference | OnBase


def low_rank_factors(adapter: Mergeable) -> tuple[torch.Tensor, torch.Tensor] | None:
    """(B, A): (out, rank) and (rank, in * kernel) with delta = B @ A exactly, scale folded in, float32.

    None where there are none, or none smaller than the matrix itself.
    """
    if isinstance(adapter, LowRank):
        pair, scale = lowrank.factors(adapter), adapter.scale
    elif isinstance(adapter, LoHa) and adapter.rank**2 < min(adapter.span):
        pair, scale = loha.factors(adapter), adapter.scale
    elif isinstance(adapter, LoKr) and _kron_rank(adapter) < min(adapter.span):
        pair, scale = lokr.factors(adapter), adapter.scale
    else:
        return None
    found = folded(*pair, scale)
    return found.up, found.down


def dense_delta(adapter: Mergeable) -> torch.Tensor:
    """The delta at strength 1 as a matrix (out, in * kernel), float32. Only of families that `unmergeable` passes."""
    if isinstance(adapter, OnBase):
        return adapter.delta()
    if isinstance(adapter, Difference):
        return (adapter.scale * adapter.tensor.float()).flatten(1)
    if isinstance(adapter, LoHa):
        return loha.delta(adapter)
    if isinstance(adapter, LoKr):
        return lokr.delta(adapter)
    if isinstance(adapter, LowRank):
        return lowrank.delta(adapter)
    raise TypeError(f"{adapter.family} has no delta of its own")


def row_factors(adapter: Mergeable) -> Factors:
    """The delta at strength 1 as factors. A family without small exact ones gets the rank of the matrix itself."""
    found = low_rank_factors(adapter)
    return of_dense(dense_delta(adapter)) if found is None else Factors(*found)


def unmergeable(adapter: Mergeable) -> str | None:
    """Why an adapter cannot be merged without the base model's weight, in words; None where it can.

    Only what adds the same delta to any weight can be summed with others.
    """
    if isinstance(adapter, Difference):
        return f"what a replaced weight adds {DEPENDS}" if adapter.replaces else None
    if isinstance(adapter, LowRank):
        return None if adapter.grown is None else GROWS
    if isinstance(adapter, LoHa | LoKr | OnBase):
        return None
    return f"what {adapter.family} does {DEPENDS}"


def inner_shape(adapter: Mergeable) -> tuple[int, ...]:
    """The inner side as it is spelled: (in,) for a matrix, (in, *kernel) for a convolution; flat where it does not say."""
    if isinstance(adapter, LowRank):
        return (int(adapter.down.shape[1]), *adapter.kernel)
    if isinstance(adapter, Difference):
        return tuple(adapter.tensor.shape[1:])
    if isinstance(adapter, OnBase):
        return adapter.shape[1:]
    return (int(adapter.span[1] or 0),)


def said_rank(adapter: Mergeable) -> int:
    """The rank that people know it by; one that says none has that of its matrix."""
    if isinstance(adapter, Difference):
        out = adapter.tensor.shape[0]
        return min(int(out), adapter.tensor.numel() // int(out))
    return adapter.rank or min(size for size in adapter.span if size is not None)


def _kron_rank(adapter: LoKr) -> int:
    """The rank of the two sides' factors: that of a decomposed side, the smaller dimension of a whole one."""
    return math.prod(
        min(up.shape) if down is None else up.shape[1] for up, down in lokr.sides(adapter)
    )
