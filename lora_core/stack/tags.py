"""A prompt with <lora:...> tags -> the rows they name, and the prompt without them."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from ..errors import LoraFileError, StackError
from ..files.finding import FindName
from .rows import LoraStack, StackRow
from .tag_parts import DIALECTS, TagParts, parse_tag

UNKNOWN = ("error", "skip")

Bracket = tuple[int, str]

# A backslash in front makes it plain text.
_TAG = re.compile(r"(?<!\\)<(?:lora|lyco):[^<>]*>", re.IGNORECASE)
_OPEN = re.compile(r"(?<!\\)<(?:lora|lyco):", re.IGNORECASE)
# Tags that stand side by side on one line leave the text together.
_RUN = re.compile(rf"{_TAG.pattern}(?:[ \t,]*{_TAG.pattern})*", re.IGNORECASE)
_ESCAPED = re.compile(r"\\([()\[\]{}<>:\\])")


@dataclass(frozen=True)
class TagsRead:
    """text: the prompt without tags. report: one line a tag, and what could not be done."""

    stack: LoraStack
    text: str
    report: tuple[str, ...]


def has_tags(text: str) -> bool:
    """Whether there is a tag in it, whole or cut short."""
    return _OPEN.search(text) is not None


def read_tags(
    text: str, find: FindName, dialect: str = "comfyui", unknown: str = "error"
) -> TagsRead:
    """Rows in the order of the tags.

    find: a name as people write it -> the listed name; raises LoraFileError for one that is not there.
    unknown: "error" raises for names that `find` refuses, all of them at once; "skip" leaves them out and says so.
    Raises StackError for a tag that cannot be read, LoraFileError for unknown names.
    """
    _check_choices(dialect, unknown)
    rows, report, missing, masked = [], [], [], _masked(text)
    brackets = [(match.start(), match[0]) for match in re.finditer(r"[\[\]]", masked)]
    for match in _tags(text):
        tag = match.group(0)
        parts = parse_tag(tag, dialect)
        try:
            row = _row(parts, find)
        except LoraFileError as error:
            missing.append(f"{tag}: {error}")
            continue
        rows.append(row)
        report.append(f"{tag}: {row.name}, model {row.model:g}, clip {row.clip:g}")
        notes = (*parts.notes, *_nesting(masked, brackets, match))
        report += [f"  {note}" for note in notes]
    if missing and unknown == "error":
        raise LoraFileError("\n".join(missing))
    skipped = [f"left out: {line}" for line in missing]
    return TagsRead(LoraStack(tuple(rows)), without_tags(text), (*report, *skipped))


def _check_choices(dialect: str, unknown: str) -> None:
    if dialect not in DIALECTS:
        raise StackError(f"No tag dialect '{dialect}'; choose one of {', '.join(DIALECTS)}.")
    if unknown not in UNKNOWN:
        raise StackError(f"Unknown names: no choice '{unknown}'; {' or '.join(UNKNOWN)}.")


def _tags(text: str) -> Iterator[re.Match[str]]:
    whole = {match.start(): match for match in _TAG.finditer(text)}
    for opened in _OPEN.finditer(text):
        if opened.start() not in whole:
            begin = text[opened.start() : opened.start() + 60]
            raise StackError(
                f"The tag '{begin}' has no end. Close it with '>', or write \\<lora: for plain text."
            )
        yield whole[opened.start()]


def _row(parts: TagParts, find: FindName) -> StackRow:
    """A name with backslashes is tried as written (folders), then as an escaped one (brackets)."""
    try:
        name = find(parts.name)
    except LoraFileError:
        plain = _ESCAPED.sub(r"\1", parts.name)
        if plain == parts.name:
            raise
        name = find(plain)
    return StackRow(name, parts.model, parts.clip, blocks=parts.blocks, schedule=parts.schedule)


def _nesting(masked: str, brackets: Sequence[Bracket], tag: re.Match[str]) -> list[str]:
    """Prompt scheduling around a tag ([<lora:a:1>::0.5]) is other nodes' syntax: said, not followed."""
    before = [bracket for bracket in brackets if bracket[0] < tag.start()]
    begin = _unmatched(before[::-1], "[", "]")
    end = _unmatched(brackets[len(before) :], "]", "[")
    if begin is None or end is None or ":" not in masked[begin:end]:
        return []
    return ["stands inside [..:..]: prompt scheduling is not followed, it acts on all steps"]


def _unmatched(brackets: Sequence[Bracket], wanted: str, other: str) -> int | None:
    """The place of the first `wanted` that no `other` before it answers."""
    depth = 0
    for place, char in brackets:
        if char == wanted and depth == 0:
            return place
        depth += (char == other) - (char == wanted)
    return None


def _masked(text: str) -> str:
    """The text with tags and escaped characters blanked out, every place as it was."""
    return re.sub(
        rf"{_TAG.pattern}|\\.",
        lambda match: " " * len(match.group(0)),
        text,
        flags=re.IGNORECASE | re.DOTALL,
    )


def without_tags(text: str) -> str:
    """The text without its tags and without the spaces and commas that only held them apart; all else is untouched."""
    kept, rest = "", text
    while match := _RUN.search(rest):
        kept, rest = _seam(kept + rest[: match.start()], rest[match.end() :])
    return kept + rest


def _seam(left: str, right: str) -> tuple[str, str]:
    """What stood before and after a run of tags, made to fit: one separator of the two, none at an edge."""
    bare_left = _bare_end(left)
    bare_right = _bare_end(right[::-1])[::-1]
    before, after = left[len(bare_left) :], right[: len(right) - len(bare_right)]
    starts_line = not bare_left or bare_left[-1] == "\n"
    ends_line = not bare_right or bare_right[0] in "\r\n"
    if starts_line and ends_line:
        return _without_line(bare_left, bare_right)
    if starts_line or bare_left[-1] in "([{|:":
        return bare_left + _spaces(before), bare_right
    if ends_line or bare_right[0] in ")]}|" or (not after and bare_right[0] in ":;.!?"):
        return bare_left + _spaces(after), bare_right
    if before and after:
        separator = next((side for side in (before, after) if "," in side), " ")
        return bare_left + separator, bare_right
    return left, right


def _bare_end(text: str) -> str:
    """Without the spaces at its end, and without one comma among them."""
    bare = text.rstrip(" \t")
    return bare[:-1].rstrip(" \t") if bare.endswith(",") else bare


def _spaces(separator: str) -> str:
    return "" if "," in separator else separator


def _without_line(left: str, right: str) -> tuple[str, str]:
    """A line that held nothing but tags goes with its line break."""
    for end in ("\r\n", "\n"):
        if right.startswith(end):
            return left, right.removeprefix(end)
    return left.removesuffix("\n").removesuffix("\r"), right
