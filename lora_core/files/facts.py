"""All that is known of a LoRA besides its weights, gathered from the file and its sidecars, and said as text.

Order of trust, the first that speaks of something wins:
1. what the author and the trainer put into the file by name (modelspec.*, trigger fields, ss_*, PEFT);
2. x.metadata.json (Lora-Manager; a person edits it), 3. x.civitai.info, 4. x.safetensors.rgthree-info.json,
5. x.json (A1111), 6. x.txt;
7. what is only concluded: the trainer's output name as title, the base's file name, the tag in nearly all captions.
Trigger words are gathered from 1 to 6 in this order; 7 speaks only where nobody else names a word.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

from ..adapters import AdapterFile
from .cache import once_an_object
from .metadata import guessed_facts, metadata_facts
from .said import LoraFacts, Said, joined
from .sidecars import sidecar_facts

__all__ = ["LoraFacts", "Said", "facts_text", "gather", "gather_of", "joined"]


def gather(metadata: Mapping[str, str], path: Path | None = None) -> LoraFacts:
    """The facts of one LoRA. path: its file, None for a LoRA in memory, which has no sidecars. Never raises."""
    return _with_sidecars(metadata_facts(metadata), guessed_facts(metadata), path)


def gather_of(adapter: AdapterFile, path: Path | None) -> LoraFacts:
    """gather for a file that was read; its own metadata is looked through once."""
    return _with_sidecars(*_own(adapter), path)


@once_an_object
def _own(adapter: AdapterFile) -> tuple[LoraFacts, LoraFacts]:
    return metadata_facts(adapter.metadata), guessed_facts(adapter.metadata)


def _with_sidecars(sure: LoraFacts, guessed: LoraFacts, path: Path | None) -> LoraFacts:
    if path is not None:
        sure = joined((sure, sidecar_facts(path)))
    return joined((sure, replace(guessed, words=()) if sure.words else guessed))


_LINES = ("title", "author", "licence", "base", "usage", "merged_from")


def facts_text(facts: LoraFacts) -> str:
    """One line a fact, with its source; "" where nothing is known."""
    said = [(name.replace("_", " "), getattr(facts, name)) for name in _LINES]
    lines = [f"{name}: {fact.value} ({fact.source})" for name, fact in said if fact is not None]
    lines += [f"trigger word: {word.value} ({word.source})" for word in facts.words]
    if facts.strength is not None:
        lines.append(f"strength: {facts.strength.value:g} suggested ({facts.strength.source})")
    if facts.strength_range is not None:
        low, high = facts.strength_range.value
        lines.append(f"strength: {low:g} to {high:g} suggested ({facts.strength_range.source})")
    if facts.tags is not None:
        lines.append(f"tags: {', '.join(facts.tags.value)} ({facts.tags.source})")
    if facts.training:
        told = (f"{name} {fact.value}" for name, fact in facts.training.items())
        lines.append(f"training: {', '.join(told)}")
    if facts.preview is not None:
        lines.append(f"preview: {facts.preview.value.name}")
    if facts.description is not None:
        text = facts.description.value.replace("\n", " ")
        lines.append(f"description: {text} ({facts.description.source})")
    return "\n".join([*lines, *(f"note: {note}" for note in facts.notes)])
