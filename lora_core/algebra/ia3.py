"""IA3: every output or input channel of a weight multiplied by one learned number. Liu et al. 2022 (arXiv 2205.05638)."""

from __future__ import annotations

from dataclasses import dataclass

import torch


@dataclass(frozen=True)
class IA3:
    """W' = W * (1 + strength * gain), gain along the outputs or along the inputs.

    gain: (channels,), the number above 1: LyCORIS stores it so; PEFT stores 1 + gain.
    """

    gain: torch.Tensor
    on_input: bool
    keys: tuple[str, ...] = ()

    family = "IA3"
    rank = None
    alpha = None

    @property
    def tensors(self) -> tuple[torch.Tensor, ...]:
        return (self.gain,)

    @property
    def span(self) -> tuple[int | None, None]:
        """(out, None) where it acts on the outputs."""
        return (None if self.on_input else int(self.gain.numel()), None)


def scaled(
    weight: torch.Tensor, gain: torch.Tensor, on_input: bool, strength: float
) -> torch.Tensor:
    """The scaled weight (out, in, *kernel)."""
    axis = 1 if on_input else 0
    shape = [1] * weight.dim()
    shape[axis] = -1
    return weight * (1 + strength * gain.reshape(shape))
