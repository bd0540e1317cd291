"""Pictures drawn for tests of the dataset: busy ones, subjects, files of a folder."""

from __future__ import annotations

import random
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw, ImageFilter


def busy(seed: int, size: tuple[int, int] = (320, 320), shapes: int = 40) -> Image.Image:
    """Overlapping shapes of all colours with a little grain: as varied and as sharp as a photo."""
    rng = random.Random(seed)
    width, height = size
    reach = max(6, min(size) // 4)

    def colour() -> tuple[int, int, int]:
        return (rng.randrange(256), rng.randrange(256), rng.randrange(256))

    image = Image.new("RGB", size, colour())
    pen = ImageDraw.Draw(image)
    for _ in range(shapes):
        x, y = rng.randrange(width), rng.randrange(height)
        a, b = rng.randrange(3, reach), rng.randrange(3, reach)
        rng.choice((pen.ellipse, pen.rectangle))((x - a, y - b, x + a, y + b), fill=colour())
    grain = np.random.default_rng(seed).normal(0, 4, (height, width, 3))
    grained = (np.asarray(image) + grain).clip(0, 255).astype(np.uint8)
    return Image.fromarray(grained).filter(ImageFilter.GaussianBlur(0.6))


def save(folder: Path, name: str, image: Image.Image, caption: str | None = None) -> Path:
    """Write a picture, and its caption beside it."""
    path = folder / name
    path.parent.mkdir(parents=True, exist_ok=True)
    image.save(path)
    if caption is not None:
        path.with_suffix(".txt").write_text(caption, encoding="utf-8")
    return path


def folder_of(folder: Path, count: int, size: tuple[int, int] = (320, 320)) -> Path:
    """A folder of `count` busy pictures with captions that differ."""
    for index in range(count):
        save(folder, f"{index:02}.png", busy(index, size), f"a scene, number {index}, wide view")
    return folder
