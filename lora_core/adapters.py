"""The values that stand for one LoRA: an adapter per weight, and the file that holds them."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import Protocol

import torch


class Adapter(Protocol):
    """What every family gives, whichever formula it has. The families are in lora_core/algebra, one a file.

    span: (out, in * kernel) of what it is put on, None for a side that it does not fix.
    keys: the file's tensor names that it consumed. tensors: all it holds. rank, alpha: None where it has none.
    """

    @property
    def family(self) -> str: ...

    @property
    def keys(self) -> tuple[str, ...]: ...

    @property
    def tensors(self) -> tuple[torch.Tensor, ...]: ...

    @property
    def span(self) -> tuple[int | None, int | None]: ...

    @property
    def rank(self) -> int | None: ...

    @property
    def alpha(self) -> float | None: ...


@dataclass(frozen=True)
class LowRank:
    """One low-rank adapter. delta = (alpha / rank) * up @ [mid] @ down. Hu et al. 2021, eq. 3.

    up: (out, rank) or (out, rank, 1, ...) for a convolution.
    down: (rank, in) or (rank, in, *kernel).
    mid: None, or the (rank, rank, *kernel) core of a CP-decomposed convolution, whose up and down are 1x1.
    alpha: None means a scale of 1, as the host and every trainer reads a missing alpha.
    keys: the file's tensor names that this adapter consumed.
    grown: the shape that the weight is padded to with zeros first, for a LoRA that adds inputs (Flux control).
    """

    up: torch.Tensor
    down: torch.Tensor
    alpha: float | None
    mid: torch.Tensor | None = None
    keys: tuple[str, ...] = ()
    grown: tuple[int, ...] | None = None

    @property
    def family(self) -> str:
        return "LoCon" if math.prod(self.kernel) > 1 else "LoRA"

    @property
    def span(self) -> tuple[int, int]:
        return int(self.up.shape[0]), self.delta_elements // int(self.up.shape[0])

    @property
    def rank(self) -> int:
        return int(self.down.shape[0])

    @cached_property
    def scale(self) -> float:
        return 1.0 if self.alpha is None else self.alpha / self.rank

    @cached_property
    def matrices(self) -> tuple[torch.Tensor, torch.Tensor]:
        """up: (out, rank) and down: (rank, in * kernel), views; where there is a mid, down lacks it."""
        return self.up.flatten(1), self.down.flatten(1)

    @property
    def kernel(self) -> tuple[int, ...]:
        """The kernel that the delta spans, () for a matrix."""
        return tuple((self.down if self.mid is None else self.mid).shape[2:])

    @property
    def delta_elements(self) -> int:
        """How many numbers the delta has: out * in * kernel."""
        return int(self.up.shape[0] * self.down.shape[1]) * math.prod(self.kernel)

    @property
    def tensors(self) -> tuple[torch.Tensor, ...]:
        return (self.up, self.down) if self.mid is None else (self.up, self.down, self.mid)


@dataclass(frozen=True)
class Difference:
    """A whole difference of one vector or matrix: delta = scale * tensor, of the target's own shape.

    part: which parameter of the module it belongs to, "weight" or "bias".
    replaces: the tensor is the new weight itself and not a difference ("set_weight").
    """

    tensor: torch.Tensor
    part: str
    keys: tuple[str, ...] = ()
    scale: float = 1.0
    replaces: bool = False

    @property
    def family(self) -> str:
        return "replaced weight" if self.replaces else "whole difference"

    @property
    def tensors(self) -> tuple[torch.Tensor, ...]:
        return (self.tensor,)


@dataclass(frozen=True)
class Leftover:
    """A key of the file that no adapter consumed, or a module that found no place, and why."""

    key: str
    reason: str


# Compared by identity: two files are the same where they are one object.
@dataclass(frozen=True, eq=False)
class AdapterFile:
    """One LoRA as read. Every tensor key is in exactly one adapter's keys or in leftovers.

    label: what messages call it: the name the user chose, not a full path.
    modules: the file's module name, for example lora_unet_mid_block_attentions_0_proj_in -> its adapter.
    differences: (module name, "weight" or "bias") -> its difference.
    unread: names of modules of families that are not read; their keys are in leftovers.
    """

    label: str
    modules: Mapping[str, Adapter]
    leftovers: tuple[Leftover, ...] = ()
    metadata: Mapping[str, str] = field(default_factory=dict)
    differences: Mapping[tuple[str, str], Difference] = field(default_factory=dict)
    unread: tuple[str, ...] = ()

    @property
    def nbytes(self) -> int:
        adapters = (*self.modules.values(), *self.differences.values())
        return sum(t.numel() * t.element_size() for adapter in adapters for t in adapter.tensors)
