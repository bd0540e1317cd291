"""Exact arithmetic on low-rank deltas without ever forming them: sums, best rank k, energy, overlaps.

A delta (out, in * kernel) is a pair of matrices up @ down. Everything here works on up and down and on matrices as
small as the rank; the full delta is formed only where the rank nears the delta's own size.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch

# Above this share of min(out, in) the small core is no smaller than the delta itself.
_NEARLY_FULL = 0.8
# The Gram route (float64) is the faster one while the rank is small against the longer side (measured, CPU).
_GRAM_SIDE = 3
# Eigenvalues of a Gram matrix below this share of the largest are rounding.
_EIGENVALUE_FLOOR = 1e-12
# Singular values below this share of the largest are float32 rounding of the factors.
_RANK_FLOOR = 1e-6


@dataclass(frozen=True)
class Factors:
    """delta = up @ down, every scale folded in. up: (out, rank), down: (rank, in * kernel), float32 unless widened."""

    up: torch.Tensor
    down: torch.Tensor

    @property
    def rank(self) -> int:
        return int(self.down.shape[0])

    @property
    def shape(self) -> tuple[int, int]:
        return int(self.up.shape[0]), int(self.down.shape[1])

    @property
    def delta(self) -> torch.Tensor:
        return self.up @ self.down


@dataclass(frozen=True)
class Decomposition:
    """The singular value decomposition of a delta, kept as products so that only the wanted columns are formed.

    U = outer @ left, V^T = right @ inner, delta = U diag(s) V^T; s: (count,) float64, falling.
    outer: (out, p); left: (p, count); right: (count, q); inner: (q, in * kernel).
    """

    s: torch.Tensor
    outer: torch.Tensor
    left: torch.Tensor
    right: torch.Tensor
    inner: torch.Tensor

    def truncated(self, rank: int) -> Factors:
        """The best approximation of this rank (Eckart and Young 1936), sqrt(S) on both sides, float32."""
        root = self.s[:rank].sqrt().to(self.left.dtype)
        up = self.outer @ (self.left[:, :rank] * root)
        down = (root[:, None] * self.right[:rank]) @ self.inner
        return Factors(up.float(), down.float())

    def directions(self, rank: int) -> tuple[torch.Tensor, torch.Tensor]:
        """U[:, :rank] (out, rank) and V[:, :rank] (in * kernel, rank): orthonormal, float32."""
        up, down = self.outer @ self.left[:, :rank], self.right[:rank] @ self.inner
        return up.float(), down.T.float()

    @property
    def numerical_rank(self) -> int:
        """How many singular values are more than rounding."""
        if not len(self.s) or self.s[0] == 0:
            return 0
        return int((self.s > _RANK_FLOOR * self.s[0]).sum())


def folded(up: torch.Tensor, down: torch.Tensor, scale: float) -> Factors:
    """Factors of scale * up @ down in float32.

    The power of two in the scale is shared by both sides, which rounds nothing; the rest goes onto up alone.
    """
    mantissa, exponent = math.frexp(scale)
    upper = exponent // 2
    return Factors(
        up.float() * math.ldexp(mantissa, upper), down.float() * 2.0 ** (exponent - upper)
    )


def concat(terms: Sequence[Factors], weights: Sequence[float]) -> Factors:
    """sum_i weights[i] * terms[i], exactly: the ranks add up. Terms of weight 0 are left out."""
    parts = [
        folded(term.up, term.down, weight)
        for term, weight in zip(terms, weights, strict=True)
        if weight != 0
    ]
    if not parts:
        out, inner = terms[0].shape
        return Factors(torch.zeros(out, 0), torch.zeros(0, inner))
    return Factors(torch.cat([p.up for p in parts], 1), torch.cat([p.down for p in parts]))


def bounded(factors: Factors) -> Factors:
    """The same delta with a rank of at most min(out, in): where the rank is larger, the delta times an identity."""
    out, inner = factors.shape
    if factors.rank <= min(out, inner):
        return factors
    return of_dense(factors.delta)


def of_dense(delta: torch.Tensor) -> Factors:
    """Exact factors of a matrix: itself and an identity on its shorter side."""
    out, inner = delta.shape
    delta = delta.float()
    if out <= inner:
        return Factors(torch.eye(out), delta)
    return Factors(delta, torch.eye(inner))


def decompose(factors: Factors, route: str | None = None) -> Decomposition:
    """The singular value decomposition of up @ down.

    route: "qr" (two QRs and the SVD of the rank x rank core, float32), "gram" (eigenvectors of the two Gram matrices,
    float64), "dense" (economy SVD of the formed delta), or None for the fastest.
    """
    return _ROUTES[route or fastest_route(factors)](factors)


def fastest_route(factors: Factors) -> str:
    """Which of the routes is fastest for these sizes: measured on CPU; float64 is slow on most accelerators."""
    if factors.rank > _NEARLY_FULL * min(factors.shape):
        return "dense"
    long_enough = max(factors.shape) >= _GRAM_SIDE * factors.rank
    return "gram" if factors.up.device.type == "cpu" and long_enough else "qr"


def _by_qr(factors: Factors) -> Decomposition:
    outer, r_up = torch.linalg.qr(factors.up)
    inner, r_down = torch.linalg.qr(factors.down.T)
    left, s, right = torch.linalg.svd(r_up @ r_down.T, full_matrices=False)
    return Decomposition(s.double(), outer, left, right, inner.T)


def _by_gram(factors: Factors) -> Decomposition:
    """G_up = H H^T; eig(H^T G_down H) = V diag(S^2) V^T; U = up H^+T V, V^T = diag(1/S) V^T H^T down.

    Squared condition numbers: so the sides are first made equally long, column by column, and it is all in float64.
    """
    factors = equilibrated(factors)
    up, down = factors.up.double(), factors.down.double()
    values, vectors = torch.linalg.eigh(up.T @ up)
    kept = values > _EIGENVALUE_FLOOR * values[-1:].clamp(min=0)
    root = values[kept].clamp(min=0).sqrt()
    half = vectors[:, kept] * root
    squares, turned = torch.linalg.eigh(half.T @ (down @ down.T) @ half)
    s = squares.flip(0).clamp(min=0).sqrt()
    turned = turned.flip(1)
    left = (vectors[:, kept] / root) @ turned
    inverse = torch.where(s > 0, 1 / s, torch.zeros_like(s))
    return Decomposition(s, up, left, inverse[:, None] * (turned.T @ half.T), down)


def _by_delta(factors: Factors) -> Decomposition:
    out, inner = factors.shape
    u, s, vh = torch.linalg.svd(factors.delta, full_matrices=False)
    count = len(s)
    return Decomposition(s.double(), u, torch.eye(count), torch.eye(count), vh)


_ROUTES = {"qr": _by_qr, "gram": _by_gram, "dense": _by_delta}


def equilibrated(factors: Factors) -> Factors:
    """The same delta with each column of up about as long as its row of down, by powers of two: nothing is rounded.

    A trainer that starts with up = 0 leaves up far smaller than down; in half precision that costs digits.
    """
    ups, downs = factors.up.norm(dim=0), factors.down.norm(dim=1)
    both = (ups > 0) & (downs > 0)
    ratio = torch.where(both, downs / ups.where(both, torch.ones_like(ups)), torch.ones_like(ups))
    steps = (ratio.log2() / 2).round()
    return Factors(torch.ldexp(factors.up, steps), torch.ldexp(factors.down, -steps[:, None]))


def product(a: Factors, b: Factors) -> float:
    """The Frobenius inner product <a, b> = sum((A_up^T B_up) o (A_down B_down^T)), in float64."""
    outs = a.up.double().T @ b.up.double()
    ins = a.down.double() @ b.down.double().T
    return float((outs * ins).sum())


def energy(factors: Factors) -> float:
    """The squared Frobenius norm of the delta."""
    up, down = factors.up.double(), factors.down.double()
    return max(0.0, float(((up.T @ up) * (down @ down.T)).sum()))


def widened(factors: Factors) -> Factors:
    """The same in float64, for several inner products in a row."""
    return Factors(factors.up.double(), factors.down.double())


def products(terms: Sequence[Factors]) -> torch.Tensor:
    """K[i, j] = <term i, term j>, (N, N) float64: all that blends by coefficients need to know."""
    ups = torch.cat([term.up for term in terms], 1).double()
    downs = torch.cat([term.down for term in terms]).double()
    bounds = [0]
    for term in terms:
        bounds.append(bounds[-1] + term.rank)
    table = torch.empty(len(terms), len(terms), dtype=torch.float64)
    for i in range(len(terms)):
        rows = slice(bounds[i], bounds[i + 1])
        shared = (ups[:, rows].T @ ups) * (downs[rows] @ downs.T)
        for j in range(len(terms)):
            table[i, j] = shared[:, bounds[j] : bounds[j + 1]].sum()
    return (table + table.T) / 2


def cosine(a: Factors, b: Factors) -> float:
    """The cosine of the angle between two deltas, 0 where one of them is zero."""
    length = math.sqrt(energy(a) * energy(b))
    return product(a, b) / length if length > 0 else 0.0


def distance(a: Factors, b: Factors) -> float:
    """The Frobenius norm of a - b."""
    return math.sqrt(max(0.0, energy(a) - 2 * product(a, b) + energy(b)))


def principal_cosines(a: Factors, b: Factors) -> tuple[torch.Tensor, torch.Tensor]:
    """Cosines of the principal angles of the output spaces and of the input spaces of two deltas, falling.

    1 is a direction that both use. Bjorck and Golub 1973.
    """
    (out_a, in_a), (out_b, in_b) = (
        found.directions(found.numerical_rank) for found in (decompose(a), decompose(b))
    )
    return (
        torch.linalg.svdvals(out_a.T @ out_b).clamp(max=1),
        torch.linalg.svdvals(in_a.T @ in_b).clamp(max=1),
    )


def rank_for_share(s: torch.Tensor, share: float) -> int:
    """The smallest rank that keeps this share of the energy sum(s^2)."""
    squares = s.double().square()
    total = float(squares.sum())
    if total == 0:
        return 0
    kept = squares.cumsum(0) / total
    # Rounding may leave the last cumulated share a hair below 1.
    return min(int((kept < share - 1e-12).sum()) + 1, len(s))


def tail_energy(s: torch.Tensor, rank: int) -> float:
    """What of sum(s^2) a truncation to this rank loses: exactly the squared error of the best approximation."""
    return float(s[rank:].double().square().sum())
