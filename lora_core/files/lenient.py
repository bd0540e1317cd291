"""Values that anybody may have written, read leniently: bounded in size, cleaned, and never an error."""

from __future__ import annotations

import html
import json
import math
import re
from dataclasses import dataclass

MOST_BYTES = 8 << 20
# A short text can hold millions of objects. With these bounds reading one takes at most about 64 MB.
_MOST_CONTAINERS = 100_000
_MOST_ITEMS = 300_000
LINE = 300
TEXT = 4_000
WORD = 500
MOST_LISTED = 200

_NOTHING = {"", "none", "null", "n/a", "unknown"}
_JOINERS = "\u200c\u200d"  # parts of words and emoji, though not printable by themselves
_MARKUP = re.compile(r"<[^<>]*>")


@dataclass(frozen=True)
class Unreadable:
    """Why a value could not be read, as the end of a sentence that starts with its name."""

    reason: str


def json_of(text: str) -> object | Unreadable:
    """The JSON value of a text. NaN and Infinity become null; whole numbers past 20 digits become floats."""
    if len(text) > MOST_BYTES:
        return Unreadable(f"has {len(text)} characters, more than the {MOST_BYTES} that are read")
    containers, items = text.count("{") + text.count("["), text.count(",")
    if containers > _MOST_CONTAINERS or items > _MOST_ITEMS:
        return Unreadable(f"has about {max(containers, items)} parts, too many to be facts")
    try:
        return json.loads(text, parse_constant=lambda _: None, parse_int=_whole_number)
    except (ValueError, RecursionError) as error:
        return Unreadable(f"is not readable JSON ({str(error)[:LINE]})")


def _whole_number(digits: str) -> int | float:
    return int(digits) if len(digits) <= 20 else float(digits)


def text_of(value: object, most: int = LINE, *, lines: bool = False) -> str:
    """A text for people: control characters and half characters are gone, what runs over `most` is cut with "...".

    Numbers are said as text. "" where there is nothing: another type, or a word that stands for nothing ("None").
    lines: keep line breaks.
    """
    if isinstance(value, int | float) and not isinstance(value, bool):
        value = f"{value:g}" if isinstance(value, float) else str(value)
    if not isinstance(value, str):
        return ""
    kept = "".join(_shown(char) for char in value[: 4 * most])
    parts = kept.split("\n") if lines else [kept]
    cleaned = "\n".join(" ".join(part.split()) for part in parts).strip()
    if cleaned.lower() in _NOTHING:
        return ""
    return cleaned if len(cleaned) <= most else cleaned[:most].rstrip() + "..."


def _shown(char: str) -> str:
    if char.isprintable() or char == "\n" or char in _JOINERS:
        return char
    return " " if char.isspace() else ""


def without_markup(value: object) -> object:
    """A text without HTML tags; anything else as it is."""
    if not isinstance(value, str):
        return value
    broken = re.sub(r"</?(?:p|br|li|h\d|div)\b[^<>]{0,200}>", "\n", value[: 8 * TEXT], flags=re.I)
    return html.unescape(_MARKUP.sub("", broken))


def texts_of(value: object, most: int = LINE) -> list[str]:
    """The texts of a list, or the parts of a text between commas; each cleaned, empty ones gone, MOST_LISTED at most."""
    if isinstance(value, str):
        value = value[: 4 * most * MOST_LISTED].split(",")
    if not isinstance(value, list):
        return []
    return [text for item in value[:MOST_LISTED] if (text := text_of(item, most))]


def number_of(value: object) -> float | None:
    """A finite number, also where it is written as text."""
    if isinstance(value, str) and len(value) <= LINE:
        try:
            value = float(value)
        except ValueError:
            return None
    if isinstance(value, bool) or not isinstance(value, int | float):
        return None
    return float(value) if math.isfinite(value) else None


def dig(value: object, *keys: str) -> object:
    """What stands under these keys one inside the other, or None where a step is missing or no object."""
    for key in keys:
        if not isinstance(value, dict):
            return None
        value = value.get(key)
    return value
