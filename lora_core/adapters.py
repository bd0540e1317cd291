"""The values that stand for one LoRA: an adapter per weight, and the file that holds them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

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
    def is_conv(self) -> bool:
        return self.down.dim() > 2 or self.mid is not None

    @property
    def delta_elements(self) -> int:
        """How many numbers the delta has: out * in * kernel."""
        kernel = self.down.shape[2:] if self.mid is None else self.mid.shape[2:]
        return int(self.up.shape[0] * self.down.shape[1] * kernel.numel())


@dataclass(frozen=True)
class Leftover:
    """A key of the file that no adapter consumed, and why."""

    key: str
    reason: str


@dataclass(frozen=True)
class AdapterFile:
    """One LoRA as read. Every tensor key is in exactly one module's keys or in leftovers.

    label: what messages call it: the name the user chose, not a full path.
    path: None for a LoRA that came in memory.
    modules: the file's module name, for example lora_unet_mid_block_attentions_0_proj_in -> its adapter.
    """

    label: str
    path: Path | None
    modules: Mapping[str, LowRank]
    leftovers: tuple[Leftover, ...]
    metadata: Mapping[str, str]

    @property
    def nbytes(self) -> int:
        tensors = (t for m in self.modules.values() for t in (m.up, m.down, m.mid) if t is not None)
        return sum(t.numel() * t.element_size() for t in tensors)
