"""GLoRA: a low-rank delta of its own, and one made from the weight it changes. Chavan et al. 2023 (arXiv 2306.07967), as LyCORIS trains it."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch

from .loha import contracted


@dataclass(frozen=True)
class GLoRA:
    """delta(W) = (alpha / rank) * (W @ a1 @ a2 + b1 @ b2); a1 and a2 act on the input channels.

    a1: (in, rank), a2: (rank, in), b1: (out, rank), b2: (rank, in, *kernel), or (rank, in) with bm (rank, rank, *kernel).
    Files of old LyCORIS versions hold the transposed roles (a2 before a1, b2 before b1); `oriented` turns them.
    """

    a1: torch.Tensor
    a2: torch.Tensor
    b1: torch.Tensor
    b2: torch.Tensor
    alpha: float | None
    bm: torch.Tensor | None = None
    keys: tuple[str, ...] = ()

    family = "GLoRA"

    @property
    def rank(self) -> int:
        return int(self.b1.shape[1])

    @property
    def scale(self) -> float:
        return 1.0 if self.alpha is None else self.alpha / self.rank

    @property
    def tensors(self) -> tuple[torch.Tensor, ...]:
        every = (self.a1, self.a2, self.b1, self.b2, self.bm)
        return tuple(tensor for tensor in every if tensor is not None)

    @property
    def span(self) -> tuple[int, int]:
        """(out, in * kernel) of the delta."""
        kernel = 1 if self.bm is None else math.prod(self.bm.shape[2:])
        return int(self.b1.shape[0]), self.b2[0].numel() * kernel


def oriented(adapter: GLoRA) -> GLoRA | None:
    """The adapter in today's orientation, whichever the file had; None where the ranks agree in neither.

    On a square weight both fit; then the rank tells, which is below the weight's size. A file whose matrices are all square
    of one size could be either; it is read as old, as the host reads it.
    """
    a1, a2, b1, b2 = adapter.a1, adapter.a2, adapter.b1, adapter.b2
    old = b2.shape[1] == b1.shape[0] == a1.shape[0] == a2.shape[1]
    new = b2.shape[0] == b1.shape[1] == a1.shape[1] == a2.shape[0]
    if old and (not new or a2.shape[0] >= a2.shape[1]):
        return GLoRA(a2, a1, b2, b1, adapter.alpha, adapter.bm, adapter.keys)
    if new:
        return adapter
    return None


def own_product(adapter: GLoRA) -> tuple[torch.Tensor, torch.Tensor]:
    """The part that does not depend on the weight, as matrices (out, rank) and (rank, in * kernel)."""
    down = adapter.b2 if adapter.bm is None else contracted(adapter.bm, adapter.b2)
    return adapter.b1.flatten(1), down.flatten(1)


def delta_of(
    weight: torch.Tensor,
    mix: tuple[torch.Tensor, torch.Tensor],
    own: tuple[torch.Tensor, torch.Tensor],
) -> torch.Tensor:
    """W a1 a2 + b1 b2 for a weight (out, in, *kernel); all in the weight's dtype, of the weight's shape."""
    if weight.dim() == 2 and mix[0].shape[0] == weight.shape[1]:
        mixed = (weight @ mix[0]) @ mix[1]
    elif mix[0].shape[0] == weight.shape[1]:
        mixed = torch.einsum("oi...,ij,jk->ok...", weight, mix[0], mix[1])
    else:  # old LyCORIS: the mixing acts on channels and kernel together
        mixed = ((weight.flatten(1) @ mix[0]) @ mix[1]).reshape(weight.shape)
    return mixed + (own[0] @ own[1]).reshape(weight.shape)
