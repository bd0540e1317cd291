"""The contact sheet: every picture small, with its crop, its caption and what is doubtful about it."""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from .captions import plain_caption
from .checks import Finding
from .dataset import Dataset
from .samples import Plan

WIDTH, COLUMNS = 1024, 4
MOST_SHOWN = 80
_CELL = WIDTH // COLUMNS
_MARGIN = 10
_PICTURE = 190
_LINE = 19
_TEXT_LINES = 5
_ROW = _PICTURE + _TEXT_LINES * _LINE + 3 * _MARGIN
_HEAD = 64
_SIZE, _HEAD_SIZE = 15, 22
_PAPER, _INK, _FAINT = (250, 249, 246), (28, 28, 32), (96, 96, 104)
_DOUBT, _FINE, _EXAMINER, _PRIOR = (196, 60, 30), (190, 190, 190), (40, 90, 190), (20, 130, 90)
_CUT_AWAY = 0.35


def contact_sheet(plan: Plan, found: Sequence[Finding]) -> Image.Image:
    """Draw the sheet, WIDTH pixels wide: at most MOST_SHOWN pictures, the doubtful ones first among those left out.

    Under each picture: file name, bucket and repeats, the beginning of its caption, and the names of the
    checks that found something. What the crop cuts off is dimmed.
    """
    shown = _shown(plan.dataset, found)
    rows = -(-len(shown) // COLUMNS)
    general = [finding.what for finding in found if not finding.images]
    head = _HEAD + _LINE * (len(general) + (len(shown) < len(plan.dataset.images)))
    sheet = Image.new("RGB", (WIDTH, head + rows * _ROW + _MARGIN), _PAPER)
    pen = ImageDraw.Draw(sheet)
    _draw_head(pen, plan, shown, found, general)
    for place, index in enumerate(shown):
        corner = ((place % COLUMNS) * _CELL, head + (place // COLUMNS) * _ROW)
        marks = [finding.check for finding in found if index in finding.images]
        _draw_cell(sheet, pen, corner, plan, index, list(dict.fromkeys(marks)))
    return sheet


def _shown(dataset: Dataset, found: Sequence[Finding]) -> list[int]:
    """Which pictures the sheet has room for: all, or the doubtful ones before the others."""
    doubtful = {index for finding in found for index in finding.images}
    order = sorted(range(len(dataset.images)), key=lambda index: (index not in doubtful, index))
    return sorted(order[:MOST_SHOWN])


def _draw_head(
    pen: ImageDraw.ImageDraw,
    plan: Plan,
    shown: Sequence[int],
    found: Sequence[Finding],
    general: Sequence[str],
) -> None:
    dataset = plan.dataset
    doubts = f"{len(found)} findings" if len(found) != 1 else "1 finding"
    title = f"{len(dataset.images)} pictures, {len(plan.sample_images)} samples an epoch, {doubts}"
    pen.text((_MARGIN, _MARGIN), title, fill=_INK, font=_font(_HEAD_SIZE))
    words = f"trigger: {dataset.settings.trigger.strip() or 'none'}   template: {dataset.settings.template}"
    pen.text((_MARGIN, 38), _fitting(pen, words, WIDTH - 2 * _MARGIN), fill=_FAINT, font=_font())
    lines = [(text, _DOUBT) for text in general]
    if len(shown) < len(dataset.images):
        lines.append((f"{len(dataset.images) - len(shown)} more pictures are not drawn", _FAINT))
    for number, (text, colour) in enumerate(lines):
        line = _fitting(pen, text, WIDTH - 2 * _MARGIN)
        pen.text((_MARGIN, _HEAD - 4 + number * _LINE), line, fill=colour, font=_font())


def _draw_cell(
    sheet: Image.Image,
    pen: ImageDraw.ImageDraw,
    corner: tuple[int, int],
    plan: Plan,
    index: int,
    marks: Sequence[str],
) -> None:
    image = plan.dataset.images[index]
    left, top = corner
    picture = _framed(plan, index)
    x = left + (_CELL - picture.width) // 2
    y = top + _MARGIN + (_PICTURE - picture.height) // 2
    sheet.paste(picture, (x, y))
    frame = (x - 2, y - 2, x + picture.width + 1, y + picture.height + 1)
    pen.rectangle(frame, outline=_DOUBT if marks else _FINE, width=3 if marks else 1)
    label, colour = _role(plan.dataset, index)
    bucket = "{} x {}".format(*plan.placements[index].bucket)
    repeats = f"  {image.repeats} repeats" if image.repeats > 1 else ""
    caption = plain_caption(image, plan.dataset.settings) or "(no caption)"
    beginning, rest = _split(pen, caption, _CELL - 2 * _MARGIN)
    lines = (
        (_fitting(pen, image.name, _CELL - 2 * _MARGIN, end=True), _INK),
        (f"{bucket}{repeats}{label}", colour),
        (beginning, _FAINT),
        (rest, _FAINT),
        (", ".join(marks), _DOUBT),
    )
    for number, (text, ink) in enumerate(lines):
        y = top + _PICTURE + 2 * _MARGIN + number * _LINE
        line = _fitting(pen, text, _CELL - 2 * _MARGIN)
        pen.text((left + _MARGIN, y), line, fill=ink, font=_font())


def _framed(plan: Plan, index: int) -> Image.Image:
    """The thumbnail with the parts dimmed that the middle crop cuts off."""
    pixels = plan.dataset.images[index].measures.thumbnail
    height, width = pixels.shape[:2]
    placement = plan.placements[index]
    left, top, right, bottom = placement.box()
    across, down = width / placement.size[0], height / placement.size[1]
    rows, columns = np.arange(height)[:, None] + 0.5, np.arange(width)[None, :] + 0.5
    inside = (rows >= top * down) & (rows <= bottom * down)
    inside = inside & (columns >= left * across) & (columns <= right * across)
    dimmed = pixels * _CUT_AWAY + 255 * (1 - _CUT_AWAY)
    shown = np.where(inside[:, :, None], pixels, dimmed).astype(np.uint8)
    picture = Image.fromarray(shown)
    picture.thumbnail((_CELL - 2 * _MARGIN, _PICTURE))
    return picture


def _role(dataset: Dataset, index: int) -> tuple[str, tuple[int, int, int]]:
    if dataset.images[index].regularisation:
        return "  regularisation", _PRIOR
    if index in dataset.held_out:
        return "  held out", _EXAMINER
    return "", _FAINT


def _split(pen: ImageDraw.ImageDraw, text: str, width: int) -> tuple[str, str]:
    """The words that fit into one line, and the rest."""
    words = text.split(" ")
    count = len(words)
    while count > 1 and pen.textlength(" ".join(words[:count]), font=_font()) > width:
        count -= 1
    return " ".join(words[:count]), " ".join(words[count:])


def _fitting(pen: ImageDraw.ImageDraw, text: str, width: int, end: bool = False) -> str:
    """The text cut to a width in pixels, with dots; `end` keeps its end instead of its beginning."""
    if pen.textlength(text, font=_font()) <= width:
        return text
    low, high = 0, len(text)
    while low < high:
        middle = (low + high + 1) // 2
        if pen.textlength(_shortened(text, middle, end), font=_font()) <= width:
            low = middle
        else:
            high = middle - 1
    return _shortened(text, low, end)


def _shortened(text: str, length: int, end: bool) -> str:
    return f"...{text[len(text) - length :]}" if end else f"{text[:length]}..."


@lru_cache
def _font(size: int = _SIZE) -> ImageFont.FreeTypeFont | ImageFont.ImageFont:
    return ImageFont.load_default(size)
