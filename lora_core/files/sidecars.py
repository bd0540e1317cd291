"""Files that other tools keep next to a LoRA: what they say about it. Read only; of any content, nothing is believed blindly."""

from __future__ import annotations

import os
import stat
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

from .cache import BoundedCache
from .lenient import MOST_BYTES, TEXT, Unreadable, dig, json_of, number_of, text_of
from .picking import civitai_version, picked, strengths
from .said import LoraFacts, Said, joined
from .words import said_words

_PICTURES = ("png", "jpg", "jpeg", "webp", "gif")
_WORD_LINE = ("trigger words:", "trigger word:", "trigger:", "activation text:")
# Facts are small whatever the sidecar's size: texts and lists are cut.
_FACTS_BYTES = 64 << 10
_cache: BoundedCache[tuple[str, tuple[object, ...]], LoraFacts] = BoundedCache(32 << 20)


def sidecar_facts(path: Path) -> LoraFacts:
    """What the sidecars of a LoRA file say, the most trusted first, and its preview picture.

    Never raises: a sidecar that is broken, too large or no plain file becomes a note. Kept until one of them changes.
    """
    present = tuple(
        (reader, side) for suffix, reader in _SIDECARS if (side := _beside(path, suffix))
    )
    stamps = tuple(_stamp(side) for _, side in present)
    key = (str(path), (stamps, _stamp(path)))
    known = _cache.get(key)
    if known is None:
        known = joined(_facts(side, reader, path) for reader, side in present)
        _cache.put(key, known, _FACTS_BYTES)
    preview = _preview(path)
    return known if preview is None else replace(known, preview=Said(preview, preview.name))


def _beside(path: Path, suffix: str) -> Path | None:
    """The sidecar's path where there is one. A suffix that starts with "+" follows the whole file name."""
    stem = path.name if suffix.startswith("+") else path.name.removesuffix(path.suffix)
    side = path.with_name(stem + suffix.removeprefix("+"))
    return side if os.path.lexists(side) else None


def _stamp(path: Path) -> tuple[str, int, int]:
    try:
        found = os.stat(path)
    except OSError:
        return path.name, 0, -1
    return path.name, found.st_mtime_ns, found.st_size


def _facts(side: Path, reader: Reader, path: Path) -> LoraFacts:
    text = _text(side)
    if isinstance(text, Unreadable):
        return LoraFacts(notes=(f"{side.name} {text.reason}",))
    return reader(text, side.name, path)


def _text(side: Path) -> str | Unreadable:
    """The content of a plain file of at most MOST_BYTES; a pipe or a device is never opened."""
    try:
        found = os.stat(side)
        if not stat.S_ISREG(found.st_mode):
            return Unreadable("is not a plain file")
        with side.open("rb") as file:
            data = file.read(min(found.st_size, MOST_BYTES) + 1)
    except OSError as error:
        return Unreadable(f"cannot be opened ({error.strerror})")
    if len(data) > MOST_BYTES:
        return Unreadable(f"has {found.st_size} bytes, more than the {MOST_BYTES} that are read")
    return data.decode("utf-8-sig", errors="replace")


def _document(text: str, name: str) -> tuple[object, tuple[str, ...]]:
    """A JSON object and no note, or {} and why there is none."""
    value = json_of(text)
    if isinstance(value, Unreadable):
        return {}, (f"{name} {value.reason}",)
    if not isinstance(value, dict):
        return {}, (f"{name} holds no JSON object, but a {type(value).__name__}",)
    return value, ()


def _lora_manager(text: str, name: str, path: Path) -> LoraFacts:
    document, notes = _document(text, name)
    size, found = number_of(dig(document, "size")), _stamp(path)[2]
    if size and found >= 0 and size != found:
        notes += (
            f"{name} was written for a file of {size:.0f} bytes; this one has {found}. "
            "What it says may be about another version.",
        )
    own = picked(
        document,
        name,
        title=("model_name",),
        base=("base_model",),
        about=("notes",),
        tags=("tags",),
    )
    if own.title is not None and own.title.value == path.name.removesuffix(path.suffix):
        own = _without_title(own)
    tips, tip_notes = _usage_tips(dig(document, "usage_tips"), f"{name}: usage_tips")
    version = civitai_version(dig(document, "civitai"), f"{name}: civitai.")
    described = picked(document, name, about=("modelDescription",))
    return joined((own, tips, version, described, LoraFacts(notes=notes + tip_notes)))


