"""A folder of pictures with captions, masks and kohya repeats -> TrainImages."""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from ..errors import DatasetError
from ..files.cache import BoundedCache
from ..files.reader import FileStamp, file_stamp
from .dataset import Found, TrainImage
from .measures import Measures, measure
from .pictures import SUFFIXES, check_mask, open_mask, open_picture
from .text_files import METADATA, SIDECARS, one_line, read_caption, read_metadata

MOST_PICTURES, MOST_FILES = 20_000, 100_000
_MASK_FOLDERS = ("mask", "masks")
_MASK_ENDINGS = ("-masklabel", "_mask", "-mask")
_KOHYA_NAME = re.compile(r"^(\d+)_(.+)$")
_SHOWN = 10

Progress = Callable[[int, int], None]
# Measuring decodes the whole picture; an unchanged file is measured once. Thumbnails are most of it.
_measured: BoundedCache[FileStamp, Measures] = BoundedCache(256 << 20)


@dataclass(frozen=True, eq=False)
class _Files:
    """Files of a folder by path relative to it, with forward slashes, in a fixed order."""

    root: Path
    names: tuple[str, ...]

    @cached_property
    def known(self) -> frozenset[str]:
        return frozenset(self.names)

    def captions(self) -> tuple[dict[str, str], list[str]]:
        """Captions of all metadata.jsonl by picture, and notes on names that are no picture here."""
        captions, notes = {}, []
        for name in self.names:
            folder, _, file = name.rpartition("/")
            if file.lower() != METADATA:
                continue
            for entry, caption in read_metadata(self.root / name, name).items():
                picture = f"{folder}/{entry}" if folder else entry
                if picture not in self.known:
                    notes.append(f"{name} names '{entry}', which is not in the folder.")
                captions[picture] = caption
        return captions, notes


def read_folder(
    root: Path,
    edited: Mapping[str, str] | None = None,
    repeats: int = 1,
    regularisation: bool = False,
    on_picture: Progress = lambda done, total: None,
) -> Found:
    """All pictures of a folder and its sub-folders. Raises DatasetError that names every file at fault.

    Captions come from `edited` (file name -> caption), else a sidecar (a.txt or a.caption beside a.png), else
    metadata.jsonl, else the kohya folder name. A folder 5_name repeats its pictures five times, times `repeats`.
    Masks are a-masklabel.png, a_mask.png or a-mask.png beside a.png, or a file of that stem in a folder `masks` there.
    on_picture: is called with (done, total) after each picture.
    """
    files = _files_of(root)
    captions, notes = files.captions()
    masks, pictures = _split_masks(files.names)
    _check_count(root, pictures)
    given = _matched(edited or {}, pictures)
    images, faults = [], []
    for done, name in enumerate(pictures, 1):
        try:
            images.append(
                _image(files, name, masks.get(name), captions, given, repeats, regularisation)
            )
        except DatasetError as fault:
            faults.append(str(fault))
        on_picture(done, len(pictures))
    if faults:
        raise DatasetError(_joined_faults(faults))
    return Found(tuple(images), (*notes, *_left_aside(files.names, pictures, masks)))


def parse_edited(text: str) -> dict[str, str]:
    """The captions widget for a folder: lines of "file name: caption". Raises DatasetError that names the line."""
    edited: dict[str, str] = {}
    for number, line in enumerate(text.splitlines(), 1):
        name, colon, caption = line.partition(":")
        if not line.strip():
            continue
        if not colon:
            raise DatasetError(
                f"Captions, line {number}: '{line.strip():.80}' names no file. With a folder write "
                "'file name: caption' for each caption to change; the rest is read from the folder."
            )
        edited[name.strip().replace("\\", "/")] = one_line(caption)
    return edited


def folder_stamp(root: Path) -> tuple[tuple[str, int, int], ...]:
    """(name, time, size) of every file: changes when anything in the folder does. Raises DatasetError."""
    files = _files_of(root)
    return tuple((name, *file_stamp(root / name)[1:]) for name in files.names)


def _files_of(root: Path) -> _Files:
    """Hidden files and folders are left out; links to folders are not followed."""
    names = []
    for folder, folders, files in os.walk(root):
        folders[:] = sorted(name for name in folders if not name.startswith((".", "__")))
        here = Path(folder)
        names += [
            (here / file).relative_to(root).as_posix()
            for file in files
            if not file.startswith(".") and (here / file).is_file()
        ]
        if len(names) > MOST_FILES:
            raise DatasetError(
                f"The folder '{root.name or root}' has more than {MOST_FILES} files in it and below. Choose the "
                "folder with the pictures alone."
            )
    return _Files(root, tuple(sorted(names, key=lambda name: (name.casefold(), name))))


def _split_masks(names: Sequence[str]) -> tuple[dict[str, str], list[str]]:
    """({picture: its mask}, pictures without masks). A file counts as a mask only where its picture exists."""
    pictures = [name for name in names if Path(name).suffix.lower() in SUFFIXES]
    by_stem: dict[str, list[str]] = {}
    for name in pictures:
        by_stem.setdefault(_stem(name), []).append(name)
    masks: dict[str, str] = {}
    for name in pictures:
        for owner in by_stem.get(_owner_stem(name) or "", ()):
            masks[owner] = name
    used = set(masks.values())
    return masks, [name for name in pictures if name not in used]


