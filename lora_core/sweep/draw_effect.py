"""The effect of every step as a chart: a line each, and side by side what changes in the picture, the latent, the weights."""

from __future__ import annotations

from collections.abc import Sequence

from PIL import Image, ImageDraw

from ..analysis.draw import WIDTH, Font, fitted, font_of, rounded_up, width_of
from .effect import Effects

_MARGIN, _LINE, _HEAD, _FOOT, _GAP = 16, 24, 84, 44, 18
_GROUND, _GRID, _TEXT, _FAINT = (30, 31, 36), (62, 64, 72), (236, 236, 240), (170, 172, 182)
_COLOURS = ((64, 196, 170), (120, 160, 255), (250, 184, 60))
_NAMES = ("picture changes", "latent changes", "energy of weights")
_FIGURE = 58


def effect_chart(found: Effects) -> Image.Image:
    """WIDTH pixels wide, _LINE high a step. Each column has a scale of its own, from 0 to what its head says."""
    font, small, large = font_of(15), font_of(13), font_of(19)
    image = Image.new("RGB", (WIDTH, _HEAD + _LINE * len(found.steps) + _FOOT), _GROUND)
    draw = ImageDraw.Draw(image)
    draw.text((_MARGIN, 10), fitted(found.title, large, WIDTH - 2 * _MARGIN), _TEXT, large)
    side = min(220.0, max(width_of(font, step.label) for step in found.steps) + 14)
    room = (WIDTH - 2 * _MARGIN - side - 2 * _GAP) / 3
    columns = (
        [step.picture for step in found.steps],
        [step.latent for step in found.steps],
        [step.energy for step in found.steps],
    )
    for number, values in enumerate(columns):
        left = _MARGIN + side + number * (room + _GAP)
        _column(draw, (left, room), number, values, small)
    for number, step in enumerate(found.steps):
        y = _HEAD + number * _LINE
        draw.text((_MARGIN, y + 2), fitted(step.label, font, side - 8), _TEXT, font)
    foot = f"each against '{found.against}': RMS of the colours; norm of the latent; share of the energy"
    draw.text(
        (_MARGIN, image.height - _FOOT + 14),
        fitted(foot, small, WIDTH - 2 * _MARGIN),
        _FAINT,
        small,
    )
    return image


def _column(
    draw: ImageDraw.ImageDraw,
    place: tuple[float, float],
    number: int,
    values: Sequence[float | None],
    font: Font,
) -> None:
    """place: (left, width). The bars end where the figures begin."""
    left, room = place
    known = [value for value in values if value is not None]
    top = rounded_up(max(known, default=0.0))
    bars = room - _FIGURE
    colour = _COLOURS[number]
    draw.text((left, _HEAD - 44), _NAMES[number], colour, font_of(15))
    scale = f"0 to {100 * top:.3g} %" if known else "not measured"
    draw.text((left, _HEAD - 24), scale, _FAINT, font)
    bottom = _HEAD + _LINE * len(values)
    for part in (0, 0.5, 1):
        x = left + bars * part
        draw.line((x, _HEAD - 4, x, bottom), _GRID)
    for line, value in enumerate(values):
        if value is None:
            continue
        y = _HEAD + line * _LINE
        long = bars * value / top
        if value > 0:
            draw.rectangle((left, y + 4, left + max(long, 1), y + _LINE - 5), colour)
        draw.text((left + bars + 6, y + 3), f"{100 * value:.3g} %", _TEXT, font)
