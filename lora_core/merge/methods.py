"""The merge methods in one table. The node's list, the tests and the documentation read it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from ..algebra.factorspace import Factors
from . import blends, choice, sparse, subspaces
from .weight import Parameters, RowBlocks, Weight


@dataclass(frozen=True)
class Method:
    """One way to merge the rows' deltas of one weight.

    run: (rows of one weight, settings) -> the merged delta, exact in factors or formed block by block.
    words: what it does, for people. element_wise: its result is not low-rank and is recompressed.
    keeps_all: its result is written as it is, whatever rank is asked for.
    alone: whether it also acts where one row alone has the weight; else that row is taken as it is.
    """

    run: Callable[[Weight, Parameters], Factors | RowBlocks]
    words: str
    element_wise: bool = False
    keeps_all: bool = False
    alone: bool = False


METHODS: dict[str, Method] = {
    "svd": Method(blends.weighted_sum, "the sum of the rows, at the best rank"),
    "concat": Method(
        blends.weighted_sum, "the exact sum of the rows; ranks add up", keeps_all=True
    ),
    "ties": Method(
        sparse.ties, "the largest entries, where the rows agree in sign", element_wise=True
    ),
    "dare_linear": Method(
        sparse.dare_linear, "entries dropped at random, the rest scaled up", element_wise=True
    ),
    "dare_ties": Method(
        sparse.dare_ties, "as dare_linear, where the rows agree in sign", element_wise=True
    ),
    "della": Method(
        sparse.della, "small entries dropped more often, where signs agree", element_wise=True
    ),
    "magnitude_prune": Method(
        sparse.magnitude_prune, "the largest entries, summed", element_wise=True
    ),
    "breadcrumbs": Method(
        sparse.breadcrumbs, "neither the largest nor the small entries", element_wise=True
    ),
    "slerp": Method(blends.slerp, "two rows blended along the sphere"),
    "karcher": Method(blends.karcher, "the mean on the sphere of any number of rows"),
    "knots_ties": Method(
        subspaces.knots_ties, "ties in a basis that the rows share; stays low-rank"
    ),
    "tsv_m": Method(subspaces.tsv_m, "the rows' singular directions made orthogonal to each other"),
    "orthogonal": Method(
        subspaces.orthogonal, "the other rows kept off the character's (or row 1's) subspace"
    ),
    "zipper": Method(subspaces.zipper, "each input column goes to the row that uses it most"),
    "blockwise": Method(
        choice.blockwise, "each block of the model belongs to the row you name", alone=True
    ),
}
