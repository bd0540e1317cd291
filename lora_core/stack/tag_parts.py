"""What stands inside one <lora:...> tag: name, strengths, block strengths and schedule, in the dialects of prompts.

| dialect | numbers | more |
|---|---|---|
| comfyui | NAME:MODEL[:CLIP] | a missing clip follows the model, no number is 1.0 |
| a1111 | NAME:TE[:UNET] | text encoder first; te= unet= |
| lbw | as comfyui; as a1111 where the tag is written as hako's (lbw= start= stop= step=) | LBW=...;A=..;B=..; |
| loractl | as a1111 | keyframes strength@place: 0@0,1@0.5 |

Only the order of two bare numbers differs: keywords and keyframes say what they are, and are read in every dialect.
"""

from __future__ import annotations

import math
import re
from dataclasses import dataclass

from ..errors import StackError

DIALECTS = ("comfyui", "a1111", "lbw", "loractl")

_NUMBER = r"[+-]?(?:\d+\.?\d*|\.\d+)(?:[eE][+-]?\d+)?"
_KEYFRAMES = re.compile(rf"\s*{_NUMBER}\s*@\s*{_NUMBER}\s*(?:,\s*{_NUMBER}\s*@\s*{_NUMBER}\s*)*")
_KEYWORD = re.compile(r"\s*([A-Za-z]\w*)\s*=\s*(.*?)\s*", re.DOTALL)
# A label before a vector ("B11:0,0,1") is a remark; the vector's values are numbers or one letter.
_LABELLED = re.compile(
    rf"\s*[A-Za-z][\w.-]*:\s*((?:{_NUMBER}|[A-Z])\s*(?:,\s*(?:{_NUMBER}|[A-Z])\s*)+)"
)
_SCHEDULE = ("start", "stop", "step")
_HAKO = {"lbw", "lbwe", "x", *_SCHEDULE}
# Understood, and said to be without effect: hako's XYZ mark, a rank cut, another loader, hires.
_WITHOUT_EFFECT = ("x", "dyn", "loader", "hr")


@dataclass(frozen=True)
class TagParts:
    """notes: what the tag asks for and does not get."""

    name: str
    model: float
    clip: float
    blocks: str = ""
    schedule: str = ""
    notes: tuple[str, ...] = ()


@dataclass(frozen=True)
class _Written:
    """A tag's segments sorted out. keywords: lower-case name -> value, in the order written.

    inspire: written as Inspire does, LBW in capitals or with semicolons.
    """

    name: str
    bare: tuple[str, ...]
    keywords: dict[str, str]
    inspire: bool = False


def parse_tag(tag: str, dialect: str = "comfyui") -> TagParts:
    """tag: the whole tag, "<lora:style:0.8>". Raises StackError that shows the tag and what is wrong in it."""
    written = _segments(tag)
    keywords = written.keywords
    numbers, blocks, notes = _sorted(written, tag, dialect)
    hako = not written.inspire and bool(_HAKO & set(keywords))
    text_first = dialect in ("a1111", "loractl") or (dialect == "lbw" and hako)
    first, second = numbers
    if text_first:
        clip = keywords.get("te") or first or "1"
        model = keywords.get("unet") or second or clip
    else:
        model = keywords.get("unet") or first or "1"
        clip = keywords.get("te") or second or first or model
    schedule = [model] if "@" in model else []
    schedule += [f"{key}={value}" for key, value in keywords.items() if key in _SCHEDULE]
    if "@" in clip and clip != model:
        notes += (
            f"keyframes '{clip}' of the text encoder have no effect: its strength is constant",
        )
    strengths = (_strength(model, tag), _strength(clip, tag))
    return TagParts(written.name, *strengths, blocks, ":".join(schedule), notes)


