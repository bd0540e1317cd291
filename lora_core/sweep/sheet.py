"""The contact sheet of a sweep: every picture under its label, lines by the y axis, the words of the graph above."""

from __future__ import annotations

import textwrap
from collections.abc import Sequence
from dataclasses import dataclass

from PIL import Image, ImageDraw

from ..analysis.draw import Font, fitted, font_of, width_of
from ..errors import SweepError
from .points import Sweep

# Without a y axis a line longer than this goes on below.
_LONGEST_LINE = 12
_LEAST_WIDTH, _MARGIN, _GAP = 480, 12, 6
_MOST_PIXELS = 150_000_000
_HEAD_LINES = 8
_PAPER, _INK, _FAINT, _MARK = (250, 249, 246), (28, 28, 32), (96, 96, 104), (196, 60, 30)
Box = tuple[int, int, int, int]


@dataclass(frozen=True)
class Sheet:
    """boxes: where each point's picture lies, (left, top, right, bottom) in pixels."""

    image: Image.Image
    boxes: tuple[Box, ...]


@dataclass(frozen=True)
class _Layout:
    """Sizes in pixels. side: room for the labels of the lines; head: for the words; columns: pictures in a drawn line."""

    cell: tuple[int, int]
    columns: int
    lines: int
    side: int
    head: int
    label: int

    @property
    def size(self) -> tuple[int, int]:
        width = self.side + self.columns * (self.cell[0] + _GAP) + 2 * _MARGIN
        height = self.head + self.lines * (self.cell[1] + self.label + _GAP) + _MARGIN
        return max(width, _LEAST_WIDTH), height

    def corner(self, place: int) -> tuple[int, int]:
        line, column = divmod(place, self.columns)
        left = _MARGIN + self.side + column * (self.cell[0] + _GAP)
        return left, self.head + line * (self.cell[1] + self.label + _GAP) + self.label


def draw_sheet(sweep: Sweep, pictures: Sequence[Image.Image], cell: int, words: str) -> Sheet:
    """pictures: one a point, in their order. cell: the longer side of each on the sheet, 0 as it is. words: for the head.

    Raises SweepError where the sheet would be too large to be opened.
    """
    pictures = [_sized(picture, cell) for picture in pictures]
    size = max(p.width for p in pictures), max(p.height for p in pictures)
    letters = max(14, min(36, size[0] // 14))
    font = font_of(letters)
    columns, lines = _shape(sweep)
    side = 0
    if sweep.y.title:
        side = min(size[0], int(max(width_of(font, each) for each in sweep.y.labels)) + 2 * _GAP)
    label = int(letters * 1.6)
    bare = _Layout(size, columns, lines, side, 0, label)
    head = _head_lines(sweep, words, bare.size[0] - 2 * _MARGIN, font)
    layout = _Layout(size, columns, lines, side, label * len(head) + 2 * _MARGIN, label)
    if layout.size[0] * layout.size[1] > _MOST_PIXELS:
        raise SweepError(
            f"The sheet of {len(pictures)} pictures would be {layout.size[0]} x {layout.size[1]} pixels; "
            f"{_MOST_PIXELS // 1_000_000} million are the most. Make cell smaller than {max(size)}."
        )
    image = Image.new("RGB", layout.size, _PAPER)
    pen = ImageDraw.Draw(image)
    for number, (line, ink) in enumerate(head):
        pen.text((_MARGIN, _MARGIN + number * label), line, ink, font)
    boxes = []
    for place, (point, picture) in enumerate(zip(sweep.points, pictures, strict=True)):
        left, top = layout.corner(place)
        ink = _MARK if point.reference else _INK
        pen.text((left, top - label), fitted(point.x, font, size[0]), ink, font)
        x, y = left + (size[0] - picture.width) // 2, top + (size[1] - picture.height) // 2
        image.paste(picture, (x, y))
        boxes.append((x, y, x + picture.width, y + picture.height))
        if side and point.col == 0:
            middle = top + size[1] // 2 - letters // 2
            pen.text((_MARGIN, middle), fitted(point.y, font, side - _GAP), _INK, font)
    return Sheet(image, tuple(boxes))


def _shape(sweep: Sweep) -> tuple[int, int]:
    """Pictures in a drawn line, and drawn lines. A y axis keeps its lines whole."""
    count = len(sweep.x.labels)
    if sweep.y.title or count <= _LONGEST_LINE:
        return count, len(sweep.y.labels)
    lines = -(-count // _LONGEST_LINE)
    return -(-count // lines), lines


def _sized(picture: Image.Image, cell: int) -> Image.Image:
    """The picture with its longer side at most `cell`; never blown up."""
    if cell == 0 or max(picture.size) <= cell:
        return picture
    smaller = picture.copy()
    smaller.thumbnail((cell, cell), Image.Resampling.LANCZOS)
    return smaller


def _head_lines(sweep: Sweep, words: str, width: int, font: Font) -> list[tuple[str, tuple]]:
    """The words, as many lines as they need up to _HEAD_LINES, and what goes across and down."""
    width = max(width, _LEAST_WIDTH - 2 * _MARGIN)
    letters = max(20, int(width / width_of(font, "n")))
    said = [line for part in words.split("\n") for line in textwrap.wrap(part, letters)]
    if len(said) > _HEAD_LINES:
        said = [*said[: _HEAD_LINES - 1], f"{said[_HEAD_LINES - 1][: letters - 4]} ..."]
    axes = [f"across: {sweep.x.title}"] + ([f"down: {sweep.y.title}"] if sweep.y.title else [])
    return [(fitted(line, font, width), _INK) for line in said] + [
        (fitted(line, font, width), _FAINT) for line in axes
    ]
