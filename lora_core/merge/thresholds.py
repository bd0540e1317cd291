"""The exact k-th largest magnitude of a matrix that is only ever seen a block at a time."""

from __future__ import annotations

from collections.abc import Callable, Iterable

import torch

# The upper 16 of a float32's bits: sign, exponent and 7 bits of mantissa.
_LOW_BITS = 16
_BUCKETS = 1 << 15


def kth_largest(blocks: Callable[[], Iterable[torch.Tensor]], k: int) -> float:
    """The k-th largest |x| (k from 1) over all blocks, which are float32 and are asked for twice.

    Magnitudes of float32 order as their bits do: the first pass counts by the upper bits and finds the bucket, the
    second sorts that one alone. k must be at least 1 and at most the number of entries.
    """
    counts = torch.zeros(_BUCKETS, dtype=torch.int64)
    for block in blocks():
        counts += torch.bincount(_upper(block), minlength=_BUCKETS)
    above = counts.flip(0).cumsum(0).flip(0)
    bucket = int((above >= k).nonzero().max())
    inside = []
    for block in blocks():
        magnitudes = block.abs().flatten()
        inside.append(magnitudes[_upper(block) == bucket])
    candidates = torch.cat(inside)
    rank = k - int(above[bucket] - counts[bucket])
    return float(candidates.kthvalue(len(candidates) - rank + 1).values)


def _upper(block: torch.Tensor) -> torch.Tensor:
    bits = block.abs().contiguous().view(torch.int32).flatten()
    return bits >> _LOW_BITS
