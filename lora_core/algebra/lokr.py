"""LoKr: a Kronecker product of two small matrices, each whole or decomposed. Yeh et al. 2023 (LyCORIS, arXiv 2309.14859)."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from .loha import contracted


@dataclass(frozen=True)
class LoKr:
    """delta = scale * kron(w1, w2).

    w1: (out1, in1), or w1_a (out1, rank) @ w1_b (rank, in1).
    w2: (out2, in2, *kernel), or w2_a (out2, rank) @ w2_b (rank, in2 * kernel), or with a Tucker core t2
    (rank, rank, *kernel): w2_a (rank, out2) and w2_b (rank, in2).
    scale = alpha / rank where a side is decomposed (the second decides, as every trainer reads it), else 1.
    """

    w1: torch.Tensor | None
    w2: torch.Tensor | None
    alpha: float | None
    w1_a: torch.Tensor | None = None
    w1_b: torch.Tensor | None = None
    w2_a: torch.Tensor | None = None
    w2_b: torch.Tensor | None = None
    t2: torch.Tensor | None = None
    keys: tuple[str, ...] = ()

    family = "LoKr"

    @property
    def rank(self) -> int | None:
        """The rank of the decomposed side; None where both are whole."""
        if self.w2_b is not None:
            return int(self.w2_b.shape[0])
        return None if self.w1_b is None else int(self.w1_b.shape[0])

    @property
    def scale(self) -> float:
        return 1.0 if self.alpha is None or self.rank is None else self.alpha / self.rank

    @property
    def tensors(self) -> tuple[torch.Tensor, ...]:
        every = (self.w1, self.w2, self.w1_a, self.w1_b, self.w2_a, self.w2_b, self.t2)
        return tuple(tensor for tensor in every if tensor is not None)

    @property
    def span(self) -> tuple[int, int]:
        """(out, in * kernel) of the delta."""
        (b1, a1), (b2, a2) = sides(self)
        out1, in1 = b1.shape[0], b1.shape[1] if a1 is None else a1.shape[1]
        out2, in2 = b2.shape[0], b2.shape[1] if a2 is None else a2.shape[1]
        return int(out1 * out2), int(in1 * in2)


Side = tuple[torch.Tensor, torch.Tensor | None]


def sides(adapter: LoKr) -> tuple[Side, Side]:
    """(B1, A1), (B2, A2): each side as B @ A, or as B alone where it is whole. The second is flattened over its kernel."""
    if adapter.w1 is not None:
        first: Side = (adapter.w1.flatten(1), None)
    else:
        first = (_present(adapter.w1_a), _present(adapter.w1_b))
    if adapter.w2 is not None:
        return first, (adapter.w2.flatten(1), None)
    up, down = _present(adapter.w2_a), _present(adapter.w2_b)
    if adapter.t2 is not None:
        return first, (up.T, contracted(adapter.t2, down))
    return first, (up, down.flatten(1))


def _present(tensor: torch.Tensor | None) -> torch.Tensor:
    if tensor is None:  # the parser refuses a side that is neither whole nor complete
        raise ValueError("a LoKr side is neither whole nor decomposed")
    return tensor


def product(first: Side, second: Side) -> torch.Tensor:
    """kron of the two sides as a matrix (out1 * out2, in1 * in2 * kernel)."""
    w1, w2 = (b if a is None else b @ a for b, a in (first, second))
    return torch.kron(w1.contiguous(), w2.contiguous())


def delta(adapter: LoKr, dtype: torch.dtype = torch.float32) -> torch.Tensor:
    """The delta as a matrix (out, in * kernel), computed and returned in `dtype`."""
    first, second = ((b.to(dtype), None if a is None else a.to(dtype)) for b, a in sides(adapter))
    return adapter.scale * product(first, second)


def factors(adapter: LoKr) -> tuple[torch.Tensor, torch.Tensor]:
    """B (out, rank) and A (rank, in * kernel) with delta = scale * B @ A, exactly, in float32.

    kron(B1 A1, B2 A2) = kron(B1, B2) kron(A1, A2): the ranks multiply; a whole side counts with its smaller dimension.
    """
    (b1, a1), (b2, a2) = (_split(*side) for side in sides(adapter))
    return torch.kron(b1, b2), torch.kron(a1, a2)


def _split(up: torch.Tensor, down: torch.Tensor | None) -> tuple[torch.Tensor, torch.Tensor]:
    """A side as two factors: a whole matrix is itself times the identity of its smaller dimension."""
    wide = up.float().contiguous()
    if down is not None:
        return wide, down.float().contiguous()
    if wide.shape[0] < wide.shape[1]:
        return torch.eye(wide.shape[0], device=wide.device), wide
    return wide, torch.eye(wide.shape[1], device=wide.device)
