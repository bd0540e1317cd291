"""The block language: text -> statements, the same in every node, known model or not.

    IN04=0.5                      one block
    IN*=0; IN01-IN05=0.3          wildcards and ranges; entries stand on lines of their own or between , and ;
    OUT03.cross=1.2, *.attn.q=0   parts of a block (see blockparts.WORDS); *=1 is where everything starts
    IN11?=0                       "?": no error where the model has no such block
    1,0,0,0,1,1,1,1,1,1,1,1,0,0,0,0,0    a vector of either pack (12, 17, 20, 21, 26, 27, 58 or 61 values)
    SD-MIDD                       a preset by name
    IN05-OUT05:attn:0             an elemental line of sd-webui-lora-block-weight
    dialect=hako  seed=7  A=0.5   how vectors after it are read; what R and U draw from; what A and B mean
    # a comment

Later entries win. Also read: {"IN04": 0.5}, "NAME:1,0,..." and "LBW=...;A=...;", and Inspire's "%default=0,double1-5=0.8".
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, field

from ..errors import StackError
from .blockpresets import BUILT_IN, Preset
from .blocktokens import LETTERS, Token, is_no_number, is_value, number, token_groups

DIALECTS = ("auto", "inspire", "hako")
_PREFIX = re.compile(r"^lbwe?=", re.IGNORECASE)
_PERCENT = re.compile(r"(default|base|in|out|mid|double|single)(?:(\d{1,6})(?:-(\d{1,6}))?)?=(.+)")
_LONGEST, _MOST = 20_000, 2_000


@dataclass(frozen=True)
class Assign:
    """selector=value. value: a number, or one of the letters R, U, A, B."""

    selector: Token
    value: str
    optional: bool
    dialect: str


@dataclass(frozen=True)
class Vector:
    """Values by place. where: the first of them, which names the preset they are from."""

    values: tuple[Token, ...]
    dialect: str

    @property
    def where(self) -> Token:
        return self.values[0]


@dataclass(frozen=True)
class Elements:
    """hako's BLOCKS:ELEMENTS:RATIO; both lists are separated by spaces and may begin with NOT."""

    where: Token
    blocks: tuple[str, ...]
    elements: tuple[str, ...]
    value: str


@dataclass(frozen=True)
class Seed:
    """What R and U draw from, from here on."""

    seed: int


Statement = Assign | Vector | Elements | Seed


@dataclass(frozen=True)
class BlockText:
    """The text, parsed. layouts: presets that are for one kind of model only, as (preset's token, layout)."""

    statements: tuple[Statement, ...] = ()
    letters: Mapping[str, float] = field(default_factory=dict)
    layouts: tuple[tuple[Token, str], ...] = ()


def parse_blocks(text: str, presets: Mapping[str, Preset] = BUILT_IN) -> BlockText:
    """Raises StackError with line and column: an entry that is none, a number that is none, an unknown preset."""
    if len(text) > _LONGEST:
        raise StackError(
            f"Block strengths: the text has {len(text)} characters; {_LONGEST} are the most that are read."
        )
    reader = _Reader(presets)
    if text.lstrip().startswith("{"):
        reader.read_json(text)
    else:
        reader.read(text)
    return BlockText(tuple(reader.statements), dict(reader.letters), tuple(reader.layouts))


