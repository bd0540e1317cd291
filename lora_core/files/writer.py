"""State dict -> file, never half-written."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import shutil
import uuid
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO

import safetensors
import safetensors.torch
import torch

from ..errors import LoraFileError, SaveError
from .header import DTYPES
from .metadata_edit import HASH_FIELDS

_DTYPE_NAMES = {dtype: name for name, dtype in DTYPES.items()}
# What the first hash of A1111's additional networks looked at: 64 KiB of the file from 1 MiB on.
_LEGACY_WINDOW = (0x100000, 0x110000)
# A disk is not filled to its last byte for a LoRA.
_SPARE_BYTES = 16 << 20


def write_by_content(
    tensors: Mapping[str, torch.Tensor], folder: Path, metadata: Mapping[str, str] | None = None
) -> Path:
    """Write a LoRA (contiguous CPU tensors) under a name made from its bytes: the same LoRA gives the same file.

    The bytes go to a temporary file first, are synced, and take their name in one step. Raises LoraFileError.
    """
    whole = {key: tensor.contiguous() for key, tensor in tensors.items()}
    data = safetensors.torch.save(whole)
    digest = hashlib.sha256(data)
    if metadata:
        # The library writes metadata in any order, so they are named by their own.
        digest.update(json.dumps(sorted(metadata.items())).encode())
        data = safetensors.torch.save(whole, dict(metadata))
    path = folder / f"{digest.hexdigest()[:16]}.safetensors"
    if not path.exists():
        write_bytes(data, path)
    return path


def write_bytes(data: bytes, path: Path) -> None:
    """Write to a temporary file beside `path`, sync, and take the name in one step. Raises LoraFileError."""
    with whole_file(path, len(data)) as file:
        file.write(data)


@contextmanager
def whole_file(path: Path, size: int, replace: bool = True) -> Iterator[BinaryIO]:
    """A temporary file beside `path` that takes its name, synced, when the block ends well; else nothing is left.

    replace: whether a file of this name may be replaced. Raises SaveError (no space, the name is taken),
    LoraFileError (writing failed).
    """
    temporary = path.with_name(f".{path.stem[:80]}-{uuid.uuid4().hex}.tmp")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        _check_space(path, size)
        with temporary.open("xb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        _take_name(temporary, path, replace)
    except OSError as error:
        raise LoraFileError(
            f"{path.name}: writing {size} bytes failed ({error.strerror or error})."
        ) from error
    finally:
        with contextlib.suppress(OSError):
            temporary.unlink()


def _check_space(path: Path, size: int) -> None:
    free = shutil.disk_usage(path.parent).free
    if free < size + _SPARE_BYTES:
        raise SaveError(
            f"{path.name}: needs {size / 1e6:.1f} MB, and the disk of {path.parent.name} has {free / 1e6:.1f} MB left. "
            "Nothing was written; make room or choose another folder."
        )


def _take_name(temporary: Path, path: Path, replace: bool) -> None:
    if replace:
        os.replace(temporary, path)
    else:
        try:
            os.link(temporary, path)  # unlike a rename it fails where the name is taken meanwhile
        except FileExistsError:
            raise taken(path) from None
        except OSError:  # a file system without links
            if path.exists():
                raise taken(path) from None
            os.replace(temporary, path)
    if os.name == "posix":
        folder = os.open(path.parent, os.O_RDONLY)
        try:
            os.fsync(folder)
        finally:
            os.close(folder)


def taken(path: Path) -> SaveError:
    return SaveError(
        f"{path.name} is already there and is not overwritten. Choose another name, "
        "or say with if_exists what to do: add a number, or overwrite."
    )


def write_lora(
    tensors: Mapping[str, torch.Tensor], metadata: Mapping[str, str], path: Path, replace: bool
) -> dict[str, str]:
    """Write a safetensors file with its hashes in the metadata, read it back and compare before it takes its name.

    The order of the tensors is kept as far as alignment allows, so that a file of which only the metadata changes keeps
    its AutoV3. Where the very same file is already there, nothing is written. Returns the metadata as written.
    Raises SaveError, LoraFileError.
    """
    ordered = dict(sorted(tensors.items(), key=lambda item: -item[1].dtype.itemsize))
    said = {**metadata, **_hashes(ordered, metadata)}
    head = _head(ordered, said)
    if path.exists() and not replace:
        if _same(path, head, ordered):
            return said
        raise taken(path)
    size = len(head) + sum(tensor.numel() * tensor.dtype.itemsize for tensor in ordered.values())
    with whole_file(path, size, replace) as file:
        file.write(head)
        for piece in _body(ordered):
            file.write(piece)
        file.flush()
        _check_written(Path(file.name), ordered, said, path.name)
    return said


def _head(tensors: Mapping[str, torch.Tensor], metadata: Mapping[str, str]) -> bytes:
    """Length and JSON, padded so that the tensors begin at a multiple of 8."""
    header: dict[str, Any] = {"__metadata__": dict(metadata)} if metadata else {}
    start = 0
    for name, tensor in tensors.items():
        stop = start + tensor.numel() * tensor.dtype.itemsize
        header[name] = {
            "dtype": _DTYPE_NAMES[tensor.dtype],
            "shape": list(tensor.shape),
            "data_offsets": [start, stop],
        }
        start = stop
    text = json.dumps(header, ensure_ascii=False, separators=(",", ":")).encode("utf-8")
    text += b" " * (-len(text) % 8)
    return len(text).to_bytes(8, "little") + text


def _body(tensors: Mapping[str, torch.Tensor]) -> Iterator[memoryview]:
    """The tensors' bytes, one after another, without a copy of those that are whole already."""
    for tensor in tensors.values():
        flat = tensor.detach().cpu().contiguous().reshape(-1)
        yield flat.view(torch.uint8).numpy().data


