"""ResolvedPatches -> MODEL and CLIP: one fused adapter a weight, put on through the host's own patch list."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from comfy.weight_adapter import WeightAdapterBase

from ..errors import PatchError
from ..resolve import FusedFactors, PartPatches, ResolvedPatches
from ..targets import Target
from .targets import forget_targets

# Rows of a 16-bit weight are widened this many elements at a time: one scratch buffer, not a second model.
_SCRATCH_ELEMENTS = 1 << 24


class StackAdapter(WeightAdapterBase):
    """The whole stack's low-rank deltas of one weight, added with float32 accumulation and one rounding.

    The host copies and rebuilds adapters as type(adapter)(adapter.loaded_keys, adapter.weights) and moves the tensors
    it finds in nested tuples, so all state is in `weights` = (ups, downs, scales, rearranged): ups (out, rank_i),
    downs (rank_i, in * kernel), scales floats, rearranged whether the host's patch carries a function for the delta.
    """

    name = "loom_stack"

    def __init__(self, loaded_keys: set[str], weights: Any) -> None:
        self.loaded_keys = loaded_keys
        self.weights = weights

    def calculate_shape(self, key: str) -> None:
        """None: a low-rank delta never changes a weight's shape."""
        return None

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
        """weight + strength * sum_i scale_i * up_i @ down_i, in place, in float32 whatever the caller computes in.

        weight: (out, in, *kernel), a temporary of the host's or a narrow view of one; fp32, fp16 or bf16.
        Raises PatchError (the host does not catch what a pack's adapter raises) and lets out-of-memory errors through.
        """
        ups, downs, scales, rearranged = self.weights
        try:
            up = torch.cat(
                [_widen(u, weight) * (s * strength) for u, s in zip(ups, scales, strict=True)],
                dim=1,
            )
            down = torch.cat([_widen(d, weight) for d in downs])
            if rearranged:
                weight += function((up @ down).reshape(weight.shape)).to(weight.dtype)
            else:
                _add_product(weight, up, down)
        except torch.cuda.OutOfMemoryError:
            raise  # the host has its own way out: it unloads models and says so
        except RuntimeError as error:
            raise PatchError(
                f"'{key}': the stack of {len(scales)} LoRAs could not be added to a weight of shape "
                f"{tuple(weight.shape)} on {weight.device}: {error}"
            ) from error
        return weight


def _widen(factor: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
    return factor.to(device=weight.device, dtype=torch.float32)


def _add_product(weight: torch.Tensor, up: torch.Tensor, down: torch.Tensor) -> None:
    """weight += up @ down in place. A float32 weight takes the product directly; others are widened row by row."""
    if weight.dtype == torch.float32 and weight.is_contiguous():
        weight.view(weight.shape[0], -1).addmm_(up, down)
        return
    rows = max(1, _SCRATCH_ELEMENTS // down.shape[1])
    for start in range(0, weight.shape[0], rows):
        part = weight[start : start + rows]
        wide = part.reshape(part.shape[0], -1).to(torch.float32)
        part.copy_(torch.addmm(wide, up[start : start + rows], down).reshape(part.shape))


def apply_patches(model: Any, clip: Any, resolved: ResolvedPatches) -> tuple[Any, Any]:
    """Clones of MODEL and CLIP with the patches on; what came in is not changed. None stays None.

    Raises PatchError where the host does not take every patch.
    """
    new_model = model if model is None else _patched(model, model.model, resolved.model, "MODEL")
    new_clip = (
        clip if clip is None else _patched(clip, clip.cond_stage_model, resolved.clip, "CLIP")
    )
    return new_model, new_clip


def _patched(patcher: Any, inner: torch.nn.Module, patches: PartPatches, socket: str) -> Any:
    """patcher: what has clone and add_patches, a MODEL or a CLIP; inner: the module that it patches."""
    if not patches.fused and not patches.differences:
        return patcher
    clone = patcher.clone()
    fused = {
        _patch_key(target): _adapter(target, factors) for target, factors in patches.fused.items()
    }
    whole = {
        _patch_key(target): ("diff", (tensor,)) for target, tensor in patches.differences.items()
    }
    for part in (fused, whole):
        refused = set(part) - set(clone.add_patches(part, 1.0))
        if refused:
            forget_targets(inner)
            raise PatchError(
                f"{socket}: the host refused {len(refused)} of {len(part)} patches, first {min(map(str, refused))}. "
                "Another node may have changed the model's layers: run again, or put the LoRAs before that node."
            )
    return clone


def _patch_key(target: Target) -> Any:
    """The host's forms of a patch key: key, (key, slice), (key, slice, function)."""
    if target.function is not None:
        return (target.key, target.offset, target.function)
    return target.key if target.offset is None else (target.key, target.offset)


def _adapter(target: Target, fused: FusedFactors) -> StackAdapter:
    weights = (fused.ups, fused.downs, fused.scales, target.function is not None)
    return StackAdapter({target.key}, weights)
