"""ResolvedPatches -> MODEL and CLIP: one fused adapter a weight, put on through the host's own patch list."""

from __future__ import annotations

from typing import Any

import torch

from ..errors import PatchError
from ..resolve import PartPatches, ResolvedPatches
from ..targets import Target
from .repatch import follow_changes
from .stack_adapter import StackAdapter
from .targets import forget_targets


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
