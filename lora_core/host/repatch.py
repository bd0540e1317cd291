"""A change of strengths written into the loaded weights, from their pristine copies, without a reload.

The host unloads and loads a whole model when its patches change. Where the weights that are to be patched are among those
that were, and the model is loaded in full, each is made anew by the host's own function from the copy that the host keeps,
and what is no longer patched takes the copy itself: the bits are those of a fresh load, and the weights stay at their
addresses. In every other case the host's way is left alone.
The host keeps its copies in main memory; for a model on a GPU the touched ones are kept there too while memory is plenty.
"""

from __future__ import annotations

import uuid
from typing import Any
from weakref import WeakKeyDictionary

import comfy.model_management
import comfy.utils
import torch
from comfy.model_patcher import get_key_weight
from comfy.patcher_extension import CallbacksMP, WrappersMP

from .stack_adapter import StackAdapter

# The name under which a MODEL carries this.
FOLLOWS = "loom_repatch"
# What the host rounds to nearest; smaller ones it rounds at random.
_ORDINARY = (torch.float32, torch.float16, torch.bfloat16)

# Inner model -> weight name -> (the host's copy, the same on the device). They leave when the host unloads the model.
_near: WeakKeyDictionary[torch.nn.Module, dict[str, tuple[torch.Tensor, torch.Tensor]]] = (
    WeakKeyDictionary()
)


def follow_changes(patcher: Any) -> None:
    """Let a MODEL write a change of patches in place, right before the host would load it for sampling."""
    if not patcher.wrappers.get(WrappersMP.PREPARE_SAMPLING, {}).get(FOLLOWS):
        patcher.add_wrapper_with_key(WrappersMP.PREPARE_SAMPLING, FOLLOWS, _prepare)
        patcher.add_callback_with_key(CallbacksMP.ON_DETACH, FOLLOWS, _release)


def _release(patcher: Any, whole: bool) -> None:
    if whole:
        _near.pop(patcher.model, None)


def _prepare(executor: Any, model: Any, *arguments: Any, **named: Any) -> Any:
    repatch(model)
    return executor(model, *arguments, **named)


def repatch(model: Any) -> bool:
    """Write the patches of a MODEL into the loaded weights if that is safe. False: left to the host.

    Raises what computing a patch raises; the host then loads the model anew at the next run.
    """
    inner = model.model
    if not _is_safe(model):
        return False
    # Half written weights belong to no patches: if anything goes wrong the host must load anew.
    inner.current_weight_patches_uuid = uuid.uuid4()
    for key in model.backup:
        if key in model.patches:
            _rewrite(model, key)
        else:
            comfy.utils.get_attr(inner, key).data.copy_(model.backup[key].weight)
    inner.current_weight_patches_uuid = model.patches_uuid
    return True


def _rewrite(model: Any, key: str) -> None:
    """One weight from its pristine copy into the memory that it has: the host's own function, or its bits sooner."""
    live = comfy.utils.get_attr(model.model, key)
    pristine = _pristine(model, key)
    if pristine.device == live.device and _is_rounded_once(live):
        alone = _only_adapter(model, key)
        if alone is not None and alone.write(key, live.data, pristine):
            return
    comfy.utils.set_attr_param(model.model, key, pristine)
    model.patch_weight_to_device(key, device_to=model.load_device)
    live.data.copy_(comfy.utils.get_attr(model.model, key))
    comfy.utils.set_attr_param(model.model, key, live.data)


def _only_adapter(model: Any, key: str) -> StackAdapter | None:
    """The stack's adapter where it is all that is put on the weight, in full and on the whole of it."""
    if len(model.patches[key]) != 1:
        return None
    strength, adapter, strength_model, offset, function = model.patches[key][0][:5]
    whole = strength == 1.0 and strength_model == 1.0 and offset is None and function is None
    return adapter if whole and isinstance(adapter, StackAdapter) else None


def _is_rounded_once(weight: torch.Tensor) -> bool:
    """Whether the host would compute in a dtype that holds this one: else its bits are rounded twice."""
    management = comfy.model_management
    asked = getattr(management, "lora_compute_dtype", lambda device: torch.float32)
    computed = asked(weight.device)
    return weight.dtype in _ORDINARY and computed in (torch.float32, weight.dtype)


def _pristine(model: Any, key: str) -> torch.Tensor:
    """The weight without patches: the host's copy, or the same bits nearer to where they are needed."""
    kept = model.backup[key].weight
    if kept.device == torch.device(model.load_device):
        return kept
    near = _near.setdefault(model.model, {})
    if key in near and near[key][0] is kept:
        return near[key][1]
    if not _has_room(model, kept):
        return kept
    near[key] = (kept, kept.to(model.load_device))
    return near[key][1]


def _has_room(model: Any, weight: torch.Tensor) -> bool:
    """Whether a copy leaves what the host wants free for sampling, twice."""
    wanted = 2 * comfy.model_management.minimum_inference_memory() + weight.nbytes
    return comfy.model_management.get_free_memory(model.load_device) > wanted


def _is_safe(model: Any) -> bool:
    """Whether the model is loaded in full with other patches on all the weights that are to be patched now."""
    inner = model.model
    loaded = getattr(inner, "current_weight_patches_uuid", None)
    if getattr(model, "is_dynamic", lambda: False)() or loaded in (None, model.patches_uuid):
        return False
    if inner.model_lowvram or inner.lowvram_patch_counter or inner.device != model.load_device:
        return False
    if model.weight_inplace_update or model.weight_wrapper_patches:
        return False
    if model.hook_patches or model.hook_backup or model.forced_hooks or model.current_hooks:
        return False
    if not model.patches or not set(model.patches) <= set(model.backup):
        return False
    return all(_is_plain(model, key) for key in model.backup)


def _is_plain(model: Any, key: str) -> bool:
    """An ordinary tensor that no one else shares, of the same kind as its pristine copy."""
    weight, set_function, convert_function = get_key_weight(model.model, key)
    pristine = model.backup[key]
    return (
        set_function is None
        and convert_function is None
        and not pristine.inplace_update
        and type(weight) is torch.nn.Parameter
        and weight.dtype == pristine.weight.dtype
        and weight.shape == pristine.weight.shape
        and weight.data_ptr() != pristine.weight.data_ptr()
        and weight.device == torch.device(model.load_device)
        # A patch that makes the weight larger gives it memory of another size.
        and not any(_grows(patch[1], key) for patch in model.patches.get(key, ()))
    )


def _grows(patch: Any, key: str) -> bool:
    shape = getattr(patch, "calculate_shape", lambda key: None)(key)
    return shape is not None
