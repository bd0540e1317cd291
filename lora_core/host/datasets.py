"""What LoomDataset calls: widgets -> dataset, report and contact sheet. Knows the host's folders and progress."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import comfy.utils
import folder_paths
import numpy as np
import torch

from ..errors import DatasetError
from ..train.batch import read_batch
from ..train.checks import findings
from ..train.dataset import Dataset, DatasetSettings, Found
from ..train.dataset_report import dataset_report
from ..train.folder import Progress, folder_stamp, parse_edited, read_folder
from ..train.samples import Plan
from ..train.sheet import contact_sheet


@dataclass(frozen=True)
class Made:
    """A dataset, what is to be said about it, and its contact sheet as (1, H, W, 3) floats 0..1."""

    dataset: Dataset
    report: str
    sheet: torch.Tensor


def make_dataset(
    settings: DatasetSettings,
    folder: str,
    regularisation: str,
    captions: str,
    repeats: int,
    images: torch.Tensor | None = None,
    masks: torch.Tensor | None = None,
    typed: tuple[bool, bool] = (False, False),
) -> Made:
    """From a folder or from an IMAGE batch, whichever is given. Raises LoraError.

    typed: whether folder and regularisation were typed into their widgets; only then may they be absolute.
    """
    found = _concept(folder, captions, repeats, images, masks, typed[0])
    prior = Found(())
    if regularisation.strip():
        root = find_folder(regularisation, typed[1])
        prior = read_folder(root, regularisation=True, on_picture=_progress())
    notes = (*found.notes, *(f"regularisation: {note}" for note in prior.notes))
    dataset = Dataset((*found.images, *prior.images), settings, notes)
    plan = Plan(dataset)
    doubts = findings(plan)
    sheet = np.asarray(contact_sheet(plan, doubts)).astype(np.float32) / 255
    return Made(dataset, dataset_report(plan, doubts), torch.from_numpy(sheet)[None])


def find_folder(text: str, typed: bool) -> Path:
    """A folder inside ComfyUI's input folder, or an absolute path where the user typed it. Raises DatasetError."""
    wanted = text.strip().strip('"')
    path = Path(os.path.expanduser(wanted))
    if path.is_absolute():
        if not typed:
            raise DatasetError(
                f"'{wanted}' is an absolute path that came from another node. Type it into the widget yourself, "
                "or give the name of a folder inside ComfyUI's input folder."
            )
    else:
        path = _in_input(wanted)
    if not os.path.isdir(path):
        raise DatasetError(
            f"There is no folder '{wanted}'. Give the name of a folder inside ComfyUI's input folder "
            f"({_folders_there()}), or the absolute path of any other."
        )
    return path.resolve()


def folders_stamp(*folders: str | None) -> str:
    """Changes when any file of these folders does; what a node's IS_CHANGED returns. Raises DatasetError."""
    named = [folder for folder in folders if folder and folder.strip()]
    stamps = [folder_stamp(find_folder(folder, typed=True)) for folder in named]
    return hashlib.sha256(repr(stamps).encode()).hexdigest()


def check_folders(*folders: str | None) -> None:
    """Raises DatasetError for the first folder that is not there, so that a graph fails before it runs."""
    for folder in folders:
        if folder and folder.strip():
            find_folder(folder, typed=True)


def typed_here(prompt: Mapping[str, Any] | None, node: str | None, name: str) -> bool:
    """Whether an input of a node stands in the prompt as text, not as a link to another node."""
    inputs = (prompt or {}).get(str(node), {}).get("inputs", {})
    return isinstance(inputs.get(name), str)


def _concept(
    folder: str,
    captions: str,
    repeats: int,
    images: torch.Tensor | None,
    masks: torch.Tensor | None,
    typed: bool,
) -> Found:
    if images is not None:
        if folder.strip():
            raise DatasetError(
                f"Both IMAGE is connected and the folder '{folder.strip()}' is named. Use one of them."
            )
        return read_batch(images, captions, repeats, masks)
    if not folder.strip():
        raise DatasetError(
            "There is nothing to learn from. Name a folder inside ComfyUI's input folder "
            f"({_folders_there()}), type an absolute path, or connect IMAGE."
        )
    if masks is not None:
        raise DatasetError(
            "MASK goes with IMAGE. With a folder put masks beside the pictures: a_mask.png beside a.png."
        )
    root = find_folder(folder, typed)
    return read_folder(root, parse_edited(captions), repeats, on_picture=_progress())


def _in_input(name: str) -> Path:
    parts = name.replace("\\", "/").split("/")
    if ".." in parts or ":" in name or parts[0] in ("", "~"):
        raise DatasetError(
            f"'{name}' points outside ComfyUI's input folder. Give the name of a folder in it, or an absolute path."
        )
    return Path(folder_paths.get_input_directory()).joinpath(*parts)


def _folders_there() -> str:
    try:
        entries = sorted(os.scandir(folder_paths.get_input_directory()), key=lambda e: e.name)
    except OSError:
        return "none there"
    names = [entry.name for entry in entries if entry.is_dir() and not entry.name.startswith(".")]
    return f"there: {', '.join(names[:10])}" if names else "none there"


def _progress() -> Progress:
    """A callback that moves the node's progress bar; the host raises from it when the user interrupts."""
    bars: list[comfy.utils.ProgressBar] = []

    def on_picture(done: int, total: int) -> None:
        if not bars:
            bars.append(comfy.utils.ProgressBar(total))
        bars[0].update_absolute(done, total)

    return on_picture
