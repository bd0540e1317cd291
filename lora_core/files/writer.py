"""State dict -> file, never half-written."""

from __future__ import annotations

import hashlib
import os
import tempfile
from collections.abc import Mapping
from pathlib import Path

import safetensors.torch
import torch

from ..errors import LoraFileError


def write_by_content(tensors: Mapping[str, torch.Tensor], folder: Path) -> Path:
    """Write a LoRA under a name made from its bytes: the same LoRA gives the same file, written once.

    The bytes go to a temporary file first, are synced, and take their name in one step. Raises LoraFileError.
    """
    data = safetensors.torch.save({k: t.detach().cpu().contiguous().clone() for k, t in tensors.items()})
    path = folder / f"{hashlib.sha256(data).hexdigest()[:16]}.safetensors"
    if not path.exists():
        _write_bytes(data, path)
    return path


def _write_bytes(data: bytes, path: Path) -> None:
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.stem}-", suffix=".tmp")
    except OSError as error:
        raise LoraFileError(f"{path.name}: cannot be written to {path.parent.name} ({error.strerror}).") from error
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except OSError as error:
        os.unlink(temporary)
        raise LoraFileError(f"{path.name}: writing {len(data)} bytes failed ({error.strerror}).") from error
