"""What adapters do that depend on the weight they find (DoRA, OFT, GLoRA, IA3, replaced weights), as deltas on a known model.

merge-maths, section 2: W' - W is a delta like any other, of full rank, and good for this base model only.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import cached_property, partial

import torch

from ..adapters import Adapter, AdapterFile, Difference
from ..algebra.steps import run, steps_of
from ..errors import MergeError
from ..files.naming import is_text_encoder
from ..resolve import Match, PartPatches, Term, matches_of, resolve
from ..stack.blockpresets import BUILT_IN, Preset
from ..targets import Target, TargetMap
from .families import DEPENDS, GROWS, Mergeable, OnBase, unmergeable
from .plan import Rows

# A weight's name in the model -> the weight as it is there, any shape and floating dtype, on the CPU.
Read = Callable[[str], torch.Tensor]


@dataclass(frozen=True)
class BaseModel:
    """The weights of the model and the text encoder that are connected; None for one that is not."""

    model: Read | None = None
    clip: Read | None = None


NOT_CONNECTED = BaseModel()


def on_base(
    rows: Rows,
    model: TargetMap | None,
    clip: TargetMap | None,
    base: BaseModel,
    in_order: bool = True,
    dtype: torch.dtype = torch.float64,
    presets: Mapping[str, Preset] = BUILT_IN,
) -> Rows:
    """The rows with every adapter that depends on the weight as what it adds to the base model's weight at its row's strength.

    in_order: what it adds where it stands in the stack, after the rows before it, so that all deltas sum up to what the
    stack makes of the weight; else what it adds alone. The base is read when a delta is asked for, one weight at a time.
    presets: see resolve. What finds no weight in the base stays as it is. Raises MatchError and StackError as applying the rows does.
    """
    if not any(_dependent(file) for _, file in rows):
        return rows
    resolved = resolve(rows, model, clip, "partial", presets)[0]
    parts = {
        "model": _Part(resolved.model, base.model, model),
        "clip": _Part(resolved.clip, base.clip, clip),
    }
    new = []
    for number, (row, file) in enumerate(rows):
        matches = {id(match.adapter): match for match in matches_of(file, model, clip)}
        change = partial(_changed, number, matches, parts, in_order, dtype)
        modules = {name: change(item) for name, item in file.modules.items()}
        differences = {key: _difference(change(d)) for key, d in file.differences.items()}
        new.append((row, replace(file, modules=modules, differences=differences)))
    return new


def check_mergeable(rows: Rows, base: BaseModel | None) -> None:
    """Raises MergeError for the first adapter that has no delta of its own. base: None where none could be connected."""
    for row, file in rows:
        beside = ((name, each) for (name, _), each in file.differences.items())
        for name, adapter in (*file.modules.items(), *beside):
            if (reason := unmergeable(adapter)) is not None:
                why, way = _way_out(name, reason, base)
                raise MergeError(f"'{row.name}': '{name}' cannot be merged: {why}. {way}")


def _way_out(name: str, reason: str, base: BaseModel | None) -> tuple[str, str]:
    """(reason, what to do)."""
    alone = "leave this row out of the merge and load it beside the merged LoRA."
    if not reason.endswith(DEPENDS):
        return reason, alone.capitalize()
    if base is None:
        return reason, "Give it to Loom Merge, with the MODEL that it is for connected."
    socket, read = ("CLIP", base.clip) if is_text_encoder(name) else ("MODEL", base.model)
    if read is None:
        return reason, f"Connect the {socket} that it is for to the merge, or {alone}"
    unfit = f"the connected {socket} has no weight of this name and shape"
    return f"{reason}, and {unfit}", f"Connect the {socket} that it is for, or {alone}"


def dependents(rows: Rows) -> int:
    """How many adapters of the rows are deltas on the base model."""
    return sum(isinstance(each, OnBase) for _, file in rows for each in file.modules.values())


@dataclass(frozen=True)
class _Part:
    """One model: what all rows do to it, its weights, their shapes."""

    patches: PartPatches
    read: Read | None
    targets: TargetMap | None

    @cached_property
    def by_key(self) -> Mapping[str, list[tuple[Target, Term]]]:
        """Everything that is put on a weight, in the order in which the host does it."""
        found: dict[str, list[tuple[Target, Term]]] = {}
        for target, terms in self.patches.terms.items():
            kept = [(target, term) for term in terms if unmergeable(term.adapter) != GROWS]
            found.setdefault(target.key, []).extend(kept)
        return found


def _dependent(file: AdapterFile) -> bool:
    adapters = (*file.modules.values(), *file.differences.values())
    return any(map(_depends, adapters))


def _depends(adapter: Mergeable) -> bool:
    return (unmergeable(adapter) or "").endswith(DEPENDS)


def _changed(
    row: int,
    matches: Mapping[int, Match],
    parts: Mapping[str, _Part],
    in_order: bool,
    dtype: torch.dtype,
    adapter: Adapter | Difference,
) -> Adapter | Difference | OnBase:
    """The adapter as what it adds to its weight; itself where it adds the same to any weight, or finds none."""
    match = matches.get(id(adapter))
    if match is None or not _depends(adapter):
        return adapter
    part = parts[match.part]
    shape = None if part.targets is None else part.targets.shape_of(match.target)
    if part.read is None or shape is None:
        return adapter
    return OnBase(adapter, shape, partial(_delta, row, match.target, part, in_order, dtype))


def _difference(item: Adapter | Difference | OnBase) -> Difference:
    """A replaced weight is as large as its delta, which can be kept."""
    if not isinstance(item, OnBase):
        assert isinstance(item, Difference)
        return item
    assert isinstance(item.adapter, Difference)
    return replace(item.adapter, tensor=item.delta().reshape(item.shape), scale=1.0, replaces=False)


def _delta(row: int, own: Target, part: _Part, in_order: bool, dtype: torch.dtype) -> torch.Tensor:
    """What a row's adapters that depend on the weight add to it, at strength 1: (out, in * kernel) float32.

    It is measured at the strength and block strengths that the row has, and divided by these.
    """
    assert part.read is not None
    weight = part.read(own.key).to(dtype, copy=True)
    if not bool(torch.isfinite(weight).all()):
        raise MergeError(
            f"'{own.key}' of the connected model has numbers that are not finite, so what a row does to it is not known. "
            "Connect a sound model."
        )
    total = torch.zeros_like(_narrowed(weight, own), dtype=torch.float32)
    for target, term in part.by_key[own.key]:
        if not in_order and term.row != row:
            continue
        before = _narrowed(weight, target)
        if target.function is not None:
            before = target.function(before)
        strength = term.strength * term.factor
        after = run(before.contiguous().clone(), steps_of([(term.adapter, strength)]))
        if term.row == row and _depends(term.adapter) and _inside(target, own):
            place = _narrowed(total, _moved(target, own))
            place += ((after - before) / strength).to(torch.float32)
        after = after if target.function is None else target.function(after)
        _narrowed(weight, target).copy_(after)
    return total.flatten(1) if total.dim() > 1 else total


def _narrowed(weight: torch.Tensor, target: Target) -> torch.Tensor:
    return weight if target.offset is None else weight.narrow(*target.offset)


def _inside(target: Target, own: Target) -> bool:
    """Whether a target is the own one or some of its rows."""
    if own.offset is None or target.offset is None:
        return own.offset is None
    (dim, start, length), (axis, first, count) = own.offset, target.offset
    return dim == axis and start <= first and first + count <= start + length


def _moved(target: Target, own: Target) -> Target:
    """The target's place within the own one."""
    if own.offset is None or target.offset is None:
        return target
    return replace(
        target, offset=(own.offset[0], target.offset[1] - own.offset[1], target.offset[2])
    )
