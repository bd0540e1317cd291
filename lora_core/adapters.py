"""The values that stand for one LoRA: an adapter per weight, and the file that holds them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import torch


@dataclass(frozen=True)
class LowRank:
    """One low-rank adapter. delta = (alpha / rank) * up @ [mid] @ down. Hu et al. 2021, eq. 3.

    up: (out, rank) or (out, rank, 1, ...) for a convolution.
    down: (rank, in) or (rank, in, *kernel).
    mid: None, or the (rank, rank, *kernel) core of a CP-decomposed convolution, whose up and down are 1x1.
    alpha: None means a scale of 1, as the host and every trainer reads a missing alpha.
    keys: the file's tensor names that this adapter consumed.
    """

    up: torch.Tensor
    down: torch.Tensor
    alpha: float | None
    mid: torch.Tensor | None = None
    keys: tuple[str, ...] = ()

    @property
    def rank(self) -> int:
        return int(self.down.shape[0])

    @property
    def scale(self) -> float:
        return 1.0 if self.alpha is None else self.alpha / self.rank

    @property
    def kernel(self) -> tuple[int, ...]:
        """The kernel that the delta spans, () for a matrix."""
        return tuple((self.down if self.mid is None else self.mid).shape[2:])

    @property
    def delta_elements(self) -> int:
        """How many numbers the delta has: out * in * kernel."""
        spatial = 1
        for size in self.kernel:
            spatial *= size
        return int(self.up.shape[0] * self.down.shape[1]) * spatial

    @property
    def tensors(self) -> tuple[torch.Tensor, ...]:
        return (self.up, self.down) if self.mid is None else (self.up, self.down, self.mid)


@dataclass(frozen=True)
class Difference:
    """A whole difference of one vector or matrix: delta = tensor, of the target's own shape.

    part: which parameter of the module it belongs to, "weight" or "bias".
    """

    tensor: torch.Tensor
    part: str
    keys: tuple[str, ...] = ()

    @property
    def tensors(self) -> tuple[torch.Tensor, ...]:
        return (self.tensor,)


@dataclass(frozen=True)
class Leftover:
    """A key of the file that no adapter consumed, or a module that found no place, and why."""

    key: str
    reason: str


@dataclass(frozen=True)
class AdapterFile:
    """One LoRA as read. Every tensor key is in exactly one adapter's keys or in leftovers.

    label: what messages call it: the name the user chose, not a full path.
    modules: the file's module name, for example lora_unet_mid_block_attentions_0_proj_in -> its adapter.
    differences: (module name, "weight" or "bias") -> its difference.
    unread: names of modules of families that are not read; their keys are in leftovers.
    """

    label: str
    modules: Mapping[str, LowRank]
    leftovers: tuple[Leftover, ...] = ()
    metadata: Mapping[str, str] = field(default_factory=dict)
    differences: Mapping[tuple[str, str], Difference] = field(default_factory=dict)
    unread: tuple[str, ...] = ()

    @property
    def nbytes(self) -> int:
        adapters = (*self.modules.values(), *self.differences.values())
        return sum(t.numel() * t.element_size() for adapter in adapters for t in adapter.tensors)
