"""What a merge method is given and what it gives: the rows' deltas of one weight, and a delta by blocks of rows."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import torch

from ..algebra.factorspace import Factors
from ..errors import MergeError

# Rows of a delta that are formed at a time. Fixed: random masks are drawn block by block.
BLOCK_ROWS = 256


@dataclass(frozen=True)
class Weight:
    """What the rows say about one weight.

    name: the module's name. terms: each row's delta at strength 1 (alpha folded in), all of one shape.
    strengths: of each term. rows: which row of the stack (from 0) each term is of. roles: of every row of the stack.
    seed: of this weight; the same for the same name, whatever else is merged.
    """

    name: str
    terms: tuple[Factors, ...]
    strengths: tuple[float, ...]
    rows: tuple[int, ...]
    roles: tuple[str, ...]
    seed: int = 0

    @property
    def shape(self) -> tuple[int, int]:
        return self.terms[0].shape

    @property
    def joint_rank(self) -> int:
        """The ranks of all terms together, at most what the matrix holds."""
        return min(sum(term.rank for term in self.terms), *self.shape)


@dataclass(frozen=True)
class Parameters:
    """Settings of the methods; each reads its own.

    density: share of the entries that is kept. epsilon: how far DELLA's keep probability spreads around the density.
    outliers: share of the largest entries that breadcrumbs drops. normalise: divide a sign-elected sum by the
    agreeing rows' weights. protection: how much of the others' part in the protected rows' subspace is taken away.
    choices: (part of a module name, row number from 1, role, or "all"), the first that fits decides.
    Raises MergeError.
    """

    density: float = 0.5
    epsilon: float = 0.1
    outliers: float = 0.01
    normalise: bool = False
    protection: float = 1.0
    choices: tuple[tuple[str, str], ...] = ()

    def __post_init__(self) -> None:
        required("density", self.density, 0 < self.density <= 1, "above 0 and at most 1")
        required("protection", self.protection, 0 <= self.protection <= 1, "between 0 and 1")


def required(name: str, value: float, fits: bool, allowed: str) -> None:
    """Raises MergeError where a setting does not fit, naming what is allowed."""
    if not fits:
        raise MergeError(f"The merge setting '{name}' is {value:g}; it must be {allowed}.")


@dataclass(frozen=True)
class RowBlocks:
    """A delta (out, in * kernel) that is formed a block of rows at a time, again for every pass: never whole.

    block: rows -> those rows of the delta, float32; the same rows always give the same numbers.
    """

    shape: tuple[int, int]
    block: Callable[[slice], torch.Tensor]

    def __iter__(self) -> Iterator[tuple[slice, torch.Tensor]]:
        for rows in row_slices(self.shape[0]):
            yield rows, self.block(rows)


def row_slices(out: int) -> Iterator[slice]:
    for start in range(0, out, BLOCK_ROWS):
        yield slice(start, min(start + BLOCK_ROWS, out))


def blocks_of(term: Factors) -> RowBlocks:
    """The delta of factors, block by block."""
    return RowBlocks(term.shape, lambda rows: term.up[rows] @ term.down)


def weight_seed(seed: int, name: str) -> int:
    """A seed for one weight of a merge: the same on every machine and in every order."""
    return _number(f"{seed}/{name}".encode())


def generator(seed: int, *parts: bytes | int) -> torch.Generator:
    """A CPU generator that depends on the seed and the parts alone."""
    said = [part if isinstance(part, bytes) else str(part).encode() for part in parts]
    return torch.Generator().manual_seed(_number(b"/".join([str(seed).encode(), *said])))


def content(term: Factors) -> bytes:
    """A digest of the numbers of a term, so that its random mask follows it and not its place in the stack."""
    digest = hashlib.blake2b(digest_size=8)
    for side in (term.up, term.down):
        digest.update(side.contiguous().cpu().numpy().tobytes())
    return digest.digest()


def _number(data: bytes) -> int:
    return int.from_bytes(hashlib.blake2b(data, digest_size=8).digest(), "little") >> 1
