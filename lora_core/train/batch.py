"""An IMAGE batch with captions -> TrainImages."""

from __future__ import annotations

import numpy as np
import torch
from PIL import Image

from ..errors import DatasetError
from .dataset import Found, TrainImage
from .measures import measure
from .pictures import check_mask, from_array
from .text_files import one_line


def read_batch(
    images: torch.Tensor, captions: str, repeats: int = 1, masks: torch.Tensor | None = None
) -> Found:
    """(B, H, W, 3 or 4) floats 0..1 -> pictures of 8 bits; captions: one line a picture, or one line for all.

    masks: (B or 1, H, W) floats, 1 where to learn. An empty line is an empty caption. Raises DatasetError.
    """
    if images.ndim != 4 or images.shape[-1] not in (3, 4) or not len(images):
        raise DatasetError(
            f"IMAGE must have the shape (pictures, height, width, 3); found {tuple(images.shape)}."
        )
    lines = _lines_for(captions, len(images))
    found = []
    for index in range(len(images)):
        name = f"image {index + 1}"
        pixels = _eight_bits(images[index], name)
        measures = measure(from_array(pixels))
        mask = None if masks is None else _mask_of(masks, index, len(images), measures.size)
        found.append(
            TrainImage(
                name=name,
                source=pixels,
                measures=measures,
                caption=lines[index],
                repeats=repeats,
                mask=mask,
                origin="graph" if lines[index] else "",
            )
        )
    return Found(tuple(found))


def _lines_for(captions: str, count: int) -> list[str]:
    """One caption a picture."""
    said = captions.rstrip("\n").split("\n")
    if len(said) != count:  # else an empty first line is the first picture's empty caption
        said = captions.strip("\n").split("\n")
    lines = [one_line(line) for line in said]
    if len(lines) == 1:
        return lines * count
    if len(lines) != count:
        raise DatasetError(
            f"{len(lines)} captions for {count} pictures. Write one line a picture, in the order of the batch, or "
            "one line for all; an empty line is an empty caption."
        )
    return lines


def _eight_bits(values: torch.Tensor, name: str) -> np.ndarray:
    """Floats 0..1 -> an owned uint8 array, by rounding."""
    levels = values.detach().cpu().float()
    if not bool(torch.isfinite(levels).all()):
        raise DatasetError(
            f"{name}: holds NaN or infinite pixels. The node that made it went wrong."
        )
    return (levels.clamp(0, 1) * 255).round().to(torch.uint8).numpy().copy()


def _mask_of(masks: torch.Tensor, index: int, count: int, size: tuple[int, int]) -> np.ndarray:
    if masks.ndim != 3 or len(masks) not in (1, count):
        raise DatasetError(
            f"MASK must have the shape (1 or {count}, height, width); found {tuple(masks.shape)}."
        )
    name = f"mask {index + 1}"
    mask = _eight_bits(masks[index if len(masks) > 1 else 0], name)
    check_mask(Image.fromarray(mask), size, name)
    return mask
