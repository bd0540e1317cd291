"""The toy model's card: one JSON file of measured figures that the demo and the tests read."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

CARD = Path(__file__).resolve().parent / "toy_model" / "card.json"


def sha256(file: Path) -> str:
    """Return the hexadecimal SHA-256 of a file."""
    return hashlib.sha256(file.read_bytes()).hexdigest()


def read() -> dict[str, Any]:
    """Return the card, empty where none has been written yet."""
    return json.loads(CARD.read_text(encoding="ascii")) if CARD.is_file() else {}


def update(part: str, entries: dict[str, Any]) -> None:
    """Replace one part of the card and leave the others as they are."""
    card = {**read(), part: entries}
    CARD.write_text(json.dumps(card, indent=2) + "\n", encoding="ascii")
