"""What the header of a LoRA file tells: its modules with their ranks and alphas, without reading its weights."""

from __future__ import annotations

from io import FileIO
from pathlib import Path

import torch

from ..adapters import AdapterFile
from ..errors import LoraFileError
from .header import Entry, Unreadable, read_header
from .parse import parse_state_dict
from .reader import file_stamp

# Alphas and shapes are numbers that the parser reads; a file has one or two for each module.
_READ = 16
_MOST_READ = 20_000


def read_outline(path: Path, label: str) -> AdapterFile:
    """The file's modules with tensors that have shapes and dtypes but no values (device "meta"), except tiny ones.

    Costs the header and a few bytes for each module, whatever the file's size. Raises LoraFileError, LoraKeyError.
    """
    if path.suffix.lower() != ".safetensors":
        raise LoraFileError(f"{label}: not a .safetensors file, so it is not opened.")
    size = file_stamp(path)[2]
    try:
        with path.open("rb", buffering=0) as file:
            header = read_header(file, size)
            tensors = _tensors(file, header.entries, size - header.body)
    except (Unreadable, OSError) as error:
        raise LoraFileError(f"{label}: not a readable safetensors file ({error}).") from error
    return parse_state_dict(tensors, label, header.metadata, checked=True)


def _tensors(file: FileIO, entries: tuple[Entry, ...], start: int) -> dict[str, torch.Tensor]:
    """start: where in the file the tensors begin."""
    tensors, read = {}, 0
    for entry in entries:
        count = entry.stop - entry.start
        tiny = 0 < count <= _READ * entry.dtype.itemsize
        read += tiny
        if read > _MOST_READ:
            raise Unreadable(
                f"it holds more than {_MOST_READ} single numbers, far more than any LoRA"
            )
        tensors[entry.name] = (
            _value(file, entry, start)
            if tiny
            else torch.empty(entry.shape, dtype=entry.dtype, device="meta")
        )
    return tensors


def _value(file: FileIO, entry: Entry, start: int) -> torch.Tensor:
    file.seek(start + entry.start)
    data = file.read(entry.stop - entry.start)
    if len(data) != entry.stop - entry.start:
        raise Unreadable("it ended early while it was read")
    return torch.frombuffer(bytearray(data), dtype=entry.dtype).reshape(entry.shape)
