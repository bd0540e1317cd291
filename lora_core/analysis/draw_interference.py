"""Interference as a heat map: a line for each direction of each pair, a column for each block."""

from __future__ import annotations

import math
import textwrap

from PIL import Image, ImageDraw

from .draw import font_of
from .interference import Interference, Pair
from .interference_words import percent, sentence, short_name

_LEAST_WIDTH, _MOST_CELL = 768, 46
# A cell has room for its number; where there are more blocks than these the picture would be too wide for that.
_NUMBERED, _LEAST_CELL, _MOST_NUMBERED = 30, 15, 48
_MARGIN, _ROW, _LINE = 16, 30, 24
_GROUND, _TEXT, _FAINT, _EMPTY = (30, 31, 36), (236, 236, 240), (170, 172, 182), (44, 46, 52)
# From nothing over a tenth to all of the other's energy.
_SCALE = ((0.0, (50, 62, 84)), (0.1, (64, 150, 160)), (0.3, (250, 184, 60)), (1.0, (222, 60, 52)))


def heat_map(found: Interference) -> Image.Image:
    """What each row takes of each other, block by block; at least 768 pixels wide."""
    lines = [line for one in found.pairs for line in (("a", one), ("b", one))]
    labels = [_label(found, which, one) for which, one in lines]
    font, small = font_of(15), font_of(13)
    left = _MARGIN + math.ceil(max((font.getlength(label) for label in labels), default=0)) + 12
    count = max(1, len(found.blocks))
    least = _NUMBERED if count <= _MOST_NUMBERED else _LEAST_CELL
    cell = max(least, min(_MOST_CELL, (_LEAST_WIDTH - left - _MARGIN) // count))
    width = max(_LEAST_WIDTH, left + count * cell + _MARGIN)
    said = textwrap.wrap(sentence(found), (width - 2 * _MARGIN) // 9)
    names = math.ceil(max((small.getlength(block) for block in found.blocks), default=0)) + 10
    top = _MARGIN + len(said) * _LINE + 12
    height = top + len(lines) * _ROW + names + 3 * _LINE + _MARGIN
    image = Image.new("RGB", (width, height), _GROUND)
    draw = ImageDraw.Draw(image)
    for number, line in enumerate(said):
        draw.text((_MARGIN, _MARGIN + number * _LINE), line, _TEXT, font_of(18))
    for number, ((which, one), label) in enumerate(zip(lines, labels, strict=True)):
        y = top + number * _ROW
        draw.text((_MARGIN, y + 5), label, _TEXT, font)
        _cells(draw, found, one, which, (left, y), cell)
    for number, block in enumerate(found.blocks):
        _upright(image, block, left + number * cell + cell / 2, top + len(lines) * _ROW + 4)
    _legend(draw, height - _MARGIN - 2 * _LINE, found, cell >= _NUMBERED)
    return image


def _label(found: Interference, which: str, one: Pair) -> str:
    taker, victim = (one.a, one.b) if which == "a" else (one.b, one.a)
    names = [_shortened(short_name(found.rows[row][0])) for row in (taker, victim)]
    return f"{names[0]} takes of {names[1]}"


def _shortened(name: str, most: int = 22) -> str:
    return name if len(name) <= most else f"{name[: most // 2]}..{name[-(most // 2 - 2) :]}"


def _cells(
    draw: ImageDraw.ImageDraw,
    found: Interference,
    one: Pair,
    which: str,
    corner: tuple[int, int],
    size: int,
) -> None:
    left, top = corner
    for number, block in enumerate(found.blocks):
        x = left + number * size
        box = (x, top, x + size - 2, top + _ROW - 2)
        if block not in one.cells:
            draw.rectangle(box, _EMPTY)
            continue
        taken = one.cells[block].taken(which)
        draw.rectangle(box, colour_of(taken))
        if size >= _NUMBERED:
            text, font = f"{100 * min(taken, 9.99):.0f}", font_of(13)
            ink = (20, 20, 24) if taken > 0.06 else _TEXT
            draw.text((x + (size - 2 - font.getlength(text)) / 2, top + 6), text, ink, font)


def colour_of(taken: float) -> tuple[int, int, int]:
    """From blue (nothing) over teal (a tenth) and amber to red (as much energy as the other has)."""
    for (low, first), (high, second) in zip(_SCALE, _SCALE[1:], strict=False):
        if taken <= high:
            part = (taken - low) / (high - low)
            mixed = (round(p + part * (q - p)) for p, q in zip(first, second, strict=True))
            red, green, blue = mixed
            return red, green, blue
    return _SCALE[-1][1]


def _upright(image: Image.Image, text: str, x: float, y: float) -> None:
    """Text that reads from bottom to top, centred on x, its end at y."""
    font = font_of(13)
    strip = Image.new("RGB", (math.ceil(font.getlength(text)) + 2, 18), _GROUND)
    ImageDraw.Draw(strip).text((1, 1), text, _FAINT, font)
    turned = strip.rotate(90, expand=True)
    image.paste(turned, (int(x - turned.width / 2), int(y)))


def _legend(draw: ImageDraw.ImageDraw, y: int, found: Interference, numbered: bool) -> None:
    x, font = float(_MARGIN), font_of(13)
    for share in (0.0, 0.1, 0.3, 1.0):
        draw.rectangle((x, y + 2, x + 14, y + 16), colour_of(share))
        text = percent(share) if share else "0 %"
        draw.text((x + 20, y + 1), text, _FAINT, font)
        x += 36 + font.getlength(text)
    draw.rectangle((x, y + 2, x + 14, y + 16), _EMPTY)
    draw.text((x + 20, y + 1), "no weight in common", _FAINT, font)
    how = "on the model's inputs" if found.weighted else "by the weights"
    what = "numbers are percent" if numbered else "colour"
    text = f"{what}: energy written into the other's directions, over the other's own, {how}"
    draw.text((_MARGIN, y + _LINE), text, _FAINT, font)
