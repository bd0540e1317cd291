"""The hashes of LoRA files: from the index in the host's user folder, or computed once, with the node's bar."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path

from ..errors import LoraFileError
from ..files.finding import lora_files
from ..files.identity import FileHashes, hash_file, real_stamp
from ..files.index import Index, IndexRow, read_index, update_index
from ..files.reader import FileStamp
from .paths import index_file, shelf
from .progress import progress_of

log = logging.getLogger(__name__)

# A process that is killed loses the hashes of at most so many bytes.
_SAVE_EVERY = 1 << 30


@dataclass(frozen=True)
class Hashed:
    """What came of hashing files. faults: in words, for those that could not be read."""

    hashes: Mapping[Path, FileHashes]
    faults: Mapping[Path, str]


def known_hashes(path: Path) -> FileHashes | None:
    """The hashes of a file as the index has them; None where it was not hashed in its present state, or is gone."""
    try:
        return _known(real_stamp(path))
    except LoraFileError:
        return None


def known_finite(stamp: FileStamp) -> bool:
    """Whether these very bytes were read before and hold no NaN and no infinity, so that they need not be searched."""
    row = read_index(index_file()).get(stamp)
    return row is not None and row.finite


def _known(stamp: FileStamp) -> FileHashes | None:
    row = read_index(index_file()).get(stamp)
    return None if row is None else FileHashes(row.sha256, row.autov3)


def known_sizes(sha256: str) -> frozenset[int]:
    """The sizes in bytes of all files, gone ones too, that the index has seen with this sha256."""
    rows = read_index(index_file()).items()
    return frozenset(size for (_, _, size), row in rows if row.sha256 == sha256)


def hash_all() -> Hashed:
    """Hash every file of the loras list that the index does not have."""
    files = lora_files(shelf()).values()
    return hash_files([path for path in files if known_hashes(path) is None])


def hash_files(paths: Iterable[Path]) -> Hashed:
    """Hash these files under one progress bar and put them into the index.

    An interrupt ends it within a chunk, by the host's own exception; files that were done are kept.
    """
    sizes = {path: _size(path) for path in paths}
    advance = progress_of(sum(sizes.values()))
    hashes: dict[Path, FileHashes] = {}
    faults: dict[Path, str] = {}
    unsaved: dict[FileStamp, IndexRow] = {}
    before = since_saved = 0
    try:
        for path, size in sizes.items():
            if since_saved >= _SAVE_EVERY:
                _keep(unsaved)
                unsaved, since_saved = {}, 0
            try:
                stamp, found = hash_file(
                    path, path.name, lambda done, _, start=before: advance(start + done)
                )
            except LoraFileError as error:
                faults[path] = str(error)
            else:
                hashes[path] = found
                unsaved[stamp] = IndexRow(found.sha256, found.autov3)
            before, since_saved = before + size, since_saved + size
    finally:
        _keep(unsaved)
    return Hashed(hashes, faults)


def hashes_of(bases: Mapping[FileStamp, str | None]) -> dict[FileStamp, FileHashes]:
    """The hashes of files that were read, those that are missing computed under one bar.

    bases: the real_stamp of each when it was read -> the base that it was made for, as far as it is known. That is kept
    in the index too, and that the weights are finite, which reading a file checks.
    Raises LoraFileError, also where a file was replaced since it was read.
    """
    known = {stamp: _known(stamp) for stamp in bases}
    hashed = hash_files([Path(stamp[0]) for stamp, hashes in known.items() if hashes is None])
    for fault in hashed.faults.values():
        raise LoraFileError(fault)
    for path, *_ in (stamp for stamp in bases if real_stamp(Path(stamp[0])) != stamp):
        name = Path(path).name
        raise LoraFileError(f"{name}: the file changed while it was read. Run again.")
    index = read_index(index_file())
    rows = {
        stamp: replace(index[stamp], base=base or index[stamp].base, finite=True)
        for stamp, base in bases.items()
        if stamp in index
    }
    _keep({stamp: row for stamp, row in rows.items() if row != index[stamp]})
    return {stamp: hashes or hashed.hashes[Path(stamp[0])] for stamp, hashes in known.items()}


def _size(path: Path) -> int:
    try:
        return path.stat().st_size
    except OSError:
        return 0  # hash_file says what is wrong with it


def _keep(rows: Index) -> None:
    if rows and (fault := update_index(index_file(), rows)):
        _say_once(fault)


@lru_cache(maxsize=16)
def _say_once(fault: str) -> None:
    log.warning("LoRA Loom: %s", fault)
