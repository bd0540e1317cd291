"""ResolvedPatches -> MODEL and CLIP: one fused adapter a weight, put on through the host's own patch list."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from comfy.weight_adapter import WeightAdapterBase

from ..algebra.steps import grown_shape, is_linear, joined, run
from ..errors import PatchError
from ..resolve import PartPatches, ResolvedPatches
from ..targets import Target
from .repatch import follow_changes
from .targets import forget_targets

# Rows of a 16-bit weight are widened this many elements at a time: one scratch buffer, not a second model.
_SCRATCH_ELEMENTS = 1 << 24


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
        try:
            if rearranged:
                return _rearranged(weight, steps, function)
            if len(steps) == 1 and steps[0][0] == "low_rank":
                _, tensors, scales = steps[0]
                return _add_product(weight, *joined(tensors, scales, weight.device))
            return _written(weight, run(_wide(weight), steps))
        except torch.cuda.OutOfMemoryError:
            raise  # the host has its own way out: it unloads models and says so
        except RuntimeError as error:
            raise PatchError(
                f"'{key}': the stack's {len(steps)} steps could not be carried out on a weight of shape "
                f"{tuple(weight.shape)} on {weight.device}: {error}"
            ) from error


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


def _add_product(weight: torch.Tensor, up: torch.Tensor, down: torch.Tensor) -> torch.Tensor:
    """weight += up @ down in place. A float32 weight takes the product directly; others are widened row by row."""
    if weight.dtype == torch.float32 and weight.is_contiguous():
        weight.view(weight.shape[0], -1).addmm_(up, down)
        return weight
    rows = max(1, _SCRATCH_ELEMENTS // down.shape[1])
    for start in range(0, weight.shape[0], rows):
        part = weight[start : start + rows]
        wide = part.reshape(part.shape[0], -1).to(torch.float32)
        part.copy_(torch.addmm(wide, up[start : start + rows], down).reshape(part.shape))
    return weight


def apply_patches(model: Any, clip: Any, resolved: ResolvedPatches) -> tuple[Any, Any]:
    """Clones of MODEL and CLIP with the patches on; what came in is not changed. None stays None.

    Raises PatchError where the host does not take every patch.
    """
    new_model = model if model is None else _patched(model, model.model, resolved.model, "MODEL")
    if new_model is not model:
        follow_changes(new_model)
    new_clip = (
        clip if clip is None else _patched(clip, clip.cond_stage_model, resolved.clip, "CLIP")
    )
    return new_model, new_clip


def _patched(patcher: Any, inner: torch.nn.Module, patches: PartPatches, socket: str) -> Any:
    """patcher: what has clone and add_patches, a MODEL or a CLIP; inner: the module that it patches."""
    if not patches.steps:
        return patcher
    clone = patcher.clone()
    adapters = {
        _patch_key(target): StackAdapter({target.key}, (steps, target.function is not None))
        for target, steps in patches.steps.items()
    }
    refused = set(adapters) - set(clone.add_patches(adapters, 1.0))
    if refused:
        forget_targets(inner)
        raise PatchError(
            f"{socket}: the host refused {len(refused)} of {len(adapters)} patches, first {min(map(str, refused))}. "
            "Another node may have changed the model's layers: run again, or put the LoRAs before that node."
        )
    return clone


def _patch_key(target: Target) -> Any:
    """The host's forms of a patch key: key, (key, slice), (key, slice, function)."""
    if target.function is not None:
        return (target.key, target.offset, target.function)
    return target.key if target.offset is None else (target.key, target.offset)