def _owner_stem(name: str) -> str | None:
    """The stem of the picture that a file would be the mask of, by its name."""
    parts = _stem(name).split("/")
    if len(parts) > 1 and parts[-2].lower() in _MASK_FOLDERS:
        return "/".join([*parts[:-2], parts[-1]])
    for ending in _MASK_ENDINGS:
        if parts[-1].lower().endswith(ending):
            return "/".join([*parts[:-1], parts[-1][: -len(ending)]])
    return None


def _stem(name: str) -> str:
    return name[: len(name) - len(Path(name).suffix)]


def _image(
    files: _Files,
    name: str,
    mask: str | None,
    metadata: Mapping[str, str],
    edited: Mapping[str, str],
    repeats: int,
    regularisation: bool,
) -> TrainImage:
    path = files.root / name
    measures = _measures(path, name)
    if mask is not None:
        check_mask(open_mask(files.root / mask, mask), measures.size, mask)
    folder_repeats, folder_words = _kohya(files.root, name)
    caption, origin = _caption(files, name, metadata, edited, folder_words)
    return TrainImage(
        name=name,
        source=path,
        measures=measures,
        caption=caption,
        repeats=folder_repeats * repeats,
        mask=None if mask is None else files.root / mask,
        origin=origin,
        regularisation=regularisation,
    )


def _measures(path: Path, name: str) -> Measures:
    stamp = file_stamp(path)
    known = _measured.get(stamp)
    if known is None:
        known = measure(open_picture(path, name))
        _measured.put(stamp, known, known.nbytes)
    return known


def _kohya(root: Path, name: str) -> tuple[int, str]:
    """(repeats, words) of the nearest folder named like 5_words, the dataset folder itself included; (1, "") else."""
    for folder in [*reversed(name.split("/")[:-1]), root.name]:
        match = _KOHYA_NAME.match(folder)
        if match:
            if match[1].strip("0") == "" or len(match[1]) > 4:
                raise DatasetError(
                    f"{name}: the folder name '{folder}' asks for {match[1]} repeats; use 1 to 9999."
                )
            return int(match[1]), one_line(match[2])
    return 1, ""


def _caption(
    files: _Files,
    name: str,
    metadata: Mapping[str, str],
    edited: Mapping[str, str],
    folder_words: str,
) -> tuple[str, str]:
    if name in edited:
        return edited[name], "graph"
    for ending in SIDECARS:
        sidecar = _stem(name) + ending
        if sidecar in files.known:
            return read_caption(files.root / sidecar, sidecar), "sidecar"
    if name in metadata:
        return metadata[name], "metadata"
    return folder_words, "folder name" if folder_words else ""


def _matched(edited: Mapping[str, str], pictures: Sequence[str]) -> dict[str, str]:
    """The edited captions by picture: full names inside the folder, or bare file names that are there once."""
    found: dict[str, str] = {}
    for name, caption in edited.items():
        fitting = [
            p for p in pictures if name in (p, _stem(p), Path(p).name, Path(Path(p).name).stem)
        ]
        exact = [picture for picture in fitting if picture == name] or fitting
        if len(exact) != 1:
            what = f"stands for {len(exact)} pictures" if exact else "is no picture of the folder"
            raise DatasetError(
                f"Captions: '{name}' {what}. Give the name as the report lists it, for example '{pictures[0]}'."
            )
        found[exact[0]] = caption
    return found


def _check_count(root: Path, pictures: Sequence[str]) -> None:
    if not pictures:
        raise DatasetError(
            f"The folder '{root.name}' has no pictures ({', '.join(sorted(SUFFIXES))}). Put 10 to 30 pictures "
            "into it, or choose another folder."
        )
    if len(pictures) > MOST_PICTURES:
        raise DatasetError(
            f"The folder '{root.name}' has {len(pictures)} pictures; at most {MOST_PICTURES} are read. Is it the "
            "right folder?"
        )


def _joined_faults(faults: Sequence[str]) -> str:
    shown = faults[:_SHOWN]
    if len(faults) > _SHOWN:
        shown = [*shown, f"and {len(faults) - _SHOWN} more files with faults."]
    return "\n".join(shown)


def _left_aside(
    names: Sequence[str], pictures: Sequence[str], masks: Mapping[str, str]
) -> list[str]:
    """Notes on files that were not used, by kind."""
    stems = {_stem(name) for name in pictures}
    used = {*pictures, *masks.values()}
    rest = [
        name
        for name in names
        if name not in used
        and name.rpartition("/")[2].lower() != METADATA
        and not (name.endswith(SIDECARS) and _stem(name) in stems)
    ]
    if not rest:
        return []
    more = f" and {len(rest) - _SHOWN} more" if len(rest) > _SHOWN else ""
    return [f"Left aside, neither pictures nor captions of one: {', '.join(rest[:_SHOWN])}{more}."]
