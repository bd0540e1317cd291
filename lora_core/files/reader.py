"""File -> AdapterFile: the only place that opens a LoRA file. safetensors only; no code is ever run from a file."""

from __future__ import annotations

import gc
import os
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from io import FileIO
from pathlib import Path

import torch

from ..adapters import AdapterFile
from ..errors import LoraFileError
from .cache import BoundedCache
from .header import Header, Unreadable, read_header
from .parse import parse_state_dict

# Parsed files kept between runs. A LoRA is 5 to 300 MB; a stack of eight large ones fits.
CACHE_BYTES = 2 << 30

_READERS = 2

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


def read_adapter(path: Path, label: str, checked: bool = False) -> AdapterFile:
    """Read and parse one LoRA; kept by path, time and size, so that an unchanged file is read once.

    The tensors are owned copies: a file that is overwritten later cannot change a LoRA already in use.
    checked: these very bytes are known to hold no NaN or infinity, so that they are not searched again.
    Raises LoraFileError or LoraKeyError.
    """
    stamp = file_stamp(path)
    cached = _cache.get((label, stamp))
    if cached is not None:
        return cached
    tensors, metadata = read_tensors(path, label)
    if file_stamp(path) != stamp:
        raise LoraFileError(
            f"{label}: the file changed while it was read. Run again once it is complete."
        )
    adapter = parse_state_dict(tensors, label, metadata, checked=checked)
    _cache.put((label, stamp), adapter, stamp[2])
    return adapter


def read_adapters(files: Sequence[tuple[Path, str, bool]]) -> list[AdapterFile]:
    """read_adapter(path, label, checked) for each, in order; the first of them that fails ends it.

    Two at a time: reading lets other threads run, so one file is parsed while the next is read.
    """
    found = {file: _cache.get((file[1], file_stamp(file[0]))) for file in files}
    unread = [file for file, adapter in found.items() if adapter is None]
    if unread:
        with ThreadPoolExecutor(_READERS) as pool, _no_collection():
            read = pool.map(lambda file: read_adapter(*file), unread)
            found |= dict(zip(unread, read, strict=True))
    return [adapter for file in files if (adapter := found[file]) is not None]


@contextmanager
def _no_collection() -> Iterator[None]:
    """Python's search for cyclic garbage put off: it would walk all of ComfyUI for thousands of new, living tensors."""
    was_on = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_on:
            gc.enable()


def read_tensors(path: Path, label: str) -> tuple[dict[str, torch.Tensor], dict[str, str]]:
    """Every tensor of a safetensors file, in the order of its bytes, and its metadata. Raises LoraFileError.

    One allocation of the file's size and one read into it; the tensors are views of that memory. A memory map
    would end the whole process (SIGBUS) where another one cuts the file short while it is read.
    """
    if path.suffix.lower() != ".safetensors":
        raise LoraFileError(
            f"{label}: not a .safetensors file. Other formats can carry code and are not opened; "
            "convert it to safetensors first."
        )
    size = file_stamp(path)[2]
    if size == 0:
        raise LoraFileError(f"{label}: the file is empty. Download or save it again.")
    try:
        with path.open("rb", buffering=0) as file:
            header = read_header(file, size)
            return _views(header, _read_body(file, header.body, label)), header.metadata
    except (Unreadable, OSError) as error:
        raise LoraFileError(
            f"{label}: not a readable safetensors file ({size} bytes; {error}). "
            "It is cut short, damaged, or another format under this name; download or save it again."
        ) from error


def _read_body(file: FileIO, size: int, label: str) -> torch.Tensor:
    """The rest of the file as bytes, with room for the widest dtype at the end."""
    try:
        body = torch.empty(size + 15 & ~15, dtype=torch.uint8)
    except (RuntimeError, MemoryError) as error:
        raise LoraFileError(
            f"{label}: its weights need {size / 1e9:.1f} GB of memory, which is not there. Is it a LoRA, not a model?"
        ) from error
    memory, done = body.numpy().data[:size], 0
    while done < size:
        count = file.readinto(memory[done:])
        if not count:
            raise Unreadable(f"it ended {size - done} bytes early while it was read")
        done += count
    return body


def _views(header: Header, body: torch.Tensor) -> dict[str, torch.Tensor]:
    """The tensors as views of the body. One call each: a file has thousands."""
    typed: dict[torch.dtype, torch.Tensor] = {}
    tensors = {}
    for name, dtype, shape, start, stop in header.entries:
        if start % dtype.itemsize:
            tensors[name] = body[start:stop].clone().view(dtype).reshape(shape)
            continue
        if dtype not in typed:
            typed[dtype] = body.view(dtype)
        strides, stride = [], 1
        for length in reversed(shape):
            strides.append(stride)
            stride *= max(length, 1)
        tensors[name] = typed[dtype].as_strided(shape, strides[::-1], start // dtype.itemsize)
    return tensors
