"""What is known of each LoRA file, in one JSON file: hashes, the finite check, the base.

Several processes read and replace it at once without a lock. A writer reads, merges its rows and puts the new file in
place in one step; who writes between the two may lose a row, which costs one more hash and nothing else.
"""

from __future__ import annotations

import contextlib
import json
import os
import time
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path

from ..errors import LoraError
from .cache import BoundedCache
from .identity import autov3_of, sha256_of
from .reader import FileStamp
from .writer import write_bytes

INDEX_VERSION = 1
# About 5 MB of JSON. Beyond it, rows of files that are gone leave first, then those written longest ago.
MOST_ROWS = 20_000
# A file of more bytes than our rows could fill is not ours.
_MOST_BYTES = 64 << 20
# Some systems refuse to replace a file in the very moment in which another process reads it.
_TRIES, _PAUSE = 5, 0.02
_LEFT_BEHIND = 3600.0  # seconds after which a temporary file is that of a process that was killed


@dataclass(frozen=True)
class IndexRow:
    """What is known of one file in one state. sha256, autov3: as in FileHashes.

    finite: its weights were seen to hold no NaN and no infinity. base: the base model it was made for, in words.
    """

    sha256: str
    autov3: str | None = None
    finite: bool = False
    base: str | None = None


# (real path, mtime in ns, size) -> row.
Index = Mapping[FileStamp, IndexRow]

_parsed: BoundedCache[FileStamp, Index] = BoundedCache(1)


def read_index(path: Path) -> Index:
    """All rows; none where there is no index, or none that can be read. Never raises."""
    try:
        stat = path.stat()
    except OSError:
        return {}
    stamp = (str(path), stat.st_mtime_ns, stat.st_size)
    known = _parsed.get(stamp)
    if known is None:
        try:
            known = _load(path) or {}
        except OSError:
            return {}
        _parsed.put(stamp, known, 1)
    return known


def update_index(path: Path, rows: Index) -> str | None:
    """Merge rows into the index. What went wrong, in words, or None; a fault costs hashes, never a run.

    A file at `path` that is no index of ours is set aside under another name.
    """
    said = None
    for attempt in range(_TRIES):
        try:
            return _replaced(path, rows)
        except (OSError, LoraError) as error:
            reason = getattr(error.__cause__ or error, "strerror", None)
            said = f"{path} cannot be kept ({reason}), so LoRA files are hashed again in every run."
            time.sleep(_PAUSE * attempt)
    return said


def _replaced(path: Path, rows: Index) -> str | None:
    """One try: read, merge, put in place. Raises OSError or LoraError."""
    said = None
    known = _load(path)
    if known is None:
        aside = path.with_suffix(".broken.json")
        os.replace(path, aside)
        said = (
            f"{path} was no index of LoRA Loom; it is kept as {aside.name}, and a new one begins."
        )
    write_bytes(_document(_merged(known or {}, rows)), path)
    _sweep(path)
    return said


def _merged(known: Index, rows: Index) -> dict[FileStamp, IndexRow]:
    """One row a path, the newest last; what was known of the very same file stays known."""
    paths = {stamp[0] for stamp in rows}
    merged = {stamp: row for stamp, row in known.items() if stamp[0] not in paths}
    for stamp, row in rows.items():
        old = known.get(stamp)
        if old is not None and old.sha256 == row.sha256:
            row = replace(row, finite=row.finite or old.finite, base=row.base or old.base)
        merged[stamp] = row
    return _bounded(merged)


def _bounded(rows: dict[FileStamp, IndexRow]) -> dict[FileStamp, IndexRow]:
    if len(rows) > MOST_ROWS:
        rows = {stamp: row for stamp, row in rows.items() if os.path.exists(stamp[0])}
    return dict(list(rows.items())[-MOST_ROWS:])


def _document(rows: Index) -> bytes:
    files = {
        path: {"size": size, "mtime_ns": mtime, **asdict(row)}
        for (path, mtime, size), row in rows.items()
    }
    return json.dumps({"version": INDEX_VERSION, "files": files}, indent=0).encode()


def _load(path: Path) -> Index | None:
    """The rows of the file; none where there is no file; None where it is no index that this version reads.

    Raises OSError where it cannot be read.
    """
    try:
        with path.open("rb") as file:
            data = file.read(_MOST_BYTES + 1)
    except FileNotFoundError:
        return {}
    try:
        document = json.loads(data) if len(data) <= _MOST_BYTES else None
    except (ValueError, RecursionError):
        return None
    if not isinstance(document, dict) or document.get("version") != INDEX_VERSION:
        return None
    files = document.get("files")
    if not isinstance(files, dict):
        return None
    pairs = (_row(path, facts) for path, facts in files.items())
    return dict(pair for pair in pairs if pair is not None)


def _row(path: str, facts: object) -> tuple[FileStamp, IndexRow] | None:
    """One row; None where it makes no sense, so that its file is hashed again."""
    if not isinstance(facts, dict):
        return None
    size, mtime = facts.get("size"), facts.get("mtime_ns")
    sha256, autov3, base = facts.get("sha256"), facts.get("autov3"), facts.get("base")
    if not isinstance(size, int) or not isinstance(mtime, int) or not isinstance(sha256, str):
        return None
    digits = sha256_of(sha256)
    if digits is None:
        return None
    row = IndexRow(
        digits,
        autov3_of(autov3) if isinstance(autov3, str) else None,
        facts.get("finite") is True,
        base if isinstance(base, str) else None,
    )
    return (path, mtime, size), row


def _sweep(path: Path) -> None:
    """Remove what killed processes left beside the index."""
    with contextlib.suppress(OSError):
        for left in path.parent.glob(f".{path.stem}-*.tmp"):
            if time.time() - left.stat().st_mtime > _LEFT_BEHIND:
                left.unlink()