def _without_title(facts: LoraFacts) -> LoraFacts:
    """Lora-Manager writes the file's name where it knows no title."""
    return LoraFacts(base=facts.base, description=facts.description, tags=facts.tags)


def _usage_tips(value: object, source: str) -> tuple[LoraFacts, tuple[str, ...]]:
    if not isinstance(value, str) or not value.strip():
        return LoraFacts(), ()
    tips = json_of(value)
    if isinstance(tips, Unreadable):
        return LoraFacts(), (f"{source} {tips.reason}",)
    bounds = (dig(tips, "strength_min"), dig(tips, "strength_max"))
    return strengths(dig(tips, "strength"), bounds, source), ()


def _civitai_info(text: str, name: str, path: Path) -> LoraFacts:
    document, notes = _document(text, name)
    return joined((civitai_version(document, f"{name}: "), LoraFacts(notes=notes)))


def _rgthree(text: str, name: str, path: Path) -> LoraFacts:
    """Its trainedWords hold every caption tag too ("metadata"); only those of Civitai or the user are trigger words."""
    document, notes = _document(text, name)
    listed = dig(document, "trainedWords")
    named = [
        item if isinstance(item, str) else dig(item, "word")
        for item in (listed if isinstance(listed, list) else [])
        if isinstance(item, str) or dig(item, "civitai") or dig(item, "user")
    ]
    words, word_notes = said_words(named, f"{name}: trainedWords")
    bounds = (dig(document, "strengthMin"), dig(document, "strengthMax"))
    facts = picked(
        document,
        name,
        title=("name",),
        base=("baseModel",),
        about=("userNote",),
        tags=("userTags",),
    )
    said = LoraFacts(words=words, notes=notes + word_notes)
    return joined((facts, strengths(None, bounds, f"{name}: strengthMin, strengthMax"), said))


def _automatic1111(text: str, name: str, path: Path) -> LoraFacts:
    document, notes = _document(text, name)
    words, word_notes = said_words(dig(document, "activation text"), f"{name}: activation text")
    weight = number_of(dig(document, "preferred weight"))
    facts = picked(document, name, base=("sd version",), about=("description",))
    more = picked(document, name, about=("notes",))
    strength = Said(weight, f"{name}: preferred weight") if weight else None  # 0: not set
    said = LoraFacts(words=words, strength=strength, notes=notes + word_notes)
    return joined((facts, more, said))


def _plain_text(text: str, name: str, path: Path) -> LoraFacts:
    """A description or example prompts. Only lines that say so are trigger words: a prompt is not one."""
    lines = text[: 8 * TEXT].splitlines()
    named = [line for line in lines if line.strip().lower().startswith(_WORD_LINE)]
    words, notes = said_words([line.partition(":")[2] for line in named], name)
    about = text_of(text, TEXT, lines=True)
    return LoraFacts(description=Said(about, name) if about else None, words=words, notes=notes)


def _preview(path: Path) -> Path | None:
    """A picture next to the file: x.preview.png before x.png. Films are left aside."""
    stem = path.name.removesuffix(path.suffix)
    names = (f"{stem}{middle}.{ending}" for middle in (".preview", "") for ending in _PICTURES)
    return next((side for name in names if os.path.isfile(side := path.with_name(name))), None)


Reader = Callable[[str, str, Path], LoraFacts]

# In the order of trust: what a person edits before what a site sent, and free text last.
_SIDECARS: tuple[tuple[str, Reader], ...] = (
    (".metadata.json", _lora_manager),
    (".civitai.info", _civitai_info),
    ("+.rgthree-info.json", _rgthree),
    (".json", _automatic1111),
    (".txt", _plain_text),
)
