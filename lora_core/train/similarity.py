"""How alike pictures look: a perceptual hash of 128 bits and the mean difference of tiny copies."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from PIL import Image

# Near-duplicates agree in the hash (bits of 128), in their mean colour (levels of 255) and in tiny copies brought
# to one brightness and contrast (mean difference in standard deviations).
_HASH_BITS, _MEAN_LEVELS, _DEVIATIONS = 14, 25.0, 0.12
_LEAST_CONTRAST = 8.0
_TINY = 16
_COMPARED = 200


@dataclass(frozen=True)
class _Looks:
    """Of N pictures. hashes: (N, 128) bools; means: (N, 3) levels; shapes: (N, 768) in standard deviations."""

    hashes: np.ndarray
    means: np.ndarray
    shapes: np.ndarray


def near_duplicates(thumbnails: Sequence[np.ndarray]) -> list[tuple[int, ...]]:
    """(h, w, 3) uint8 pictures -> groups of indices that are one picture but for size, quality, brightness, a slight crop.

    Mirrored copies count too. Each group is a connected set of alike pairs, in order.
    """
    straight = _looks(thumbnails)
    mirrored = _looks([picture[:, ::-1] for picture in thumbnails])
    group = list(range(len(thumbnails)))
    for index in range(len(thumbnails)):
        for others in (straight, mirrored):
            for other in _alike(straight, index, others):
                _join(group, int(other), index)
    members: dict[int, list[int]] = {}
    for index, first in enumerate(group):
        members.setdefault(first, []).append(index)
    return [tuple(indices) for indices in members.values() if len(indices) > 1]


def _alike(looks: _Looks, index: int, others: _Looks) -> np.ndarray:
    """Indices below `index` of the pictures of `others` that look like picture `index`."""
    bits = (others.hashes[:index] != looks.hashes[index]).sum(axis=1)
    means = np.abs(others.means[:index] - looks.means[index]).max(axis=1)
    near = np.nonzero((bits <= _HASH_BITS) & (means <= _MEAN_LEVELS))[0]
    shapes = np.abs(others.shapes[near] - looks.shapes[index]).mean(axis=1)
    return near[shapes <= _DEVIATIONS]


def mean_difference(thumbnails: Sequence[np.ndarray]) -> float:
    """The mean difference of all pairs of pictures, in levels of 255, mirrored where that is nearer; needs two.

    Of more than _COMPARED pictures evenly spaced ones are compared.
    """
    thumbnails = thumbnails[:: -(-len(thumbnails) // _COMPARED)]
    colours = _tiny(thumbnails)
    mirrored = _tiny([picture[:, ::-1] for picture in thumbnails])
    total, pairs = 0.0, 0
    for index in range(1, len(colours)):
        straight = np.abs(colours[:index] - colours[index]).mean(axis=1)
        turned = np.abs(mirrored[:index] - colours[index]).mean(axis=1)
        total += float(np.minimum(straight, turned).sum())
        pairs += index
    return total / pairs


def perceptual_hash(thumbnail: np.ndarray) -> np.ndarray:
    """(128,) bools: whether each cell of an 8 x 8 grid is brighter than its right and its lower neighbour.

    A difference hash (dHash) in both directions; differences below one level are no difference.
    """
    grey = Image.fromarray(thumbnail).convert("L")
    cells = np.asarray(grey.resize((9, 9), Image.Resampling.BOX)).astype(np.int16)
    across = cells[:8, :8] - cells[:8, 1:]
    down = cells[:8, :8] - cells[1:, :8]
    return np.concatenate([(across > 1).ravel(), (down > 1).ravel()])


def _looks(thumbnails: Sequence[np.ndarray]) -> _Looks:
    colours = _tiny(thumbnails).reshape(len(thumbnails), -1, 3)
    means = colours.mean(axis=1)
    around = (colours - means[:, None]).reshape(len(thumbnails), -1)
    contrast = np.maximum(around.std(axis=1, keepdims=True), _LEAST_CONTRAST)
    hashes = np.stack([perceptual_hash(picture) for picture in thumbnails])
    return _Looks(hashes, means, around / contrast)


def _tiny(thumbnails: Sequence[np.ndarray]) -> np.ndarray:
    """(N, 16 * 16 * 3) levels."""
    copies = [
        Image.fromarray(picture).resize((_TINY, _TINY), Image.Resampling.BOX)
        for picture in thumbnails
    ]
    return (
        np.stack([np.asarray(copy) for copy in copies]).astype(np.float32).reshape(len(copies), -1)
    )


def _join(group: list[int], one: int, other: int) -> None:
    """Give the members of both groups the lower of their names."""
    low, high = sorted((group[one], group[other]))
    for index, name in enumerate(group):
        if name == high:
            group[index] = low
