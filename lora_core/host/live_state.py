"""What a live stack knows of itself and of the models that carry it, and how strengths reach the layers."""

from __future__ import annotations

import uuid
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any
from weakref import WeakKeyDictionary

import torch

from ..live.bank import Bank
from ..live.progress import acting, step_of, strength_table
from ..stack.rows import StackRow
from ..stack.schedule import Schedule
from ..stack.schedulerows import composite_calls


@dataclass(frozen=True)
class LiveRow:
    """What of a stack's row changes without new factors."""

    strength: float
    schedule: Schedule | None = None
    regions: tuple[str, ...] = ()


def live_row(row: StackRow) -> LiveRow:
    return LiveRow(row.model, row.timeline, row.regions)


@dataclass
class Loaded:
    """What one inner model carries: hooks to take off again, and the strengths that they read.

    strengths: (ranks,), the memory that all layers look at; by_part: (parts, ranks) where parts of a batch have
    strengths of their own. table: (model calls of a composite, steps, ranks) for `sigmas`.
    """

    strengths: torch.Tensor
    by_part: torch.Tensor | None = None
    hooks: list[Any] = field(default_factory=list)
    watch: Any = None
    sigmas: torch.Tensor | None = None
    table: torch.Tensor | None = None
    masks: dict[tuple[str, ...], torch.Tensor] = field(default_factory=dict)


@dataclass
class LiveStack:
    """One application of a stack, shared by all clones of the patcher that it was put on.

    loaded: the inner models that carry it right now. running: samplings under way. call: which of the composite's
    model calls is being made.
    """

    bank: Bank
    rows: tuple[LiveRow, ...]
    key: str = field(default_factory=lambda: f"loom_live_{uuid.uuid4().hex}")
    loaded: WeakKeyDictionary[torch.nn.Module, Loaded] = field(default_factory=WeakKeyDictionary)
    running: int = 0
    call: int = 0

    @cached_property
    def calls(self) -> tuple[tuple[bool, ...], ...]:
        """For each model call of a composite, whether each row acts in it."""
        return composite_calls([row.schedule if row.strength else None for row in self.rows])

    @cached_property
    def regions(self) -> frozenset[str]:
        return frozenset(region for row in self.rows for region in row.regions)

    @property
    def scheduled(self) -> bool:
        return any(row.schedule is not None for row in self.rows)

    def first_strengths(self) -> torch.Tensor:
        """(ranks,) on the CPU, before a model call says more: rows with a region are off."""
        own = torch.tensor([row.strength for row in self.rows])
        return self.bank.strengths(own * acting([row.regions for row in self.rows], ()))


def set_strengths(
    stack: LiveStack,
    loaded: Loaded,
    sigma: torch.Tensor | None,
    sigmas: torch.Tensor | None,
    parts: Sequence[tuple[str, ...]],
) -> None:
    """Write the strengths of a model call where the layers read them, without waiting for the device.

    sigma, sigmas: the call's noise level and the sampler's, None outside of a sampling: the rows' own strengths then.
    parts: for equal parts of the batch, one after another, the regions of their conditioning.
    """
    steps = 0 if sigmas is None else sigmas.shape[0] - 1
    if loaded.table is None or loaded.sigmas is not sigmas:
        loaded.sigmas, loaded.table = sigmas, _table(stack, steps).to(loaded.strengths.device)
    if sigma is None or sigmas is None:
        strengths = loaded.table[stack.call, 0]
    else:
        step = step_of(sigma.flatten()[0].to(loaded.strengths.device), sigmas)
        strengths = loaded.table[stack.call].index_select(0, step.reshape(1))[0]
    masks = [_mask(stack, loaded, part) for part in parts] if stack.regions else []
    loaded.by_part = None
    if len(set(parts)) > 1 and masks:
        loaded.by_part = strengths * torch.stack(masks)
    else:
        loaded.strengths.copy_(strengths * masks[0] if masks else strengths)


def _table(stack: LiveStack, steps: int) -> torch.Tensor:
    """(model calls, steps, ranks)."""
    own = [row.strength for row in stack.rows]
    schedules = [row.schedule if steps else None for row in stack.rows]
    table = strength_table(own, schedules, steps)
    calls = torch.tensor(stack.calls, dtype=table.dtype)
    return stack.bank.strengths(calls.unsqueeze(1) * table)


def _mask(stack: LiveStack, loaded: Loaded, here: tuple[str, ...]) -> torch.Tensor:
    """(ranks,): 1 where the rank's row acts on a conditioning of these regions."""
    if here not in loaded.masks:
        rows = acting([row.regions for row in stack.rows], here)
        loaded.masks[here] = stack.bank.by_rank(rows).to(loaded.strengths.device)
    return loaded.masks[here]