def _hashes(tensors: Mapping[str, torch.Tensor], metadata: Mapping[str, str]) -> dict[str, str]:
    """The hash fields that kohya's scripts and the model spec keep in a file: sha256 of the tensors, and the old one.

    kohya takes the old one over a file that has only the ss_ fields; it is that of nothing for files below 1 MiB.
    """
    whole, window = hashlib.sha256(), hashlib.sha256()
    place = len(_head(tensors, {k: v for k, v in metadata.items() if k.startswith("ss_")}))
    for piece in _body(tensors):
        whole.update(piece)
        first, last = (max(0, edge - place) for edge in _LEGACY_WINDOW)
        window.update(piece[first:last])
        place += len(piece)
    digest = whole.hexdigest()
    return dict(zip(HASH_FIELDS, (digest, window.hexdigest()[:8], f"0x{digest}"), strict=True))


def _same(path: Path, head: bytes, tensors: Mapping[str, torch.Tensor]) -> bool:
    """Whether the file holds these very bytes."""
    with path.open("rb") as file:
        pieces: Iterable[bytes | memoryview] = (head, *_body(tensors))
        return all(file.read(len(piece)) == piece for piece in pieces) and not file.read(1)


def _check_written(
    path: Path, tensors: Mapping[str, torch.Tensor], metadata: Mapping[str, str], label: str
) -> None:
    """Read the file with the safetensors library, which did not write it, and compare bit by bit."""
    try:
        with safetensors.safe_open(path, framework="pt", device="cpu") as file:
            well = dict(file.metadata() or {}) == dict(metadata) and set(file.keys()) == set(
                tensors
            )
            for name, written in zip(tensors, _body(tensors), strict=True):
                well = well and next(_body({name: file.get_tensor(name)})) == written
    except (safetensors.SafetensorError, OSError) as error:
        raise SaveError(
            f"{label}: what was written cannot be read ({error}). Nothing was kept."
        ) from error
    if not well:
        raise SaveError(
            f"{label}: what was read back differs from what was written. Nothing was kept; is the disk sound?"
        )
