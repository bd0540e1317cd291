"""LORA_STACK, the socket shared with other packs: a list of exact 3-tuples (name, model strength, clip strength)."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from ..errors import StackError
from ..files.cache import BoundedCache
from .rows import LoraStack, StackRow

_NAME_FIELDS = ("lora_name", "lora", "name")
_MODEL_FIELDS = ("model_strength", "strength_model", "strength", "model")
_CLIP_FIELDS = ("clip_strength", "strength_clip", "strengthTwo", "clipStrength", "clip")
_LOST = (
    "this LORA_STACK left Loom with {} and came back without: a node of another pack between the two drops them. "
    "Connect Loom nodes directly, or put Loom Blocks behind that node."
)
_ON_FIELDS = ("on", "active", "enabled")


# What went out beside the tuples, in words, by the tuples: a pack in between that builds its own list drops the rest.
_sent: BoundedCache[tuple[tuple[str, float, float], ...], str] = BoundedCache(256)


class StackList(list[tuple[str, float, float]]):
    """What goes out by a LORA_STACK socket: plain 3-tuples for everybody, and our own rows beside them.

    loom_stack speaks for the list only while the list is still what was sent.
    """

    def __init__(self, stack: LoraStack, names: Iterable[str]) -> None:
        super().__init__(
            (name, row.model, row.clip) for name, row in zip(names, stack.rows, strict=True)
        )
        self.loom_stack = stack
        self.sent = tuple(self)
        _sent.put(self.sent, _extras(stack), 1)


def _extras(stack: LoraStack) -> str:
    """What of the rows only Loom nodes read, in words."""
    carried = {
        "block strengths": any(row.blocks for row in stack.rows),
        "schedules": any(row.schedule for row in stack.rows),
        "regions": any(row.regions for row in stack.rows),
        "the choice of trigger words": any(row.words is not None for row in stack.rows),
    }
    return " and ".join(name for name, there in carried.items() if there)


def read_lora_stack(value: Any) -> LoraStack:
    """Rows from a LORA_STACK of ours or of another pack: 3-tuples, longer tuples (the rest is theirs) and dicts.

    None and [] are empty stacks; rows named "None" are skipped, as every pack does. Our own rows are used only
    while the tuples still say the same: a list that another node has changed is read from its tuples.
    Raises StackError that names the row.
    """
    if value is None:
        return LoraStack()
    if isinstance(value, StackList) and tuple(value) == value.sent:
        return value.loom_stack
    if isinstance(value, str | Mapping) or not isinstance(value, Iterable):
        raise StackError(
            f"LORA_STACK must be a list of (name, model strength, clip strength); found {value!r:.200}."
        )
    rows = [_read_row(number, item) for number, item in enumerate(value, start=1)]
    kept = tuple(row for row in rows if row is not None)
    lost = _sent.get(tuple((row.name, row.model, row.clip) for row in kept))
    return LoraStack(kept, (_LOST.format(lost),) if lost else ())


def one_or_stack(name: str | None, value: Any) -> LoraStack:
    """The rows of a LORA_STACK where one is connected, else the one LoRA of this name. Raises StackError."""
    if value is not None:
        return read_lora_stack(value)
    if name is None:
        raise StackError(
            "No LORA_STACK is connected. Connect lora_stack, or choose a file in lora_name."
        )
    return LoraStack((StackRow(name),))


def _read_row(number: int, item: Any) -> StackRow | None:
    if isinstance(item, Mapping):
        name, model, clip = _from_mapping(item)
    elif isinstance(item, tuple | list) and len(item) >= 3:
        name, model, clip = item[0], item[1], item[2]
    else:
        raise StackError(
            f"LORA_STACK row {number} must be (name, model strength, clip strength); found {item!r:.200}."
        )
    if name in (None, "", "None"):
        return None
    if not isinstance(name, str):
        raise StackError(f"LORA_STACK row {number}: the name must be text; found {name!r:.200}.")
    try:
        return StackRow(name, model, clip)
    except StackError as error:
        raise StackError(f"LORA_STACK row {number}: {error}") from error


def _from_mapping(item: Mapping[Any, Any]) -> tuple[Any, Any, Any]:
    """Name and strengths by the field names that packs use; a missing clip strength follows the model's."""
    if any(item.get(field) is False for field in _ON_FIELDS):
        return None, 0.0, 0.0
    name = _first(item, _NAME_FIELDS, None)
    model = _first(item, _MODEL_FIELDS, 1.0)
    return name, model, _first(item, _CLIP_FIELDS, model)


def _first(item: Mapping[Any, Any], fields: Iterable[str], default: Any) -> Any:
    return next((item[field] for field in fields if item.get(field) is not None), default)
