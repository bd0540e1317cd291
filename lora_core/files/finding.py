"""A LoRA as a workflow names it -> the file that it means. Pure: what is on disk comes in as a Shelf.

In this order: the name with the hash that the workflow stored; the same sha256 under another name; the same weights
under another name; otherwise refused. A different file under the same name is never used unless accepted.
"""

from __future__ import annotations

import difflib
import os
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path, PurePosixPath

from ..errors import LoraFileError
from .filenames import EXTENSION, bare, base_name, slashed
from .identity import FileHashes

# A name as people and other packs write it -> the name in the host's list. Raises LoraFileError.
FindName = Callable[[str], str]


@dataclass(frozen=True)
class Wanted:
    """What a workflow knows of a LoRA: a name, and hashes where it stored them.

    accept: the file under this name is used even if its hash is another. size: of the file in bytes.
    """

    name: str
    sha256: str | None = None
    autov3: str | None = None
    accept: bool = False
    size: int | None = None

    @property
    def hashed(self) -> bool:
        return self.sha256 is not None or self.autov3 is not None


@dataclass(frozen=True)
class Shelf:
    """The loras folders. Names are as the host lists them.

    hashes_of: None for a file that was not hashed yet. sizes_of: the sizes in bytes seen with a sha256, if any.
    size_of: the size of a file that is there.
    """

    names: Callable[[], Sequence[str]]
    path_of: Callable[[str], Path | None]
    hashes_of: Callable[[Path], FileHashes | None] = lambda path: None
    sizes_of: Callable[[str], frozenset[int]] = lambda sha256: frozenset()
    size_of: Callable[[Path], int] = lambda path: 0


@dataclass(frozen=True)
class Found:
    """name: as the host lists it. notes: what a person should know, for example that it was found by its hash."""

    name: str
    path: Path
    notes: tuple[str, ...] = ()


@dataclass(frozen=True)
class Undecided:
    """These files have to be hashed first. named: the one that the name alone means."""

    paths: tuple[Path, ...]
    named: Path | None = None


def find(wanted: Wanted, shelf: Shelf) -> Found | Undecided:
    """The file that is meant. Raises LoraFileError: the name leaves the folders, the file is another, or not there."""
    named = _named(wanted.name, shelf)
    if named is None:
        return _elsewhere(wanted, shelf, None)
    if not wanted.hashed:
        return named
    hashes = shelf.hashes_of(named.path)
    if hashes is None:
        return Undecided((named.path,), named.path)
    agreement = _agreement(wanted, hashes)
    if agreement is not None:
        return replace(named, notes=named.notes + agreement)
    in_place = not named.notes
    if wanted.accept and in_place:
        said = f"accepted as it is: it has {_has(wanted, hashes)}; the workflow was made with {_said(wanted)}"
        return replace(named, notes=(said,))
    return _elsewhere(wanted, shelf, named.path if in_place else None)


def find_name(name: str, shelf: Shelf) -> Found:
    """The file of this name, whatever its hash. Raises LoraFileError: the name leaves the folders, or is not there."""
    found = _named(name, shelf)
    if found is None:
        raise LoraFileError(_missing(Wanted(name), shelf))
    return found


def listed_name(name: str, listed: Sequence[str]) -> str:
    """find_name for a name that stands in a text, such as a tag: as the host lists it. Raises LoraFileError."""
    there = set(listed)
    shelf = Shelf(lambda: listed, lambda entry: Path(entry) if entry in there else None)
    return find_name(name.strip(), shelf).name


def lora_files(shelf: Shelf) -> dict[str, Path]:
    """Every listed file that could be read as a LoRA, by name."""
    names = (name for name in shelf.names() if name.lower().endswith(EXTENSION))
    paths = ((name, shelf.path_of(name)) for name in names)
    return {name: path for name, path in paths if path is not None}


