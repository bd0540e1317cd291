"""Live mode: a stack's side paths on the layers of a MODEL while it samples, and not a trace of them afterwards."""

from __future__ import annotations

import uuid
import weakref
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any
from weakref import WeakKeyDictionary

import comfy.utils
import torch
from comfy.patcher_extension import CallbacksMP, PatcherInjection, WrappersMP

from ..live.bank import Bank, Layer, make_bank
from ..live.mode import ModelTraits
from ..live.plan import LivePlan
from ..live.progress import step_of, strength_table
from ..live.side import add_convolved, add_linear
from ..stack.schedule import Schedule
from ..targets import TargetMap

# The banks of the last stacks put on a model, so that a change of strengths makes no factors again.
_KEPT_BANKS = 2
_banks: WeakKeyDictionary[torch.nn.Module, list[tuple[Any, Bank]]] = WeakKeyDictionary()

# Places of apply_model's arguments: (x, t, c_concat, c_crossattn, control, transformer_options).
_TIMESTEP, _OPTIONS = 1, 5


@dataclass
class _Loaded:
    """What one inner model carries: hooks to take off again, and the strength vector that they read."""

    strengths: torch.Tensor
    hooks: list[Any] = field(default_factory=list)
    watch: Any = None
    sigmas: torch.Tensor | None = None
    table: torch.Tensor | None = None


@dataclass
class LiveStack:
    """One application of a stack. rows: a strength for each row; schedules: for each row, None where it is constant.

    Shared by all clones of the patcher that it was put on. loaded: the inner models that carry it right now.
    """

    bank: Bank
    rows: tuple[float, ...]
    schedules: tuple[Schedule | None, ...]
    key: str = field(default_factory=lambda: f"loom_live_{uuid.uuid4().hex}")
    loaded: WeakKeyDictionary[torch.nn.Module, _Loaded] = field(default_factory=WeakKeyDictionary)
    running: int = 0

    @property
    def scheduled(self) -> bool:
        return any(schedule is not None for schedule in self.schedules)


def traits_of(model: Any) -> ModelTraits:
    """What of a MODEL speaks for live mode; nothing that changes from run to run."""
    dynamic = getattr(model, "is_dynamic", lambda: False)()
    return ModelTraits(_has_quantised(model.model.diffusion_model), bool(dynamic))


def _has_quantised(module: torch.nn.Module) -> bool:
    """Whether any matrix is. Not by parameters(), which takes ten times as long and is asked in every run."""
    left = [module]
    while left:
        layer = left.pop()
        for weight in layer._parameters.values():
            if weight is not None and weight.dim() >= 2 and _is_quantised(weight):
                return True
        left += [child for child in layer._modules.values() if child is not None]
    return False


def why_not_live(model: Any) -> Callable[[str], str | None]:
    """For a weight's name, why its layer takes no side path; None where it does."""

    def why(key: str) -> str | None:
        name, _, part = key.rpartition(".")
        module = _module(model.model, name)
        if part != "weight":
            return "a bias or another vector is no matrix"
        if isinstance(module, torch.nn.modules.conv._ConvNd):
            return _odd_convolution(module)
        if hasattr(module, "in_features") and hasattr(module, "out_features"):
            return None
        return f"a layer of the kind {type(module).__name__} takes no side path"

    return why


def apply_live(
    model: Any,
    found: LivePlan,
    targets: TargetMap,
    rows: Sequence[float],
    schedules: Sequence[Schedule | None],
) -> Any:
    """A clone of MODEL with the plan's layers on as side paths; what came in is not changed.

    rows: the model strength of each row of the stack; schedules: its schedule or None. No patch is added, so that the
    host loads nothing anew.
    """
    stack = LiveStack(_bank(model.model, found, targets), tuple(rows), tuple(schedules))
    clone = model.clone()
    clone.set_injections(
        stack.key,
        [
            PatcherInjection(
                lambda patcher: _inject(stack, patcher), lambda patcher: _eject(stack, patcher)
            )
        ],
    )
    clone.add_callback_with_key(
        CallbacksMP.ON_PRE_RUN, stack.key, lambda patcher: _ensure(stack, patcher)
    )
    clone.add_callback_with_key(
        CallbacksMP.ON_DETACH, stack.key, lambda _, whole: stack.bank.release() if whole else None
    )
    clone.add_wrapper_with_key(WrappersMP.OUTER_SAMPLE, stack.key, _cleaning(stack))
    if stack.scheduled:
        clone.add_wrapper_with_key(WrappersMP.APPLY_MODEL, stack.key, _following(stack))
    return clone


def _bank(inner: torch.nn.Module, found: LivePlan, targets: TargetMap) -> Bank:
    """The bank of a plan, the one of last time where only strengths differ."""
    content = tuple(
        (target, term.row, id(term.adapter), term.factor)
        for terms in found.layers.values()
        for target, term in terms
    )
    kept = _banks.setdefault(inner, [])
    bank = next((bank for known, bank in kept if known == content), None)
    if bank is None:
        # A kept bank holds its adapters, so that no other can come to have their ids.
        bank = make_bank(found, targets.shapes)
        kept[:] = [(content, bank), *kept][:_KEPT_BANKS]
    return bank


