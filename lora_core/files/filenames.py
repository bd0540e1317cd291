"""Names of LoRA files as people, other systems and other packs write them."""

from __future__ import annotations

from pathlib import PurePosixPath

EXTENSION = ".safetensors"
# What a listed name may end in; only the first can be opened.
_EXTENSIONS = (EXTENSION, ".sft", ".ckpt", ".pt", ".pth", ".bin")
# Of one part of a name; systems allow 255, and a number, an extension or a temporary name come to it.
MOST_BYTES = 200
# Of a name with its folders.
_MOST_IN_ALL = 800


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


def is_short(name: str) -> bool:
    """Whether every system can write a file of this name: text that has an encoding, no part of it too long."""
    try:
        encoded = slashed(name).encode("utf-8")
    except UnicodeEncodeError:
        return False
    return len(encoded) <= _MOST_IN_ALL and max(map(len, encoded.split(b"/"))) <= MOST_BYTES