def _named(name: str, shelf: Shelf) -> Found | None:
    """The file that the name alone means, with a note where it lies in another folder."""
    if (found := _listed(name, shelf)) is not None:
        return found
    candidates = _meant(name, shelf)
    listed = candidates[0] if len(candidates) == 1 else None
    path = shelf.path_of(listed) if listed is not None else None
    if listed is None or path is None:
        return None
    folder = PurePosixPath(slashed(name)).parent
    same = folder == PurePosixPath(slashed(listed)).parent
    note = f"found as {listed}; the workflow named {name}"
    return Found(listed, path, () if same else (note,))


def _agreement(wanted: Wanted, hashes: FileHashes) -> tuple[str, ...] | None:
    """None where the file is another; else what is to be said of it."""
    if wanted.sha256 is not None and hashes.sha256 == wanted.sha256:
        return ()
    if wanted.autov3 is None or hashes.autov3 != wanted.autov3:
        return None
    if wanted.sha256 is None:
        return ()
    return (f"its metadata was edited since; the weights are the same (AutoV3 {wanted.autov3})",)


def _elsewhere(wanted: Wanted, shelf: Shelf, refused: Path | None) -> Found | Undecided:
    """By hash alone. refused: the file under the wanted name, whose hash is another."""
    if not wanted.hashed:
        raise LoraFileError(_missing(wanted, shelf))
    files = lora_files(shelf)
    hashes = {name: shelf.hashes_of(path) for name, path in files.items()}
    match = _by_hash(wanted, {name: known for name, known in hashes.items() if known is not None})
    if match is not None:
        name, how = match
        said = f"found by its {how} as {name}; the workflow named {wanted.name}"
        return Found(name, files[name], (said,))
    unhashed = _to_hash(wanted, shelf, [files[name] for name in files if hashes[name] is None])
    if unhashed:
        return Undecided(tuple(dict.fromkeys(unhashed)), refused)
    found = shelf.hashes_of(refused) if refused is not None else None
    raise LoraFileError(_missing(wanted, shelf) if found is None else _refusal(wanted, found))


def _by_hash(wanted: Wanted, known: Mapping[str, FileHashes]) -> tuple[str, str] | None:
    """(name, how it was told). The same weights do as well as the same file: no more is hashed for the difference."""
    same_file = [name for name, hashes in known.items() if hashes.sha256 == wanted.sha256]
    same_weights = [
        name
        for name, hashes in known.items()
        if wanted.autov3 is not None and hashes.autov3 == wanted.autov3
    ]
    for how, names in (("hash", same_file), ("weights (AutoV3)", same_weights)):
        if names:
            return min(
                names, key=lambda name: (base_name(name) != base_name(wanted.name), name)
            ), how
    return None


def _to_hash(wanted: Wanted, shelf: Shelf, unhashed: list[Path]) -> list[Path]:
    """Those of the size that the wanted file has, where that is known; metadata that was edited changes the size."""
    sizes = frozenset() if wanted.sha256 is None else shelf.sizes_of(wanted.sha256)
    if wanted.sha256 is not None and wanted.size is not None:
        sizes |= {wanted.size}
    likely = [path for path in unhashed if shelf.size_of(path) in sizes]
    if likely or (sizes and wanted.autov3 is None):
        return likely
    return unhashed


def _listed(name: str, shelf: Shelf) -> Found | None:
    """The name itself, or in the separators of this system. Raises LoraFileError where it leaves the folders."""
    plain = slashed(name)
    if plain.startswith("/") or re.match(r"^[A-Za-z]:", plain) or ".." in plain.split("/"):
        raise LoraFileError(
            f"'{name:.300}' points outside the loras folders. Give the name as the LoRA list shows it."
        )
    for spelling in dict.fromkeys((name, plain)):
        listed = os.path.normpath(spelling)
        if (path := shelf.path_of(listed)) is not None:
            return Found(listed, path)
    return None


