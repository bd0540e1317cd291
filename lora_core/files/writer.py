"""State dict -> file, never half-written."""

from __future__ import annotations

import hashlib
import os
import uuid
from collections.abc import Mapping
from pathlib import Path

import safetensors.torch
import torch

from ..errors import LoraFileError


def write_by_content(tensors: Mapping[str, torch.Tensor], folder: Path) -> Path:
    """Write a LoRA (contiguous CPU tensors) under a name made from its bytes: the same LoRA gives the same file.

    The bytes go to a temporary file first, are synced, and take their name in one step. Raises LoraFileError.
    """
    data = safetensors.torch.save({key: tensor.contiguous() for key, tensor in tensors.items()})
    path = folder / f"{hashlib.sha256(data).hexdigest()[:16]}.safetensors"
    if not path.exists():
        write_bytes(data, path)
    return path


def write_bytes(data: bytes, path: Path) -> None:
    """Write to a temporary file beside `path`, sync, and take the name in one step. Raises LoraFileError."""
    temporary = path.with_name(f".{path.stem}-{uuid.uuid4().hex}.tmp")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with temporary.open("xb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except OSError as error:
        raise LoraFileError(
            f"{path.name}: writing {len(data)} bytes failed ({error.strerror})."
        ) from error
    finally:
        temporary.unlink(missing_ok=True)
