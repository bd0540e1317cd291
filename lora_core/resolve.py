"""(stack, files, target maps) -> ResolvedPatches + Account: which factors go onto which weight, and what is left."""

from __future__ import annotations

import difflib
import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

import torch

from .account import Account, PartCount, RowAccount
from .adapters import AdapterFile, Leftover, LowRank
from .algebra.lowrank import factors
from .files.naming import candidate_names, is_text_encoder
from .matching import check
from .stack.rows import StackRow
from .targets import Target, TargetMap


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
class ResolvedPatches:
    """Ready to be handed to the host: one fused adapter a weight, for the model and for the text encoders."""

    model: Mapping[Target, FusedFactors] = field(default_factory=dict)
    clip: Mapping[Target, FusedFactors] = field(default_factory=dict)


@dataclass
class _Terms:
    """Terms of one weight while rows are gathered."""

    ups: list[torch.Tensor] = field(default_factory=list)
    downs: list[torch.Tensor] = field(default_factory=list)
    scales: list[float] = field(default_factory=list)

    def add(self, adapter: LowRank, strength: float) -> None:
        up, down = factors(adapter)
        self.ups.append(up)
        self.downs.append(down)
        self.scales.append(strength * adapter.scale)

    def fused(self) -> FusedFactors:
        return FusedFactors(tuple(self.ups), tuple(self.downs), tuple(self.scales))


def resolve(
    rows: Iterable[tuple[StackRow, AdapterFile]],
    model: TargetMap | None,
    clip: TargetMap | None,
    matching: str = "auto",
) -> tuple[ResolvedPatches, Account]:
    """Find the weight of every module of every row.

    model, clip: None where nothing is connected; the keys of that part are then reported, never an error.
    matching: "auto" refuses another base, clashing shapes and a file of which nothing matches; "strict" refuses any
    leftover; "partial" accepts all. Raises MatchError.
    """
    gathered: dict[str, dict[Target, _Terms]] = {"model": {}, "clip": {}}
    accounts = []
    for row, adapter in rows:
        account, matches = _match_row(row, adapter, model, clip)
        check(account, matching)
        accounts.append(account)
        for part, target, module in matches:
            strength = row.model if part == "model" else row.clip
            if strength != 0:
                gathered[part].setdefault(target, _Terms()).add(module, strength)
    resolved = {part: {t: terms.fused() for t, terms in found.items()} for part, found in gathered.items()}
    return ResolvedPatches(resolved["model"], resolved["clip"]), Account(tuple(accounts))


_Match = tuple[str, Target, LowRank]


def _match_row(
    row: StackRow, adapter: AdapterFile, model: TargetMap | None, clip: TargetMap | None
) -> tuple[RowAccount, list[_Match]]:
    """Find each module's weight; what finds none is accounted for with the reason."""
    maps = {"model": model, "clip": clip}
    totals = {"model": 0, "clip": 0}
    unmatched, clashes = list(adapter.leftovers), []
    matches: dict[tuple[str, Target], tuple[str, LowRank]] = {}
    for name, module in adapter.modules.items():
        part = "clip" if is_text_encoder(name) else "model"
        totals[part] += 1
        targets = maps[part]
        if targets is None:
            continue
        target = _find(name, targets)
        shape = targets.shape_of(target) if target is not None else None
        if target is None or shape is None:
            unmatched.append(Leftover(name, _nearest(name, targets)))
        elif (clash := _clash(module, shape)) is not None:
            clashes.append(Leftover(name, clash))
        elif (twin := matches.get((part, target))) is not None:
            unmatched.append(Leftover(name, f"'{twin[0]}' of the same file already feeds this weight"))
        else:
            matches[part, target] = (name, module)
    found = {p: sum(part == p for part, _ in matches) for p in totals}
    account = RowAccount(
        row,
        adapter,
        PartCount(found["model"], totals["model"]),
        PartCount(found["clip"], totals["clip"]),
        tuple(unmatched),
        tuple(clashes),
        _not_connected(row, maps, totals),
        model.base if model is not None else None,
    )
    return account, [(part, target, module) for (part, target), (_, module) in matches.items()]


def _not_connected(
    row: StackRow, maps: Mapping[str, TargetMap | None], totals: Mapping[str, int]
) -> tuple[str, ...]:
    """The sockets that are empty although the file has keys for them and the row asks for them."""
    wanted = {"model": row.model, "clip": row.clip}
    return tuple(part.upper() for part in maps if maps[part] is None and totals[part] and wanted[part] != 0)


def _find(name: str, targets: TargetMap) -> Target | None:
    return next((targets.names[n] for n in candidate_names(name) if n in targets.names), None)


def _clash(module: LowRank, shape: tuple[int, ...]) -> str | None:
    """The two shapes in words where the delta does not fit the weight, else None."""
    out = int(module.up.shape[0])
    given = (out, module.delta_elements // out)
    if len(shape) >= 2 and given == (shape[0], math.prod(shape[1:])):
        return None
    return f"the LoRA makes {given[0]} x {given[1]}, the model's weight is {' x '.join(map(str, shape))}"


def _nearest(name: str, targets: TargetMap) -> str:
    close = difflib.get_close_matches(name, _same_scheme(name, targets), n=1, cutoff=0.85)
    guess = f"; the nearest name is '{close[0]}'" if close else ""
    return f"the model has no weight of this name{guess}"


def _same_scheme(name: str, targets: TargetMap) -> list[str]:
    """Names that begin like this one: difflib over thousands of names would take seconds."""
    return [known for known in targets.names if known[:12] == name[:12] and abs(len(known) - len(name)) <= 4]
