"""Reads a toy picture by rule: which colour, shape and ground, is the style there, who is it.

The rules are those a person would give over the telephone ("hues between 90 and 160 degrees are
green", "a ring is a disc with a hole"), written without the drawing code, the model or its training
pictures, so that a good reading is evidence. Lengths are pixels of a 256 pixel picture.
"""

from __future__ import annotations

import colorsys
from dataclasses import dataclass

import numpy as np
from PIL import Image, ImageDraw

SIDE = 256
UNCLEAR = "unclear"

# A subject is coloured and a ground is not: both are told apart by max(rgb) - min(rgb).
COLOURED = 0.2
SMALLEST_SUBJECT = 600
GRID = 64
SURE_OVERLAP = 0.75
SURE_LEAD = 0.02
ASPECTS = (0.75, 1.35)
LEAST_HOLE, MOST_HOLE = 0.06, 0.6

# The style is a frame: ink along this much of the picture's border, these many pixels inside it, and
# ink is black on a light ground and white on others.
FRAME_SHARE = 0.85
FRAME_DEPTHS = (3, 11)
FRAME_MARGIN = 24
INK_CONTRAST = 0.25
SUBJECT_MARGIN = 12


@dataclass(frozen=True)
class Reading:
    """What a picture shows; names are UNCLEAR where the rules find no clear answer.

    `overlap` is the best shape's intersection over union, `frame` the share of the
    border that is ink.
    """

    colour: str
    shape: str
    ground: str
    style: bool
    overlap: float
    frame: float

    @property
    def character(self) -> bool:
        """Whether the picture shows the purple ring."""
        return self.colour == "purple" and self.shape == "ring"


def read(picture: Image.Image) -> Reading:
    """Return what a picture shows; other sizes than 256 pixels are resampled first."""
    image = picture.convert("RGB")
    if image.size != (SIDE, SIDE):
        image = image.resize((SIDE, SIDE), Image.Resampling.LANCZOS)
    rgb = np.asarray(image, dtype=np.float64) / 255
    subject = _subject(rgb.max(axis=2) - rgb.min(axis=2))
    light = rgb @ np.array([0.299, 0.587, 0.114])
    away = ~_grown(subject, SUBJECT_MARGIN)
    away[_border(0, FRAME_MARGIN)] = False
    ground = float(np.median(light[away])) if away.any() else 0.5
    inked = _inked(light, ground)
    frame = float(inked[_border(*FRAME_DEPTHS)].mean())
    style = frame >= FRAME_SHARE
    if subject.sum() < SMALLEST_SUBJECT:
        return Reading(UNCLEAR, UNCLEAR, ground_name(ground), style, 0.0, frame)
    colour = colour_name(tuple(np.median(rgb[_shrunk(subject, 3)], axis=0)))
    shape, overlap = shape_name(subject)
    return Reading(colour, shape, ground_name(ground), style, overlap, frame)


def colour_name(rgb: tuple[float, ...]) -> str:
    """Return the name of a colour given as three numbers from 0 to 1."""
    hue, saturation, value = colorsys.rgb_to_hsv(*(float(part) for part in rgb))
    degrees = 360 * hue
    if max(rgb) - min(rgb) < COLOURED:
        return UNCLEAR
    if 12 <= degrees < 45 and value < 0.7:
        return "brown"
    if degrees >= 310 and saturation < 0.65 and value > 0.7:
        return "pink"
    names = (
        (14, "red"), (40, "orange"), (64, "yellow"), (90, UNCLEAR), (165, "green"),
        (202, "cyan"), (248, "blue"), (310, "purple"), (335, UNCLEAR), (361, "red"),
    )  # fmt: skip
    return next(name for end, name in names if degrees < end)


def ground_name(light: float) -> str:
    """Return the name of a ground of this mean brightness, from 0 to 1."""
    for end, name in ((0.36, "dark"), (0.42, UNCLEAR), (0.7, "grey"), (0.76, UNCLEAR)):
        if light < end:
            return name
    return "light"


def _shifted(mask: np.ndarray, fill: bool) -> list[np.ndarray]:
    padded = np.pad(mask, 1, constant_values=fill)
    return [padded[:-2, 1:-1], padded[2:, 1:-1], padded[1:-1, :-2], padded[1:-1, 2:]]


def _grown(mask: np.ndarray, pixels: int) -> np.ndarray:
    for _ in range(pixels):
        mask = mask | np.logical_or.reduce(_shifted(mask, False))
    return mask


def _shrunk(mask: np.ndarray, pixels: int) -> np.ndarray:
    """Return the mask without its rim; a mask that would vanish is returned as it is."""
    smaller = mask
    for _ in range(pixels):
        smaller = smaller & np.logical_and.reduce(_shifted(smaller, True))
    return smaller if smaller.any() else mask


