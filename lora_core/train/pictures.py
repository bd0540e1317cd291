"""Picture files -> pixels, by Pillow alone. What cannot be taught is refused by name; nothing is guessed."""

from __future__ import annotations

import struct
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

import numpy as np
from PIL import Image, ImageOps, UnidentifiedImageError

from ..errors import DatasetError

# Formats that Pillow decodes itself. EPS, for one, would start another program.
_FORMATS = ("PNG", "JPEG", "MPO", "WEBP", "BMP", "GIF", "TIFF", "AVIF")
SUFFIXES = frozenset(
    (".png", ".jpg", ".jpeg", ".jfif", ".webp", ".bmp", ".gif", ".tif", ".tiff", ".avif")
)
# A few hundred bytes can claim a picture of gigabytes. 80 million pixels are 240 MB of RGB.
MAX_PIXELS = 80_000_000
MAX_BYTES = 256 << 20
# What Pillow's decoders raise on damaged files.
_BROKEN = (
    OSError,
    SyntaxError,
    ValueError,
    EOFError,
    struct.error,
    IndexError,
    KeyError,
    TypeError,
    OverflowError,
    RuntimeError,
)
_WITH_ALPHA = ("LA", "La", "PA", "RGBA", "RGBa")
_WITHOUT_ALPHA = ("1", "L", "P", "RGB", "RGBX", "CMYK", "YCbCr", "HSV")
_SIXTEEN_BITS = ("I;16", "I;16L", "I;16B", "I;16N")
_GROUND = "white"

Decoded = TypeVar("Decoded")


@dataclass(frozen=True, eq=False)
class Picture:
    """A decoded picture, upright. rgb: mode RGB, transparent parts on white.

    alpha: mode L of the same size (255 is opaque), None where everything is opaque.
    """

    rgb: Image.Image
    alpha: Image.Image | None = None

    @property
    def size(self) -> tuple[int, int]:
        return self.rgb.size


def open_picture(path: Path, label: str) -> Picture:
    """Decode one file, rotated as its EXIF data say. Raises DatasetError that names `label`.

    CMYK, palette, grey and 16-bit pictures become 8-bit RGB. Refused: animations, several pages, more than
    MAX_PIXELS pixels, floating-point and 32-bit data, anything that is not one of the formats above.
    """
    return _decoded(path, label, _as_picture)


def open_mask(path: Path, label: str) -> Image.Image:
    """A mask file as mode L, upright: white is learned, black is not. Raises DatasetError."""
    return _decoded(path, label, lambda image, name: _as_picture(image, name).rgb.convert("L"))


def check_mask(mask: Image.Image, size: tuple[int, int], label: str) -> None:
    """Raises DatasetError for a mask of another shape than its picture's, or one that leaves nothing to learn."""
    width, height = mask.size
    if abs(width * size[1] - height * size[0]) > 0.02 * width * size[1] + max(width, size[0]):
        raise DatasetError(
            f"{label}: the mask is {width} x {height}, its picture {size[0]} x {size[1]}. Give it the picture's shape."
        )
    if mask.getextrema()[1] == 0:
        raise DatasetError(
            f"{label}: the mask is black throughout, so nothing would be learned. White is learned, black is not."
        )


def from_array(pixels: np.ndarray) -> Picture:
    """(H, W, 3 or 4) uint8 -> picture."""
    return _as_picture(Image.fromarray(pixels), "image")


def _decoded(path: Path, label: str, read: Callable[[Image.Image, str], Decoded]) -> Decoded:
    try:
        size = path.stat().st_size
        if size == 0:
            raise DatasetError(f"{label}: the file is empty. Copy it again, or take it out.")
        if size > MAX_BYTES:
            raise DatasetError(
                f"{label}: {size >> 20} MB; more than {MAX_BYTES >> 20} MB are not opened. Save it smaller."
            )
        with Image.open(path, formats=_formats()) as image:
            _refuse(image, label)
            image.load()
            return read(ImageOps.exif_transpose(image), label)
    except UnidentifiedImageError as error:
        raise DatasetError(
            f"{label}: not a picture in a format that is read ({', '.join(_formats())}), whatever its "
            "name says. Save it as PNG or JPEG, or take it out."
        ) from error
    except Image.DecompressionBombError as error:
        raise DatasetError(_too_large(label, str(error))) from error
    except _BROKEN as error:
        raise DatasetError(
            f"{label}: damaged or cut short ({error}). Copy it again, or take it out."
        ) from error


def _formats() -> list[str]:
    Image.init()
    return [name for name in _FORMATS if name in Image.OPEN]


def _refuse(image: Image.Image, label: str) -> None:
    """What the header alone rules out, before a pixel is decoded."""
    width, height = image.size
    if width * height > MAX_PIXELS:
        raise DatasetError(_too_large(label, f"{width} x {height} pixels"))
    # Phones store a JPEG with previews as MPO: its first picture is the photo.
    if image.format != "MPO" and getattr(image, "n_frames", 1) > 1:
        raise DatasetError(
            f"{label}: an animation or a file of {getattr(image, 'n_frames', 0)} pages. Save the frame to learn "
            "from as a picture of its own."
        )
    if image.mode not in (*_WITH_ALPHA, *_WITHOUT_ALPHA, *_SIXTEEN_BITS, "I"):
        raise DatasetError(
            f"{label}: pixels of mode {image.mode}, which is not read. Save it as an RGB PNG."
        )


def _too_large(label: str, found: str) -> str:
    return (
        f"{label}: too large to open safely ({found}; at most {MAX_PIXELS // 1_000_000} million pixels). "
        "Save it smaller; training shrinks it anyway."
    )


def _as_picture(image: Image.Image, label: str) -> Picture:
    if image.mode in (*_SIXTEEN_BITS, "I"):
        image = _eight_bits(image, label)
    if image.mode not in _WITH_ALPHA and "transparency" not in image.info:
        return Picture(image.convert("RGB"))
    rgba = image.convert("RGBA")
    alpha = rgba.getchannel("A")
    if alpha.getextrema() == (255, 255):
        return Picture(rgba.convert("RGB"))
    on_ground = Image.new("RGB", rgba.size, _GROUND)
    on_ground.paste(rgba, mask=alpha)
    return Picture(on_ground, alpha)


def _eight_bits(image: Image.Image, label: str) -> Image.Image:
    """Grey with 16 bits a pixel, by rounding; mode I holds such data too."""
    values = np.asarray(image).astype(np.int64)
    if values.min() < 0 or values.max() > 65535:
        raise DatasetError(f"{label}: 32-bit pixels, whose range is not known. Save it as PNG.")
    return Image.fromarray(((values + 128) // 257).astype(np.uint8))
