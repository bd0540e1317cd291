"""The factors of a whole stack, layer by layer, and the one vector of strengths that all layers read."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch

from ..resolve import Term
from ..targets import Target
from .plan import LivePlan, exact_factors, exact_rank, row_order


@dataclass(frozen=True)
class UpPart:
    """What feeds one run of output rows. up: (length, ranks); first: of its ranks among the layer's."""

    start: int
    length: int
    first: int
    up: torch.Tensor


@dataclass(frozen=True)
class Factors:
    """One layer's side path, ready for a device and dtype. down: (ranks, in, *kernel), of all terms together."""

    down: torch.Tensor
    ups: tuple[UpPart, ...]


@dataclass(frozen=True)
class Layer:
    """One adapted weight. terms: those of one run of rows stand together; ranks: place in the strength vector."""

    key: str
    shape: tuple[int, ...]
    terms: tuple[tuple[Target, Term], ...]
    ranks: slice

    def factors(self, device: torch.device, dtype: torch.dtype) -> Factors:
        """Concatenate the terms' factors for a device and dtype. They are plain tensors, good for autograd too."""
        downs, parts, first = [], {}, 0
        with torch.inference_mode(False), torch.no_grad():
            for target, term in self.terms:
                up, down = (each.to(device) for each in exact_factors(term.adapter))
                order = row_order(target, up.shape[0])
                if target.function is not None and order is not None:
                    up = up[order.to(device)]
                downs.append(_in_place(down.to(dtype), target, self.shape))
                rows = _rows(target, self.shape)
                parts.setdefault(rows, (first, []))[1].append(up.to(dtype))
                first += int(up.shape[1])
            ups = tuple(
                UpPart(begin, length, start, torch.cat(found, dim=1))
                for (begin, length), (start, found) in parts.items()
            )
            return Factors(torch.cat(downs), ups)


@dataclass(frozen=True)
class Bank:
    """All layers of a stack. rows, scales: for each rank of the vector its row and its fixed factor (alpha / rank, block).

    ready: what was made for a device, weight name -> (device, dtype, Factors); one a layer.
    """

    layers: tuple[Layer, ...]
    rows: torch.Tensor
    scales: torch.Tensor
    ready: dict[str, tuple[torch.device, torch.dtype, Factors]] = field(default_factory=dict)

    def factors(self, layer: Layer, device: torch.device, dtype: torch.dtype) -> Factors:
        """The layer's factors, made at first use."""
        known = self.ready.get(layer.key)
        if known is None or known[:2] != (device, dtype):
            known = self.ready[layer.key] = (device, dtype, layer.factors(device, dtype))
        return known[2]

    def release(self) -> None:
        """Free what lies on a device; it is made again at the next use."""
        self.ready.clear()

    def strengths(self, rows: Sequence[float] | torch.Tensor) -> torch.Tensor:
        """(..., ranks) float32 on the CPU. rows: (..., rows), a strength for each row of the stack."""
        return torch.as_tensor(rows, dtype=torch.float32)[..., self.rows] * self.scales

    def by_rank(self, rows: torch.Tensor) -> torch.Tensor:
        """(ranks,) on the CPU: for each rank the number of its row. rows: (rows,)."""
        return rows[self.rows]


def make_bank(found: LivePlan, shapes: Mapping[str, tuple[int, ...]]) -> Bank:
    """Lay out the strength vector over the layers of a plan. shapes: weight name -> (out, in, *kernel)."""
    layers, rows, scales, first = [], [], [], 0
    for key, terms in found.layers.items():
        shape = shapes[key]
        # Terms on the same rows of the weight stand together, so that each run of rows is one product.
        together = tuple(sorted(terms, key=lambda item: _rows(item[0], shape)))
        for _, term in together:
            adapter: Any = term.adapter
            rank = exact_rank(adapter)
            rows += [term.row] * rank
            scales += [adapter.scale * term.factor] * rank
        layers.append(Layer(key, shape, together, slice(first, len(rows))))
        first = len(rows)
    return Bank(
        tuple(layers),
        torch.tensor(rows, dtype=torch.long),
        torch.tensor(scales, dtype=torch.float32),
    )


def _rows(target: Target, shape: tuple[int, ...]) -> tuple[int, int]:
    """(start, length) of the output rows that a target feeds."""
    if target.offset is None or target.offset[0] != 0:
        return 0, shape[0]
    return target.offset[1], target.offset[2]


def _in_place(down: torch.Tensor, target: Target, shape: tuple[int, ...]) -> torch.Tensor:
    """down as (rank, in, *kernel) over all of the weight's inputs; zero outside of a slice of them."""
    kernel = shape[2:]
    if target.offset is None or target.offset[0] != 1:
        return down.reshape(down.shape[0], shape[1], *kernel)
    _, start, length = target.offset
    whole = torch.zeros((down.shape[0], *shape[1:]), dtype=down.dtype, device=down.device)
    whole[:, start : start + length] = down.reshape(down.shape[0], length, *kernel)
    return whole
