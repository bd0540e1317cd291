"""Charts as pictures for a node's preview: plain Pillow, its own font, sizes that can be read at 512 to 768 pixels."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import torch
from PIL import Image, ImageDraw, ImageFont

from .energy import BlockEnergy, Energies

WIDTH = 768
_BARS_A_PANEL = 30
_MARGIN, _AXIS, _HEADER, _BARS, _GAP = 16, 58, 82, 160, 18
_GROUND, _GRID, _TEXT, _FAINT = (30, 31, 36), (62, 64, 72), (236, 236, 240), (170, 172, 182)
_WHOLE, _LEFT, _ADDED = (96, 110, 140), (64, 196, 170), (250, 184, 60)
Font = ImageFont.FreeTypeFont | ImageFont.ImageFont
_Box = tuple[float, float, float, float]


def energy_chart(found: Energies, title: str) -> Image.Image:
    """Blocks by the model's own names, a bar each: its share of the LoRA's energy, and in colour what is left of it.

    WIDTH pixels wide; blocks beyond the first _BARS_A_PANEL go on in panels below, all to one scale.
    """
    panels = _panels(found.blocks)
    names = font_of(15)
    label = max((width_of(names, each.block) for each in found.blocks), default=0) + 10
    height = _HEADER + len(panels) * (_BARS + label + _GAP) + _MARGIN // 2
    image = Image.new("RGB", (WIDTH, int(height)), _GROUND)
    draw = ImageDraw.Draw(image)
    _header(draw, found, title)
    total = found.total or 1.0
    top = rounded_up(max((max(e.energy, e.left) / total for e in found.blocks), default=0.0))
    most = max((len(panel) for panel in panels), default=1)
    for number, panel in enumerate(panels):
        y = _HEADER + number * (_BARS + label + _GAP)
        _scale(draw, y, top)
        step = (WIDTH - _AXIS - _MARGIN) / max(most, 12)
        for place, each in enumerate(panel):
            left = _AXIS + place * step
            _bar(draw, (left + step * 0.14, y, left + step * 0.86, y + _BARS), each, total * top)
            _upright(image, each.block, left + step / 2, y + _BARS + 5, names, _colour(each))
    return image


def as_images(pictures: Sequence[Image.Image]) -> torch.Tensor:
    """(count, height, width, 3) float32, 0 to 1; shorter pictures are filled up with the ground colour."""
    width, height = max(p.width for p in pictures), max(p.height for p in pictures)
    filled = []
    for picture in pictures:
        whole = Image.new("RGB", (width, height), _GROUND)
        whole.paste(picture, (0, 0))
        filled.append(torch.from_numpy(np.asarray(whole, dtype=np.float32) / 255.0))
    return torch.stack(filled)


def message(text: str) -> Image.Image:
    """A picture that says why there is no chart."""
    image = Image.new("RGB", (WIDTH, 120), _GROUND)
    draw = ImageDraw.Draw(image)
    for number, line in enumerate(text.split("\n")):
        draw.text(
            (_MARGIN, 24 + 26 * number), fitted(line, font_of(16), WIDTH - 32), _TEXT, font_of(16)
        )
    return image


def _panels(blocks: Sequence[BlockEnergy]) -> list[Sequence[BlockEnergy]]:
    """Blocks in panels of nearly the same length, none longer than _BARS_A_PANEL."""
    count = max(1, math.ceil(len(blocks) / _BARS_A_PANEL))
    size = max(1, math.ceil(len(blocks) / count))
    return [blocks[start : start + size] for start in range(0, len(blocks) or 1, size)]


def _header(draw: ImageDraw.ImageDraw, found: Energies, title: str) -> None:
    left = f"{100 * found.share_left:.3g} % of the energy is left"
    large, small = font_of(20), font_of(15)
    room = WIDTH - 3 * _MARGIN - width_of(large, left)
    draw.text((_MARGIN, 10), fitted(title, large, room), _TEXT, large)
    draw.text((WIDTH - _MARGIN - width_of(large, left), 10), left, _LEFT, large)
    x = float(_MARGIN)
    for colour, text in (
        (_LEFT, "energy left"),
        (_WHOLE, "taken away"),
        (_ADDED, "added (strength above 1)"),
    ):
        draw.rectangle((x, 45, x + 14, 59), colour)
        draw.text((x + 20, 43), text, _FAINT, small)
        x += 40 + width_of(small, text)


def _scale(draw: ImageDraw.ImageDraw, y: float, top: float) -> None:
    """Four lines with the share of all energy that each stands for."""
    font = font_of(13)
    for part in range(5):
        height = y + _BARS * (1 - part / 4)
        draw.line((_AXIS - 4, height, WIDTH - _MARGIN, height), _GRID)
        text = f"{100 * top * part / 4:.3g} %"
        draw.text((_AXIS - 8 - width_of(font, text), height - 8), text, _FAINT, font)


def _bar(draw: ImageDraw.ImageDraw, box: _Box, each: BlockEnergy, full: float) -> None:
    """The whole energy, over it what is left; what strengths above 1 add stands on top."""
    left, top, right, bottom = box

    def height(energy: float) -> float:
        return bottom - (bottom - top) * energy / full

    for energy, colour in (
        (max(each.left, each.energy), _ADDED if each.left > each.energy else _WHOLE),
        (min(each.left, each.energy), _LEFT),
    ):
        if energy > 0:
            draw.rectangle((left, min(height(energy), bottom - 1), right, bottom), colour)


def _colour(each: BlockEnergy) -> tuple[int, int, int]:
    return _TEXT if each.left > 0 or each.energy == 0 else (150, 152, 164)


def _upright(
    image: Image.Image,
    text: str,
    x: float,
    y: float,
    font: Font,
    colour: tuple[int, int, int],
) -> None:
    """Text that reads from bottom to top, centred on x, ending at y."""
    size = (math.ceil(width_of(font, text)) + 2, 20)
    strip = Image.new("RGB", size, _GROUND)
    ImageDraw.Draw(strip).text((1, 1), text, colour, font)
    turned = strip.rotate(90, expand=True)
    image.paste(turned, (int(x - turned.width / 2), int(y)))


def rounded_up(share: float) -> float:
    """The end of the scale: the next of 1, 2, 4, 8 times a power of ten."""
    if share <= 0:
        return 1.0
    power = 10.0 ** math.floor(math.log10(share))
    return next(step * power for step in (1, 2, 4, 8, 10) if step * power >= share * (1 - 1e-9))


def fitted(text: str, font: Font, room: float) -> str:
    """The text, its middle left out where it is wider than the room."""
    keep = len(text)
    shown = text
    while width_of(font, shown) > room and keep > 4:
        keep -= 1
        shown = f"{text[: keep // 2]}...{text[len(text) - (keep - keep // 2) :]}"
    return shown


def width_of(font: Font, text: str) -> float:
    """How wide the text is drawn, in pixels."""
    return font.getlength(text)


def font_of(size: int) -> Font:
    """Pillow's own font, the same on every machine."""
    return ImageFont.load_default(size)
