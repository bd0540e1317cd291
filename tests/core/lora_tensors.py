"""State dicts of LoRAs as trainers name them."""

from __future__ import annotations

from collections.abc import Iterable

import torch

from lora_core.adapters import AdapterFile, LowRank
from lora_core.algebra.steps import Step, run


def pair(
    module: str,
    generator: torch.Generator,
    *,
    out: int = 6,
    inner: int = 5,
    rank: int = 3,
    kernel: tuple[int, ...] = (),
    names: tuple[str, str] = (".lora_up.weight", ".lora_down.weight"),
    alpha: float | None = None,
) -> dict[str, torch.Tensor]:
    """up and down (and alpha) of one module; `names` are the endings of the scheme."""
    ones = (1,) * len(kernel)
    tensors = {
        module + names[0]: torch.randn(out, rank, *ones, generator=generator),
        module + names[1]: torch.randn(rank, inner, *kernel, generator=generator),
    }
    if alpha is not None:
        tensors[f"{module}.alpha"] = torch.tensor(alpha)
    return tensors


def low_rank(file: AdapterFile, module: str) -> LowRank:
    """The module's adapter, which is a LoRA or LoCon."""
    adapter = file.modules[module]
    assert isinstance(adapter, LowRank)
    return adapter


def as_delta(steps: Iterable[Step], *shape: int) -> torch.Tensor:
    """What the steps make of a weight of zeros, in float64."""
    return run(torch.zeros(shape, dtype=torch.float64), steps)
