"""LoHa: the element-wise product of two low-rank products. Hyeon-Woo et al. 2022 (FedPara, arXiv 2108.06098); Yeh et al. 2023 (LyCORIS)."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch


@dataclass(frozen=True)
class LoHa:
    """delta = (alpha / rank) * (w1_a @ w1_b) * (w2_a @ w2_b), element by element.

    w1_a, w2_a: (out, rank); w1_b, w2_b: (rank, in * kernel). With Tucker cores t1, t2 (rank, rank, *kernel) the a
    matrices are (rank, out) and the b matrices (rank, in): W[o, i, k] = sum t[p, q, k] a[p, o] b[q, i].
    """

    w1_a: torch.Tensor
    w1_b: torch.Tensor
    w2_a: torch.Tensor
    w2_b: torch.Tensor
    alpha: float | None
    t1: torch.Tensor | None = None
    t2: torch.Tensor | None = None
    keys: tuple[str, ...] = ()

    family = "LoHa"

    @property
    def rank(self) -> int:
        return int(self.w1_b.shape[0])

    @property
    def scale(self) -> float:
        return 1.0 if self.alpha is None else self.alpha / self.rank

    @property
    def tensors(self) -> tuple[torch.Tensor, ...]:
        every = (self.w1_a, self.w1_b, self.w2_a, self.w2_b, self.t1, self.t2)
        return tuple(tensor for tensor in every if tensor is not None)

    @property
    def span(self) -> tuple[int, int]:
        """(out, in * kernel) of the delta."""
        if self.t1 is None:
            return int(self.w1_a.shape[0]), int(self.w1_b.shape[1])
        kernel = math.prod(self.t1.shape[2:])
        return int(self.w1_a.shape[1]), int(self.w1_b.shape[1]) * kernel


def halves(adapter: LoHa) -> tuple[tuple[torch.Tensor, torch.Tensor], ...]:
    """(B1, A1), (B2, A2): each half as matrices (out, rank) and (rank, in * kernel); Tucker cores contracted in float32."""
    if adapter.t1 is None or adapter.t2 is None:
        return (adapter.w1_a, adapter.w1_b), (adapter.w2_a, adapter.w2_b)
    return (
        (adapter.w1_a.T, contracted(adapter.t1, adapter.w1_b)),
        (adapter.w2_a.T, contracted(adapter.t2, adapter.w2_b)),
    )


def contracted(core: torch.Tensor, down: torch.Tensor) -> torch.Tensor:
    """A[p, (i, kernel)] = sum_q core[p, q, kernel] * down[q, i], in float32: a Tucker core with its second mode done."""
    return torch.einsum("pq...,qi->pi...", _wide(core), _wide(down.flatten(1))).flatten(1)


def _wide(tensor: torch.Tensor) -> torch.Tensor:
    return tensor if tensor.dtype == torch.float64 else tensor.float()


def product(
    first: tuple[torch.Tensor, torch.Tensor], second: tuple[torch.Tensor, torch.Tensor]
) -> torch.Tensor:
    """(B1 @ A1) * (B2 @ A2) as a matrix (out, in * kernel)."""
    return (first[0] @ first[1]) * (second[0] @ second[1])


def delta(adapter: LoHa, dtype: torch.dtype = torch.float32) -> torch.Tensor:
    """The delta as a matrix (out, in * kernel), computed and returned in `dtype`."""
    first, second = (tuple(part.to(dtype) for part in half) for half in halves(adapter))
    return adapter.scale * product((first[0], first[1]), (second[0], second[1]))


def factors(adapter: LoHa) -> tuple[torch.Tensor, torch.Tensor]:
    """B (out, rank^2) and A (rank^2, in * kernel) with delta = scale * B @ A, exactly, in float32.

    The row-wise Khatri-Rao product: (B1 A1) * (B2 A2) = (B1 . B2)(A1 . A2). Slyusar 1999.
    """
    (b1, a1), (b2, a2) = halves(adapter)
    up = _wide(b1)[:, :, None] * _wide(b2)[:, None, :]
    down = _wide(a1)[:, None, :] * _wide(a2)[None, :, :]
    return up.flatten(1), down.flatten(0, 1)
