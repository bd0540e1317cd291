"""The pictures of a sweep: on a sheet in the output folder with a JSON beside it, and as a chart of what matters."""

from __future__ import annotations

import io
import json
import os
import uuid
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import folder_paths
import numpy as np
import torch
from comfy.cli_args import args
from PIL import Image
from PIL.PngImagePlugin import PngInfo

from ..analysis.draw import as_images
from ..errors import SweepError
from ..files.filenames import is_short
from ..files.writer import write_bytes
from ..sweep.draw_effect import effect_chart
from ..sweep.effect import as_points, effect_json, effect_table, effects
from ..sweep.points import Sweep
from ..sweep.record import VERSION, axis, graph_words, place, sheet_record
from ..sweep.sheet import draw_sheet

# As core's nodes compress what they save, and what they only show.
_SAVED, _SHOWN = 4, 1
_File = dict[str, str]


@dataclass(frozen=True)
class Saved:
    """sheets: (batch, height, width, 3) of 0 to 1. record: the JSON of the first. ui: for the page."""

    sheets: torch.Tensor
    record: str
    ui: dict[str, list[Any]]


@dataclass(frozen=True)
class Shown:
    """chart: (1, height, width, 3) of 0 to 1. record: JSON."""

    chart: torch.Tensor
    report: str
    record: str


def save_sheets(
    images: Sequence[torch.Tensor],
    sweep: Sweep,
    prefix: str,
    cell: int,
    text: str,
    prompt: Any = None,
    node_id: str | None = None,
    extra: Any = None,
) -> Saved:
    """Draw and save a sheet for each picture of the batch. images: (batch, height, width, 3) for each point.

    text: what the head says, "" for the graph's prompt and seed. prompt, extra: what the host saves with a picture.
    Raises SweepError; LoraFileError where nothing can be written.
    """
    points = as_points(images, sweep, "pictures")
    batch = {len(point) for point in points}
    if len(batch) != 1:
        raise SweepError(
            f"The points have different numbers of pictures: {sorted(batch)}. Give all of them one batch size."
        )
    found = graph_words(prompt, node_id)
    words = text.strip() or found.text
    run = uuid.uuid4().hex[:12]
    sheets, records, files, beside, cells = [], [], [], [], []
    for number in range(batch.pop()):
        pictures = [_picture(point[number]) for point in points]
        sheet = draw_sheet(sweep, pictures, cell, words)
        path, where = _next_file(prefix, sheet.image)
        record = sheet_record(sweep, sheet.boxes, path.name, words, found)
        write_bytes(_png(sheet.image, _SAVED, prompt, extra), path)
        write_bytes(record.encode("utf-8"), path.with_suffix(".json"))
        sheets.append(sheet.image)
        records.append(record)
        files.append(where)
        beside.append(where | {"filename": path.with_suffix(".json").name})
        cells.append(_cells(sweep, pictures, f"loom_sweep_{run}_{number}"))
    by_point = [each for same in zip(*cells, strict=True) for each in same]
    whole = {
        "version": VERSION,
        "x": axis(sweep.x),
        "y": axis(sweep.y),
        "text": words,
        "prompt": found.prompt,
        "seed": found.seed,
        "sheets": files,
        "json": beside,
    }
    ui = {"images": files, "loom_grid": by_point, "loom_sweep": [whole]}
    return Saved(as_images(sheets), records[0], ui)


def show_effects(
    sweep: Sweep, images: Sequence[torch.Tensor], latents: Sequence[Mapping[str, Any]] | None
) -> Shown:
    """Measure and draw what each point changes. latents: as the LATENT socket has them. Raises SweepError."""
    hidden = None if latents is None else [latent["samples"] for latent in latents]
    found = effects(sweep, images, hidden)
    return Shown(as_images([effect_chart(found)]), effect_table(found), effect_json(found))


def _cells(sweep: Sweep, pictures: Sequence[Image.Image], name: str) -> list[dict[str, Any]]:
    """Every picture in full size among the host's temporary files, for the page to show."""
    folder = Path(folder_paths.get_temp_directory())
    batch = int(name.rpartition("_")[2])
    found = []
    for index, (point, picture) in enumerate(zip(sweep.points, pictures, strict=True)):
        path = folder / f"{name}_{index:04}.png"
        write_bytes(_png(picture, _SHOWN), path)
        file = {"filename": path.name, "subfolder": "", "type": "temp"}
        found.append({"file": file, "batch": batch} | place(point))
    return found


def _next_file(prefix: str, image: Image.Image) -> tuple[Path, _File]:
    """The next free name in the output folder, as core's Save Image counts. Raises SweepError."""
    output = folder_paths.get_output_directory()
    _check_prefix(prefix, Path(output))
    folder, name, counter, subfolder, _ = folder_paths.get_save_image_path(
        prefix, output, image.width, image.height
    )
    path = Path(folder) / f"{name}_{counter:05}_.png"
    # The host counts from 1 again where the name ends in a slash.
    while path.exists() or path.with_suffix(".json").exists():
        counter += 1
        path = path.with_name(f"{name}_{counter:05}_.png")
    return path, {"filename": path.name, "subfolder": subfolder, "type": "output"}


def _check_prefix(prefix: str, output: Path) -> None:
    """Raises SweepError for what the host refuses without a word to the person, or cannot write."""
    inside = Path(os.path.abspath(output / prefix)).is_relative_to(os.path.abspath(output))
    if not inside or "\0" in prefix or not is_short(prefix):
        raise SweepError(
            f"filename_prefix {prefix[:300]!r} is no place in the output folder. Write a name such as loom/sweep."
        )


def _picture(pixels: torch.Tensor) -> Image.Image:
    """(height, width, channels) of 0 to 1 as a picture of three channels."""
    values = (pixels[..., :3].float().cpu().numpy() * 255.0).clip(0, 255).astype(np.uint8)
    return Image.fromarray(values).convert("RGB")


def _png(image: Image.Image, level: int, prompt: Any = None, extra: Any = None) -> bytes:
    """The picture with the graph in it, unless the host was started without metadata."""
    info = PngInfo()
    if not args.disable_metadata:
        if prompt is not None:
            info.add_text("prompt", json.dumps(prompt))
        for name, value in (extra or {}).items():
            info.add_text(name, json.dumps(value))
    data = io.BytesIO()
    image.save(data, "PNG", pnginfo=info, compress_level=level)
    return data.getvalue()
