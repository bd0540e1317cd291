"""(stack, files, target maps) -> ResolvedPatches + Account: which deltas go onto which weight, and what is left."""

from __future__ import annotations

import difflib
import math
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace

import torch

from .account import Account, PartCount, RowAccount
from .adapters import AdapterFile, Difference, Leftover, LowRank
from .algebra.lowrank import factors
from .files.naming import candidate_names, is_text_encoder
from .matching import check
from .stack.rows import StackRow
from .targets import Target, TargetMap

# A guess costs a search through the model's names; the first few tell what is wrong.
_GUESSES = 3


@dataclass(frozen=True)
class FusedFactors:
    """All low-rank deltas of one weight: delta = sum_i scales[i] * ups[i] @ downs[i].

    ups: (out, rank_i) each; downs: (rank_i, in * kernel) each, in the files' dtypes;
    scales: strength * alpha / rank.
    """

    ups: tuple[torch.Tensor, ...]
    downs: tuple[torch.Tensor, ...]
    scales: tuple[float, ...]


@dataclass(frozen=True)
class PartPatches:
    """All that goes onto one model: one fused adapter a weight, and summed whole differences (float32)."""

    fused: Mapping[Target, FusedFactors] = field(default_factory=dict)
    differences: Mapping[Target, torch.Tensor] = field(default_factory=dict)


@dataclass(frozen=True)
class ResolvedPatches:
    """Ready to be handed to the host, for the model and for the text encoders."""

    model: PartPatches = PartPatches()
    clip: PartPatches = PartPatches()


@dataclass(frozen=True)
class Match:
    """An adapter that found its weight. part: "model" or "clip"."""

    part: str
    target: Target
    adapter: LowRank | Difference


def resolve(
    rows: Iterable[tuple[StackRow, AdapterFile]],
    model: TargetMap | None,
    clip: TargetMap | None,
    matching: str = "auto",
) -> tuple[ResolvedPatches, Account]:
    """Find the weight of every adapter of every row.

    model, clip: None where nothing is connected; the keys of that part are then reported, never an error.
    matching: see matching.check. Raises MatchError.
    """
    accounts, weighted = [], []
    for row, adapter in rows:
        account, matches = _match_row(row, adapter, {"model": model, "clip": clip})
        check(account, matching)
        accounts.append(account)
        strengths = {"model": row.model, "clip": row.clip}
        weighted += [
            (match, strengths[match.part]) for match in matches if strengths[match.part] != 0
        ]
    parts = {
        part: _sum([(m, s) for m, s in weighted if m.part == part]) for part in ("model", "clip")
    }
    return ResolvedPatches(parts["model"], parts["clip"]), Account(tuple(accounts))


def _sum(weighted: list[tuple[Match, float]]) -> PartPatches:
    """Gather the terms of each weight over all rows, in stack order."""
    low_rank: dict[Target, list[tuple[LowRank, float]]] = {}
    differences: dict[Target, torch.Tensor] = {}
    for match, strength in weighted:
        if isinstance(match.adapter, LowRank):
            low_rank.setdefault(match.target, []).append((match.adapter, strength))
        else:
            term = strength * match.adapter.tensor.float()
            differences[match.target] = (
                differences[match.target] + term if match.target in differences else term
            )
    return PartPatches({target: _fused(terms) for target, terms in low_rank.items()}, differences)


def _fused(terms: list[tuple[LowRank, float]]) -> FusedFactors:
    pairs = [factors(adapter) for adapter, _ in terms]
    scales = tuple(strength * adapter.scale for adapter, strength in terms)
    return FusedFactors(tuple(up for up, _ in pairs), tuple(down for _, down in pairs), scales)


