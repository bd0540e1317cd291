"""What is measured of a picture, once, while it is decoded: the checks and the contact sheet need no second look."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass

import numpy as np
from PIL import Image

from .letters import longest_row
from .pictures import Picture

THUMBNAIL = 192
# Side of the square whose area a picture is reduced to before it is measured: what a trainer sees of it.
_WORK_SIDE = 512
# The share of pixels that are taken for the sharpest edges, and the least slope of an edge (levels a pixel).
_EDGE_SHARE, _LEAST_SLOPE = 0.02, 4.0
# Borders: levels within which a line is of one colour, the jump behind it, and what share of the line jumps.
_SAME, _JUMP, _JUMPING = 12, 24, 0.8
_DEEPEST_BORDER, _SMEARED = 0.3, 6

Size = tuple[int, int]
Sides = tuple[float, float, float, float]


@dataclass(frozen=True, eq=False)
class Measures:
    """Of one picture. size: (width, height) in pixels, upright.

    sha256: of the decoded pixels and alpha, so that the same picture under two names or formats is the same.
    has_alpha: whether any of it is not opaque; transparent: share of the area that is more than half transparent.
    thumbnail: (h, w, 3) uint8, the longer side at most THUMBNAIL.
    edge_width: standard deviation of the sharpest edges' blur, in pixels of the picture reduced to about
        512 x 512; None where there is no edge. About 0.6 to 1.2 in a sharp picture.
    border: one-colour borders at left, top, right and bottom, as shares of the side.
    letters: how many letter-like marks stand in the longest row (lora_core/train/letters.py).
    """

    size: Size
    sha256: str
    has_alpha: bool
    transparent: float
    thumbnail: np.ndarray
    edge_width: float | None
    border: Sides
    letters: int

    @property
    def nbytes(self) -> int:
        return self.thumbnail.nbytes + 512


def measure(picture: Picture) -> Measures:
    """Measure one picture."""
    work = _reduced(picture.rgb, _WORK_SIDE)
    colours = np.asarray(work).astype(np.int16)
    border = one_colour_border(colours)
    grey = np.asarray(_without_border(work, border).convert("L"))
    thumbnail = picture.rgb.copy()
    thumbnail.thumbnail((THUMBNAIL, THUMBNAIL), Image.Resampling.LANCZOS)
    return Measures(
        size=picture.size,
        sha256=content_digest(picture),
        has_alpha=picture.alpha is not None,
        transparent=_transparent(picture.alpha),
        thumbnail=np.asarray(thumbnail).copy(),
        edge_width=edge_width(grey),
        border=border,
        letters=longest_row(grey),
    )


def edge_width(grey: np.ndarray) -> float | None:
    """The blur of the sharpest edges of an (H, W) picture with levels 0..255, as a standard deviation in pixels.

    The variance of the Laplacian, taken around the steepest pixels only and divided by their mean squared
    gradient: 1 / (2 s^2) for an edge blurred by a Gaussian of deviation s, whatever its contrast. The common
    variance over the whole picture would take plain grounds and soft backgrounds for blur.
    """
    if min(grey.shape) < 8:
        return None
    levels = grey.astype(np.float32)
    inner = levels[1:-1, 1:-1]
    above, below = levels[:-2, 1:-1], levels[2:, 1:-1]
    left, right = levels[1:-1, :-2], levels[1:-1, 2:]
    slope = ((right - left) / 2) ** 2 + ((below - above) / 2) ** 2
    laplacian = above + below + left + right - 4 * inner
    steep = slope >= max(float(np.quantile(slope, 1 - _EDGE_SHARE)), _LEAST_SLOPE**2)
    if not steep.any():
        return None
    # The Laplacian is nought on the very middle of an edge and largest beside it.
    around = _widened(steep)
    sharpness = float((laplacian[around] ** 2).mean() / slope[around].mean())
    return (2 * max(sharpness, 1e-6)) ** -0.5


def _widened(mask: np.ndarray) -> np.ndarray:
    """The mask with all that lies within two pixels of it, in both directions."""
    rows, wide = mask.copy(), mask.copy()
    for shift in (1, 2):
        rows[shift:] |= mask[:-shift]
        rows[:-shift] |= mask[shift:]
    wide |= rows
    for shift in (1, 2):
        wide[:, shift:] |= rows[:, :-shift]
        wide[:, :-shift] |= rows[:, shift:]
    return wide


def one_colour_border(pixels: np.ndarray) -> Sides:
    """(H, W, 3) levels -> how deep the bars at left, top, right, bottom are, as shares of the side; 0 for none.

    A bar is of one colour and ends at once over nearly the whole line, has a twin of that colour on the other
    side, and what it frames is not of one colour itself: a shape on a plain ground has no border.
    """
    turned = (
        pixels.transpose(1, 0, 2),
        pixels,
        pixels[:, ::-1].transpose(1, 0, 2),
        pixels[::-1],
    )
    depths = [_plain_lines(view) for view in turned]
    inside = [(depths[1], depths[3]), (depths[0], depths[2])]
    ends = [
        _ends_at_once(view, depth, inside[side % 2])
        for side, (view, depth) in enumerate(zip(turned, depths, strict=True))
    ]
    kept = [depth if ended else 0 for depth, ended in zip(depths, ends, strict=True)]
    for one, other in ((0, 2), (1, 3)):
        if not (kept[one] and kept[other] and _near(turned[one][0], turned[other][0])):
            kept[one] = kept[other] = 0
    height, width = pixels.shape[:2]
    framed = pixels[kept[1] + 2 : height - kept[3] - 2, kept[0] + 2 : width - kept[2] - 2]
    if not any(kept) or not framed.size or framed.reshape(-1, 3).std(axis=0).max() < _SAME:
        return (0.0, 0.0, 0.0, 0.0)
    return (kept[0] / width, kept[1] / height, kept[2] / width, kept[3] / height)


def _plain_lines(view: np.ndarray) -> int:
    """How many lines from the first on have the first line's colour."""
    colour = np.median(view[0], axis=0).astype(np.int16)
    deepest = int(len(view) * _DEEPEST_BORDER)
    off = np.abs(view[:deepest] - colour).max(axis=2) > _SAME
    plain = off.mean(axis=1) <= 0.02
    return int(plain.argmin()) if not plain.all() else 0


