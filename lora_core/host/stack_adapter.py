"""The fused adapter of one weight: the whole stack's steps, as the host's patches hold and call them."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from comfy.weight_adapter import WeightAdapterBase

from ..algebra.products import add_product, write_sum
from ..algebra.steps import Step, grown_shape, is_linear, joined, run
from ..errors import PatchError


class StackAdapter(WeightAdapterBase):
    """The whole stack's steps for one weight, carried out in float32 with one rounding at the end.

    The host copies and rebuilds adapters as type(adapter)(adapter.loaded_keys, adapter.weights) and moves the tensors
    it finds in nested tuples, so all state is in `weights` = (steps, rearranged): steps as algebra/steps.py has them,
    rearranged whether the host's patch carries a function for the delta.
    """

    name = "loom_stack"

    def __init__(self, loaded_keys: set[str], weights: Any) -> None:
        self.loaded_keys = loaded_keys
        self.weights = weights

    def calculate_shape(self, key: str) -> tuple[int, ...] | None:
        """The weight's shape after the stack where a LoRA grows it, else None: unchanged."""
        return grown_shape(self.weights[0])

    def calculate_weight(
        self,
        weight: torch.Tensor,
        key: str,
        strength: float,
        strength_model: float,
        offset: Any,
        function: Callable[[torch.Tensor], torch.Tensor],
        intermediate_dtype: torch.dtype = torch.float32,
        original_weight: Any = None,
    ) -> torch.Tensor:
        """The weight after all steps, in float32 whatever the caller computes in; in place unless it grows.

        weight: (out, in, *kernel) or a bias, a temporary of the host's or a narrow view of one; fp32, fp16 or bf16.
        strength, strength_model: 1 here, because every row's own strength is in the steps.
        Raises PatchError (the host does not catch what a pack's adapter raises) and lets out-of-memory errors through.
        """
        steps, rearranged = self.weights
        with _told(key, steps, weight):
            if rearranged:
                return _rearranged(weight, steps, function)
            if _is_product(steps):
                return add_product(weight, *_factors(steps, weight.device))
            return _written(weight, run(_wide(weight), steps))

    def write(self, key: str, into: torch.Tensor, base: torch.Tensor) -> bool:
        """into = the weight after all steps from `base`, rounded once, where they are one product.

        into, base: (out, in, *kernel), one dtype and device. False, and nothing written, where there is more to do.
        The bits are those of calculate_weight on a float32 copy of `base`, rounded to that dtype. Raises what it raises.
        """
        steps, rearranged = self.weights
        if rearranged or not _is_product(steps):
            return False
        with _told(key, steps, into):
            write_sum(into, base, *_factors(steps, into.device))
        return True


@contextmanager
def _told(key: str, steps: tuple[Step, ...], weight: torch.Tensor) -> Iterator[None]:
    """Errors of torch as PatchError that names the weight."""
    try:
        yield
    except torch.cuda.OutOfMemoryError:
        raise  # the host has its own way out: it unloads models and says so
    except RuntimeError as error:
        raise PatchError(
            f"'{key}': the stack's {len(steps)} steps could not be carried out on a weight of shape "
            f"{tuple(weight.shape)} on {weight.device}: {error}"
        ) from error


def _is_product(steps: tuple[Step, ...]) -> bool:
    return len(steps) == 1 and steps[0][0] == "low_rank"


def _factors(steps: tuple[Step, ...], device: torch.device) -> tuple[torch.Tensor, torch.Tensor]:
    ((_, tensors, scales),) = steps
    return joined(tensors, scales, device)


def _wide(weight: torch.Tensor) -> torch.Tensor:
    """The weight in float32: itself where it may be worked on in place."""
    return weight if weight.dtype == torch.float32 and weight.is_contiguous() else weight.float()


def _written(weight: torch.Tensor, result: torch.Tensor) -> torch.Tensor:
    """The result in the weight's own memory; as a tensor of its own where it grew."""
    if result.shape != weight.shape:
        return result.to(weight.dtype)
    return weight if result.data_ptr() == weight.data_ptr() else weight.copy_(result)


def _rearranged(
    weight: torch.Tensor, steps: Any, function: Callable[[torch.Tensor], torch.Tensor]
) -> torch.Tensor:
    """Carry the steps out in the order of rows that the file knows.

    Additions are rearranged themselves. What depends on the weight needs the weight in the file's order first; the
    host's rearrangements swap two halves, so the same function goes both ways, which is checked.
    """
    if is_linear(steps):
        zeros = torch.zeros(weight.shape, dtype=torch.float32, device=weight.device)
        weight += function(run(zeros, steps)).to(weight.dtype)
        return weight
    wide = weight.float()
    if not torch.equal(function(function(wide)), wide):
        raise RuntimeError("its rows are rearranged in a way that cannot be turned back")
    return _written(weight, function(run(function(wide).contiguous(), steps)))
