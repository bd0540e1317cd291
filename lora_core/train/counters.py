"""Random numbers that are functions of a counter: nothing to store, nothing to restore when a run is resumed."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from typing import TypeVar

Item = TypeVar("Item")


def number_of(stream: str, *counters: int | str) -> int:
    """A whole number below 2**63, the same for the same stream and counters on every machine."""
    text = ":".join([stream, *map(str, counters)])
    return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=8).digest(), "big") >> 1


def uniform(stream: str, *counters: int | str) -> float:
    """A number in [0, 1)."""
    return (number_of(stream, *counters) >> 10) / (1 << 53)


def shuffled(items: Sequence[Item], stream: str, *counters: int | str) -> list[Item]:
    """The items in an order decided by the counters; the place of each is drawn by its position in `items`."""
    keys = [(number_of(stream, *counters, index), index) for index in range(len(items))]
    return [items[index] for _, index in sorted(keys)]
