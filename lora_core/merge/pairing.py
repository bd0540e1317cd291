"""Which modules of the rows speak of the same weight: by the model's key map, else by how schemes spell names."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch

from ..adapters import AdapterFile, Difference, Leftover
from ..files.naming import candidate_names, is_text_encoder
from ..resolve import find_target
from ..stack.blockstrengths import BlockStrengths, Share
from ..targets import Slice, TargetMap
from .families import Mergeable

# (spelling, kind), or ("of the model", weight).
_Key = tuple[str, str]


@dataclass(frozen=True)
class Member:
    """One row's adapter for a weight. kind: "weight" or "bias". slice: the part of the weight that it feeds, None for the whole.
    shares: the row's block strengths here, by rows of the delta; none leaves them at 1.
    """

    row: int
    name: str
    kind: str
    adapter: Mergeable
    slice: Slice | None = None
    shares: tuple[Share, ...] = ()


@dataclass(frozen=True)
class Group:
    """All that the rows say about one parameter. name: the module's name in the merged file.

    kind: "weight" or "bias". whole: the weight's shape where the model told it and members feed slices of it.
    """

    name: str
    kind: str
    members: tuple[Member, ...]
    whole: tuple[int, ...] | None = None

    @property
    def is_plain(self) -> bool:
        """Whether it is a bias, a norm, or held as whole differences only: summed as it is."""
        return all(isinstance(member.adapter, Difference) for member in self.members)

    @property
    def rows(self) -> tuple[int, ...]:
        return tuple(dict.fromkeys(member.row for member in self.members))


@dataclass(frozen=True)
class Pairing:
    """groups in the order of the files; lost: what is in no group, "row: key"; by_name: names the model lacks."""

    groups: tuple[Group, ...]
    lost: tuple[Leftover, ...] = ()
    by_name: tuple[str, ...] = ()


def pair(
    files: Sequence[AdapterFile],
    model: TargetMap | None = None,
    clip: TargetMap | None = None,
    blocks: Sequence[BlockStrengths | None] = (),
) -> Pairing:
    """Group the adapters of all rows by the weight they feed.

    model, clip: with them the host's key map decides, so that fused and split spellings of one weight meet. Without,
    and for names that it lacks, two modules meet where one is among the other's `spellings`.
    blocks: each file's block strengths, read for this model.
    """
    groups: dict[_Key, list[Member]] = {}
    functions: dict[_Key, Any] = {}
    lost, unknown = [], []
    textual: dict[_Key, _Key] = {}
    for row, file in enumerate(files):
        lost += [Leftover(f"{file.label}: {left.key}", left.reason) for left in file.leftovers]
        for name, kind, adapter in _items(file):
            targets = clip if is_text_encoder(name) else model
            target = None if targets is None else find_target(name, kind, targets)
            if target is None:
                unknown += [name] if targets is not None else []
                key = _textual(name, kind, textual)
            else:
                key = ("of the model", target.key)
            strengths = blocks[row] if blocks else None
            shares = strengths.shares(target) if strengths and target else ()
            member = Member(
                row, name, kind, adapter, target.offset if target else None, tuple(shares)
            )
            function = target.function if target else None
            reason = _refused(member, groups.get(key, []))
            if functions.setdefault(key, function) is not function:
                reason = "the model rearranges it before use, and not the other rows' delta"
            if reason is not None:
                lost.append(Leftover(f"{file.label}: {name}", reason))
            else:
                groups.setdefault(key, []).append(member)
    found = [
        group
        for key, members in groups.items()
        for group in _by_slice(members, _shape(key, model, clip))
    ]
    return Pairing(tuple(found), tuple(lost), tuple(dict.fromkeys(unknown)))


def spellings(name: str) -> tuple[str, ...]:
    """How other schemes say a module's name, kohya's underscores included. Text only: no model is asked."""
    names = list(candidate_names(name))
    bare = name.removeprefix("base_model.model.")
    for dotted, flat in _FLAT_PREFIXES:
        if bare.startswith(dotted):
            names += [f"{prefix}{bare[len(dotted) :].replace('.', '_')}" for prefix in flat]
    return tuple(dict.fromkeys(names))


# The dotted beginning of a name -> what kohya's trainers write in its place, with underscores after it.
_FLAT_PREFIXES = (
    ("diffusion_model.", ("lora_unet_",)),
    ("text_encoder.", ("lora_te_", "lora_te1_")),
    ("text_encoder_2.", ("lora_te2_",)),
    ("text_encoders.clip_l.transformer.", ("lora_te_", "lora_te1_")),
    ("text_encoders.clip_g.transformer.", ("lora_te2_",)),
)


def _items(file: AdapterFile) -> Iterable[tuple[str, str, Mergeable]]:
    for name, adapter in file.modules.items():
        yield name, "weight", adapter
    for (name, kind), difference in file.differences.items():
        yield name, kind, difference


def _textual(name: str, kind: str, known: dict[_Key, _Key]) -> _Key:
    """The key of the group that one of the name's spellings belongs to; a new one where none does."""
    said = [(spelling, kind) for spelling in spellings(name)]
    key = next((known[item] for item in said if item in known), (name, kind))
    for item in said:
        known.setdefault(item, key)
    return key


def _refused(member: Member, others: list[Member]) -> str | None:
    """A file may hold low-rank factors and a whole difference of a weight, but each only once for one slice."""
    twin = any(
        other.row == member.row
        and other.slice == member.slice
        and isinstance(other.adapter, Difference) == isinstance(member.adapter, Difference)
        for other in others
    )
    return "another module of the same file already feeds this weight" if twin else None


def _shape(key: _Key, model: TargetMap | None, clip: TargetMap | None) -> tuple[int, ...] | None:
    maps = [targets for targets in (model, clip) if targets is not None]
    return next((m.shapes[key[1]] for m in maps if key[1] in m.shapes), None)


def _by_slice(members: list[Member], shape: tuple[int, ...] | None) -> Iterable[Group]:
    """One group where a member feeds the whole weight, else one for each slice: slices do not overlap."""
    whole = [member for member in members if member.slice is None]
    if whole:
        sliced = len(whole) < len(members)
        yield Group(_name(whole), members[0].kind, tuple(members), shape if sliced else None)
        return
    for part in dict.fromkeys(member.slice for member in members):
        same = [replace(member, slice=None) for member in members if member.slice == part]
        yield Group(_name(same), same[0].kind, tuple(same))


def _name(members: Sequence[Member]) -> str:
    """kohya's spelling where a row has it, because every loader reads that one."""
    flat = [member.name for member in members if member.name.startswith("lora_")]
    return (flat or [member.name for member in members])[0]


def scaled_rows(rows: torch.Tensor, shares: Sequence[Share]) -> torch.Tensor:
    """Rows of a delta (its first axis), or of its factor up, times their block strengths."""
    if not shares:
        return rows
    scaled = rows.clone()
    for share in shares:
        stop = None if share.length is None else share.start + share.length
        scaled[share.start : stop] *= share.factor
    return scaled
