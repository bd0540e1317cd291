"""The loss of a run as a picture: every step faint, its running mean, the validation loss."""

from __future__ import annotations

import math
from collections.abc import Sequence

from PIL import Image, ImageDraw, ImageFont

SIZE = (768, 384)
_LEFT, _TOP, _RIGHT, _BOTTOM = 64, 44, 16, 34
_GROUND, _GRID, _TEXT, _FAINT = (30, 31, 36), (62, 64, 72), (236, 236, 240), (84, 92, 110)
_MEAN, _VALIDATION = (64, 196, 170), (250, 184, 60)
_Point = tuple[float, float]


def loss_chart(
    losses: Sequence[float], validation: Sequence[tuple[int, float]], steps: int
) -> Image.Image:
    """RGB of SIZE. losses: of each step from 1 on. validation: (step, loss). steps: of the whole run, its width."""
    image = Image.new("RGB", SIZE, _GROUND)
    draw = ImageDraw.Draw(image)
    finite = [value for value in losses if math.isfinite(value)]
    validation = [(step, value) for step, value in validation if math.isfinite(value)]
    means = running_mean(finite)
    shown = [*means, *(value for _, value in validation)]
    if not shown:
        draw.text((_LEFT, _TOP), "no step was done", _TEXT, ImageFont.load_default(18))
        return image
    top = 1.15 * max(shown) or 1.0
    _axes(draw, top, steps)
    each = [_place(step, value, top, steps) for step, value in enumerate(finite, 1)]
    draw.line(each, _FAINT, 1)
    mean = [_place(step, value, top, steps) for step, value in enumerate(means, 1)]
    draw.line(mean, _MEAN, 3)
    found = [_place(step, value, top, steps) for step, value in validation]
    draw.line(found, _VALIDATION, 2)
    for x, y in found:
        draw.ellipse((x - 4, y - 4, x + 4, y + 4), _VALIDATION)
    small = ImageFont.load_default(15)
    draw.text((_LEFT, 14), f"loss, running mean {means[-1]:.4f}" if means else "", _MEAN, small)
    if validation:
        draw.text((SIZE[0] // 2, 14), f"validation {validation[-1][1]:.4f}", _VALIDATION, small)
    return image


def running_mean(values: Sequence[float], share: float = 0.05) -> list[float]:
    """An exponential mean that forgets `share` of itself at each value; the first values are weighed alike."""
    found: list[float] = []
    for place, value in enumerate(values):
        weight = max(share, 1 / (place + 1))
        found.append(value if not found else found[-1] + weight * (value - found[-1]))
    return found


def _place(step: float, value: float, top: float, steps: int) -> _Point:
    width, height = SIZE[0] - _LEFT - _RIGHT, SIZE[1] - _TOP - _BOTTOM
    x = _LEFT + width * (step - 1) / max(1, steps - 1)
    return x, _TOP + height * (1 - min(max(value / top, 0.0), 1.0))


def _axes(draw: ImageDraw.ImageDraw, top: float, steps: int) -> None:
    font = ImageFont.load_default(14)
    for part in range(5):
        value = top * part / 4
        y = _place(1, value, top, steps)[1]
        draw.line((_LEFT, y, SIZE[0] - _RIGHT, y), _GRID)
        draw.text((_LEFT - 8, y), f"{value:.3g}", _TEXT, font, anchor="rm")
    for part in range(5):
        step = round(1 + (steps - 1) * part / 4)
        draw.text(
            (_place(step, 0, top, steps)[0], SIZE[1] - 16), str(step), _TEXT, font, anchor="mm"
        )
