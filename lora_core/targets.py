"""What a LoRA can be put on: the names and weight shapes of a model, as plain values."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

# (dimension, start, length) of the slice of a fused weight, for example q inside qkv.
Slice = tuple[int, int, int]


@dataclass(frozen=True)
class Target:
    """One weight, or a slice of one. function: the host's rearrangement of a delta (Flux norm_out), or None."""

    key: str
    offset: Slice | None = None
    function: Callable[[Any], Any] | None = None


@dataclass(frozen=True)
class TargetMap:
    """The weights of one model: LoRA module name -> Target, and weight name -> shape.

    base: the family in words ("SD1.5"), None where it is not known.
    """

    names: Mapping[str, Target] = field(default_factory=dict)
    shapes: Mapping[str, tuple[int, ...]] = field(default_factory=dict)
    base: str | None = None

    def shape_of(self, target: Target) -> tuple[int, ...] | None:
        """The shape of the weight or of its slice; None where the model has no such weight."""
        shape = self.shapes.get(target.key)
        if shape is None or target.offset is None:
            return shape
        dim, _, length = target.offset
        return (*shape[:dim], length, *shape[dim + 1 :])
