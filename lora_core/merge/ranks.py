"""Which rank a layer keeps: rules on its singular values, and one budget shared over all layers."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import torch

from ..algebra.factorspace import rank_for_share
from ..errors import MergeError

# Singular values below this share of the largest are rounding; "all" keeps what is above.
_RANK_FLOOR = 1e-6

# (falling singular values, value of the rule, sum of ALL squared singular values) -> rank.
_Rule = Callable[[torch.Tensor, float, float], int]


def _all(s: torch.Tensor, _: float, __: float) -> int:
    return int((s > _RANK_FLOOR * s[0]).sum()) if len(s) else 0


def _fixed(s: torch.Tensor, value: float, total: float) -> int:
    return min(int(value), _all(s, value, total))


def _energy(s: torch.Tensor, value: float, total: float) -> int:
    """The smallest k with sum_{i<=k} s_i^2 >= value * total."""
    held = float(s.double().square().sum())
    return rank_for_share(s, min(1.0, value * total / held)) if held > 0 else 0


def _frobenius(s: torch.Tensor, value: float, total: float) -> int:
    """The same for the norm instead of its square: what sd-scripts' resize calls sv_fro."""
    return _energy(s, value * value, total)


def _ratio(s: torch.Tensor, value: float, _: float) -> int:
    """The singular values above the largest / value: sd-scripts' sv_ratio."""
    return int((s > s[0] / value).sum()) if len(s) and s[0] > 0 else 0


def _knee(s: torch.Tensor, _: float, __: float) -> int:
    """Where the spectrum bends most: the point farthest below the chord. Satopaa et al. 2011 (Kneedle)."""
    if len(s) < 3 or s[0] == 0:
        return _all(s, 0, 0)
    chord = torch.linspace(float(s[0]), float(s[-1]), len(s), dtype=s.dtype)
    return max(1, int((chord - s).argmax()))


RANK_RULES: dict[str, _Rule] = {
    "all": _all,
    "rank": _fixed,
    "energy": _energy,
    "frobenius": _frobenius,
    "ratio": _ratio,
    "knee": _knee,
}
# Shared over all layers at once, so it is no rule on one spectrum.
SIZE = "size"
RULE_NAMES = (*RANK_RULES, SIZE)

_ALLOWED: dict[str, tuple[Callable[[float], bool], str]] = {
    "rank": (lambda value: value >= 1, "1 or more"),
    "energy": (lambda value: 0 < value <= 1, "above 0 and at most 1"),
    "frobenius": (lambda value: 0 < value <= 1, "above 0 and at most 1"),
    "ratio": (lambda value: value > 1, "above 1"),
    SIZE: (lambda value: value > 0, "above 0 MB"),
}


@dataclass(frozen=True)
class RankRule:
    """kind: one of RULE_NAMES. value: rank, share, ratio or MB (10^6 bytes); not read by "all" and "knee".

    Raises MergeError.
    """

    kind: str = "all"
    value: float = 0.0

    def __post_init__(self) -> None:
        if self.kind not in RULE_NAMES:
            raise MergeError(f"No rank rule '{self.kind}'; choose one of {', '.join(RULE_NAMES)}.")
        check, allowed = _ALLOWED.get(self.kind, (math.isfinite, "a number"))
        if not (math.isfinite(self.value) and check(self.value)):
            raise MergeError(f"The rank rule '{self.kind}' needs {allowed}; found {self.value:g}.")

    @property
    def words(self) -> str:
        """For people: "rank 32", "energy 0.95", "size 50 MB"."""
        unit = " MB" if self.kind == SIZE else ""
        named = self.kind in _ALLOWED
        return f"{self.kind} {self.value:g}{unit}" if named else f"{self.kind}"

    @property
    def most(self) -> int | None:
        """The largest rank that it can give, where that needs no spectrum."""
        return int(self.value) if self.kind == "rank" else None

    def rank(self, s: torch.Tensor, total: float) -> int:
        """The rank of one layer. total: the energy of the whole layer, of which s may hold only the largest part."""
        return RANK_RULES[self.kind](s, self.value, total)


@dataclass(frozen=True)
class Cost:
    """Bytes that a layer takes in the file: each rank, and once what names it."""

    rank: int
    once: int


def shared_ranks(
    spectra: Mapping[str, torch.Tensor], costs: Mapping[str, Cost], budget: float
) -> dict[str, int]:
    """The ranks that keep the most energy of all layers together within a budget of bytes.

    A further rank of a layer brings s^2 for its cost, and s falls: so the best choice is to take (layer, rank) in the
    order of s^2 / cost until nothing fits (greedy; optimal up to the last item). A layer may get no rank at all.
    """
    names = list(spectra)
    if not names:
        return {}
    owners = torch.cat([torch.full((len(spectra[n]),), i) for i, n in enumerate(names)]).tolist()
    gains = torch.cat([_gains(spectra[n], costs[n]) for n in names])
    ranks, full = dict.fromkeys(names, 0), set()
    for index in gains.argsort(descending=True, stable=True).tolist():
        name = names[owners[index]]
        if name in full:
            continue
        price = costs[name].rank + (costs[name].once if ranks[name] == 0 else 0)
        if price > budget:
            full.add(name)
            continue
        budget -= price
        ranks[name] += 1
    return ranks


def _gains(s: torch.Tensor, cost: Cost) -> torch.Tensor:
    """s^2 a byte; no rank comes before the one above it, which alone pays for the name."""
    prices = torch.full((len(s),), cost.rank, dtype=torch.float64)
    prices[:1] += cost.once
    gains = s.double().square() / prices
    return gains.cummin(0).values if len(s) else gains


def rule_of(kind: str, rank: int, energy: float, ratio: float, megabytes: float) -> RankRule:
    """The rule of this kind with the one of these numbers that it reads. Raises MergeError."""
    values = {"rank": float(rank), "energy": energy, "frobenius": energy, "ratio": ratio}
    return RankRule(kind, (values | {SIZE: megabytes}).get(kind, 0.0))
