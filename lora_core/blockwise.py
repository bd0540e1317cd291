"""Block strengths on adapters: each match with its factor, cut into rows where a fused weight's parts differ."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

from .adapters import Difference, LowRank
from .algebra.dora import DoRA
from .algebra.glora import GLoRA
from .algebra.ia3 import IA3
from .algebra.loha import LoHa
from .algebra.lokr import LoKr
from .errors import StackError
from .stack.blockstrengths import BlockStrengths, Share
from .targets import Target


def by_share(
    target: Target, adapter: Any, strengths: BlockStrengths | None
) -> list[tuple[Target, Any, float]]:
    """(target, adapter, factor) of a match: one, or one for each run of rows with a factor of its own.

    None stands for no block strengths. Raises StackError for a kind of adapter whose rows cannot be taken apart.
    """
    if strengths is None:
        return [(target, adapter, 1.0)]
    shares = strengths.shares(target)
    if len(shares) == 1:
        return [(target, adapter, shares[0].factor)]
    first = target.offset[1] if target.offset is not None else 0
    return [
        (
            replace(target, offset=(0, first + share.start, share.length)),
            rows_of(adapter, share, target),
            share.factor,
        )
        for share in shares
    ]


def rows_of(adapter: Any, share: Share, target: Target) -> Any:
    """The rows of an adapter's delta that a share speaks of, as an adapter of the same kind."""
    rows = slice(share.start, None if share.length is None else share.start + share.length)
    cut = _CUTS.get(type(adapter))
    piece = cut(adapter, rows) if cut is not None else None
    if piece is None:
        raise StackError(
            f"Block strengths: '{target.key}' holds q, k and v in one weight, and this LoRA's {adapter.family} "
            "cannot be cut into them. Give the whole block a strength instead of its q, k or v."
        )
    return piece


def _loha_rows(adapter: LoHa, rows: slice) -> LoHa:
    if adapter.t1 is None:
        return replace(adapter, w1_a=adapter.w1_a[rows], w2_a=adapter.w2_a[rows])
    return replace(adapter, w1_a=adapter.w1_a[:, rows], w2_a=adapter.w2_a[:, rows])


def _dora_rows(adapter: DoRA, rows: slice) -> DoRA | None:
    """By output every row has a length of its own; by input the rows share theirs and cannot be parted."""
    inner = _CUTS[type(adapter.inner)](adapter.inner, rows)
    if not adapter.by_output or inner is None:
        return None
    return replace(adapter, inner=inner, magnitude=adapter.magnitude[rows])


def _ia3_rows(adapter: IA3, rows: slice) -> IA3:
    return adapter if adapter.on_input else replace(adapter, gain=adapter.gain[rows])


# Kind of adapter -> the same for some rows of the weight; None where its rows depend on one another.
_CUTS: dict[type, Callable[[Any, slice], Any]] = {
    LowRank: lambda adapter, rows: replace(adapter, up=adapter.up[rows]),
    Difference: lambda adapter, rows: replace(adapter, tensor=adapter.tensor[rows]),
    LoHa: _loha_rows,
    LoKr: lambda adapter, rows: None,
    GLoRA: lambda adapter, rows: replace(adapter, b1=adapter.b1[rows]),
    DoRA: _dora_rows,
    IA3: _ia3_rows,
}