def _ends_at_once(view: np.ndarray, depth: int, beside: tuple[int, int]) -> bool:
    """Whether the line after the border, between the borders beside it, differs nearly everywhere."""
    if depth < 2:
        return False
    # Reducing a picture and JPEG's blocks smear the end of a border over a few lines.
    lines = view[depth + 1 : depth + 1 + _SMEARED, beside[0] : view.shape[1] - beside[1]]
    if not lines.size:
        return False
    jump = np.abs(lines - np.median(view[0], axis=0)).max(axis=2) > _JUMP
    return bool(jump.mean(axis=1).max() >= _JUMPING)


def _near(one: np.ndarray, other: np.ndarray) -> bool:
    return bool(np.abs(np.median(one, axis=0) - np.median(other, axis=0)).max() <= _SAME)


def _without_border(image: Image.Image, border: Sides) -> Image.Image:
    """The picture without its borders and the line beside them, whose edges are not the picture's own."""
    if not any(border):
        return image
    (width, height), (left, top, right, bottom) = image.size, border
    return image.crop(
        (
            round(left * width) + 2,
            round(top * height) + 2,
            width - round(right * width) - 2,
            height - round(bottom * height) - 2,
        )
    )


def _reduced(image: Image.Image, side: int) -> Image.Image:
    """The picture with the area of side x side, or as it is where it is smaller."""
    width, height = image.size
    scale = side / (width * height) ** 0.5
    if scale >= 1:
        return image
    size = (max(1, round(width * scale)), max(1, round(height * scale)))
    return image.resize(size, Image.Resampling.LANCZOS, reducing_gap=3.0)


def _transparent(alpha: Image.Image | None) -> float:
    return 0.0 if alpha is None else float((np.asarray(alpha) < 128).mean())


def content_digest(picture: Picture) -> str:
    """sha256 of size, pixels and alpha."""
    digest = hashlib.sha256(repr(picture.size).encode() + picture.rgb.tobytes())
    if picture.alpha is not None:
        digest.update(picture.alpha.tobytes())
    return digest.hexdigest()
