"""What a workflow keeps of a LoRA beside its name, so that it is found again: {"name", "sha256", "autov3", "base", "size"}.

The name is the one that the lock was written for: whoever chooses another LoRA need not clear the lock of the last.
"""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from typing import Any

from ..errors import StackError
from ..files.filenames import slashed
from ..files.identity import FileHashes
from .rows import StackRow

_FIELDS = {"name", "sha256", "autov3", "base", "size", "accept"}
_CLEAR = "Clear lora_lock; it is written again after the next run."


@dataclass(frozen=True)
class Identified:
    """A row and the file that it was found to mean.

    name: as the host lists it. base: in words, None where nothing tells. size: of the file in bytes.
    """

    row: StackRow
    name: str
    hashes: FileHashes
    base: str | None
    size: int | None = None

    def lock(self) -> str:
        """The text that a loader keeps."""
        return json.dumps(
            {"name": self.row.name, **asdict(self.hashes), "base": self.base} | self._size
        )

    def facts(self) -> dict[str, str | int | None]:
        """What a row keeps; `lora` is the row's own name, `name` the one that was found."""
        return {"lora": self.row.name, "name": self.name, **asdict(self.hashes)} | self._size

    @property
    def _size(self) -> dict[str, int]:
        return {} if self.size is None else {"size": self.size}


def locked_row(name: str, model: float, clip: float, lock: str) -> StackRow:
    """A row with the hashes of its lock; "" is no lock, and one written for another name says nothing.

    Raises StackError.
    """
    facts = _facts(lock)
    written_for = facts.get("name")
    if written_for is not None and slashed(written_for) != slashed(name):
        return StackRow(name, model, clip)
    return StackRow(
        name,
        model,
        clip,
        sha256=facts.get("sha256"),
        autov3=facts.get("autov3"),
        accept=facts.get("accept", False),
        size=facts.get("size"),
    )


def _facts(lock: str) -> dict[str, Any]:
    if not lock.strip():
        return {}
    try:
        facts = json.loads(lock)
    except (ValueError, RecursionError) as error:
        raise StackError(f"lora_lock is not JSON: {error}. {_CLEAR}") from error
    if not isinstance(facts, dict):
        raise StackError(f"lora_lock must be a JSON object; found {facts!r:.200}. {_CLEAR}")
    unknown = sorted(set(facts) - _FIELDS)
    if unknown:
        raise StackError(
            f"lora_lock has an unknown field '{unknown[0]}'; it has {', '.join(sorted(_FIELDS))}. {_CLEAR}"
        )
    name = facts.get("name")
    if name is not None and not isinstance(name, str):
        raise StackError(f"lora_lock names a LoRA that is no text: {name!r:.200}. {_CLEAR}")
    return facts
