"""Whether an adapter fits a weight, in words where it does not."""

from __future__ import annotations

import math

from .adapters import Adapter, Difference, LowRank
from .algebra.dora import DoRA
from .algebra.glora import GLoRA
from .algebra.ia3 import IA3
from .algebra.oft import Rotation, fits_rows

Shape = tuple[int, ...]


def clash(item: Adapter | Difference, shape: Shape) -> str | None:
    """The two shapes in words where the adapter does not fit a weight of this shape, else None."""
    if isinstance(item, Difference):
        given = tuple(item.tensor.shape)
        return None if given == shape else _differs(_times(given), shape)
    if isinstance(item, LowRank) and item.grown is not None:
        return _grown_clash(item, item.grown, shape)
    own = (shape[0], math.prod(shape[1:]))
    fits = len(shape) >= 2 and all(
        size is None or size == has for size, has in zip(item.span, own, strict=True)
    )
    if not fits:
        return _differs(_times(item.span), shape)
    return _inner_clash(item, shape)


def _grown_clash(item: LowRank, grown: Shape, shape: Shape) -> str | None:
    grows = len(grown) == len(shape) and all(a >= b for a, b in zip(grown, shape, strict=True))
    if grows and item.span == (grown[0], math.prod(grown[1:])):
        return None
    return f"the LoRA grows the weight to {_times(grown)} and makes {_times(item.span)}, the model's weight is {_times(shape)}"


def _inner_clash(item: Adapter, shape: Shape) -> str | None:
    """What the outer span does not tell: how the parts sit inside the weight."""
    if isinstance(item, DoRA):
        has = shape[0] if item.by_output else shape[1]
        if item.magnitude.numel() != has:
            return f"the magnitude has {item.magnitude.numel()} numbers, the model's weight has {has} of that axis"
    if isinstance(item, GLoRA) and item.a1.shape[0] not in (shape[1], math.prod(shape[1:])):
        return f"the LoRA mixes {item.a1.shape[0]} inputs, the model's weight has {shape[1]}"
    if isinstance(item, IA3) and item.on_input and item.gain.numel() != shape[1]:
        return f"the LoRA scales {item.gain.numel()} inputs, the model's weight has {shape[1]}"
    if isinstance(item, Rotation) and not fits_rows(item):
        return "the rotation's blocks do not divide its rows"
    return None


def _differs(given: str, shape: Shape) -> str:
    return f"the LoRA makes {given}, the model's weight is {_times(shape)}"


def _times(shape: tuple[int | None, ...]) -> str:
    return " x ".join("any" if size is None else str(size) for size in shape)
