"""Names of LoRA files as people, other systems and other packs write them."""

from __future__ import annotations

from pathlib import PurePosixPath

EXTENSION = ".safetensors"
# What a listed name may end in; only the first can be opened.
_EXTENSIONS = (EXTENSION, ".sft", ".ckpt", ".pt", ".pth", ".bin")


def slashed(name: str) -> str:
    """A name with / between its folders: systems that share a workflow write other separators."""
    return name.replace("\\", "/")


def bare(name: str) -> str:
    """Without a file extension; a dot inside a name ("style.v2") is not one."""
    ending = next((end for end in _EXTENSIONS if name.lower().endswith(end)), "")
    return name[: len(name) - len(ending)]


def base_name(name: str) -> str:
    return PurePosixPath(slashed(name)).name


def short_name(name: str) -> str:
    """The name without folder and extension, for labels."""
    return bare(base_name(name))
