"""Sample pictures of a training on one sheet: a row for each step, a column for each prompt."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from PIL import Image, ImageDraw, ImageFont

from ..errors import LoraFileError

_GROUND, _TEXT, _FAINT = (30, 31, 36), (236, 236, 240), (160, 164, 176)
_LEFT, _TOP, _GAP, _SIDE = 120, 34, 6, 256


def strip(pictures: Sequence[Image.Image]) -> Image.Image:
    """The pictures of one step side by side, as they are."""
    width, height = sum(p.width for p in pictures), max(p.height for p in pictures)
    joined = Image.new("RGB", (width, height), _GROUND)
    x = 0
    for picture in pictures:
        joined.paste(picture, (x, 0))
        x += picture.width
    return joined


def sample_sheet(strips: Mapping[int, Image.Image], prompts: Sequence[str]) -> Image.Image:
    """strips: by step, 0 for without the LoRA; each is len(prompts) pictures wide."""
    count = max(1, len(prompts))
    font, small = ImageFont.load_default(18), ImageFont.load_default(14)
    heights = {step: round(_SIDE * one.height * count / one.width) for step, one in strips.items()}
    width = _LEFT + count * (_SIDE + _GAP)
    sheet = Image.new("RGB", (width, _TOP + sum(h + _GAP for h in heights.values())), _GROUND)
    draw = ImageDraw.Draw(sheet)
    for place, prompt in enumerate(prompts):
        text = _fitted(prompt or "(no prompt)", small, _SIDE)
        draw.text((_LEFT + place * (_SIDE + _GAP), 9), text, _FAINT, small)
    y = _TOP
    for step in sorted(strips):
        draw.text((12, y + 10), f"step {step}" if step else "without\nLoRA", _TEXT, font)
        one = strips[step]
        for place in range(count):
            part = one.crop(
                (one.width * place // count, 0, one.width * (place + 1) // count, one.height)
            )
            small_part = part.resize((_SIDE, heights[step]), Image.Resampling.LANCZOS)
            sheet.paste(small_part, (_LEFT + place * (_SIDE + _GAP), y))
        y += heights[step] + _GAP
    return sheet


def strips_in(folder: Path) -> dict[int, Image.Image]:
    """Step -> strip, of the files that `strip_file` names. Raises LoraFileError."""
    found = {}
    for path in sorted(folder.glob("sample-*.png")):
        try:
            with Image.open(path) as picture:
                found[int(path.stem.split("-")[1])] = picture.convert("RGB")
        except (OSError, ValueError) as error:
            raise LoraFileError(
                f"{path.name}: this sample picture cannot be read ({error}). Delete it to go on."
            ) from error
    return found


def strip_file(folder: Path, step: int) -> Path:
    return folder / f"sample-{step:08d}.png"


def _fitted(text: str, font: ImageFont.ImageFont | ImageFont.FreeTypeFont, width: int) -> str:
    """The text, cut where it is too long, in letters that the font has."""
    text = text.encode("ascii", "replace").decode()
    if font.getlength(text) <= width:
        return text
    while text and font.getlength(text + "...") > width:
        text = text[:-1]
    return text + "..."