def _match_row(
    row: StackRow, adapter: AdapterFile, maps: Mapping[str, TargetMap | None]
) -> tuple[RowAccount, list[Match]]:
    """Find each adapter's weight; what finds none is accounted for with the reason."""
    unmatched, clashes = list(adapter.leftovers), []
    matches: dict[tuple[str, Target, type], tuple[str, Match]] = {}
    for name, part, kind, item in _items(adapter):
        targets = maps[part]
        if targets is None:
            continue
        target = find_target(name, kind, targets)
        shape = targets.shape_of(target) if target is not None else None
        if target is None or shape is None:
            unmatched.append(Leftover(_said(name, item), f"the model has no {kind} of this name"))
        elif (clash := _clash(item, shape)) is not None:
            clashes.append(Leftover(_said(name, item), clash))
        elif (twin := matches.get((part, target, type(item)))) is not None:
            unmatched.append(
                Leftover(
                    _said(name, item), f"'{twin[0]}' of the same file already feeds this weight"
                )
            )
        else:
            matches[part, target, type(item)] = (name, Match(part, target, item))
    found = [match for _, match in matches.values()]
    totals = _totals(adapter)
    counts = {
        part: PartCount(
            sum(m.part == part and isinstance(m.adapter, LowRank) for m in found), totals[part]
        )
        for part in maps
    }
    model = maps["model"]
    account = RowAccount(
        row,
        adapter,
        counts["model"],
        counts["clip"],
        tuple(_with_guesses(unmatched, maps)),
        tuple(clashes),
        tuple(part.upper() for part in maps if maps[part] is None and totals[part]),
        model.base if model is not None else None,
    )
    return account, found


def _items(adapter: AdapterFile) -> Iterator[tuple[str, str, str, LowRank | Difference]]:
    """(module name, "model" or "clip", "weight" or "bias", adapter) of everything in the file."""
    for name, module in adapter.modules.items():
        yield name, _part(name), "weight", module
    for (name, kind), difference in adapter.differences.items():
        yield name, _part(name), kind, difference


def _said(name: str, item: LowRank | Difference) -> str:
    """How the account calls an adapter: a low-rank one by its module, a difference by its key."""
    return name if isinstance(item, LowRank) else item.keys[0]


def _part(name: str) -> str:
    return "clip" if is_text_encoder(name) else "model"


def _totals(adapter: AdapterFile) -> dict[str, int]:
    """How many modules the file has for each part, those of families that are not read included.

    Where it has no matrices at all, whole differences of weights count.
    """
    names = [*adapter.modules, *adapter.unread] or [name for name, _ in adapter.differences]
    in_clip = sum(is_text_encoder(name) for name in names)
    return {"model": len(names) - in_clip, "clip": in_clip}


def find_target(name: str, kind: str, targets: TargetMap) -> Target | None:
    """The first name's target that the model really has; for a bias, the one beside the named weight."""
    for candidate in candidate_names(name):
        target = targets.names.get(candidate)
        if target is not None and kind == "bias":
            target = _bias_of(target)
        if target is not None and targets.shape_of(target) is not None:
            return target
    return None


def _bias_of(weight: Target) -> Target | None:
    if (
        not weight.key.endswith(".weight")
        or weight.function is not None
        or (weight.offset or (0,))[0] != 0
    ):
        return None
    return replace(weight, key=weight.key.removesuffix("weight") + "bias")


def _clash(item: LowRank | Difference, shape: tuple[int, ...]) -> str | None:
    """The two shapes in words where the delta does not fit the weight, else None."""
    if isinstance(item, Difference):
        given = tuple(item.tensor.shape)
        fits = given == shape
    else:
        out = int(item.up.shape[0])
        given = (out, item.delta_elements // out)
        fits = len(shape) >= 2 and given == (shape[0], math.prod(shape[1:]))
    if fits:
        return None
    return f"the LoRA makes {_times(given)}, the model's weight is {_times(shape)}"


def _times(shape: tuple[int, ...]) -> str:
    return " x ".join(map(str, shape))


def _with_guesses(
    unmatched: list[Leftover], maps: Mapping[str, TargetMap | None]
) -> Iterator[Leftover]:
    """Name the nearest weight for the first few modules that found none."""
    guesses = 0
    for item in unmatched:
        targets = maps[_part(item.key)]
        if (
            targets is not None
            and item.reason.endswith("weight of this name")
            and guesses < _GUESSES
        ):
            guesses += 1
            near = [
                name
                for name in targets.names
                if name[:12] == item.key[:12] and abs(len(name) - len(item.key)) <= 3
            ]
            close = difflib.get_close_matches(item.key, near, n=1, cutoff=0.85)
            yield (
                replace(item, reason=f"{item.reason}; the nearest name is '{close[0]}'")
                if close
                else item
            )
        else:
            yield item