class _Reader:
    """What has been read so far; the reading of vectors (dialect) is a state of the text."""

    def __init__(self, presets: Mapping[str, Preset]) -> None:
        self.presets = presets
        self.folded = {name.casefold(): name for name in presets}
        self.statements: list[Statement] = []
        self.letters: dict[str, float] = {"A": 4.0, "B": 1.0}
        self.dialect = "auto"
        self.layouts: list[tuple[Token, str]] = []

    def read(self, text: str, preset: Token | None = None) -> None:
        groups = list(token_groups(text, preset))
        if sum(len(group) for group in groups) > _MOST:
            raise StackError(f"Block strengths: more than {_MOST} entries; write ranges: IN*=0.5.")
        for group in groups:
            if group[0].text.startswith("%"):
                self._percent(group)
            else:
                self._group(group)

    def read_json(self, text: str) -> None:
        start = Token(text, 1, 1)
        try:
            document = json.loads(text)
        except (ValueError, RecursionError) as error:
            raise start.error(f'not JSON: {error}. Write {{"IN04": 0.5}} or IN04=0.5.') from error
        for name, value in document.items():
            if isinstance(value, bool) or not isinstance(value, int | float | str):
                raise start.error(f"'{name}': {value!r:.80} is not a number.")
            self._entry(Token(f"{name}={value}", 1, max(text.find(f'"{name}"'), 0) + 1))

    def _group(self, group: list[Token]) -> None:
        """Entries between commas: runs of bare values are vectors, all else stands for itself."""
        run: list[Token] = []
        for token in [*(self._unlabelled(token) for token in group), Token("", 0, 0)]:
            if is_value(token.text) or is_no_number(token.text):
                run.append(token)
                continue
            if len(token.text.split()) > 1 and all(map(is_value, token.text.split())):
                raise token.error(
                    f"'{token.text}' are several values for one block, which Inspire deals out by the order of the "
                    "file's keys. Name the parts instead: IN04.attn=0.5, IN04.ff=0.3."
                )
            if run:
                self._vector(run)
                run = []
            if token.text:
                self._entry(token)

    @staticmethod
    def _unlabelled(token: Token) -> Token:
        """ "LBW=B11:0" and "B11:0" begin a vector: the label is a remark."""
        text = _PREFIX.sub("", token.text)
        label, colon, value = text.partition(":")
        if colon and ":" not in value and is_value(value.strip()) and "=" not in label:
            text = value.strip()
        return Token(text, token.line, token.column, token.origin)

    def _vector(self, run: list[Token]) -> None:
        if len(run) == 1:
            raise run[0].error(
                f"the value '{run[0].text}' names no block. Write a block before it, such as IN04={run[0].text}, "
                "or a whole vector."
            )
        for token in run:
            if token.text not in LETTERS:
                number(token, token.text)
        self.statements.append(Vector(tuple(run), self.dialect))

    def _entry(self, token: Token) -> None:
        name, equals, value = (part.strip() for part in token.text.partition("="))
        if equals:
            self._assign(token, name, value)
        elif token.text.count(":") == 2:
            self._elements(token)
        else:
            self._preset(token)

    def _assign(self, token: Token, name: str, value: str) -> None:
        if name.casefold() == "dialect":
            if value not in DIALECTS:
                raise token.error(f"no dialect '{value}'; choose one of {', '.join(DIALECTS)}.")
            self.dialect = value
        elif name.casefold() == "seed":
            if not value.isdecimal() or len(value) > 20:
                raise token.error(f"the seed must be a whole number of 0 or more; found '{value}'.")
            self.statements.append(Seed(int(value)))
        elif name in ("A", "B"):
            self.letters[name] = number(token, value)
        else:
            if value not in LETTERS:
                number(token, value)
            optional = name.endswith("?")
            selector = name.removesuffix("?").strip()
            if not selector:
                raise token.error(f"'{token.text}' names no block. Write IN04={value}.")
            place = Token(selector, token.line, token.column, token.origin)
            self.statements.append(Assign(place, value, optional, self.dialect))

    def _elements(self, token: Token) -> None:
        blocks, elements, value = (part.strip() for part in token.text.split(":"))
        number(token, value)
        self.statements.append(
            Elements(token, tuple(blocks.split()), tuple(elements.split()), value)
        )

    def _preset(self, token: Token) -> None:
        name = self.folded.get(token.text.casefold())
        if name is None or token.origin:
            raise token.error(
                f"'{token.text}' is neither a preset nor an entry. Write a block with its strength, such as IN04=0.5, "
                "or the name of a preset as the preset list shows it."
            )
        preset, before = self.presets[name], self.dialect
        place = Token(token.text, token.line, token.column, name)
        self.dialect = before if preset.dialect == "auto" else preset.dialect
        if preset.layout:
            self.layouts.append((place, preset.layout))
        self.read(preset.text, place)
        self.dialect = before

    def _percent(self, group: list[Token]) -> None:
        """Inspire's %-line, which counts from 1: double1 is D00."""
        first = group[0]
        group = [Token(first.text[1:].strip(), first.line, first.column + 1), *group[1:]]
        default, base, others = "1", "", []
        for token in group:
            match = _PERCENT.fullmatch(token.text.replace(" ", ""))
            if match is None:
                raise token.error(f"'{token.text}' is no entry of a %-line, such as double1-5=0.8.")
            number(token, match[4])
            if match[1] == "default":
                default = match[4]
            elif match[1] == "base":
                base = match[4]
            else:
                others.append((token, match))
        self._assign(first, "*", default)
        self._assign(first, "BASE", base or default)
        for token, match in others:
            self._assign(token, _percent_selector(token, match), match[4])


def _percent_selector(token: Token, match: re.Match[str]) -> str:
    kind, low, high = match[1], match[2], match[3] or match[2]
    prefix = {"double": "D", "single": "S", "in": "IN", "mid": "M", "out": "OUT"}[kind]
    if low is None:
        return f"{prefix}*"
    if prefix not in ("D", "S"):
        raise token.error(
            f"'{kind}{low}' counts the blocks that the file happens to have, so it means another block in another "
            "file. Name the block: IN04=0.5."
        )
    if not 1 <= int(low) <= int(high):
        raise token.error(f"'{token.text}': %-lines count from 1 upwards: double1 is D00.")
    return f"{prefix}{int(low) - 1:02}-{prefix}{int(high) - 1:02}"
