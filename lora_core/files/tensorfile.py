"""A large safetensors file read one tensor at a time: checkpoints that must not be in memory as a whole."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import torch

from ..errors import LoraFileError
from .header import Entry, Unreadable, read_header
from .reader import file_stamp


@dataclass(frozen=True)
class TensorFile:
    """entries: by tensor name. body: where in the file the tensors begin."""

    path: Path
    label: str
    entries: Mapping[str, Entry]
    body: int

    def read(self, name: str) -> torch.Tensor:
        """One tensor as it is stored. Raises LoraFileError where the file was cut short meanwhile."""
        entry = self.entries[name]
        count = entry.stop - entry.start
        memory = torch.empty(count, dtype=torch.uint8)
        with self.path.open("rb", buffering=0) as file:
            file.seek(self.body + entry.start)
            view, done = memory.numpy().data, 0
            while done < count:
                read = file.readinto(view[done:])
                if not read:
                    raise LoraFileError(
                        f"{self.label}: it ended {count - done} bytes early at '{name}'. "
                        "Was it replaced while it was read? Run again."
                    )
                done += read
        return memory.view(entry.dtype).reshape(entry.shape)


def open_tensors(path: Path, label: str) -> TensorFile:
    """Check the header of a safetensors file. Raises LoraFileError."""
    if path.suffix.lower() not in (".safetensors", ".sft"):
        raise LoraFileError(
            f"{label}: not a .safetensors file. Other formats can carry code and are not opened; "
            "load it with a checkpoint loader and connect its MODEL."
        )
    size = file_stamp(path)[2]
    try:
        with path.open("rb", buffering=0) as file:
            header = read_header(file, size)
            body = file.tell()
    except (Unreadable, OSError) as error:
        raise LoraFileError(
            f"{label}: not a readable safetensors file ({size} bytes; {error}). Download or save it again."
        ) from error
    entries = {entry.name: entry for entry in header.entries}
    return TensorFile(path, label, entries, body)
