"""(stack, files, target maps) -> ResolvedPatches + Account: which deltas go onto which weight, and what is left."""

from __future__ import annotations

import difflib
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from functools import cache, cached_property
from typing import Any, NamedTuple

from .account import Account, PartCount, RowAccount
from .adapters import Adapter, AdapterFile, Difference, Leftover
from .algebra.steps import Step, steps_of
from .blockwise import by_share
from .files.cache import BoundedCache
from .files.naming import candidate_names, is_text_encoder
from .fitting import clash
from .matching import check
from .rowblocks import row_blocks, said_of_blocks
from .stack.blockpresets import BUILT_IN, Preset
from .stack.blocktable import block_table
from .stack.rows import StackRow
from .targets import Target, TargetMap

# A guess costs a search through the model's names; the first few tell what is wrong.
_GUESSES = 3

# Whole LoRAs with what they match, by the ids of LoRA and target maps; the LoRAs of files are in the reader's cache too.
_kept: BoundedCache[tuple[int, ...], tuple[Any, RowAccount, list[Match]]] = BoundedCache(1 << 30)


class Term(NamedTuple):
    """One row's adapter on one weight. A tuple, because every run makes thousands.

    row: the row's place among those that were resolved. strength: the row's own; factor: what its blocks make of it.
    """

    row: int
    adapter: Adapter | Difference
    strength: float
    factor: float = 1.0


@dataclass(frozen=True)
class PartPatches:
    """All that goes onto one model: for each weight or bias the terms of all rows, in stack order."""

    terms: Mapping[Target, tuple[Term, ...]] = field(default_factory=dict)

    @cached_property
    def steps(self) -> Mapping[Target, tuple[Step, ...]]:
        """For each weight or bias its steps, all rows of the stack in one list."""
        return {
            target: steps_of([(term.adapter, term.strength * term.factor) for term in terms])
            for target, terms in self.terms.items()
        }


@dataclass(frozen=True)
class ResolvedPatches:
    """Ready to be handed to the host, for the model and for the text encoders."""

    model: PartPatches = PartPatches()
    clip: PartPatches = PartPatches()


class Match(NamedTuple):
    """An adapter that found its weight. part: "model" or "clip"."""

    part: str
    target: Target
    adapter: Adapter | Difference


def resolve(
    rows: Iterable[tuple[StackRow, AdapterFile]],
    model: TargetMap | None,
    clip: TargetMap | None,
    matching: str = "auto",
    presets: Mapping[str, Preset] = BUILT_IN,
) -> tuple[ResolvedPatches, Account]:
    """Find the weight of every adapter of every row.

    model, clip: None where nothing is connected; the keys of that part are then reported, never an error.
    matching: see matching.check. presets: what the names in a row's block strengths mean.
    Raises MatchError, and StackError where a row's block strengths do not fit the model.
    """
    accounts: list[RowAccount] = []
    terms: Mapping[str, dict[Target, list[Term]]] = {
        "model": defaultdict(list),
        "clip": defaultdict(list),
    }
    table = cache(lambda: block_table(model, clip))
    for number, (row, lora) in enumerate(rows):
        account, matches = _matched(row, lora, {"model": model, "clip": clip})
        check(account, matching)
        blocks = row_blocks(row, table(), presets) if row.blocks.strip() else None
        said = said_of_blocks(((match.target, match.adapter) for match in matches), blocks)
        accounts.append(replace(account, blocks=said))
        strengths = {"model": row.model, "clip": row.clip}
        for part, target, adapter in matches:
            strength, of_part = strengths[part], terms[part]
            for share, item, factor in by_share(target, adapter, blocks):
                if strength * factor != 0:
                    of_part[share].append(Term(number, item, strength, factor))
    return ResolvedPatches(_gather(terms["model"]), _gather(terms["clip"])), Account(
        tuple(accounts)
    )


def matches_of(
    adapter: AdapterFile, model: TargetMap | None, clip: TargetMap | None
) -> list[Match]:
    """What of a LoRA finds its weight, refusing nothing."""
    return _matched(StackRow(adapter.label), adapter, {"model": model, "clip": clip})[1]


def _gather(terms: Mapping[Target, list[Term]]) -> PartPatches:
    return PartPatches({target: tuple(found) for target, found in terms.items()})


def _matched(
    row: StackRow, adapter: AdapterFile, maps: Mapping[str, TargetMap | None]
) -> tuple[RowAccount, list[Match]]:
    """_match_row, done once for a LoRA and a model: a new strength finds the same weights.

    The kept values hold what their ids are of, so that no other object can come to have those ids.
    """
    asked = (adapter, *maps.values())
    key = tuple(id(each) for each in asked)
    kept = _kept.get(key)
    if kept is None:
        kept = (asked, *_match_row(row, adapter, maps))
        _kept.put(key, kept, adapter.nbytes)
    return replace(kept[1], row=row), kept[2]


def _match_row(
    row: StackRow, adapter: AdapterFile, maps: Mapping[str, TargetMap | None]
) -> tuple[RowAccount, list[Match]]:
    """Find each adapter's weight; what finds none is accounted for with the reason."""
    unmatched, clashes = list(adapter.leftovers), []
    matches: dict[tuple[str, Target, bool], tuple[str, Match]] = {}
    for name, part, kind, item in _items(adapter):
        targets = maps[part]
        if targets is None:
            continue
        target = find_target(name, kind, targets)
        shape = targets.shape_of(target) if target is not None else None
        if target is None or shape is None:
            unmatched.append(Leftover(_said(name, item), f"the model has no {kind} of this name"))
        elif (misfit := clash(item, shape)) is not None:
            clashes.append(Leftover(_said(name, item), misfit))
        elif (twin := matches.get((part, target, isinstance(item, Difference)))) is not None:
            unmatched.append(
                Leftover(
                    _said(name, item), f"'{twin[0]}' of the same file already feeds this weight"
                )
            )
        else:
            matches[part, target, isinstance(item, Difference)] = (name, Match(part, target, item))
    found = [match for _, match in matches.values()]
    totals = _totals(adapter)
    counts = {
        part: PartCount(
            sum(m.part == part and _counts(m.adapter, adapter) for m in found), totals[part]
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


def _items(adapter: AdapterFile) -> Iterator[tuple[str, str, str, Adapter | Difference]]:
    """(module name, "model" or "clip", "weight" or "bias", adapter) of everything in the file."""
    for name, module in adapter.modules.items():
        yield name, _part(name), "weight", module
    for (name, kind), difference in adapter.differences.items():
        yield name, _part(name), kind, difference


def _said(name: str, item: Adapter | Difference) -> str:
    """How the account calls an adapter: by its module, a whole difference by its key."""
    return item.keys[0] if isinstance(item, Difference) else name


def _part(name: str) -> str:
    return "clip" if is_text_encoder(name) else "model"


def _totals(adapter: AdapterFile) -> dict[str, int]:
    """How many modules the file has for each part, those of families that are not read included.

    Where it has no modules at all, whole differences of weights and biases count.
    """
    names = [*adapter.modules, *adapter.unread] or [name for name, _ in adapter.differences]
    in_clip = sum(is_text_encoder(name) for name in names)
    return {"model": len(names) - in_clip, "clip": in_clip}


def _counts(item: Adapter | Difference, file: AdapterFile) -> bool:
    return not isinstance(item, Difference) or not (file.modules or file.unread)


def find_target(name: str, kind: str, targets: TargetMap) -> Target | None:
    """The first name's target that the model really has; for a bias, the one beside the named weight."""
    for candidate in candidate_names(name):
        target = targets.find(candidate)
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
