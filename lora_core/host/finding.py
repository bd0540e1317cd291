"""A row of a stack -> its file in the loras folders, by name and by hash."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

from ..errors import LoraFileError
from ..files.finding import Found, Shelf, Undecided, Wanted, find
from ..files.identity import FileHashes
from ..stack.rows import StackRow
from . import paths
from .hashing import hash_files, known_hashes, known_sizes

# What stands for a file that cannot be hashed: no workflow means it.
_UNREADABLE = FileHashes("", None)


def find_row(row: StackRow) -> Found:
    """The file that a row means. Files are hashed where only their hash decides, with the running node's bar.

    Raises LoraFileError, and what the host raises on an interrupt.
    """
    hashes: dict[Path, FileHashes] = {}
    faults: dict[Path, str] = {}
    try:
        while isinstance(answer := find(_wanted(row), _shelf(hashes)), Undecided):
            hashed = hash_files(answer.paths)
            hashes |= {**dict.fromkeys(hashed.faults, _UNREADABLE), **hashed.hashes}
            faults |= hashed.faults
            if answer.paths == (answer.named,) and answer.named in faults:
                raise LoraFileError(faults[answer.named])
    except LoraFileError as error:
        aside = [fault for fault in faults.values() if fault not in str(error)]
        if aside:
            raise LoraFileError(f"{error} Not looked into: {' '.join(aside)}") from error
        raise
    return answer


def find_known(row: StackRow) -> Found | Undecided:
    """The same without opening a file: what the names and the index alone tell. Raises LoraFileError."""
    return find(_wanted(row), _shelf({}))


def _wanted(row: StackRow) -> Wanted:
    return Wanted(row.name, row.sha256, row.autov3, row.accept, row.size)


def _shelf(hashes: Mapping[Path, FileHashes]) -> Shelf:
    """The loras folders; `hashes` are those that were just computed."""
    return replace(
        paths.shelf(),
        hashes_of=lambda path: hashes.get(path) or known_hashes(path),
        sizes_of=known_sizes,
    )
