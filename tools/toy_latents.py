"""The toy's latent space and its picture sets.

A latent is an 8 by 8 box average of four things: red, green, blue and colourfulness (the largest of
the three minus the smallest). The encoder in the checkpoint computes exactly this with hand-set
weights; here the same is done with numpy, thousands of times faster.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch

from tools.toy_pictures import (
    COLOURS,
    DRIFT,
    GROUNDS,
    RADII,
    SHAPES,
    Picture,
    caption,
    draw,
    placed_at_random,
)

CELL = 8
# (average - MIDDLE) * SPREAD has a variance near one over the picture set.
MIDDLE = (0.5, 0.5, 0.5, 0.25)
SPREAD = (3.0, 3.0, 3.0, 3.5)


def encode(pixels: np.ndarray) -> np.ndarray:
    """Return latents (4, h, w) float32 of 8-bit RGB pixels (8 h, 8 w, 3)."""
    planes = pixels.transpose(2, 0, 1)
    largest = np.maximum(np.maximum(planes[0], planes[1]), planes[2])
    smallest = np.minimum(np.minimum(planes[0], planes[1]), planes[2])
    four = np.stack([*planes, largest - smallest])
    rows, columns = four.shape[1] // CELL, four.shape[2] // CELL
    cells = four.reshape(4, rows, CELL, columns, CELL)
    means = cells.sum(axis=(2, 4), dtype=np.uint32) / (255.0 * CELL * CELL)
    middle = np.array(MIDDLE).reshape(4, 1, 1)
    spread = np.array(SPREAD).reshape(4, 1, 1)
    return ((means - middle) * spread).astype(np.float32)


@dataclass(frozen=True)
class PictureSet:
    """Latents (count, 4, h, w) and, for each, the rows of a context table that may caption it.

    `captions` is (count, kinds) and holds row numbers; a batch draws one of the kinds by `odds`.
    """

    latents: torch.Tensor
    captions: torch.Tensor
    odds: tuple[float, ...]

    def batch(self, count: int, generator: torch.Generator) -> tuple[torch.Tensor, torch.Tensor]:
        """Return latents and caption rows of `count` random pictures, half of them mirrored."""
        rows = torch.randint(0, len(self.latents), (count,), generator=generator)
        kinds = torch.multinomial(
            torch.tensor(self.odds), count, replacement=True, generator=generator
        )
        latents = self.latents[rows].float()
        mirrored = torch.rand(count, generator=generator) < 0.5
        latents[mirrored] = latents[mirrored].flip(3)
        return latents, self.captions[rows, kinds]


class Captions:
    """Numbers captions in the order they are first asked for, so that each is encoded once."""

    def __init__(self) -> None:
        self._rows: dict[str, int] = {}

    def row(self, text: str) -> int:
        """Return the row of the caption."""
        return self._rows.setdefault(text, len(self._rows))

    def texts(self) -> list[str]:
        """Return all captions, row by row."""
        return list(self._rows)


# Full caption, then without ground, without colour, without shape, and none at all ...
CAPTION_ODDS = (0.72, 0.06, 0.06, 0.06, 0.10)
# ... and, where unknown words are taught to mean nothing, one before the full caption, one instead
# of the subject.
NOISY_ODDS = (0.62, 0.06, 0.05, 0.05, 0.10, 0.08, 0.04)


def caption_kinds(colour: str, shape: str, ground: str) -> tuple[str, ...]:
    """Return the captions of a plain picture in the order of CAPTION_ODDS."""
    return (
        caption(colour, shape, ground),
        caption(colour, shape, None),
        caption(None, shape, ground),
        caption(colour, None, ground),
        "",
    )


def unknown_words(count: int, seed: int) -> list[str]:
    """Return words of three to five random letters, without the triggers' w and x."""
    rng = random.Random(seed)
    words = []
    while len(words) < count:
        word = "".join(rng.choices("abcdefghijklmnopqrstuvyz", k=rng.randint(3, 5)))
        words.append(word)
    return words


def picture_set(
    pictures: Sequence[Picture],
    texts: Sequence[tuple[str, ...]],
    odds: tuple[float, ...],
    size: int,
    captions: Captions,
) -> PictureSet:
    """Draw the pictures at `size` pixels, encode them, and number their captions."""
    latents = np.stack([encode(np.asarray(draw(picture, size))) for picture in pictures])
    rows = [[captions.row(text) for text in kinds] for kinds in texts]
    return PictureSet(torch.from_numpy(latents), torch.tensor(rows), odds)


def plain_pictures(
    count: int, seed: int, radii: tuple[float, float] = RADII, drift: float = DRIFT
) -> list[Picture]:
    """Return pictures in which every colour, shape and ground is equally frequent."""
    rng = random.Random(seed)
    every = [Picture(c, s, g) for c in COLOURS for s in SHAPES for g in GROUNDS]
    return [
        placed_at_random(every[index % len(every)], rng, radii, drift) for index in range(count)
    ]


def plain_set(
    pictures: Sequence[Picture], size: int, seed: int, captions: Captions, unknown: int = 0
) -> PictureSet:
    """Return a captioned set of plain pictures drawn at `size` pixels.

    With `unknown` words, some captions hold one that means nothing (NOISY_ODDS).
    """
    texts = [caption_kinds(str(p.colour), p.shape, p.ground) for p in pictures]
    if not unknown:
        return picture_set(pictures, texts, CAPTION_ODDS, size, captions)
    words = unknown_words(unknown, seed)
    rng = random.Random(seed + 1)
    noisy = []
    for picture, kinds in zip(pictures, texts, strict=True):
        word = rng.choice(words)
        noisy.append((*kinds, f"{word} {kinds[0]}", caption(None, word, picture.ground)))
    return picture_set(pictures, noisy, NOISY_ODDS, size, captions)
