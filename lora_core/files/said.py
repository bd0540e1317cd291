"""What is said about a LoRA, each value with the place where it was read."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any, Generic, TypeVar

Value = TypeVar("Value")


@dataclass(frozen=True)
class Said(Generic[Value]):
    """A value and its source, for example "modelspec.title" or "style.civitai.info: model.name"."""

    value: Value
    source: str


@dataclass(frozen=True)
class LoraFacts:
    """All that a LoRA file and its sidecars say. None, () and {} stand for: nobody says.

    base: the base model in words. usage: the author's hint how to use it. words: the trigger words, the most trusted
    source first. training: what of the training is known, for example "rank" -> "16". preview: a picture next to the
    file. strength, strength_range: suggested for the model. notes: what could not be read, or contradicts the file.
    """

    title: Said[str] | None = None
    base: Said[str] | None = None
    author: Said[str] | None = None
    licence: Said[str] | None = None
    description: Said[str] | None = None
    usage: Said[str] | None = None
    words: tuple[Said[str], ...] = ()
    tags: Said[tuple[str, ...]] | None = None
    training: Mapping[str, Said[str]] = field(default_factory=dict)
    merged_from: Said[str] | None = None
    preview: Said[Path] | None = None
    strength: Said[float] | None = None
    strength_range: Said[tuple[float, float]] | None = None
    notes: tuple[str, ...] = ()


NOTHING_SAID = LoraFacts()


def joined(parts: Iterable[LoraFacts]) -> LoraFacts:
    """One account of several, the most trusted first: it wins wherever two speak of the same thing.

    Words are gathered from all, each once (capitals do not count); so are notes.
    """
    listed = [part for part in parts if part is not NOTHING_SAID] or [NOTHING_SAID]
    if len(listed) == 1:
        return listed[0]
    merged: dict[str, Any] = {}
    for name in (item.name for item in fields(LoraFacts)):
        values = [getattr(part, name) for part in listed]
        merged[name] = next((value for value in values if value is not None), None)
    words: dict[str, Said[str]] = {}
    training: dict[str, Said[str]] = {}
    for part in listed:
        for word in part.words:
            words.setdefault(word.value.casefold(), word)
        training = {**part.training, **training}
    merged["words"] = tuple(words.values())
    merged["training"] = training
    merged["notes"] = tuple(dict.fromkeys(note for part in listed for note in part.notes))
    return LoraFacts(**merged)