def _meant(name: str, shelf: Shelf) -> list[str]:
    """Every listed file that the name may mean: without its extension, or with other folders in front.

    One in the very folder goes before all others; of files that differ in the extension the one that can be opened.
    """
    wanted = PurePosixPath(slashed(name))
    found = [other for other in shelf.names() if _says(wanted, PurePosixPath(slashed(other)))]
    here = [other for other in found if PurePosixPath(slashed(other)).parent == wanted.parent]
    found = here if here and len(wanted.parts) > 1 else found
    alike = len({bare(slashed(other)) for other in found}) == 1
    readable = [other for other in found if other.lower().endswith(EXTENSION)]
    return readable if alike and len(readable) == 1 else found


def _says(wanted: PurePosixPath, listed: PurePosixPath) -> bool:
    """The same base name, the extension aside, and of the folders one the end of the other."""
    if not wanted.name or wanted.name not in (listed.name, bare(listed.name)):
        return False
    one, other = (path.parts[:-1][::-1] for path in (wanted, listed))
    return one[: len(other)] == other or other[: len(one)] == one


def _said(wanted: Wanted) -> str:
    """The hash that tells most, for messages."""
    return f"sha256 {wanted.sha256}" if wanted.sha256 is not None else f"AutoV3 {wanted.autov3}"


def _has(wanted: Wanted, hashes: FileHashes) -> str:
    """The same hash of a file that is there."""
    if wanted.sha256 is not None:
        return f"sha256 {hashes.sha256}"
    return f"AutoV3 {hashes.autov3 or 'none (no safetensors file)'}"


def _refusal(wanted: Wanted, hashes: FileHashes) -> str:
    return (
        f"LoRA '{wanted.name:.300}': the file of this name has {_has(wanted, hashes)}; the workflow was made with "
        f"{_said(wanted)}, and no file in the loras folders has that. Get that file under any name; or, to use the "
        'one that is there, set "accept": true beside the hash (in the row of Loom Stack; in lora_lock of Loom '
        "Loader, an advanced input, which may also be cleared)."
    )


def _missing(wanted: Wanted, shelf: Shelf) -> str:
    names = [slashed(name) for name in shelf.names()]
    if not names:
        return (
            f"LoRA '{wanted.name:.300}' not found: the loras folder is empty. "
            f"Put the file into models/loras and refresh (R).{_whereabouts(wanted)}"
        )
    several = sorted(slashed(name) for name in _meant(wanted.name, shelf))
    if len(several) > 1 and not wanted.hashed:
        return (
            f"LoRA not found by this name alone: '{wanted.name:.300}' may be {' or '.join(several)}. "
            "Write the name with its folder and extension."
        )
    hashed = f", nor a file with {_said(wanted)} under another name" if wanted.hashed else ""
    near = _nearest(base_name(wanted.name), names)
    nearest = f" The nearest names: {', '.join(near)}." if near else ""
    return (
        f"LoRA '{wanted.name:.300}' not found in the loras folders{hashed}.{nearest} "
        f"Put the file into models/loras, or choose another; press R to refresh the list.{_whereabouts(wanted)}"
    )


def _whereabouts(wanted: Wanted) -> str:
    """What to search for, and where, to get a file of which only the hash is known. Nothing is looked up here."""
    if not wanted.hashed:
        return ""
    short = (wanted.sha256 or "")[:10]
    words = " or ".join(text.upper() for text in (short, wanted.autov3) if text)
    size = f" ({wanted.size:,} bytes)" if wanted.size else ""
    return f" To get the very file{size}: search civitai.com or the web for its hash ({words}), or ask who made the workflow."


def _nearest(base: str, names: list[str]) -> list[str]:
    """Up to three names whose last part is alike, the most alike first. The extension, which all share, counts not."""
    by_base: dict[str, list[str]] = {}
    for name in names:
        by_base.setdefault(bare(base_name(name)), []).append(name)
    close = difflib.get_close_matches(bare(base), list(by_base), n=3, cutoff=0.6)
    return [name for alike in close for name in by_base[alike]][:3]
