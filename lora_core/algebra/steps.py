"""What happens to one weight, in order: a list of steps in plain tuples, and the functions that carry them out.

A step is (kind, tensors, numbers): plain nested tuples, because the host copies patches, moves the tensors that it
finds in them, and rebuilds what holds them. Everything is computed in float32 on the weight's device.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Any

import torch

from ..adapters import Difference, LowRank
from . import dora, glora, ia3, loha, lokr, oft
from .lowrank import factors

Step = tuple[str, tuple[Any, ...], tuple[Any, ...]]


def low_rank_step(terms: Sequence[tuple[LowRank, float]]) -> Step:
    """One matrix product for any number of (adapter, strength): ((ups), (downs)), scales."""
    ups, downs = zip(*[factors(adapter) for adapter, _ in terms], strict=True)
    return "low_rank", (ups, downs), tuple([strength * item.scale for item, strength in terms])


def _loha_step(adapter: loha.LoHa, strength: float) -> Step:
    return "loha", loha.halves(adapter), (strength * adapter.scale,)


def _lokr_step(adapter: lokr.LoKr, strength: float) -> Step:
    return "lokr", lokr.sides(adapter), (strength * adapter.scale,)


def _glora_step(adapter: glora.GLoRA, strength: float) -> Step:
    mix = (adapter.a1.flatten(1), adapter.a2.flatten(1))
    return "glora", (mix, glora.own_product(adapter)), (strength * adapter.scale,)


def _rotation_step(adapter: oft.Rotation, strength: float) -> Step:
    constraint = (adapter.alpha or 0.0) * adapter.span[0]
    return "rotation", (adapter.blocks, adapter.rescale), (constraint, strength)


def _ia3_step(adapter: ia3.IA3, strength: float) -> Step:
    return "ia3", (adapter.gain,), (adapter.on_input, strength)


def _dora_step(adapter: dora.DoRA, strength: float) -> Step:
    (inner,) = steps_of([(adapter.inner, 1.0)])
    return "dora", (inner, adapter.magnitude), (adapter.by_output, strength)


def _difference_step(adapter: Difference, strength: float) -> Step:
    kind = "set" if adapter.replaces else "difference"
    return kind, (adapter.tensor,), (strength * adapter.scale,)


_MAKERS: dict[type, Callable[[Any, float], Step]] = {
    loha.LoHa: _loha_step,
    lokr.LoKr: _lokr_step,
    glora.GLoRA: _glora_step,
    oft.Rotation: _rotation_step,
    ia3.IA3: _ia3_step,
    dora.DoRA: _dora_step,
    Difference: _difference_step,
}


def steps_of(terms: Sequence[tuple[Any, float]]) -> tuple[Step, ...]:
    """The steps for one weight's (adapter, strength) in stack order.

    Additions commute, so all low-rank terms between two steps that do not commute share one product; what depends
    on the weight it finds (GLoRA, DoRA, OFT, IA3, set) keeps its place among the rows.
    """
    if all([type(adapter) is LowRank and adapter.grown is None for adapter, _ in terms]):
        return (low_rank_step(terms),)  # the most frequent by far
    steps: list[Step] = []
    low_rank: list[tuple[LowRank, float]] = []

    def close() -> None:
        if low_rank:
            steps.append(low_rank_step(low_rank))
            low_rank.clear()

    for adapter, strength in terms:
        if isinstance(adapter, LowRank):
            # Only one that grows its weight has another number of inputs than the rest.
            if low_rank and low_rank[-1][0].grown != adapter.grown:
                close()
            if adapter.grown is not None:
                steps.append(("grow", (), adapter.grown))
            low_rank.append((adapter, strength))
            continue
        step = _MAKERS[type(adapter)](adapter, strength)
        if step[0] not in _DELTAS:
            close()
        steps.append(step)
    close()
    return tuple(steps)


def run(weight: torch.Tensor, steps: Iterable[Step]) -> torch.Tensor:
    """The weight after all steps. weight: float32 (or float64, in which all is then computed), any shape.

    It may be changed in place, and comes back larger where a step grows it.
    """
    for kind, tensors, numbers in steps:
        wide = widened(tensors, weight.device, weight.dtype)
        if (delta := _DELTAS.get(kind)) is not None:
            weight = _added(weight, delta(wide, numbers))
        else:
            weight = _CHANGES[kind](weight, wide, numbers)
    return weight


def is_linear(steps: Iterable[Step]) -> bool:
    """Whether the steps only add to the weight, whatever the weight is."""
    return all(kind in _DELTAS for kind, _, _ in steps)


def grown_shape(steps: Iterable[Step]) -> tuple[int, ...] | None:
    """The shape that the weight is padded to, or None where it keeps its own."""
    return next((numbers for kind, _, numbers in steps if kind == "grow"), None)


def widened(item: Any, device: torch.device, dtype: torch.dtype = torch.float32) -> Any:
    """Every tensor of a nested tuple on that device in that dtype."""
    if isinstance(item, torch.Tensor):
        return item.to(device=device, dtype=dtype)
    if isinstance(item, tuple):
        return tuple(widened(part, device, dtype) for part in item)
    return item


def _added(weight: torch.Tensor, delta: torch.Tensor) -> torch.Tensor:
    """weight + delta in place; a delta made for the weight before it grew is added to the part that it knew."""
    if delta.numel() == weight.numel():
        return weight.add_(delta.reshape(weight.shape))
    rows = weight.flatten(1)
    rows[: delta.shape[0], : delta[0].numel()] += delta.flatten(1)
    return rows.reshape(weight.shape)


def joined(
    tensors: Any, scales: Any, device: torch.device, dtype: torch.dtype = torch.float32
) -> tuple[torch.Tensor, torch.Tensor]:
    """(out, sum of ranks), the scales in it, and (sum of ranks, in * kernel): a low-rank step as one pair of factors.

    Widened as they are put together: on a CPU the copies would take a fifth of the product's time.
    """
    ups, downs = tensors
    ranks = [up.shape[1] for up in ups]
    up = torch.empty((ups[0].shape[0], sum(ranks)), dtype=dtype, device=device)
    down = torch.empty((sum(ranks), downs[0].shape[1]), dtype=dtype, device=device)
    parts = zip(up.split(ranks, dim=1), ups, down.split(ranks), downs, scales, strict=True)
    for up_part, up_of, down_part, down_of, scale in parts:
        up_part.copy_(up_of.to(device)).mul_(scale)
        down_part.copy_(down_of.to(device))
    return up, down


def _low_rank_delta(tensors: Any, scales: Any) -> torch.Tensor:
    up, down = joined(tensors, scales, tensors[0][0].device, tensors[0][0].dtype)
    return up @ down


# Deltas that do not depend on the weight: (tensors, numbers) -> (out, in * kernel) or the weight's own shape.
_DELTAS: dict[str, Callable[[Any, Any], torch.Tensor]] = {
    "low_rank": _low_rank_delta,
    "loha": lambda halves, numbers: loha.product(*halves).mul_(numbers[0]),
    "lokr": lambda sides, numbers: lokr.product(*sides).mul_(numbers[0]),
    "difference": lambda tensors, numbers: tensors[0] * numbers[0],
}


def _glora(weight: torch.Tensor, tensors: Any, numbers: Any) -> torch.Tensor:
    return weight + numbers[0] * glora.delta_of(weight, *tensors)


def _rotation(weight: torch.Tensor, tensors: Any, numbers: Any) -> torch.Tensor:
    turned = oft.rotated(weight.reshape(weight.shape[0], -1), *tensors, *numbers)
    return turned.reshape(weight.shape)


def _dora(weight: torch.Tensor, tensors: Any, numbers: Any) -> torch.Tensor:
    (kind, inner, scales), magnitude = tensors
    return dora.decomposed(weight, _DELTAS[kind](inner, scales), magnitude, *numbers)


def _set(weight: torch.Tensor, tensors: Any, numbers: Any) -> torch.Tensor:
    return weight + numbers[0] * (tensors[0].reshape(weight.shape) - weight)


def _grow(weight: torch.Tensor, _: Any, shape: tuple[int, ...]) -> torch.Tensor:
    if tuple(weight.shape) == tuple(shape):
        return weight
    padded = torch.zeros(shape, dtype=weight.dtype, device=weight.device)
    padded[tuple(slice(0, size) for size in weight.shape)] = weight
    return padded


# What depends on the weight it finds: (weight, tensors, numbers) -> the new weight.
_CHANGES: dict[str, Callable[[torch.Tensor, Any, Any], torch.Tensor]] = {
    "glora": _glora,
    "rotation": _rotation,
    "ia3": lambda weight, tensors, numbers: ia3.scaled(weight, tensors[0], *numbers),
    "dora": _dora,
    "set": _set,
    "grow": _grow,
}
