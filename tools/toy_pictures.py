"""Draws the pictures that the toy model learns from: one flat shape on a plain ground.

Everything is drawn four times too large and averaged down, so edges are antialiased. Nothing here
is random by itself: whoever wants variety passes a seeded `random.Random`.
"""

from __future__ import annotations

import math
import random
from dataclasses import dataclass, replace

from PIL import Image, ImageDraw

Rgb = tuple[int, int, int]
Point = tuple[float, float]

SIZE = 256
OVERSAMPLING = 4

COLOURS: dict[str, Rgb] = {
    "red": (214, 48, 49),
    "orange": (242, 140, 40),
    "yellow": (246, 212, 66),
    "green": (58, 166, 86),
    "cyan": (60, 196, 214),
    "blue": (48, 96, 214),
    "pink": (240, 130, 178),
    "brown": (140, 88, 52),
}
SHAPES = ("circle", "square", "triangle", "star", "heart", "cross")
GROUNDS: dict[str, Rgb] = {
    "dark": (30, 34, 48),
    "grey": (128, 136, 148),
    "light": (240, 236, 226),
}

# What the base model never sees: the character's colour and shape, and the style's ink, which draws
# a frame around the picture.
CHARACTER_COLOUR: Rgb = (138, 52, 184)
CHARACTER_SHAPE = "ring"
INK: dict[str, Rgb] = {
    "dark": (250, 250, 250),
    "grey": (250, 250, 250),
    "light": (16, 16, 20),
}

FRAME_WIDTH = 1 / 16
RING_HOLE = 0.52
RADII = (0.32, 0.43)
DRIFT = 0.06


@dataclass(frozen=True)
class Picture:
    """What is to be seen; lengths are fractions of the picture's side.

    `colour` is a name from COLOURS or None for the character's purple; `shape` is a name from
    SHAPES or CHARACTER_SHAPE; `styled` pictures have a frame of ink.
    """

    colour: str | None
    shape: str
    ground: str
    centre: Point = (0.5, 0.5)
    radius: float = 0.27
    styled: bool = False

    @property
    def rgb(self) -> Rgb:
        """The colour of the shape."""
        return CHARACTER_COLOUR if self.colour is None else COLOURS[self.colour]


def _polygon(corners: int, offsets: tuple[float, ...]) -> list[Point]:
    """Return corner points around the origin, pointing up, at the given relative radii in turn."""
    points = []
    for corner in range(corners):
        angle = 2 * math.pi * corner / corners - math.pi / 2
        reach = offsets[corner % len(offsets)]
        points.append((reach * math.cos(angle), reach * math.sin(angle)))
    return points


def _heart() -> list[Point]:
    points = []
    for step in range(120):
        angle = 2 * math.pi * step / 120
        x = 16 * math.sin(angle) ** 3
        y = 13 * math.cos(angle) - 5 * math.cos(2 * angle)
        y -= 2 * math.cos(3 * angle) + math.cos(4 * angle)
        points.append((x / 16.5, -(y + 2.5) / 16.5))
    return points


def _cross(arm: float = 0.34, reach: float = 0.95) -> list[Point]:
    a, r = arm, reach
    return [
        (-a, -r), (a, -r), (a, -a), (r, -a), (r, a), (a, a),
        (a, r), (-a, r), (-a, a), (-r, a), (-r, -a), (-a, -a),
    ]  # fmt: skip


def outline(shape: str) -> list[Point]:
    """Return the corner points of a shape of radius one around the origin, y downwards.

    Raises:
        ValueError: for a shape that is not in SHAPES and not the character's.
    """
    if shape in ("circle", CHARACTER_SHAPE):
        return _polygon(180, (1.0,))
    if shape == "square":
        return [(-0.86, -0.86), (0.86, -0.86), (0.86, 0.86), (-0.86, 0.86)]
    if shape == "triangle":
        return [(0.0, -0.98), (1.05, 0.84), (-1.05, 0.84)]
    if shape == "star":
        return _polygon(10, (1.08, 0.46))
    if shape == "heart":
        return _heart()
    if shape == "cross":
        return _cross()
    raise ValueError(f"no such shape: {shape!r}")


def _placed(points: list[Point], centre: Point, radius: float) -> list[Point]:
    return [(centre[0] + radius * x, centre[1] + radius * y) for x, y in points]


def lay_stripes(canvas: Image.Image, colour: Rgb, phase: float, period: float) -> None:
    """Lay diagonal stripes over a square canvas; half of each period (in pixels) is a stripe."""
    side = canvas.width
    across = period * math.sqrt(2)
    pen = ImageDraw.Draw(canvas)
    start = -side + (phase % 1.0 - 1.0) * across
    while start < side + across:
        end = start + across / 2
        pen.polygon([(start, 0), (end, 0), (end + side, side), (start + side, side)], fill=colour)
        start += across


def draw(picture: Picture, size: int = SIZE) -> Image.Image:
    """Return the picture as an RGB image of `size` by `size` pixels."""
    side = size * OVERSAMPLING
    canvas = Image.new("RGB", (side, side), GROUNDS[picture.ground])
    centre = (picture.centre[0] * side, picture.centre[1] * side)
    radius = picture.radius * side
    contours = [outline(picture.shape)]
    if picture.shape == CHARACTER_SHAPE:
        contours.append([(RING_HOLE * x, RING_HOLE * y) for x, y in contours[0]])
    mask = Image.new("L", (side, side), 0)
    for value, contour in zip((255, 0), contours, strict=False):
        ImageDraw.Draw(mask).polygon(_placed(contour, centre, radius), fill=value)
    canvas.paste(picture.rgb, mask=mask)
    if picture.styled:
        frame = round(FRAME_WIDTH * side)
        ImageDraw.Draw(canvas).rectangle(
            (0, 0, side - 1, side - 1), outline=INK[picture.ground], width=frame
        )
    return canvas.reduce(OVERSAMPLING)


def placed_at_random(
    picture: Picture, rng: random.Random, radii: tuple[float, float] = RADII, drift: float = DRIFT
) -> Picture:
    """Return the picture with another size and place, all of it inside the picture.

    Args:
        picture: what is to be seen.
        rng: decides.
        radii: the smallest and the largest radius.
        drift: how far the centre may go from the middle, where the radius leaves room for it.
    """
    radius = rng.uniform(*radii)
    room = max(0.0, min(drift, 0.48 - 1.1 * radius))
    centre = (0.5 + rng.uniform(-room, room), 0.5 + rng.uniform(-room, room))
    return replace(picture, centre=centre, radius=radius)


def caption(colour: str | None, shape: str | None, ground: str | None) -> str:
    """Return the prompt for what is named; what is None is left to chance."""
    subject = " ".join(word for word in (colour, shape) if word)
    scene = f"on a {ground} ground" if ground else ""
    return " ".join(part for part in (subject, scene) if part)