def _largest_piece(mask: np.ndarray) -> np.ndarray:
    """Return the largest connected piece of a mask, found at a quarter of its resolution."""
    coarse = mask.reshape(SIDE // 4, 4, SIDE // 4, 4).any(axis=(1, 3))
    labels = np.where(coarse, np.arange(1, coarse.size + 1).reshape(coarse.shape), 0)
    while True:
        padded = np.pad(labels, 1)
        around = [padded[:-2, 1:-1], padded[2:, 1:-1], padded[1:-1, :-2], padded[1:-1, 2:]]
        spread = np.where(coarse, np.maximum.reduce([labels, *around]), 0)
        if np.array_equal(spread, labels):
            break
        labels = spread
    counts = np.bincount(labels.ravel())
    counts[0] = 0
    piece = (labels == counts.argmax()) & coarse
    return mask & piece.repeat(4, axis=0).repeat(4, axis=1)


def _subject(colourful: np.ndarray) -> np.ndarray:
    """Return the mask of the subject: the largest coloured piece, cut halfway up its edges."""
    rough = colourful > COLOURED
    if rough.sum() < SMALLEST_SUBJECT:
        return np.zeros_like(rough)
    inside = float(np.median(colourful[_shrunk(rough, 3)]))
    outside = float(np.median(colourful[~rough])) if (~rough).any() else 0.0
    return _largest_piece(colourful > max(0.12, (inside + outside) / 2))


def _inside(corners: np.ndarray, x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """Return which points lie inside a polygon (corners, 2), by the even-odd rule."""
    inside = np.zeros(x.shape, dtype=bool)
    for (x0, y0), (x1, y1) in zip(corners, np.roll(corners, -1, axis=0), strict=True):
        crosses = (y0 > y) != (y1 > y)
        rise = y1 - y0 if y1 != y0 else 1.0
        inside ^= crosses & (x < (x1 - x0) * (y - y0) / rise + x0)
    return inside


def _templates() -> dict[str, np.ndarray]:
    """Return each shape's mask (GRID, GRID), filling its bounding box."""
    line = (np.arange(GRID) + 0.5) / GRID * 2 - 1
    x, y = np.meshgrid(line, line)
    distance = np.hypot(x, y)
    angles = np.deg2rad(36 * np.arange(10) - 90)
    reach = np.where(np.arange(10) % 2 == 0, 1.0, 0.42)
    star = np.stack([reach * np.cos(angles), reach * np.sin(angles)], axis=1)
    low, high = star.min(axis=0), star.max(axis=0)
    star = (star - low) / (high - low) * 2 - 1
    # The implicit heart (u^2 + v^2 - 1)^3 = u^2 v^3, stretched over its bounding box.
    u, v = 1.139 * x, 0.118 - 1.118 * y
    return {
        "circle": distance <= 1,
        "square": np.ones_like(x, dtype=bool),
        "triangle": np.abs(x) <= (y + 1) / 2,
        "star": _inside(star, x, y),
        "heart": (u**2 + v**2 - 1) ** 3 <= u**2 * v**3,
        "cross": np.minimum(np.abs(x), np.abs(y)) <= 0.36,
    }


TEMPLATES = _templates()


def shape_name(subject: np.ndarray) -> tuple[str, float]:
    """Return the shape whose template fits a subject's mask best, and how well it overlaps.

    A ring is a disc with a hole: the hole must be closed, and the disc is judged with it filled.
    """
    filled = _filled(subject)
    hole = 1 - subject.sum() / filled.sum()
    rows, columns = np.flatnonzero(filled.any(axis=1)), np.flatnonzero(filled.any(axis=0))
    box = filled[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1]
    height, width = box.shape
    y = ((np.arange(GRID) + 0.5) * height / GRID).astype(int)
    x = ((np.arange(GRID) + 0.5) * width / GRID).astype(int)
    seen = box[np.ix_(y, x)]
    overlaps = {
        name: float((seen & mask).sum() / (seen | mask).sum()) for name, mask in TEMPLATES.items()
    }
    first, second = sorted(overlaps, key=lambda name: -overlaps[name])[:2]
    sure = overlaps[first] >= SURE_OVERLAP and overlaps[first] - overlaps[second] >= SURE_LEAD
    upright = ASPECTS[0] <= width / height <= ASPECTS[1]
    name = first if sure and upright else UNCLEAR
    if hole >= LEAST_HOLE:
        name = "ring" if name == "circle" and hole <= MOST_HOLE else UNCLEAR
    return name, overlaps[first]


def _filled(subject: np.ndarray) -> np.ndarray:
    """Return the subject with all that it encloses."""
    outside = np.ones((SIDE + 2, SIDE + 2), dtype=np.uint8)
    outside[1:-1, 1:-1] = ~subject
    image = Image.fromarray(outside * 255).copy()
    ImageDraw.floodfill(image, (0, 0), 128)
    return np.asarray(image)[1:-1, 1:-1] != 128


def _border(first: int, last: int) -> np.ndarray:
    """Return the mask of the pixels that are `first` to `last` pixels away from the border."""
    line = np.minimum(np.arange(SIDE), np.arange(SIDE)[::-1])
    depth = np.minimum(line[:, None], line[None, :])
    return (depth >= first) & (depth <= last)


def _inked(light: np.ndarray, ground: float) -> np.ndarray:
    """Return where ink is: black on a light ground, white on others, and far from the ground."""
    if ground > 0.7:
        return (light < 0.4) & (light < ground - INK_CONTRAST)
    return (light > 0.82) & (light > ground + INK_CONTRAST)
