"""Deltas and files for the tests of merging."""

from __future__ import annotations

import torch

from lora_core.adapters import AdapterFile
from lora_core.algebra.factorspace import Factors
from lora_core.files.parse import parse_state_dict
from lora_core.merge.weight import Weight
from lora_core.stack.rows import StackRow


def factors(generator: torch.Generator, out: int, inner: int, rank: int) -> Factors:
    """Factors whose singular values fall like a trained LoRA's."""
    scale = torch.arange(1, rank + 1).float() ** -0.7
    return Factors(
        torch.randn(out, rank, generator=generator) * scale,
        torch.randn(rank, inner, generator=generator),
    )


def weight(
    *terms: Factors, strengths: tuple[float, ...] = (), roles: tuple[str, ...] = (), seed: int = 11
) -> Weight:
    """A weight that every row of a stack has."""
    return Weight(
        "lora_unet_output_blocks_1_1_proj_in",
        terms,
        strengths or (1.0,) * len(terms),
        tuple(range(len(terms))),
        roles or ("free",) * len(terms),
        seed,
    )


def exact(term: Factors) -> torch.Tensor:
    return term.up.double() @ term.down.double()


def row(
    label: str,
    tensors: dict[str, torch.Tensor],
    model: float = 1.0,
    clip: float = 1.0,
    role: str = "free",
    metadata: dict[str, str] | None = None,
) -> tuple[StackRow, AdapterFile]:
    return StackRow(label, model, clip, role), parse_state_dict(tensors, label, metadata)
