"""Names of LoRAs as the host lists them <-> files on disk. Nothing outside the loras folders is ever opened."""

from __future__ import annotations

import difflib
import os
import re
from collections.abc import Mapping
from pathlib import Path

import folder_paths
import torch

from ..errors import LoraFileError
from ..files.writer import write_by_content


def lora_names() -> list[str]:
    """All LoRA files of the loras folders, as relative paths with extension."""
    return list(folder_paths.get_filename_list("loras"))


def find_lora(name: str) -> tuple[str, Path]:
    """The host's own spelling of a LoRA's name, and its file.

    Separators of other systems and a missing .safetensors are understood; nothing else is guessed.
    Raises LoraFileError: the name leaves the folders, or no such file, with the nearest names.
    """
    wanted = name.replace("\\", "/")
    if wanted.startswith("/") or re.match(r"^[A-Za-z]:", wanted) or ".." in wanted.split("/"):
        raise LoraFileError(
            f"'{name}' points outside the loras folders. Give the name as the LoRA list shows it."
        )
    for spelling in dict.fromkeys((name, wanted, f"{wanted}.safetensors")):
        listed = os.path.normpath(spelling)
        path = folder_paths.get_full_path("loras", listed)
        if path is not None and os.path.isfile(path):
            return listed, Path(path)
    raise LoraFileError(_missing(name, wanted))


def keep_in_loras(tensors: Mapping[str, torch.Tensor]) -> str:
    """Write a LoRA that lives in memory into output/loras/loom, which the host lists, and return its listed name.

    The file is named by its content, so running again writes nothing new. Raises LoraFileError.
    """
    loras = Path(folder_paths.get_output_directory()) / "loras"
    path = write_by_content(tensors, loras / "loom")
    return find_lora(str(path.relative_to(loras)))[0]


def _missing(name: str, wanted: str) -> str:
    known = [listed.replace("\\", "/") for listed in lora_names()]
    if not known:
        return f"LoRA '{name}' not found: the loras folder is empty. Put the file into models/loras and refresh (R)."
    by_file = {Path(listed).name: listed for listed in known}
    close = difflib.get_close_matches(Path(wanted).name, list(by_file), n=3, cutoff=0.6)
    nearest = f" The nearest names: {', '.join(by_file[c] for c in close)}." if close else ""
    return (
        f"LoRA '{name}' not found in the loras folders.{nearest} "
        "Put the file into models/loras, or choose another; press R to refresh the list."
    )
