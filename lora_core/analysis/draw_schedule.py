"""The strengths of a stack over the steps as a picture: a line a row, drawn step by step as the sampler sees it."""

from __future__ import annotations

from collections.abc import Sequence

from PIL import Image, ImageDraw

from .draw import WIDTH, font_of

_LEFT, _TOP, _PLOT, _LINE, _MARGIN = 64, 20, 240, 22, 16
_GROUND, _GRID, _TEXT = (30, 31, 36), (62, 64, 72), (236, 236, 240)
_COLOURS = ((64, 196, 170), (250, 184, 60), (120, 160, 255), (240, 110, 130), (190, 140, 240))

Curve = tuple[str, tuple[float, ...]]


def schedule_chart(curves: Sequence[Curve]) -> Image.Image:
    """curves: (name, strength in each step) of every row, all of one length. WIDTH pixels wide."""
    height = _TOP + _PLOT + 34 + _LINE * len(curves) + _MARGIN
    image = Image.new("RGB", (WIDTH, height), _GROUND)
    draw = ImageDraw.Draw(image)
    values = [value for _, curve in curves for value in curve]
    low, high = min([0.0, *values]), max([1.0, *values])
    steps = max((len(curve) for _, curve in curves), default=1)
    _grid(draw, low, high, steps)
    for number, (name, curve) in enumerate(curves):
        colour = _COLOURS[number % len(_COLOURS)]
        points = [
            (_across(side, steps), _height(value, low, high))
            for step, value in enumerate(curve)
            for side in (step, step + 1)
        ]
        draw.line(points, colour, 3)
        y = _TOP + _PLOT + 34 + _LINE * number
        draw.rectangle((_LEFT, y + 3, _LEFT + 14, y + 17), colour)
        draw.text((_LEFT + 22, y), name[:80], _TEXT, font_of(15))
    return image


def _grid(draw: ImageDraw.ImageDraw, low: float, high: float, steps: int) -> None:
    for part in range(5):
        value = low + (high - low) * part / 4
        y = _height(value, low, high)
        draw.line((_LEFT, y, WIDTH - _MARGIN, y), _GRID)
        draw.text((_MARGIN, y - 8), f"{value:.2g}", _TEXT, font_of(13))
        step = round(steps * part / 4)
        draw.text((_across(step, steps) - 6, _TOP + _PLOT + 6), str(step), _TEXT, font_of(13))


def _across(step: int, steps: int) -> float:
    return _LEFT + (WIDTH - _LEFT - _MARGIN) * step / steps


def _height(value: float, low: float, high: float) -> float:
    return _TOP + _PLOT * (1 - (value - low) / (high - low))
