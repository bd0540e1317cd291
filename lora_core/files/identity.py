"""What a LoRA file is, whatever it is called: hashes of its bytes, and of its weights alone.

AutoV2 is the first 10 hex digits of the file's sha256. AutoV3 is the first 12 of the sha256 of the bytes after the
safetensors header (8 bytes of length, then JSON): editing the metadata does not change it.
"""

from __future__ import annotations

import hashlib
import os
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from io import FileIO
from pathlib import Path

from ..errors import LoraFileError
from .reader import FileStamp, file_stamp

# An interrupt waits for at most this many bytes.
CHUNK = 8 << 20

# Fields in which trainers and editors keep the hash of the weights; tools that could not hash wrote that of no bytes.
_STORED_FIELDS = ("sshs_model_hash", "modelspec.hash_sha256")
_OF_NO_BYTES = hashlib.sha256(b"").hexdigest()
_SHA256 = re.compile(r"(?:0x)?([0-9a-f]{64})")
_AUTOV3 = re.compile(r"(?:0x)?([0-9a-f]{12})[0-9a-f]{0,52}")

Progress = Callable[[int, int], None]


@dataclass(frozen=True)
class FileHashes:
    """sha256: 64 hex digits of the whole file. autov3: 12 of its weights, None for what is no safetensors file."""

    sha256: str
    autov3: str | None

    @property
    def autov2(self) -> str:
        return self.sha256[:10]


def real_stamp(path: Path) -> FileStamp:
    """file_stamp of the file behind all links: what hashes are kept by. Raises LoraFileError."""
    return file_stamp(Path(os.path.realpath(path)))


def hash_file(
    path: Path, label: str, on_progress: Progress | None = None
) -> tuple[FileStamp, FileHashes]:
    """Both digests in one pass over the file, and the stamp that they belong to.

    on_progress(bytes done, bytes in all) is called after every chunk; what it raises ends the work.
    Raises LoraFileError: the file cannot be read, or changed meanwhile.
    """
    stamp = real_stamp(path)
    try:
        with path.open("rb", buffering=0) as file:
            hashes = _digests(file, stamp[2], on_progress)
    except OSError as error:
        raise LoraFileError(f"{label}: cannot be read ({error.strerror}).") from error
    if real_stamp(path) != stamp:
        raise LoraFileError(
            f"{label}: the file changed while it was hashed. Run again once it is complete."
        )
    return stamp, hashes


def _digests(file: FileIO, size: int, on_progress: Progress | None) -> FileHashes:
    whole, weights = hashlib.sha256(), hashlib.sha256()
    start = _end_of_header(file, size)
    buffer = memoryview(bytearray(max(1, min(CHUNK, size))))
    done = 0
    # A file that grows meanwhile is not followed: its stamp tells.
    while done < size and (count := file.readinto(buffer)):
        whole.update(buffer[:count])
        weights.update(buffer[max(0, start - done) : count])
        done += count
        if on_progress is not None:
            on_progress(done, size)
    return FileHashes(whole.hexdigest(), None if start >= size else weights.hexdigest()[:12])


def _end_of_header(file: FileIO, size: int) -> int:
    """Where the weights begin; `size` where the first bytes are no safetensors header."""
    length = int.from_bytes(file.read(8), "little")
    file.seek(0)
    return min(8 + length, size)


def stored_autov3(metadata: Mapping[str, str]) -> dict[str, str]:
    """Field -> the AutoV3 that the file's metadata claims there. A claim: who edits weights may leave it standing."""
    claims = {field: autov3_of(metadata.get(field, "")) for field in _STORED_FIELDS}
    return {
        field: claim
        for field, claim in claims.items()
        if claim is not None and not _OF_NO_BYTES.startswith(claim)
    }


def sha256_of(text: str) -> str | None:
    """The 64 digits, lower case, of a sha256 as people and tools write it (either case, 0x or not); else None."""
    found = _SHA256.fullmatch(text.strip().lower())
    return found[1] if found else None


def autov3_of(text: str) -> str | None:
    """The 12 digits, lower case, of an AutoV3 or of the whole digest that it is cut from; else None."""
    found = _AUTOV3.fullmatch(text.strip().lower())
    return found[1] if found else None