def _inject(stack: LiveStack, patcher: Any) -> None:
    """Put the side paths onto the patcher's inner model; done twice it is done once."""
    _eject(stack, patcher)
    inner = patcher.model
    vector = stack.bank.strengths(stack.rows).to(patcher.load_device)
    loaded = stack.loaded[inner] = _Loaded(vector)
    for layer in stack.bank.layers:
        module = _module(inner, layer.key.removesuffix(".weight"))
        hook = _side_hook(stack.bank, layer, vector[layer.ranks])
        loaded.hooks.append(module.register_forward_hook(hook))
    # A patcher that is dropped while it is loaded is never asked to take anything off.
    loaded.watch = weakref.finalize(patcher, _remove, loaded.hooks)


def _eject(stack: LiveStack, patcher: Any) -> None:
    loaded = stack.loaded.pop(patcher.model, None)
    if loaded is not None:
        loaded.watch.detach()
        _remove(loaded.hooks)


def _remove(hooks: list[Any]) -> None:
    while hooks:
        hooks.pop().remove()


def _ensure(stack: LiveStack, patcher: Any) -> None:
    """Before a run: the side paths are on, whatever was ejected since the load, at the strengths of the rows."""
    if patcher.model not in stack.loaded:
        _inject(stack, patcher)


def _cleaning(stack: LiveStack) -> Callable[..., Any]:
    """Around a whole sampling: whatever ends it, error and interrupt included, the side paths come off."""

    def sample(executor: Any, *arguments: Any, **named: Any) -> Any:
        stack.running += 1
        try:
            return executor(*arguments, **named)
        finally:
            stack.running -= 1
            if stack.running == 0:
                for loaded in list(stack.loaded.values()):
                    loaded.watch.detach()
                    _remove(loaded.hooks)
                stack.loaded.clear()

    return sample


def _following(stack: LiveStack) -> Callable[..., Any]:
    """Around every call of the model: set the strengths of the step that it belongs to."""

    def call(executor: Any, *arguments: Any, **named: Any) -> Any:
        options = (
            named["transformer_options"] if "transformer_options" in named else arguments[_OPTIONS]
        )
        loaded = stack.loaded.get(executor.class_obj)
        sigmas = options.get("sample_sigmas")
        if loaded is not None and sigmas is not None:
            _set_step(stack, loaded, options.get("sigmas", arguments[_TIMESTEP]), sigmas)
        return executor(*arguments, **named)

    return call


def _set_step(stack: LiveStack, loaded: _Loaded, sigma: torch.Tensor, sigmas: torch.Tensor) -> None:
    """Write the strengths of a step into the vector that the layers read, without waiting for the device."""
    if loaded.table is None or loaded.sigmas is not sigmas:
        table = strength_table(stack.rows, stack.schedules, sigmas.shape[0] - 1)
        by_rank = torch.stack([stack.bank.strengths(row) for row in table.tolist()])
        loaded.sigmas, loaded.table = sigmas, by_rank.to(loaded.strengths.device)
    step = step_of(sigma.flatten()[0].to(loaded.strengths.device), sigmas)
    loaded.strengths.copy_(loaded.table.index_select(0, step.reshape(1))[0])


def _side_hook(bank: Bank, layer: Layer, strengths: torch.Tensor) -> Callable[..., torch.Tensor]:
    def add(module: Any, arguments: tuple[Any, ...], out: torch.Tensor) -> torch.Tensor:
        x = arguments[0]
        factors = bank.factors(layer, out.device, out.dtype)
        if len(layer.shape) == 2:
            return add_linear(out, x, factors, strengths)
        return add_convolved(
            out, x, factors, strengths, lambda x, down: module._conv_forward(x, down, None)
        )

    return add


def _odd_convolution(module: Any) -> str | None:
    """A side path goes through the layer's own convolution, with its padding and stride."""
    if module.transposed or module.groups != 1:
        return "a transposed or grouped convolution takes no side path"
    # A class of its own that pads or pools first hands its convolution another input than it was called with.
    home = type(module).forward.__module__
    if home.split(".")[0] not in ("torch", "comfy") or home.startswith("comfy.ldm"):
        return f"{type(module).__name__} does more than a convolution"
    return None


def _is_quantised(parameter: torch.Tensor) -> bool:
    """8 bits or fewer a number: fp8, integers, the host's quantised tensors, GGUF's packed ones."""
    return (
        parameter.element_size() == 1
        or not parameter.dtype.is_floating_point
        or hasattr(parameter, "_layout_type")
        or hasattr(parameter, "_qdata")
        or getattr(parameter, "tensor_type", None) not in (None, 0, 1)
    )


def _module(inner: torch.nn.Module, name: str) -> Any:
    return comfy.utils.get_attr(inner, name)
