"""File -> AdapterFile: the only place that opens a LoRA file. safetensors only; no code is ever run from a file."""

from __future__ import annotations

import os
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open

from ..adapters import AdapterFile
from ..errors import LoraFileError
from .cache import BoundedCache
from .parse import parse_state_dict

# Parsed files kept between runs. A LoRA is 5 to 300 MB; a stack of eight large ones fits.
CACHE_BYTES = 2 << 30

FileStamp = tuple[str, int, int]
_cache: BoundedCache[tuple[str, FileStamp], AdapterFile] = BoundedCache(CACHE_BYTES)


def file_stamp(path: Path) -> FileStamp:
    """(path, mtime in ns, size in bytes): changes when the file is replaced. Raises LoraFileError if it is gone."""
    try:
        stat = os.stat(path)
    except OSError as error:
        raise LoraFileError(
            f"{path.name}: cannot be opened ({error.strerror}). Is it still in its folder?"
        ) from error
    return str(path), stat.st_mtime_ns, stat.st_size


def read_adapter(path: Path, label: str) -> AdapterFile:
    """Read and parse one LoRA; kept by path, time and size, so that an unchanged file is read once.

    The tensors are owned copies: a file that is overwritten later cannot change a LoRA already in use.
    Raises LoraFileError or LoraKeyError.
    """
    stamp = file_stamp(path)
    cached = _cache.get((label, stamp))
    if cached is not None:
        return cached
    tensors, metadata = _read_tensors(path, stamp[2], label)
    if file_stamp(path) != stamp:
        raise LoraFileError(
            f"{label}: the file changed while it was read. Run again once it is complete."
        )
    adapter = parse_state_dict(tensors, label, metadata)
    _cache.put((label, stamp), adapter, adapter.nbytes)
    return adapter


def _read_tensors(
    path: Path, size: int, label: str
) -> tuple[dict[str, torch.Tensor], dict[str, str]]:
    if path.suffix.lower() != ".safetensors":
        raise LoraFileError(
            f"{label}: not a .safetensors file. Other formats can carry code and are not opened; "
            "convert it to safetensors first."
        )
    if size == 0:
        raise LoraFileError(f"{label}: the file is empty. Download or save it again.")
    try:
        with safe_open(path, framework="pt", device="cpu") as file:
            tensors = {key: file.get_tensor(key).clone() for key in file.keys()}  # noqa: SIM118 (not a dict)
            return tensors, dict(file.metadata() or {})
    except (SafetensorError, OSError, ValueError, UnicodeError) as error:
        raise LoraFileError(
            f"{label}: not a readable safetensors file ({size} bytes; {error}). "
            "It is cut short, damaged, or another format under this name; download or save it again."
        ) from error
