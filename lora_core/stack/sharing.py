"""What a person who gets a workflow needs to run it, and the hashes by which a picture credits its LoRAs."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import PurePosixPath

from ..files.filenames import slashed
from .lock import Identified
from .rows import StackRow


@dataclass(frozen=True)
class Need:
    """One LoRA of a workflow. identity: None where it was made in the graph and is no file of the loras list.

    words: its trigger words, as chosen or as the file names them. base: in words, None where nothing tells.
    """

    row: StackRow
    identity: Identified | None
    words: str = ""
    base: str | None = None


def needs_text(needs: Sequence[Need]) -> str:
    """Name, size, hashes, base and words of each LoRA: what to send along, or to look for."""
    files = [need.identity for need in needs if need.identity is not None]
    if not needs:
        return "This workflow needs no LoRA."
    size = sum(item.size or 0 for item in files)
    head = f"This workflow needs {_counted(len(files))} ({size:,} bytes in all)."
    made = len(needs) - len(files)
    if made:
        head += f" {_counted(made)} made in the graph itself."
    return "\n".join([head, *(_need_lines(number, need) for number, need in enumerate(needs, 1))])


def _counted(count: int) -> str:
    return f"{count} LoRA{'' if count == 1 else 's'}"


def _need_lines(number: int, need: Need) -> str:
    row, item = need.row, need.identity
    lines = [f"{number}. {row.name if item is None else slashed(item.name)}"]
    if item is None:
        lines.append("made in this graph: no file is needed")
    else:
        lines.append(f"sha256: {item.hashes.sha256}")
        lines.append(f"AutoV2: {item.hashes.autov2}, AutoV3: {item.hashes.autov3 or 'none'}")
        lines += [f"size: {item.size:,} bytes"] if item.size is not None else []
    lines.append(f"base: {need.base or 'unknown'}")
    lines.append(f"strength: model {row.model:g}, clip {row.clip:g}")
    lines += [f"trigger words: {need.words}"] if need.words else []
    return "\n   ".join(lines)


def a1111_hashes(needs: Sequence[Need]) -> str:
    """The end of a picture's parameters as A1111 writes it: Lora hashes with AutoV3, Hashes with AutoV2; "" for none.

    Names are without folder and extension, as there; with the folder where two files have one name.
    """
    named = _named(needs)
    if not named:
        return ""
    loras = ", ".join(
        f"{name}: {item.hashes.autov3 or item.hashes.autov2}" for name, item, _ in named
    )
    hashes = {f"lora:{name}": item.hashes.autov2 for name, item, _ in named}
    quoted, listed = (json.dumps(value, ensure_ascii=False) for value in (loras, hashes))
    return f"Lora hashes: {quoted}, Hashes: {listed}"


def hash_list(needs: Sequence[Need]) -> str:
    """name:AutoV2:strength of each file, joined by commas: what save nodes take as additional hashes; "" for none."""
    return ", ".join(
        f"{_plain(name)}:{item.hashes.autov2}:{row.model:g}" for name, item, row in _named(needs)
    )


def _plain(name: str) -> str:
    """Without the two signs that separate."""
    return name.replace(":", " ").replace(",", " ")


def _named(needs: Sequence[Need]) -> list[tuple[str, Identified, StackRow]]:
    """Each file once, with the name that a picture gives it."""
    files = {need.identity.name: need for need in needs if need.identity is not None}
    paths = {name: PurePosixPath(slashed(name)) for name in files}
    stems = Counter(path.stem for path in paths.values())
    return [
        (path.stem if stems[path.stem] == 1 else str(path.with_suffix("")), need.identity, need.row)
        for name, path in paths.items()
        if (need := files[name]).identity is not None
    ]
