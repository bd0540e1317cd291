"""What VAE and text encoder made of the dataset, computed once. Keyed by content: a key names all that the value is of.

So an entry is never out of date, and a cache that is shared, moved or half deleted is only ever slower.
"""

from __future__ import annotations

import hashlib
import json
import os
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Protocol

import safetensors.torch
import torch
from safetensors import SafetensorError

from ..errors import DatasetError, LoraFileError
from ..files.cache import BoundedCache
from ..files.writer import write_bytes
from .buckets import Box, Placement
from .dataset import TrainImage

Tensors = dict[str, torch.Tensor]
# Raised when the meaning of an entry changes, so that older entries are not found any more.
_FORMAT = 1
_SUFFIX = ".safetensors"
# A temporary file of this age (seconds) was left by a run that was killed.
_STALE = 3600.0


class Store(Protocol):
    """Where entries are kept. get: None where there is none. Values are never changed after they were put."""

    def get(self, key: str) -> Tensors | None: ...

    def put(self, key: str, value: Mapping[str, torch.Tensor]) -> None: ...


def latent_key(
    image: TrainImage, placement: Placement, place: float, mirrored: bool, vae: str
) -> str:
    """For the latent of one variant of a picture. vae: names the weights (and dtype) that encode it."""
    box: Box = placement.box(place)
    return _key("latent", image.measures.sha256, placement.bucket, box, mirrored, vae)


def text_key(caption: str, clip: str) -> str:
    """For the conditioning of a caption. clip: names the weights (and settings) that encode it."""
    return _key("text", caption, clip)


def once(store: Store, key: str, encode: Callable[[], Mapping[str, torch.Tensor]]) -> Tensors:
    """The entry of a key; encoded and kept where it is not there yet.

    encode returns tensors by name; they are detached and copied to the CPU. Raises what encode and the store raise.
    """
    known = store.get(key)
    if known is not None:
        return known
    value = {name: tensor.detach().cpu().contiguous().clone() for name, tensor in encode().items()}
    store.put(key, value)
    return value


class RamStore:
    """In memory: at most `limit` bytes, the least recently used entries leave first."""

    def __init__(self, limit: int) -> None:
        self._entries: BoundedCache[str, Tensors] = BoundedCache(limit)

    def get(self, key: str) -> Tensors | None:
        return self._entries.get(key)

    def put(self, key: str, value: Mapping[str, torch.Tensor]) -> None:
        self._entries.put(key, dict(value), _nbytes(value))

    @property
    def used(self) -> int:
        return self._entries.used


class DiskStore:
    """One safetensors file an entry in `folder`: at most `limit` bytes, the least recently used leave first.

    Files are written beside their place, synced and renamed, so that a killed run leaves no half entry. An unreadable
    file is deleted and made again. The time of last use is the file's own; several runs may share the folder.
    """

    def __init__(self, folder: Path, limit: int) -> None:
        self.folder = folder
        self.limit = limit
        self._remove_stale()

    def get(self, key: str) -> Tensors | None:
        path = self._path(key)
        try:
            data = path.read_bytes()
            os.utime(path)
        except FileNotFoundError:
            return None
        except OSError as error:
            raise DatasetError(_trouble(path, "read", error)) from error
        try:
            return safetensors.torch.load(data)
        except (SafetensorError, ValueError, KeyError):
            path.unlink(missing_ok=True)
            return None

    def put(self, key: str, value: Mapping[str, torch.Tensor]) -> None:
        data = safetensors.torch.save(dict(value))
        if len(data) > self.limit:
            return
        path = self._path(key)
        self._make_room(len(data), path)
        try:
            write_bytes(data, path)
        except LoraFileError as error:
            raise DatasetError(
                f"The cache of latents and captions in '{self.folder.name}': {error} Free some space there, "
                "or keep the cache in RAM."
            ) from error

    @property
    def used(self) -> int:
        """Bytes of all entries."""
        return sum(size for _, size, _ in self._entries())

    def _path(self, key: str) -> Path:
        return self.folder / f"{key}{_SUFFIX}"

    def _make_room(self, size: int, written: Path) -> None:
        """Delete the least recently used entries until `size` more bytes fit."""
        entries = sorted(entry for entry in self._entries() if entry[2] != written)
        used = sum(entry_size for _, entry_size, _ in entries)
        for _, entry_size, path in entries:
            if used + size <= self.limit:
                return
            path.unlink(missing_ok=True)
            used -= entry_size

    def _entries(self) -> list[tuple[float, int, Path]]:
        """(time of last use, bytes, path) of each entry that is there."""
        return [found for path in self.folder.glob(f"*{_SUFFIX}") if (found := _facts(path))]

    def _remove_stale(self) -> None:
        for path in self.folder.glob(".*.tmp"):
            found = _facts(path)
            if found and time.time() - found[0] > _STALE:
                path.unlink(missing_ok=True)


def _facts(path: Path) -> tuple[float, int, Path] | None:
    """None where another run has just deleted it."""
    try:
        stat = path.stat()
    except FileNotFoundError:
        return None
    return stat.st_mtime_ns / 1e9, stat.st_size, path


def _key(*parts: object) -> str:
    return hashlib.sha256(json.dumps([_FORMAT, *parts]).encode()).hexdigest()


def _nbytes(value: Mapping[str, torch.Tensor]) -> int:
    return sum(tensor.numel() * tensor.element_size() for tensor in value.values())


def _trouble(path: Path, verb: str, error: OSError) -> str:
    return (
        f"The cache of latents and captions: {path.name} cannot be {verb} ({error.strerror}). Check the folder "
        f"'{path.parent.name}', or keep the cache in RAM."
    )
