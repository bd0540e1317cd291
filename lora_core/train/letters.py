"""A modest guess at writing in a picture: rows of letter-like marks. It reads nothing.

A mark is a connected patch that stands out from its surroundings. A row of letters is a chain of marks of one height
on one line, close together, not all of one shape and not repeated below (stripes, fences, tiles, windows are).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from PIL import Image, ImageFilter

# Levels by which a mark stands out from the mean around it, and how far around is.
_STANDS_OUT, _AROUND = 28, 10
# Heights of marks in pixels, of a picture of about 512 x 512; their width as a share of their height.
_HEIGHTS = (6, 64)
_WIDTHS = (0.12, 1.6)
# Marks of one row: spread of their feet and heads, and the largest gap, as shares of their height.
_SAME_LINE, _GAP = 0.22, 0.8
# Marks of many shapes: the least spread (standard deviation over mean) of how full their boxes are, and the
# fullest mean; windows and bricks fill their boxes.
_SHAPES, _FULLEST = 0.08, 0.85
_COLUMNS = 0.6
# A texture has so many marks that some stand in a row by chance: rows of fewer are no sign there.
_TEXTURE, _CHANCE = 300, 7


@dataclass(frozen=True)
class _Mark:
    left: int
    top: int
    right: int
    bottom: int
    area: int

    @property
    def height(self) -> int:
        return self.bottom - self.top

    @property
    def width(self) -> int:
        return self.right - self.left

    @property
    def fullness(self) -> float:
        return self.area / (self.width * self.height)


def longest_row(grey: np.ndarray) -> int:
    """(H, W) uint8 -> how many marks the longest row of letter-like marks has; 0 for none."""
    if min(grey.shape) < 2 * _AROUND:
        return 0
    around = np.asarray(Image.fromarray(grey).filter(ImageFilter.BoxBlur(_AROUND)))
    difference = grey.astype(np.int16) - around
    return max(_row(difference > _STANDS_OUT), _row(difference < -_STANDS_OUT))


def _row(mask: np.ndarray) -> int:
    marks = [mark for mark in _marks(mask) if _letter_like(mark)]
    marks.sort(key=lambda mark: (mark.left, mark.top))
    rows, used = [], set()
    for start in range(len(marks)):
        if start not in used:
            chain = _chain(marks, start)
            used.update(chain)
            rows.append([marks[index] for index in chain])
    least = _CHANCE if len(marks) > _TEXTURE else 3
    rows = [row for row in rows if len(row) >= least]
    written = (row for row in rows if _of_many_shapes(row) and not _in_columns(row, rows))
    return max((len(row) for row in written), default=0)


def _letter_like(mark: _Mark) -> bool:
    return (
        _HEIGHTS[0] <= mark.height <= _HEIGHTS[1]
        and _WIDTHS[0] <= mark.width / mark.height <= _WIDTHS[1]
        and mark.fullness > 0.15
    )


def _chain(marks: list[_Mark], start: int) -> list[int]:
    """Indices of the marks that follow `start` to the right on its line."""
    chain = [start]
    last = marks[start]
    for index in range(start + 1, len(marks)):
        mark = marks[index]
        height = max(mark.height, last.height)
        gap = mark.left - last.right
        if gap > _GAP * height:
            if gap > _GAP * _HEIGHTS[1]:
                break
            continue
        same_line = max(abs(mark.bottom - last.bottom), abs(mark.top - last.top))
        if gap >= -0.1 * height and same_line <= max(2, _SAME_LINE * height):
            chain.append(index)
            last = mark
    return chain


def _of_many_shapes(row: list[_Mark]) -> bool:
    fullness = np.array([mark.fullness for mark in row])
    return bool(fullness.std() / fullness.mean() >= _SHAPES and fullness.mean() <= _FULLEST)


def _in_columns(row: list[_Mark], rows: list[list[_Mark]]) -> bool:
    """Whether the marks of another row stand above or below these: windows, tiles and bricks do."""
    for other in rows:
        for side in ("left", "right"):
            places = {getattr(mark, side) + shift for mark in other for shift in (-1, 0, 1)}
            matched = sum(getattr(mark, side) in places for mark in row)
            if other is not row and matched > _COLUMNS * len(row):
                return True
    return False


def _marks(mask: np.ndarray) -> list[_Mark]:
    """The 8-connected patches of a mask, from runs of its rows joined by a union-find."""
    starts, ends, rows = _runs(mask)
    parent = list(range(len(rows)))

    def root(index: int) -> int:
        while parent[index] != index:
            parent[index] = parent[parent[index]]
            index = parent[index]
        return index

    first_of_row = np.searchsorted(rows, np.arange(mask.shape[0] + 1))
    for row in range(1, mask.shape[0]):
        above, above_end = first_of_row[row - 1], first_of_row[row]
        for run in range(first_of_row[row], first_of_row[row + 1]):
            while above < above_end and ends[above] < starts[run]:
                above += 1
            other = above
            while other < above_end and starts[other] <= ends[run]:
                parent[root(other)] = root(run)
                other += 1
    return _boxes(starts, ends, rows, [root(index) for index in range(len(rows))])


def _runs(mask: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Starts, ends (exclusive) and rows of the runs of True, in reading order."""
    padded = np.zeros((mask.shape[0], mask.shape[1] + 2), np.int8)
    padded[:, 1:-1] = mask
    change = np.diff(padded, axis=1)
    rows, starts = np.nonzero(change == 1)
    _, ends = np.nonzero(change == -1)
    return starts, ends, rows


def _boxes(starts: np.ndarray, ends: np.ndarray, rows: np.ndarray, roots: list[int]) -> list[_Mark]:
    count = len(rows)
    if not count:
        return []
    label = np.asarray(roots)
    left, right = np.full(count, 1 << 30), np.zeros(count, int)
    top, bottom = np.full(count, 1 << 30), np.zeros(count, int)
    area = np.zeros(count, int)
    np.minimum.at(left, label, starts)
    np.maximum.at(right, label, ends)
    np.minimum.at(top, label, rows)
    np.maximum.at(bottom, label, rows + 1)
    np.add.at(area, label, ends - starts)
    return [
        _Mark(int(left[i]), int(top[i]), int(right[i]), int(bottom[i]), int(area[i]))
        for i in np.unique(label)
    ]
