"""The block language's text -> tokens that know where they stand."""

from __future__ import annotations

import math
import re
from collections.abc import Iterator
from dataclasses import dataclass

from ..errors import StackError

LETTERS = set("RUABruab")
_NUMBER = re.compile(r"[+-]?(?:\d+\.?\d*|\.\d+)(?:[eE][+-]?\d+)?")
_NO_NUMBER = re.compile(r"[+-]?(?:nan|inf(?:inity)?)", re.IGNORECASE)


@dataclass(frozen=True)
class Token:
    """A piece of the text and where it stands. origin: the preset it came from, or ""."""

    text: str
    line: int
    column: int
    origin: str = ""

    def error(self, message: str) -> StackError:
        inside = f" (in preset '{self.origin}')" if self.origin else ""
        return StackError(
            f"Block strengths, line {self.line}, column {self.column}{inside}: {message}"
        )


def is_value(text: str) -> bool:
    return text in LETTERS or _NUMBER.fullmatch(text) is not None


def number(token: Token, text: str) -> float:
    """A finite number. Raises StackError that names the token."""
    if _NUMBER.fullmatch(text) is None or not math.isfinite(float(text)):
        raise token.error(f"'{text}' is not a finite number; write for example 0.5.")
    return float(text)


def is_no_number(text: str) -> bool:
    """Whether it is one of the words that a float may be but a strength may not."""
    return _NO_NUMBER.fullmatch(text) is not None


def token_groups(text: str, preset: Token | None) -> Iterator[list[Token]]:
    """Tokens between commas, in groups that end at ; or at the end of a line that does not end in a comma.

    Inside a preset every token stands where the preset's name does.
    """
    group: list[Token] = []
    for line, raw in enumerate(text.split("\n"), start=1):
        content = raw.split("#", 1)[0]
        column = 1
        for statement in content.split(";"):
            items = statement.split(",")
            goes_on = len(items) > 1 and not items[-1].strip()
            for place, item in enumerate(items):
                start = column + len(item) - len(item.lstrip())
                column += len(item) + 1
                if not item.strip():
                    if 0 < place < len(items) - 1 or (place == 0 < len(items) - 1 and not group):
                        at = preset or Token("", line, start)
                        raise at.error("there is nothing between two commas.")
                    continue
                if preset is not None:
                    group.append(Token(item.strip(), preset.line, preset.column, preset.origin))
                else:
                    group.append(Token(item.strip(), line, start))
            last = column > len(content)
            if group and not (goes_on and last):
                yield group
                group = []
    if group:
        yield group
