"""Block strengths on adapters: each match with its factor, cut into rows where a fused weight's parts differ."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from .adapters import Difference, LowRank
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
    if isinstance(adapter, LowRank):
        return replace(adapter, up=adapter.up[rows])
    if isinstance(adapter, Difference):
        return replace(adapter, tensor=adapter.tensor[rows])
    raise StackError(
        f"Block strengths: '{target.key}' holds q, k and v in one weight, and this LoRA's {type(adapter).__name__} "
        "cannot be cut into them. Give the whole block a strength instead of its q, k or v."
    )
