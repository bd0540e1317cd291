"""What an axis goes through: numbers from, to and by a step, or entries typed by hand that know where they stand."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TypeVar

from ..errors import StackError, SweepError
from ..stack.blocktokens import Token

# A sweep of more points than this is a slip of the hand, and would fill the memory with models.
MOST_POINTS = 1000
_SEPARATOR = re.compile(r"[,;\n]")
_ROUNDING = 1e-6

Found = TypeVar("Found")


@dataclass(frozen=True)
class AxisOrder:
    """An axis as the node's widgets say it.

    name: "x" or "y". kind: one of the axes. row: 1 is the first, 0 all. low, high, step: of numbers.
    values: entries between commas, instead of the range; "" where the range is meant.
    """

    name: str
    kind: str
    row: int = 1
    low: float = 0.0
    high: float = 1.0
    step: float = 0.1
    values: str = ""


@dataclass(frozen=True)
class Entry:
    """One entry of a values text and its place in it."""

    axis: str
    text: str
    line: int
    column: int

    def error(self, message: str) -> SweepError:
        return SweepError(f"{self.axis}_values, line {self.line}, column {self.column}: {message}")

    @property
    def token(self) -> Token:
        return Token(self.text, self.line, self.column)


def numbers(order: AxisOrder) -> list[float]:
    """The numbers of an axis, both ends included. Raises SweepError: not finite, an empty range, too many."""
    if order.values.strip():
        return [_number(entry) for entry in entries(order)]
    ends = {"from": order.low, "to": order.high, "step": order.step}
    for end, value in ends.items():
        if not math.isfinite(value):
            raise SweepError(f"{order.name}_{end} is {value}; it must be a finite number.")
    if order.step <= 0:
        raise SweepError(
            f"{order.name}_step is {order.step:g}; it must be above 0, for example 0.1."
        )
    if order.high < order.low:
        raise SweepError(
            f"The range of {order.name} is empty: from {order.low:g} to {order.high:g}. "
            f"Write it from {order.high:g} to {order.low:g}, or list the values in {order.name}_values."
        )
    count = math.floor((order.high - order.low) / order.step + _ROUNDING) + 1
    check_count(count, f"{order.name}: {order.low:g} to {order.high:g} in steps of {order.step:g}")
    return [round(order.low + index * order.step, 9) for index in range(count)]


def entries(order: AxisOrder) -> list[Entry]:
    """The entries of a values text, between commas, semicolons or lines. Raises SweepError."""
    found = []
    for line, text in enumerate(order.values.split("\n"), start=1):
        column = 1
        for item in _SEPARATOR.split(text):
            if item.strip():
                start = column + len(item) - len(item.lstrip())
                found.append(Entry(order.name, item.strip(), line, start))
            column += len(item) + 1
    if not found:
        raise SweepError(
            f"{order.name}_values holds nothing between its commas. Write values, or empty it."
        )
    check_count(len(found), f"{order.name}_values")
    return found


def check_count(count: int, what: str) -> None:
    """Raises SweepError where a list is too long to be meant."""
    if count > MOST_POINTS:
        raise SweepError(
            f"{what} are {count} points; at most {MOST_POINTS} are swept. Take a larger step or fewer values."
        )


def placed(entry: Entry, read: Callable[[Token], Found]) -> Found:
    """What `read` makes of the entry; its StackError says the axis and the place instead. Raises SweepError."""
    try:
        return read(entry.token)
    except StackError as error:
        raise entry.error(str(error).partition(": ")[2] or str(error)) from error


def chosen(entry: Entry, known: Sequence[str], what: str) -> str:
    """The entry, which must be one of these. Raises SweepError."""
    if entry.text not in known:
        raise entry.error(f"no {what} '{entry.text}'; choose from {', '.join(known)}.")
    return entry.text


def _number(entry: Entry) -> float:
    try:
        value = float(entry.text)
    except ValueError:
        value = math.nan
    if not math.isfinite(value):
        raise entry.error(f"'{entry.text}' is not a finite number; write for example 0.5.")
    return value
