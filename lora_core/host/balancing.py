"""Balance as the node calls it: a LORA_STACK in, one with other strengths and protected rows out."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from PIL import Image

from ..analysis.balance import KEEP, Balanced, balance, inner_products
from ..analysis.draw import as_images, message
from ..analysis.draw_interference import heat_map
from ..analysis.interference import MOST_ROWS, interference
from ..analysis.interference_words import percent, sentence
from ..analysis.protection import PROTECTED, YIELDING, Changed, Protection, consumed, protect
from ..files.metadata_edit import edited
from ..files.parse import parse_state_dict
from ..files.reader import read_tensors
from ..merge.onbase import BaseModel
from ..merge.plan import Rows
from ..merge.tensors import adapter_tensors
from ..stack.blockpresets import Preset
from ..stack.interop import StackList, read_lora_stack
from ..stack.rows import LoraStack, StackRow
from ..targets import TargetMap
from .merging import progress_bar
from .paths import find_lora, keep_in_loras
from .presets import presets_for
from .stacking import OpenRow, facts_of, open_rows, outgoing
from .targets import clip_targets, model_targets
from .weights import base_of

_SAME = "Nothing is changed: the stack is the one that came in."


@dataclass(frozen=True)
class BalanceOrder:
    """strengths: one of balance.STRENGTHS. budget: for "budget", of the length of one row."""

    strengths: str = KEEP
    budget: float = 1.25
    protection: Protection = Protection()


@dataclass(frozen=True)
class BalancedStack:
    """stack: for the LORA_STACK socket. images: (2, height, width, 3) float32, the heat maps before and after."""

    stack: StackList
    report: str
    images: torch.Tensor


def balance_stack(
    lora_stack: Any, order: BalanceOrder, model: Any = None, clip: Any = None
) -> BalancedStack:
    """Protect the characters of a stack and set its strengths. Raises LoraError; then nothing is written.

    With nothing asked for, the very stack that came in goes out. A row that was changed by protection is written as a
    file of the loras folder, named by its content.
    """
    stack = read_lora_stack(lora_stack)
    on_model = None if model is None else model_targets(model)
    on_clip = None if clip is None else clip_targets(clip)
    opened = open_rows(stack.active.rows)
    rows = [(item.row, item.adapter) for item in opened]
    base, presets = base_of(model, clip), presets_for(stack)
    said, before = _seen(rows, on_model, on_clip, base, presets)
    changed = protect(rows, order.protection, on_model, on_clip, progress_bar(), presets)
    kept = {each.row: _protected_row(opened[each.row], each) for each in changed}
    new = [
        (row, file if row.adapter is None else row.adapter)
        for number, (old, file) in enumerate(rows)
        for row in (kept.get(number, old),)
    ]
    balanced = _balanced(new, order, on_model, on_clip, presets)
    final = iter(balanced.rows)
    lines = [f"before: {said}"]
    if not changed and not balanced.said:
        whole = lora_stack if isinstance(lora_stack, StackList) else outgoing(stack)
        note = [_why_not(rows)] if order.protection.much else []
        return BalancedStack(whole, "\n".join([*lines, *note, _SAME]), as_images([before, before]))
    out = LoraStack(tuple(next(final) if row.active else row for row in stack.rows), stack.notes)
    pairs = [(row, file) for row, (_, file) in zip(balanced.rows, new, strict=True)]
    now, after = _seen(pairs, on_model, on_clip, base, presets)
    lines += [f"after: {now}", *_said_of(rows, changed, kept, order.protection), *balanced.said]
    return BalancedStack(outgoing(out), "\n".join(lines), as_images([before, after]))


def _balanced(
    rows: Rows,
    order: BalanceOrder,
    model: TargetMap | None,
    clip: TargetMap | None,
    presets: Mapping[str, Preset],
) -> Balanced:
    if order.strengths == KEEP:
        return Balanced(tuple(row for row, _ in rows))
    table = inner_products(rows, model, clip, progress_bar(), presets)
    return balance([row for row, _ in rows], table, order.strengths, order.budget)


def _seen(
    rows: Rows,
    model: TargetMap | None,
    clip: TargetMap | None,
    base: BaseModel,
    presets: Mapping[str, Preset],
) -> tuple[str, Image.Image]:
    """The sentence and the heat map of the rows as they are; words alone where there is nothing to compare."""
    if not 2 <= len(rows) <= MOST_ROWS:
        said = f"{len(rows)} rows are switched on; rows are compared from 2 to {MOST_ROWS}"
        return said, message(said)
    found = interference(rows, model, clip, base=base, presets=presets)
    return sentence(found), heat_map(found)


def _protected_row(item: OpenRow, changed: Changed) -> StackRow:
    """The row with its new weights, kept as a file too because rows of an outgoing LORA_STACK are names."""
    tensors, metadata = _tensors(item)
    gone = consumed(item.adapter, changed.replaced)
    left = {key: tensor for key, tensor in tensors.items() if key not in gone}
    for name, adapter in changed.adapters.items():
        left |= adapter_tensors(name, adapter)
    # Alphas may stand in the metadata alone.
    name = keep_in_loras(left, edited(metadata, ""))
    words = item.row.words
    if words is None and (known := facts_of(item).words):
        words = tuple(word.value for word in known)
    adapter = parse_state_dict(left, name, metadata)
    return replace(
        item.row, name=name, adapter=adapter, sha256=None, autov3=None, accept=False, words=words
    )


def _tensors(item: OpenRow) -> tuple[dict[str, torch.Tensor], Mapping[str, str]]:
    path = item.found.path if item.found is not None else find_lora(item.row.name)[1]
    return read_tensors(path, item.row.name)


def _said_of(
    rows: Rows, changed: Sequence[Changed], kept: Mapping[int, StackRow], protection: Protection
) -> list[str]:
    """What protection did to each row."""
    if protection.much == 0:
        return []
    if not changed:
        return [_why_not(rows)]
    characters = [row.name for row, _ in rows if row.role == PROTECTED]
    return [
        f"{rows[each.row][0].name}: kept {100 * protection.much:g} % off the {protection.side} directions that hold "
        f"{100 * protection.directions:g} % of {' and '.join(characters)}: {len(each.adapters)} weights changed, "
        f"{percent(each.kept)} of their energy is left, {percent(each.of_all)} of the whole row's; "
        f"written as {kept[each.row].name}"
        for each in changed
    ]


def _why_not(rows: Rows) -> str:
    roles = {row.role for row, _ in rows}
    if PROTECTED not in roles:
        return f"protection has nothing to protect: give a row the role {PROTECTED}"
    if not roles & set(YIELDING):
        return f"protection has no row to keep off: give one the role {' or '.join(YIELDING)}"
    return "protection changes nothing: the rows have no weight in common"
