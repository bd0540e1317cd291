"""What a LoRA can be put on: the names and weight shapes of a model, as plain values."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

from .files.naming import bare_name

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

    @cached_property
    def bare(self) -> Mapping[str, Target]:
        """Bare name (naming.bare_name) -> Target. A bare name that two different weights share is left out."""
        found: dict[str, Target | None] = {}
        for name, target in self.names.items():
            bare = bare_name(name)
            found[bare] = target if found.get(bare, target) == target else None
        return {name: target for name, target in found.items() if target is not None}

    def find(self, name: str) -> Target | None:
        """The weight that a name means: exactly as the host says it, else by its bare form."""
        target = self.names.get(name)
        return self.bare.get(name) if target is None else target

    def shape_of(self, target: Target) -> tuple[int, ...] | None:
        """The shape of the weight or of its slice; None where the model has no such weight."""
        shape = self.shapes.get(target.key)
        if shape is None or target.offset is None:
            return shape
        dim, _, length = target.offset
        return (*shape[:dim], length, *shape[dim + 1 :])
