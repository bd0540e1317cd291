"""Aspect buckets: to which size each picture is brought, and what is cut off. Deterministic, from sizes alone."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from ..errors import DatasetError

# Longer than 4:1 is cut down to it: thinner buckets fill few latents of a model that has not seen such shapes.
MOST_ASPECT = 4.0
# Where a random crop may lie: the five quarters of the way. So each picture has few variants to encode.
CROP_PLACES = (0.0, 0.25, 0.5, 0.75, 1.0)

Size = tuple[int, int]
Box = tuple[float, float, float, float]


@dataclass(frozen=True)
class Placement:
    """How a picture fills its bucket. size: the picture's (width, height); bucket: likewise, multiples of the step."""

    size: Size
    bucket: Size

    @property
    def scale(self) -> float:
        """Bucket pixels per picture pixel: the picture just covers the bucket."""
        return max(self.bucket[0] / self.size[0], self.bucket[1] / self.size[1])

    @property
    def resized(self) -> Size:
        """The whole picture at that scale, rounded: what SDXL is told as the size before the crop."""
        return (
            max(self.bucket[0], round(self.size[0] * self.scale)),
            max(self.bucket[1], round(self.size[1] * self.scale)),
        )

    @property
    def kept(self) -> float:
        """The share of the picture's area that is not cut off."""
        return _kept(self.size, self.bucket)

    def box(self, place: float = 0.5) -> Box:
        """(left, top, right, bottom) in picture pixels; place 0 keeps the left or upper end, 1 the other."""
        width, height = self.bucket[0] / self.scale, self.bucket[1] / self.scale
        left = max(0.0, self.size[0] - width) * place
        top = max(0.0, self.size[1] - height) * place
        return (left, top, min(left + width, self.size[0]), min(top + height, self.size[1]))

    def crop_corner(self, place: float = 0.5) -> Size:
        """(left, top) of the crop in the resized picture, in pixels: SDXL's crop coordinates."""
        left, top, _, _ = self.box(place)
        return (round(left * self.scale), round(top * self.scale))


def place(
    size: Size, resolution: int, step: int, upscale: bool, name: str = "a picture"
) -> Placement:
    """The bucket for a picture: sides in multiples of step, at most resolution^2 in area, 4:1 at the longest.

    Without upscale no larger than the picture. Of all such buckets the one with the largest (share of the picture
    kept)^2 * area: it cuts little and wastes little. Raises DatasetError for a picture smaller than one step.
    """
    if not upscale and min(size) < step:
        raise DatasetError(
            f"{name}: {size[0]} x {size[1]} pixels; the smallest bucket is {step} x {step}. Use a larger "
            "picture, take it out, or switch upscaling on."
        )
    best = max(
        _candidates(size, resolution, step, upscale),
        key=lambda bucket: (_kept(size, bucket) ** 2 * bucket[0] * bucket[1], bucket),
    )
    return Placement(size, best)


def place_all(
    sizes: Iterable[tuple[str, Size]], resolution: int, step: int, upscale: bool = False
) -> tuple[Placement, ...]:
    """A placement for each (name, size), in order. Raises DatasetError that names the picture."""
    return tuple(place(size, resolution, step, upscale, name) for name, size in sizes)


def _candidates(size: Size, resolution: int, step: int, upscale: bool) -> list[Size]:
    area = max(resolution, step) ** 2
    longest = int(resolution * MOST_ASPECT**0.5)
    widest, highest = (
        (longest, longest) if upscale else (min(longest, size[0]), min(longest, size[1]))
    )
    return [
        (width, height)
        for width in range(step, max(step, widest) + 1, step)
        for height in range(step, max(step, highest) + 1, step)
        if width * height <= area and max(width, height) <= MOST_ASPECT * min(width, height)
    ]


def _kept(size: Size, bucket: Size) -> float:
    picture, frame = size[0] / size[1], bucket[0] / bucket[1]
    return min(picture / frame, frame / picture)
