"""A LoRA's name as people and other packs write it -> the name in the host's list."""

from __future__ import annotations

import difflib
from collections.abc import Callable, Sequence

from ..errors import LoraFileError
from ..files.finding import slashed

FindName = Callable[[str], str]

_EXTENSIONS = (".safetensors", ".sft", ".ckpt", ".pt", ".pth", ".bin")


def listed_name(name: str, listed: Sequence[str]) -> str:
    """The one listed name that is meant: `name` itself, or without its extension, or without folder and extension.

    Separators of other systems are understood. Nothing is guessed: raises LoraFileError where two files would do
    (naming them) or none does (naming the nearest). Of files that differ in the extension the .safetensors one is
    meant: the others cannot be opened.
    """
    wanted = slashed(name).strip()
    spelled = {entry: slashed(entry) for entry in listed}
    exact = [entry for entry, path in spelled.items() if path == wanted]
    if exact:
        return exact[0]
    found = [entry for entry, path in spelled.items() if wanted in _short_forms(path)]
    if len(found) > 1:
        readable = [entry for entry in found if entry.lower().endswith(_EXTENSIONS[0])]
        alike = len({_bare(spelled[entry]) for entry in found}) == 1
        found = readable if alike and len(readable) == 1 else found
    if len(found) > 1:
        raise LoraFileError(
            f"'{name}' may be {' or '.join(sorted(found))}. Write the name with its folder and extension."
        )
    if not found:
        raise LoraFileError(_missing(name, wanted, list(spelled.values())))
    return found[0]


def short_name(name: str) -> str:
    """The name without folder and extension, for labels."""
    return _bare(_file(slashed(name)))


def _short_forms(path: str) -> tuple[str, str, str]:
    return _bare(path), _file(path), _bare(_file(path))


def _bare(path: str) -> str:
    """Without a file extension; a dot inside a name ("style.v2") is not one."""
    ending = next((end for end in _EXTENSIONS if path.lower().endswith(end)), "")
    return path[: len(path) - len(ending)]


def _file(path: str) -> str:
    return path.rpartition("/")[2]


def _missing(name: str, wanted: str, paths: list[str]) -> str:
    bare = _bare(_file(wanted))
    by_bare = {_bare(_file(path)): path for path in paths}
    close = difflib.get_close_matches(bare, list(by_bare), n=3, cutoff=0.6)
    nearest = f" The nearest names: {', '.join(by_bare[c] for c in close)}." if close else ""
    return f"LoRA '{name}' not found in the loras folders.{nearest}"
