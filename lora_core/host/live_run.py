"""What a live stack does around the host's calls while it samples: strengths of the step, of the region, of the composite.

Regions travel as the host's own kind of conditioning value (`model_conds`), not by the conditionings' uuids: where a prompt
has an area, the host gives the other side a copy with the same uuid. The host hands the values of one model call to the
wrapper below in the order of its batch.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from comfy.conds import CONDConstant
from comfy.ldm.flux.model import Flux
from comfy.ldm.modules.diffusionmodules.openaimodel import UNetModel
from comfy.patcher_extension import WrappersMP

from ..stack.regionrows import REGIONS
from .live_state import LiveStack, set_strengths

# In these every tensor of a forward pass has the samples outermost; other models get regions in calls of their own.
_SAMPLES_OUTERMOST = (UNetModel, Flux)

# Places of apply_model's arguments: (x, t, c_concat, c_crossattn, control, transformer_options).
_TIMESTEP, _OPTIONS = 1, 5


class _Apart(CONDConstant):
    """The regions of a conditioning; the host batches it with others of the same regions only."""

    def concat(self, others: list[Any]) -> list[Any]:
        return [self.cond, *(other.cond for other in others)]


class _Beside(_Apart):
    """The same where one call of the model may hold conditionings of different regions."""

    def can_concat(self, other: Any) -> bool:
        return True


def wrap(patcher: Any, stack: LiveStack, clean: Callable[[], None]) -> None:
    """Put onto a patcher what its stack needs. clean: takes the side paths off when the last sampling has ended."""
    patcher.add_wrapper_with_key(WrappersMP.OUTER_SAMPLE, stack.key, _sampling(stack, clean))
    if stack.scheduled or stack.regions:
        patcher.add_wrapper_with_key(WrappersMP.APPLY_MODEL, stack.key, _following(stack))
    if len(stack.calls) > 1:
        patcher.add_wrapper_with_key(WrappersMP.CALC_COND_BATCH, stack.key, _averaging(stack))


def _sampling(stack: LiveStack, clean: Callable[[], None]) -> Callable[..., Any]:
    """Around a whole sampling: whatever ends it, error and interrupt included, the side paths come off."""

    def sample(executor: Any, *arguments: Any, **named: Any) -> Any:
        stack.running += 1
        try:
            if stack.regions:
                _mark(stack, executor.class_obj)
            return executor(*arguments, **named)
        finally:
            stack.running -= 1
            if stack.running == 0:
                clean()

    return sample


def _mark(stack: LiveStack, guider: Any) -> None:
    """Give every conditioning of a guider its regions as a value that reaches the model call.

    guider.conds: side -> conditionings, the guider's own copies for this sampling.
    """
    whole = guider.model_patcher.model.diffusion_model
    kind = _Beside if isinstance(whole, _SAMPLES_OUTERMOST) else _Apart
    for side in guider.conds.values():
        for cond in side:
            here = tuple(sorted(set(cond.get(REGIONS, ())) & stack.regions))
            cond["model_conds"] = {**cond["model_conds"], _name(stack): kind(here)}


def _name(stack: LiveStack) -> str:
    return f"{stack.key}_regions"


def _following(stack: LiveStack) -> Callable[..., Any]:
    """Around every call of the model: set the strengths of the step and the regions that it belongs to."""

    def call(executor: Any, *arguments: Any, **named: Any) -> Any:
        parts = named.pop(_name(stack), ((),))
        options = (
            named["transformer_options"] if "transformer_options" in named else arguments[_OPTIONS]
        )
        loaded = stack.loaded.get(executor.class_obj)
        if loaded is not None:
            sigma = options.get("sigmas", arguments[_TIMESTEP])
            set_strengths(stack, loaded, sigma, options.get("sample_sigmas"), parts)
        return executor(*arguments, **named)

    return call


def _averaging(stack: LiveStack) -> Callable[..., Any]:
    """Around the prediction for all conditionings of a noise level: made once for each of the composite's calls, averaged.

    Guidance is linear in its predictions, so this is the mean of each row's own guidance (LoRA Composite).
    """

    def predict(executor: Any, *arguments: Any, **named: Any) -> list[torch.Tensor]:
        found: list[list[torch.Tensor]] = []
        try:
            for number in range(len(stack.calls)):
                stack.call = number
                found.append(executor(*arguments, **named))
        finally:
            stack.call = 0
        return [torch.stack(each).mean(dim=0) for each in zip(*found, strict=True)]

    return predict
