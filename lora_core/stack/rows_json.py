"""The text of the stack node's rows widget -> LoraStack.

{"version": 1, "rows": [{"lora": "style.safetensors", "model": 0.8, "clip": 0.8, "on": true, "role": "style", "blocks": ""}]}
A bare list of rows is read too. model defaults to 1, clip to the model strength, on to true, role to "free", blocks to "".
"sha256" and "autov3" say which file is meant, wherever it lies; "accept": true takes another one under this name.
schedule: the strength over the steps, as Loom Schedule writes it; "" is constant.
words: null for all the trigger words that the file names, [] for none, ["a", "b"] for these.
"locks": {"style.safetensors": {"sha256": "...", "autov3": "...", "size": 1234}} beside "rows" is what the page writes after a run: the
hashes of the files that the names meant. They are kept by name, so a row that is given another name is not held to them.
"""

from __future__ import annotations

import json
from typing import Any

from ..errors import StackError
from ..files.filenames import slashed
from .rows import LoraStack, StackRow

ROWS_VERSION = 1
_FIELDS = {"lora", "model", "clip", "on", "role", "blocks", "schedule", "words"}
_FIELDS |= {"sha256", "autov3", "accept", "size"}
_EXAMPLE = '{"version": 1, "rows": [{"lora": "style.safetensors", "model": 0.8, "clip": 0.8}]}'


def parse_rows(text: str) -> LoraStack:
    """The rows that are switched on. Raises StackError that names the row and the field."""
    if not text.strip():
        return LoraStack()
    try:
        document = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise StackError(f"The rows are not JSON: {error}. Write them like {_EXAMPLE}") from error
    rows, locks = _rows_of(document), _locks_of(document)
    parsed = [_row(number, row, locks) for number, row in enumerate(rows, start=1)]
    return LoraStack(tuple(row for row in parsed if row is not None))


def _rows_of(document: object) -> list[object]:
    if isinstance(document, list):
        return document
    if not isinstance(document, dict) or not isinstance(document.get("rows"), list):
        raise StackError(
            f"The rows must be a JSON object with a list called 'rows'. Write them like {_EXAMPLE}"
        )
    version = document.get("version", ROWS_VERSION)
    if version != ROWS_VERSION:
        raise StackError(
            f"These rows were written by another version of LoRA Loom (rows version {version!r}, this one reads "
            f"{ROWS_VERSION}). Update LoRA Loom."
        )
    return document["rows"]


def _locks_of(document: object) -> dict[str, dict[str, Any]]:
    """Name, with / between folders -> {"sha256", "autov3"}. A lock that is no object is an error, not a missing lock."""
    locks = document.get("locks") if isinstance(document, dict) else None
    if locks is None:
        return {}
    if not isinstance(locks, dict) or not all(isinstance(lock, dict) for lock in locks.values()):
        raise StackError(
            'The rows\' "locks" must be an object such as {"style.safetensors": {"sha256": "..."}}. '
            "Remove it; it is written again after the next run."
        )
    return {slashed(name): lock for name, lock in locks.items()}


def _row(number: int, row: object, locks: dict[str, dict[str, Any]]) -> StackRow | None:
    """One row, or None where it is switched off. A switched-off row is checked all the same."""
    if not isinstance(row, dict):
        raise StackError(
            f'Row {number} must be an object such as {{"lora": "style.safetensors"}}; found {row!r}.'
        )
    unknown = sorted(set(row) - _FIELDS)
    if unknown:
        raise StackError(
            f"Row {number} has an unknown field '{unknown[0]}'; a row has {', '.join(sorted(_FIELDS))}."
        )
    name = row.get("lora")
    if not isinstance(name, str) or not name.strip():
        raise StackError(
            f"Row {number} names no LoRA: 'lora' must be a file name of the loras folder; found {name!r}."
        )
    switched_on = row.get("on", True)
    if not isinstance(switched_on, bool):
        raise StackError(
            f"Row {number} ('{name}'): 'on' must be true or false; found {switched_on!r}."
        )
    model = row.get("model", 1.0)
    own = not {"sha256", "autov3", "size"}.isdisjoint(row)
    lock = row if own else locks.get(slashed(name.strip()), {})
    try:
        parsed = StackRow(
            name.strip(),
            model,
            row.get("clip", model),
            row.get("role", "free"),
            sha256=lock.get("sha256"),
            autov3=lock.get("autov3"),
            accept=row.get("accept", False),
            blocks=row.get("blocks", ""),
            words=row.get("words"),
            schedule=row.get("schedule", ""),
            size=lock.get("size"),
        )
    except StackError as error:
        raise StackError(f"Row {number}: {error}") from error
    return parsed if switched_on else None
