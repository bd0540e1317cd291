"""Deltas and files for the tests of merging."""

from __future__ import annotations

from collections.abc import Iterable

import torch

from lora_core.adapters import Adapter, AdapterFile, LowRank
from lora_core.algebra import lowrank
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


def low_rank(adapter: Adapter) -> LowRank:
    """An adapter that must be a LoRA or LoCon, as all that a merge writes is."""
    assert isinstance(adapter, LowRank)
    return adapter


def delta(adapter: Adapter) -> torch.Tensor:
    """The delta of a LoRA or LoCon in float64."""
    return lowrank.delta(low_rank(adapter), torch.float64)


def total(terms: Iterable[torch.Tensor]) -> torch.Tensor:
    return torch.stack(list(terms)).sum(0)


def row(
    label: str,
    tensors: dict[str, torch.Tensor],
    model: float = 1.0,
    clip: float = 1.0,
    role: str = "free",
    metadata: dict[str, str] | None = None,
) -> tuple[StackRow, AdapterFile]:
    return StackRow(label, model, clip, role), parse_state_dict(tensors, label, metadata)