def _segments(tag: str) -> _Written:
    """Split at colons, except in what follows lbw= and lbwe=, which have colons of their own."""
    name, *segments = tag[tag.index(":") + 1 : -1].split(":")
    if not name.strip():
        raise StackError(f"{tag} names no LoRA. Write it like <lora:name:0.8>.")
    bare: list[str] = []
    keywords: dict[str, str] = {}
    inspire, last = False, ""
    for segment in segments:
        if match := _KEYWORD.fullmatch(segment):
            key = match[1].lower()
            _check_keyword(key, keywords, tag)
            keywords[key] = match[2]
            inspire = inspire or match[1] == "LBW" or ";" in match[2]
            last = key
        elif last == "lbwe" or (last == "lbw" and "," in segment and "," not in keywords[last]):
            keywords[last] += f":{segment.strip()}"
            inspire = inspire or ";" in segment
        else:
            bare.append(segment.strip())
    return _Written(name.strip(), tuple(bare), keywords, inspire)


def _check_keyword(key: str, keywords: dict[str, str], tag: str) -> None:
    known = ("te", "unet", "lbw", "lbwe", *_SCHEDULE, *_WITHOUT_EFFECT)
    if key not in known:
        raise StackError(f"{tag} has an unknown part '{key}='; known are {', '.join(known)}.")
    if key in keywords:
        raise StackError(f"{tag} says '{key}=' twice.")


def _sorted(
    written: _Written, tag: str, dialect: str
) -> tuple[tuple[str, str], str, tuple[str, ...]]:
    """The two bare strengths ("" where not given), the block strengths, and notes."""
    keywords = written.keywords
    numbers = [part for part in written.bare if not part or _is_strength(part)]
    presets = [part for part in written.bare if part and not _is_strength(part)]
    notes = [f"'{key}={keywords[key]}' has no effect" for key in _WITHOUT_EFFECT if key in keywords]
    if len(numbers) == 3 and dialect == "a1111":
        notes.append(f"'dyn={numbers.pop()}' has no effect")
    if len(numbers) > 2:
        raise StackError(f"{tag} has {len(numbers)} numbers; a tag has at most two strengths.")
    if presets and dialect not in ("lbw", "a1111"):
        raise StackError(
            f"{tag}: '{presets[0]}' is no strength. A block preset there is read in the dialects lbw and a1111."
        )
    if len(presets) + ("lbw" in keywords) > 1:
        raise StackError(f"{tag} names block strengths twice.")
    blocks, more = _blocks(keywords["lbw"], tag) if "lbw" in keywords else ("".join(presets), [])
    if "lbwe" in keywords:
        blocks = ";".join(filter(None, [blocks, keywords["lbwe"]]))
    first, second = (*numbers, "", "")[:2]
    return (first, second), blocks, tuple(notes + more)


def _blocks(value: str, tag: str) -> tuple[str, list[str]]:
    """The vector or preset as written, without a label, with Inspire's A=..;B=.. where the vector uses them."""
    vector, *rest = [part.strip() for part in value.split(";")]
    if not vector:
        raise StackError(f"{tag}: lbw= is empty. Write a preset such as SD-MIDD or a vector.")
    labelled = _LABELLED.fullmatch(vector)
    letters = [part for part in rest if re.fullmatch(rf"[AB]\s*=\s*{_NUMBER}", part)]
    others = [f"'{part}' has no effect" for part in rest if part and part not in letters]
    return ";".join([labelled[1].strip() if labelled else vector, *letters]), others


def _is_strength(text: str) -> bool:
    return bool(re.fullmatch(_NUMBER, text) or _KEYFRAMES.fullmatch(text))


def _strength(text: str, tag: str) -> float:
    """A number, or the keyframe that is farthest from 0, which stands for the schedule until it is applied."""
    if not _is_strength(text):
        raise StackError(f"{tag}: '{text}' is no strength. Write a number such as 0.8.")
    values = [float(frame.partition("@")[0]) for frame in text.split(",")]
    if not all(math.isfinite(value) for value in values):
        raise StackError(f"{tag}: '{text}' is more than a number can hold.")
    return max(values, key=abs)
