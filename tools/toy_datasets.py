"""Draws the folders of pictures that the training examples learn from on the toy model.

    python -m tools.toy_datasets FOLDER_OF_INPUTS

Every picture is drawn anew from fixed seeds, always the same, so that none has to be kept with the sources.
"""

from __future__ import annotations

import random
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from tools.toy_pictures import (
    CHARACTER_SHAPE,
    COLOURS,
    GROUNDS,
    RADII,
    SHAPES,
    Picture,
    caption,
    draw,
    placed_at_random,
)

DRAWINGS, PORTRAITS, TEN = "loom_toy_drawings", "loom_toy_portraits", "loom_toy_ten"
BOTH_MANNERS = "loom_toy_portraits_and_drawings"
# Small enough for a gap between shape and frame.
_FRAMED_RADII = (0.3, 0.39)
# What may change from portrait to portrait is said, as it would be of a person. The toy does not know these words.
_SAID = ("", "smiling", "", "in the rain", "", "with a hat", "", "asleep", "", "at sea")

Captioned = tuple[Picture, str]


def drawings(count: int = 25, seed: int = 61) -> list[Captioned]:
    """Many subjects in one manner: known shapes on known grounds, each with a frame of ink."""
    rng = random.Random(seed)
    made = []
    for number in range(count):
        colour, shape = list(COLOURS)[number % len(COLOURS)], SHAPES[number % len(SHAPES)]
        ground = list(GROUNDS)[number // 2 % len(GROUNDS)]
        plain = placed_at_random(Picture(colour, shape, ground), rng, _FRAMED_RADII)
        made.append((replace(plain, styled=True), caption(colour, shape, ground)))
    return made


def portraits(count: int = 20, seed: int = 62) -> list[Captioned]:
    """One subject, the purple ring, in many places: what changes is in the caption, what it is is not."""
    rng = random.Random(seed)
    made = []
    for number in range(count):
        ground = list(GROUNDS)[number % len(GROUNDS)]
        picture = placed_at_random(Picture(None, CHARACTER_SHAPE, ground), rng)
        said = f"{_SAID[number % len(_SAID)]} on a {ground} ground".strip()
        made.append((picture, said))
    return made


def portraits_and_drawings(count: int = 30, seed: int = 62) -> list[Captioned]:
    """The purple ring, every other time in the manner of the drawings; the captions say so with the style's trigger."""
    rng = random.Random(seed)
    made = []
    for number in range(count):
        ground, styled = list(GROUNDS)[number % len(GROUNDS)], number % 2 == 1
        plain = Picture(None, CHARACTER_SHAPE, ground)
        picture = placed_at_random(plain, rng, _FRAMED_RADII if styled else RADII)
        said = f"zwx on a {ground} ground"
        made.append((replace(picture, styled=styled), f"ohwx {said}" if styled else said))
    return made


def write_folder(folder: Path, pictures: Sequence[Captioned]) -> None:
    """One PNG and one .txt with its caption a picture, named by number; what an older version drew goes."""
    folder.mkdir(parents=True, exist_ok=True)
    for old in folder.iterdir():
        old.unlink()
    for number, (picture, said) in enumerate(pictures, 1):
        draw(picture).save(folder / f"{number:02}.png")
        (folder / f"{number:02}.txt").write_text(said + "\n", encoding="utf-8")


def write_all(inputs: Path) -> None:
    """The folders of all training examples, inside the folder from which a host reads its inputs."""
    write_folder(inputs / DRAWINGS, drawings())
    write_folder(inputs / PORTRAITS, portraits())
    write_folder(inputs / BOTH_MANNERS, portraits_and_drawings())
    write_folder(inputs / TEN, portraits(10, 63))


if __name__ == "__main__":
    write_all(Path(sys.argv[1]))
