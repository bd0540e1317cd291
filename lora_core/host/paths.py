"""Names of LoRAs as the host lists them <-> files on disk. Nothing outside the loras folders is ever opened."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path

import folder_paths
import torch

from ..files.finding import Shelf, find_name
from ..files.writer import write_by_content


def lora_names() -> list[str]:
    """All LoRA files of the loras folders, as relative paths with extension."""
    return list(folder_paths.get_filename_list("loras"))


def index_file() -> Path:
    """Where hashes are kept: in the host's user folder, out of reach of its HTTP routes."""
    return Path(folder_paths.get_system_user_directory("lora_loom")) / "index.json"


def shelf() -> Shelf:
    """The loras folders as the finder sees them, by name only."""
    return Shelf(lora_names, _path_of, size_of=lambda path: path.stat().st_size)


def find_lora(name: str) -> tuple[str, Path]:
    """The host's own spelling of a LoRA's name, and its file, by the name alone: see files.finding.

    Raises LoraFileError: the name leaves the folders, or no such file, with the nearest names.
    """
    found = find_name(name, shelf())
    return found.name, found.path


def keep_in_loras(
    tensors: Mapping[str, torch.Tensor], metadata: Mapping[str, str] | None = None
) -> str:
    """Write a LoRA that lives in memory into output/loras/loom, which the host lists, and return its listed name.

    The file is named by its content, so running again writes nothing new. Raises LoraFileError.
    """
    loras = Path(folder_paths.get_output_directory()) / "loras"
    path = write_by_content(tensors, loras / "loom", metadata)
    return find_lora(str(path.relative_to(loras)))[0]


def _path_of(listed: str) -> Path | None:
    path = folder_paths.get_full_path("loras", listed)
    return Path(path) if path is not None and os.path.isfile(path) else None
