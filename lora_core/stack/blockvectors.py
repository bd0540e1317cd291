"""Vectors of block strengths by their length, in the readings of both packs. A place is a block's name, never an order.

Inspire: ltdrdata/ComfyUI-Inspire-Pack. hako: hako-mikan/sd-webui-lora-block-weight. They differ in the middle block,
which Inspire counts as three and hako as one, and in what lies before the first attention.
"""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from .blocks import Vector
from .blocktable import BlockTable
from .blocktokens import Token, number


@dataclass(frozen=True)
class Layout:
    """One reading of one length: the names of the places, in order."""

    reading: str
    names: tuple[str, ...]


def _count(prefix: str, first: int, last: int) -> tuple[str, ...]:
    return tuple(f"{prefix}{index:02}" for index in range(first, last + 1))


_ATTENTION_IN = ("IN01", "IN02", "IN04", "IN05", "IN07", "IN08")
_THREE_MIDDLES = ("M00.0", "M00.1", "M00.2")
_SD_17 = ("BASE", *_ATTENTION_IN, "M00", *_count("OUT", 3, 11))
_SDXL_12 = ("BASE", "IN04", "IN05", "IN07", "IN08", "M00", *_count("OUT", 0, 5))
_DOUBLE, _SINGLE = _count("D", 0, 18), _count("S", 0, 37)

# What a model must have to be read so: how many numbered blocks of each kind.
KINDS: dict[str, dict[str, int]] = {
    "SD1.5": {"IN": 12, "M": 1, "OUT": 12},
    "SDXL": {"IN": 9, "M": 1, "OUT": 9},
    "Flux": {"D": 19, "S": 38},
}
LAYOUTS: dict[str, tuple[Layout, ...]] = {
    "SD1.5": (
        Layout("hako", _SD_17),
        Layout("hako", ("BASE", *_count("IN", 0, 11), "M00", *_count("OUT", 0, 11))),
        Layout("inspire", _SD_17),
        Layout("inspire", ("BASE", *_count("IN", 1, 11), *_THREE_MIDDLES, *_count("OUT", 0, 11))),
    ),
    "SDXL": (
        Layout("hako", _SDXL_12),
        Layout("hako", ("BASE", *_count("IN", 0, 8), "M00", *_count("OUT", 0, 8))),
        Layout("inspire", _SDXL_12),
        Layout("inspire", ("BASE", *_count("IN", 1, 8), *_THREE_MIDDLES, *_count("OUT", 0, 8))),
    ),
    "Flux": (
        Layout("hako", ("CLIP", "T5", "IN", *_DOUBLE, *_SINGLE, "OUT")),
        Layout("inspire", ("BASE", *_DOUBLE)),
        Layout("inspire", ("BASE", *_DOUBLE, *_SINGLE)),
    ),
}


def kind_of(table: BlockTable) -> str | None:
    """Which layouts a model has, by its blocks alone: "SD1.5" (SD2 too), "SDXL", "Flux" (Chroma too) or None."""
    return next(
        (
            kind
            for kind, counts in KINDS.items()
            if all(len(table.numbered(prefix)) == count for prefix, count in counts.items())
        ),
        None,
    )


def layout_of(vector: Vector, table: BlockTable) -> Layout:
    """How a vector is read on this model. Raises StackError that says which lengths fit.

    The dialect decides; with "auto" the length does, and where both packs have it, Inspire, ComfyUI's own.
    """
    kind, length = kind_of(table), len(vector.values)
    fitting = LAYOUTS.get(kind or "", ())
    wanted = [each for each in fitting if vector.dialect in ("auto", each.reading)]
    found = [each for each in wanted if len(each.names) == length]
    if not found:
        raise vector.where.error(_wrong_length(vector, kind, fitting))
    return max(found, key=lambda each: each.reading == "inspire")


def _wrong_length(vector: Vector, kind: str | None, fitting: Sequence[Layout]) -> str:
    length = len(vector.values)
    if kind is None:
        return (
            f"{length} values, but this model has no vector layout: those are for SD1.5, SD2, SDXL and Flux. "
            "Name the blocks instead, for example *=0.5."
        )
    lengths = {
        reading: " or ".join(str(len(each.names)) for each in fitting if each.reading == reading)
        for reading in ("inspire", "hako")
    }
    fit = ", ".join(f"{found} values ({reading})" for reading, found in lengths.items())
    elsewhere: dict[str, list[str]] = {}
    for other, layouts in LAYOUTS.items():
        for each in layouts:
            if len(each.names) == length:
                elsewhere.setdefault(other, []).append(each.reading)
    known = " and ".join(f"for {other} ({', '.join(who)})" for other, who in elsewhere.items())
    hint = f" {length} values are {known}." if known else ""
    asked = "" if vector.dialect == "auto" else f" read as {vector.dialect}'s"
    return (
        f"{length} values{asked} do not fit this model, which has the blocks of {kind} and takes {fit}.{hint} "
        "Or name the blocks: *=0.5."
    )


def value_of(
    token: Token,
    text: str,
    reading: str,
    letters: Mapping[str, float],
    generator: random.Random,
) -> float:
    """A number, or what a letter stands for: R and U draw, A and B are set in the text, a and b are half of them.

    R is 0 to 1 in hako's reading and 0 to 3 in Inspire's; U is -0.5 to 1.5 in hako's code (its page says -1.5) and
    -1.5 to 1.5 in Inspire's. hako has no A and B. Raises StackError.
    """
    letter = text.upper()
    if letter == "R" or letter == "U":
        low, high, digits = _RANGES[reading, letter]
        return round(generator.uniform(low, high), digits)
    if letter in letters:
        if reading == "hako":
            raise token.error(
                f"'{text}' is a letter of Inspire's; hako's vectors have only R and U. Write dialect=inspire before it."
            )
        return letters[letter] if text.isupper() else letters[letter] / 2
    return number(token, text)


_RANGES = {
    ("hako", "R"): (0.0, 1.0, 3),
    ("hako", "U"): (-0.5, 1.5, 3),
    ("inspire", "R"): (0.0, 3.0, 2),
    ("inspire", "U"): (-1.5, 1.5, 2),
}
