"""Which terms of a stack can run beside their layer, and which have to go into the weight."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch

from ..adapters import Adapter, Difference, LowRank
from ..algebra import loha, lokr, lowrank
from ..algebra.loha import LoHa
from ..algebra.lokr import LoKr
from ..resolve import PartPatches, Term
from ..targets import Target

# The exact factors of a product family are worth it while they have at most this share of the weight's numbers.
_SENSIBLE_SHARE = 0.5


@dataclass(frozen=True)
class LivePlan:
    """layers: weight name -> its terms that run live. baked: the rest. reasons: weight name -> why it, or part of it, is baked."""

    layers: Mapping[str, tuple[tuple[Target, Term], ...]]
    baked: PartPatches
    reasons: Mapping[str, str]


def plan(patches: PartPatches, why_not: Callable[[str], str | None]) -> LivePlan:
    """Part a stack in two that together do what all of it does in the weights.

    why_not: for a weight's name the reason why its layer takes no side path, None where it does. What is made from
    the weight that it finds (DoRA, OFT, IA3, GLoRA, a replaced or a grown weight) takes its whole weight with it,
    because the other terms have to be in before it.
    """
    by_key: dict[str, list[tuple[Target, Term]]] = defaultdict(list)
    for target, terms in patches.terms.items():
        by_key[target.key] += [(target, term) for term in terms]
    layers: dict[str, tuple[tuple[Target, Term], ...]] = {}
    baked: dict[Target, list[Term]] = {}
    reasons: dict[str, str] = {}
    for key, found in by_key.items():
        whole = why_not(key) or next(
            filter(None, (_needs_weight(t.adapter) for _, t in found)), None
        )
        live = []
        for target, term in found:
            reason = whole or _no_factors(target, term.adapter)
            if reason is None:
                live.append((target, term))
            else:
                baked.setdefault(target, []).append(term)
                reasons.setdefault(key, reason)
        if live:
            layers[key] = tuple(live)
    rest = PartPatches({target: tuple(terms) for target, terms in baked.items()})
    return LivePlan(layers, rest, reasons)


def exact_factors(adapter: Any) -> tuple[torch.Tensor, torch.Tensor]:
    """up (rows, rank) and down (rank, in * kernel) with delta = adapter.scale * up @ down, exactly."""
    return _FACTORS[type(adapter)](adapter)


def exact_rank(adapter: Any) -> int:
    """The rank of exact_factors, without making them."""
    return _RANKS[type(adapter)](adapter)


def row_order(target: Target, rows: int) -> torch.Tensor | None:
    """The order in which the host's rearrangement takes a delta's rows; None where it is no mere change of order."""
    order = torch.arange(rows)
    if target.function is None:
        return order
    taken = target.function(order.unsqueeze(1)).flatten()
    return taken if torch.equal(taken.sort().values, order) else None


def _needs_weight(adapter: Adapter | Difference) -> str | None:
    """Why an adapter cannot be parted from the weight and its other terms; None for a mere addition."""
    if isinstance(adapter, LowRank):
        return None if adapter.grown is None else "it makes the weight larger"
    if isinstance(adapter, Difference):
        return "it replaces the weight" if adapter.replaces else None
    if isinstance(adapter, LoHa | LoKr):
        return None
    return f"{adapter.family} is made from the weight itself"


def _no_factors(target: Target, adapter: Any) -> str | None:
    """Why one addition does not run as two small products."""
    if isinstance(adapter, Difference):
        return f"a {adapter.family} is as large as the weight"
    if target.function is not None and row_order(target, int(adapter.span[0])) is None:
        return "its rows are rearranged in a way that cannot be followed"
    if isinstance(adapter, LowRank):
        return None
    rows, columns = (int(side) for side in adapter.span)
    rank = exact_rank(adapter)
    if rank * (rows + columns) > _SENSIBLE_SHARE * rows * columns:
        return f"{adapter.family} of rank {rank} as two factors is as large as the weight"
    return None


def _lokr_rank(adapter: LoKr) -> int:
    rank = 1
    for up, down in lokr.sides(adapter):
        rank *= min(up.shape) if down is None else int(up.shape[1])
    return rank


_FACTORS: dict[type, Callable[[Any], tuple[torch.Tensor, torch.Tensor]]] = {
    LowRank: lowrank.factors,
    LoHa: loha.factors,
    LoKr: lokr.factors,
}
_RANKS: dict[type, Callable[[Any], int]] = {
    LowRank: lambda adapter: adapter.rank,
    LoHa: lambda adapter: adapter.rank**2,
    LoKr: _lokr_rank,
}
