"""A certificate as a picture: the figures in words, the error and the rank of every layer, the worst by name."""

from __future__ import annotations

import math
import re
import textwrap
from collections.abc import Sequence
from itertools import groupby

from PIL import Image, ImageDraw

from ..files.naming import is_text_encoder
from .certificate import Certificate, LayerRecord, percent

WIDTH = 768
_MARGIN, _LINE, _PLOT, _AXIS = 16, 20, 130, 64
_INK, _PALE, _GRID, _PAPER = "#1c1c1c", "#6b6b6b", "#dcdcdc", "#ffffff"
_ERROR, _RANK, _MISSING = "#c2452d", "#33658a", "#9a9a9a"
_LETTERS = 100
_PART = re.compile(
    r"(down|mid|up|input|middle|output|double|single|joint)_?(?:_blocks?|_transformer)"
)


def draw_certificate(certificate: Certificate) -> Image.Image:
    """The chart, 768 pixels wide; its height follows its lines."""
    head = [_title(certificate), *map(_row_line, certificate.rows[:6])]
    hidden = len(certificate.rows) - 6
    head += [f"and {hidden} more rows"] if hidden > 0 else []
    said = [*certificate.summary(), *certificate.notes]
    figures = [part for line in said for part in textwrap.wrap(line, _LETTERS)]
    worst = [layer for layer in certificate.worst() if layer.error > 0]
    tail = (
        ["worst layers:", *map(_worst_line, worst)]
        if worst
        else ["no layer differs from the exact sum"]
    )
    if certificate.dropped:
        tail.append(f"{len(certificate.dropped)} keys are not in the result; the report lists them")
    lines = len(head) + len(figures) + len(tail)
    height = 2 * _MARGIN + lines * _LINE + 2 * (_PLOT + 3 * _LINE) + 3 * 8
    canvas = Image.new("RGB", (WIDTH, height), _PAPER)
    draw = ImageDraw.Draw(canvas)
    y = _write(draw, _MARGIN, head[:1], _INK, 19)
    y = _write(draw, y, head[1:], _PALE)
    y = _write(draw, y + 4, figures, _INK)
    layers = sorted(certificate.layers, key=_network_order)
    parts = [_part(layer.name) for layer in layers]
    errors = [layer.error if layer.rank_out else None for layer in layers]
    y = _bars(draw, y + 8, "error to the exact sum, layer by layer", errors, parts, _ERROR)
    ranks = [float(layer.rank_out) if layer.rank_out else None for layer in layers]
    y = _bars(draw, y, "rank written (grey: not in the result)", ranks, parts, _RANK)
    _write(draw, y + 8, tail, _INK)
    return canvas


def _title(certificate: Certificate) -> str:
    return f"{certificate.what}: {certificate.method}, {certificate.limit}, {certificate.dtype}"


def _row_line(row: tuple[str, float, float, str]) -> str:
    name, model, clip, role = row
    return f"{name}   model {model:g}, clip {clip:g}, {role}"


def _worst_line(layer: LayerRecord) -> str:
    return f"  {percent(layer.error):>8}  rank {layer.rank_out:>3}  {layer.name}"


def _write(
    draw: ImageDraw.ImageDraw, y: int, lines: Sequence[str], ink: str, size: int = 14
) -> int:
    """Lines of text from y downward, long ones cut in the middle; where the next line goes."""
    for line in lines:
        draw.text((_MARGIN, y), _cut(line), fill=ink, font_size=size)
        y += _LINE + (size > 15) * 4
    return y


def _cut(line: str) -> str:
    if len(line) <= _LETTERS:
        return line
    half = (_LETTERS - 3) // 2
    return f"{line[:half]}...{line[-half:]}"


def _bars(
    draw: ImageDraw.ImageDraw,
    y: int,
    title: str,
    values: Sequence[float | None],
    parts: Sequence[str],
    ink: str,
) -> int:
    """A bar for each value in order; None, a layer that was dropped, is a grey mark. Where the next thing goes."""
    draw.text((_MARGIN, y), title, fill=_INK, font_size=14)
    top, left = y + _LINE + 4, _MARGIN + _AXIS
    bottom, right = top + _PLOT, WIDTH - _MARGIN
    scale = _round_up(max((value for value in values if value is not None), default=0.0))
    for share in (0, 0.5, 1):
        level = bottom - share * _PLOT
        said = percent(share * scale) if ink == _ERROR else f"{share * scale:g}"
        draw.line((left, level, right, level), fill=_GRID)
        draw.text((left - 6, level), said, fill=_PALE, font_size=13, anchor="rm")
    for start, end, value in _columns(values, left, right):
        if value is None:
            draw.rectangle((start, bottom - 4, end, bottom), fill=_MISSING)
        elif value > 0:
            tall = max(1.0, value / scale * _PLOT)
            draw.rectangle((start, bottom - tall, end, bottom), fill=ink)
    _label_parts(draw, parts, left, right, bottom)
    return bottom + 2 * _LINE


def _label_parts(
    draw: ImageDraw.ImageDraw, parts: Sequence[str], left: int, right: int, y: int
) -> None:
    """The parts of the model under the bars, with a line where one ends."""
    begin = 0
    for part, run in groupby(parts):
        count = len(list(run))
        start = left + (right - left) * begin / len(parts)
        end = left + (right - left) * (begin + count) / len(parts)
        draw.line((start, y, start, y + 8), fill=_PALE)
        if draw.textlength(part, font_size=13) < end - start - 6:
            draw.text((start + 4, y + 3), part, fill=_PALE, font_size=13)
        begin += count


def _part(name: str) -> str:
    if is_text_encoder(name):
        return "text encoder"
    found = _PART.search(name)
    return found.group(1) if found else "other"


def _network_order(layer: LayerRecord) -> tuple[bool, list[tuple[int, str]]]:
    """Text encoders first, then by name with numbers as numbers: down, mid, up; double, single."""
    words = re.split(r"(\d+)", layer.name)
    return not is_text_encoder(layer.name), [
        (int(word), "") if word.isdecimal() else (-1, word) for word in words
    ]


def _columns(
    values: Sequence[float | None], left: int, right: int
) -> list[tuple[float, float, float | None]]:
    """(from, to, value): with more layers than pixels, neighbours share a column and the largest shows."""
    room = right - left
    count = min(len(values), room // 2)
    columns = []
    for index in range(count):
        part = values[index * len(values) // count : (index + 1) * len(values) // count]
        known = [value for value in part if value is not None]
        start = left + index * room / count
        gap = 1 if room / count >= 3 else 0
        end = max(start, left + (index + 1) * room / count - 1 - gap)
        columns.append((round(start), round(end), max(known) if known else None))
    return columns


def _round_up(value: float) -> float:
    """The next of 1, 2, 5 times a power of ten."""
    if value <= 0:
        return 1.0
    power = 10.0 ** math.floor(math.log10(value))
    return next(step * power for step in (1, 2, 5, 10) if value <= step * power * (1 + 1e-9))
