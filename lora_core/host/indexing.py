"""The whole loras folder into the index at once, so that later no run has to wait for a hash."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping
from hashlib import sha256
from pathlib import Path

from ..errors import LoraFileError
from ..files.filenames import slashed
from ..files.finding import lora_files
from ..files.identity import FileHashes, real_stamp
from .hashing import hash_files, known_hashes
from .paths import shelf

_SHOWN = 50


def index_loras(folder: str = "") -> str:
    """Hash every file of the loras list, or of one folder in it, that the index does not have; what came of it, in words.

    Under the running node's bar; an interrupt ends it within a chunk and keeps the files that were done.
    Raises LoraFileError where the list has no such folder.
    """
    files = _files_in(folder)
    before = {path: known_hashes(path) for path in files.values()}
    new = [path for path, hashes in before.items() if hashes is None]
    hashed = hash_files(new)
    known = {path: hashes or hashed.hashes.get(path) for path, hashes in before.items()}
    size = sum(_size(path) for path in hashed.hashes)
    lines = [
        f"{len(files)} LoRA files in {folder or 'the loras folders'}: {len(hashed.hashes)} hashed now "
        f"({size / 1e9:.2f} GB), {len(files) - len(new)} known before.",
        *(f"not read: {fault}" for fault in hashed.faults.values()),
        *_copies(files, known),
    ]
    hidden = len(lines) - _SHOWN
    return "\n".join(lines[:_SHOWN] + ([f"and {hidden} more lines"] if hidden > 0 else []))


def index_stamp(folder: str = "") -> str:
    """Changes when a file of the folder comes, goes or is replaced. Raises LoraFileError."""
    stamps = sorted(_stamp(path) for path in _files_in(folder).values())
    return sha256(repr((folder, stamps)).encode()).hexdigest()


def _files_in(folder: str) -> dict[str, Path]:
    files, wanted = lora_files(shelf()), slashed(folder).strip("/ ")
    inside = {
        name: path
        for name, path in files.items()
        if not wanted or slashed(name).startswith(f"{wanted}/")
    }
    if wanted and not inside:
        folders = sorted({slashed(name).rpartition("/")[0] for name in files} - {""})
        raise LoraFileError(
            f"No LoRA lies in a folder '{folder}' of the loras folders. Leave it empty for all of them, or name one of: "
            f"{', '.join(folders) or 'there is none'}."
        )
    return inside


def _copies(files: Mapping[str, Path], known: Mapping[Path, FileHashes | None]) -> list[str]:
    """Files of the same bytes under several names."""
    names: defaultdict[str, list[str]] = defaultdict(list)
    for name, path in files.items():
        if (hashes := known[path]) is not None:
            names[hashes.sha256].append(slashed(name))
    return [f"the same file: {', '.join(sorted(same))}" for same in names.values() if len(same) > 1]


def _stamp(path: Path) -> tuple[str, int, int]:
    try:
        return real_stamp(path)
    except LoraFileError:
        return str(path), 0, 0  # gone since it was listed; hashing it says so


def _size(path: Path) -> int:
    return _stamp(path)[2]
