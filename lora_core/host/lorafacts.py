"""What the page may know of a LoRA file, as JSON: its header, its sidecars and the index. Nothing is hashed for it."""

from __future__ import annotations

import glob
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import folder_paths

from ..account import describe
from ..errors import LoraError, StackError
from ..files.bases import base_of
from ..files.cache import BoundedCache
from ..files.facts import LoraFacts, gather
from ..files.identity import stored_autov3
from ..files.outline import read_outline
from ..files.reader import FileStamp, file_stamp
from ..files.said import Said
from ..stack.blocks import parse_blocks
from .hashing import known_hashes
from .paths import find_lora
from .presets import block_presets

_TEXTS = ("title", "base", "author", "licence", "description", "usage", "merged_from")

# What the header told: (base, kind, dtypes, metadata) or the reason why it told nothing.
_Outline = tuple[dict[str, Any], Mapping[str, str]]
_outlines: BoundedCache[FileStamp, _Outline] = BoundedCache(32 << 20)


def lora_facts(name: str) -> dict[str, Any]:
    """All that is known of a LoRA of the loras list without reading its weights.

    hashes: null for a file that no run has hashed yet. preview: where ComfyUI's own preview route has a picture of it.
    Raises LoraFileError: the name leaves the folders, or there is no such file.
    """
    listed, path = find_lora(name)
    stamp = file_stamp(path)
    outline, metadata = _outline(path, listed, stamp)
    facts = gather(metadata, path)
    hashes = known_hashes(path)
    known = None
    if hashes is not None:
        known = {"sha256": hashes.sha256, "autov2": hashes.autov2, "autov3": hashes.autov3}
    return {
        "name": listed,
        "size": stamp[2],
        "modified": stamp[1] // 1_000_000,
        "hashes": known,
        "claimed": next(iter(stored_autov3(metadata).values()), None),
        "preview": _preview(listed, path, facts),
        **outline,
        **_said_facts(facts),
    }


def blocks_fault(text: str) -> str | None:
    """What is wrong with block strengths, in words, as far as it shows without a model; None where nothing is."""
    try:
        parse_blocks(text, block_presets())
    except StackError as error:
        return str(error)
    return None


def _outline(path: Path, label: str, stamp: FileStamp) -> _Outline:
    known = _outlines.get(stamp)
    if known is None:
        known = _read(path, label)
        size = sum(len(key) + len(value) for key, value in known[1].items())
        _outlines.put(stamp, known, size + 1000)
    return known


def _read(path: Path, label: str) -> _Outline:
    """A file that is no readable LoRA is said to be none; its sidecars speak all the same."""
    try:
        adapter = read_outline(path, label)
    except LoraError as error:
        return {"kind": None, "made_for": None, "modules": 0, "fault": str(error)}, {}
    outline = {
        "kind": describe(adapter),
        "made_for": base_of(adapter),
        "modules": len(adapter.modules),
        "fault": None,
    }
    return outline, adapter.metadata


def _said_facts(facts: LoraFacts) -> dict[str, Any]:
    """Each value with its source, as {"value", "source"}; null where nobody says."""
    values: dict[str, Said[Any] | None] = {name: getattr(facts, name) for name in _TEXTS}
    values |= {"strength": facts.strength, "strength_range": facts.strength_range}
    values["tags"] = facts.tags
    return {
        **{name: None if said is None else _said(said) for name, said in values.items()},
        "words": [_said(word) for word in facts.words],
        "training": {name: _said(said) for name, said in facts.training.items()},
        "notes": list(facts.notes),
    }


def _said(said: Said[Any]) -> dict[str, Any]:
    return {"value": said.value, "source": said.source}


def _preview(listed: str, path: Path, facts: LoraFacts) -> dict[str, Any] | None:
    """The arguments of the host's route /experiment/models/preview/loras/{index}/{name}.

    It looks for pictures by a pattern, so that it finds none beside a name that holds signs of one.
    """
    if facts.preview is None or glob.escape(str(path)) != str(path):
        return None
    for index, folder in enumerate(folder_paths.get_folder_paths("loras")):
        if Path(folder, listed) == path:
            return {"index": index, "name": listed}
    return None
