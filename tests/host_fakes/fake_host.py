"""ComfyUI 0.30's rules for what the pack touches, in small: written from its behaviour, for a machine without a GPU.

Its dynamic patcher exists only on a GPU (on a CPU the class answers with the ordinary one). What it does to a pack:
  weights stay where they are; a weight is cast and patched at every use, with adapters that are built again from copies
  of their tensors; new patches mark everything as changed, so that all is uploaded anew; loading in full, patching in
  place and hooks are errors; a patch that makes a weight larger has that weight loaded beforehand.
"""

from __future__ import annotations

import types
import uuid
from collections.abc import Callable
from typing import Any

import torch

CPU = torch.device("cpu")


class WeightAdapterBase:
    """The base of adapters: 0.30 asks for the shape and has a bypass mode of its own."""

    name: str
    loaded_keys: set[str]
    weights: Any

    def calculate_shape(self, key: str) -> tuple[int, ...] | None:
        return None


class PatcherInjection:
    def __init__(self, inject: Callable[..., None], eject: Callable[..., None]) -> None:
        self.inject, self.eject = inject, eject


class CastLinear(torch.nn.Module):
    """A layer that casts and patches its weight at every use."""

    def __init__(self, rows: int, columns: int, generator: torch.Generator) -> None:
        super().__init__()
        self.in_features, self.out_features = columns, rows
        weight = torch.randn(rows, columns, generator=generator) * 0.2
        self.weight = torch.nn.Parameter(weight, requires_grad=False)
        self.weight_lowvram_function: Callable[[torch.Tensor], torch.Tensor] | None = None

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        weight = self.weight.to(x.dtype, copy=True)
        if self.weight_lowvram_function is not None:
            weight = self.weight_lowvram_function(weight)
        return torch.nn.functional.linear(x, weight)


class Diffusion(torch.nn.Module):
    """A fused qkv, a projection, and a last layer whose halves the key map swaps."""

    def __init__(self) -> None:
        super().__init__()
        generator = torch.Generator().manual_seed(0)
        self.qkv = CastLinear(24, 8, generator)
        self.proj = CastLinear(8, 24, generator)
        self.final = CastLinear(8, 8, generator)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.final(self.proj(self.qkv(x)))


class Inner(torch.nn.Module):
    """What a patcher holds: the diffusion model and what the host keeps beside it."""

    def __init__(self) -> None:
        super().__init__()
        self.diffusion_model = Diffusion()
        self.model_config = type("Flux", (), {"unet_config": {}})()
        self.current_weight_patches_uuid: uuid.UUID | None = None
        self.device = CPU
        self.model_lowvram, self.lowvram_patch_counter = False, 0
        self.uploads = 0


def swapped(delta: torch.Tensor) -> torch.Tensor:
    first, second = delta.chunk(2, dim=0)
    return torch.cat([second, first])


def key_map(inner: Inner, names: dict[str, Any]) -> dict[str, Any]:
    """Names of weights, with slices of fused ones and a rearranged one, in the host's three forms."""
    for key in inner.state_dict():
        names[key.removesuffix(".weight")] = key
    qkv = "diffusion_model.qkv.weight"
    for number, part in enumerate(("to_q", "to_k", "to_v")):
        names[f"transformer.{part}"] = (qkv, (0, 8 * number, 8))
    names["transformer.norm_out"] = ("diffusion_model.final.weight", None, swapped)
    return names


def rebuilt(value: Any) -> Any:
    """As the host brings patches to the device: adapters are made anew from copies of the tensors that it finds."""
    if isinstance(value, torch.Tensor):
        assert value.device == CPU, "patches stay on the CPU until the host moves them"
        return value.clone()
    if isinstance(value, WeightAdapterBase):
        kind: Any = type(value)
        return kind(value.loaded_keys, rebuilt(value.weights))
    if isinstance(value, tuple | list):
        return type(value)(rebuilt(item) for item in value)
    return value


def calculate_weight(patches: list[Any], weight: torch.Tensor, key: str) -> torch.Tensor:
    for strength, adapter, strength_model, offset, function in patches:
        whole = weight
        part = weight if offset is None else weight.narrow(*offset)
        out = rebuilt(adapter).calculate_weight(
            part, key, strength, strength_model, offset, function or (lambda a: a), weight.dtype
        )
        weight = out if offset is None else whole
    return weight


def calculate_shape(patches: list[Any], weight: torch.Tensor, key: str) -> tuple[int, ...]:
    shape = tuple(weight.shape)
    for _, adapter, *_ in patches:
        shape = adapter.calculate_shape(key) or shape
    return shape


class DynamicPatcher:
    """The dynamic patcher's rules. uploads of the inner model counts how often all weights were marked as changed."""

    def __init__(self, model: Inner, load_device: torch.device = CPU) -> None:
        self.model, self.load_device, self.offload_device = model, load_device, CPU
        self.patches: dict[str, list[Any]] = {}
        self.patches_uuid = uuid.uuid4()
        self.injections: dict[str, list[PatcherInjection]] = {}
        self.callbacks: dict[str, dict[str, list[Any]]] = {}
        self.wrappers: dict[str, dict[str, list[Any]]] = {}
        self.backup: dict[str, torch.Tensor] = {}
        self.hook_patches: dict[Any, Any] = {}
        self.is_injected = False

    def is_dynamic(self) -> bool:
        return True

    def clone(self, disable_dynamic: bool = False, model_override: Any = None) -> DynamicPatcher:
        assert not disable_dynamic, "a delegate is a second copy of the model"
        made = type(self)(
            self.model if model_override is None else model_override, self.load_device
        )
        made.patches = {key: list(found) for key, found in self.patches.items()}
        made.patches_uuid = self.patches_uuid
        made.backup = self.backup if model_override is None else {}
        made.injections = {key: list(found) for key, found in self.injections.items()}
        for name in ("callbacks", "wrappers"):
            own = getattr(self, name)
            setattr(made, name, {k: {n: list(f) for n, f in v.items()} for k, v in own.items()})
        return made

    def add_patches(
        self, patches: dict[Any, Any], strength_patch: float = 1.0, strength_model: float = 1.0
    ) -> list[Any]:
        state = self.model.state_dict()
        taken = []
        for name, adapter in patches.items():
            key, offset, function = (
                (name, None, None) if isinstance(name, str) else (*name, None)[:3]
            )
            if key in state:
                taken.append(name)
                patch = (strength_patch, adapter, strength_model, offset, function)
                self.patches.setdefault(key, []).append(patch)
        self.patches_uuid = uuid.uuid4()
        return taken

    def set_injections(self, key: str, injections: list[PatcherInjection]) -> None:
        self.injections[key] = injections

    def add_callback_with_key(self, kind: str, key: str, callback: Any) -> None:
        self.callbacks.setdefault(kind, {}).setdefault(key, []).append(callback)

    def add_wrapper_with_key(self, kind: str, key: str, wrapper: Any) -> None:
        self.wrappers.setdefault(kind, {}).setdefault(key, []).append(wrapper)

    def inject_model(self) -> None:
        if not self.is_injected:
            for injection in (each for found in self.injections.values() for each in found):
                injection.inject(self)
                self.is_injected = True

    def eject_model(self) -> None:
        if self.is_injected:
            for injection in (each for found in self.injections.values() for each in found):
                injection.eject(self)
            self.is_injected = False

    def partially_load(self, device: torch.device, force_patch_weights: bool = False) -> None:
        """What load_models_gpu comes to: patches are attached, nothing is computed."""
        assert not force_patch_weights
        self.eject_model()
        self._restore()
        if self.model.current_weight_patches_uuid not in (None, self.patches_uuid):
            self.model.uploads += 1
        for name, layer in self.model.named_modules():
            if isinstance(layer, CastLinear):
                self._attach(layer, f"{name}.weight")
        self.model.device = device
        self.model.current_weight_patches_uuid = self.patches_uuid
        self.inject_model()

    def _attach(self, layer: CastLinear, key: str) -> None:
        layer.weight_lowvram_function = None
        patches = self.patches.get(key)
        if not patches:
            return
        if calculate_shape(patches, layer.weight, key) != tuple(layer.weight.shape):
            self.backup[key] = layer.weight
            made = calculate_weight(patches, layer.weight.clone(), key)
            layer.weight = torch.nn.Parameter(made, requires_grad=False)
            return
        layer.weight_lowvram_function = lambda weight: calculate_weight(patches, weight, key)

    def _restore(self) -> None:
        for key in list(self.backup):
            self.model.get_submodule(key.removesuffix(".weight")).weight = self.backup.pop(key)

    def load(self, *_: Any, **named: Any) -> None:
        raise AssertionError("a pack never loads a dynamic model itself")

    def patch_model(self, *_: Any, load_weights: bool = True, **__: Any) -> None:
        assert not load_weights

    def patch_weight_to_device(self, key: str, **_: Any) -> None:
        raise AssertionError(f"{key}: nothing is patched in place under dynamic memory")

    def pin_weight_to_device(self, key: str) -> None:
        raise RuntimeError("invalid for dynamic weight loading")

    def patch_hook_weight_to_device(self, *_: Any) -> None:
        raise RuntimeError("hooks are not implemented for dynamic memory")

    def detach(self, unpatch_all: bool = True) -> None:
        self.eject_model()
        for found in self.callbacks.get("on_detach", {}).values():
            for callback in found:
                callback(self, unpatch_all)

    def __del__(self) -> None:
        self.detach(unpatch_all=False)


def get_attr(whole: Any, name: str) -> Any:
    for part in name.split("."):
        whole = getattr(whole, part)
    return whole


def modules() -> dict[str, types.ModuleType]:
    """The host's modules by name, with what lora_core.host takes from them."""

    def module(name: str, **values: Any) -> types.ModuleType:
        made = types.ModuleType(name)
        made.__dict__.update(values)
        made.__path__ = []
        return made

    class CONDConstant:
        pass

    kinds = {name: name.lower() for name in ("ON_PRE_RUN", "ON_DETACH")}
    wraps = ("OUTER_SAMPLE", "APPLY_MODEL", "CALC_COND_BATCH", "PREPARE_SAMPLING")
    made = {
        "comfy": module("comfy"),
        "comfy.model_management": module("comfy.model_management"),
        "comfy.utils": module("comfy.utils", get_attr=get_attr),
        "comfy.lora": module("comfy.lora", model_lora_keys_unet=key_map),
        "comfy.model_base": module("comfy.model_base", HunyuanVideo=type("HunyuanVideo", (), {})),
        "comfy.model_patcher": module("comfy.model_patcher", get_key_weight=None),
        "comfy.weight_adapter": module("comfy.weight_adapter", WeightAdapterBase=WeightAdapterBase),
        "comfy.conds": module("comfy.conds", CONDConstant=CONDConstant),
        "comfy.ldm": module("comfy.ldm"),
        "comfy.ldm.flux": module("comfy.ldm.flux"),
        "comfy.ldm.flux.model": module("comfy.ldm.flux.model", Flux=type("Flux", (), {})),
        "comfy.ldm.modules": module("comfy.ldm.modules"),
        "comfy.ldm.modules.diffusionmodules": module("comfy.ldm.modules.diffusionmodules"),
        "comfy.ldm.modules.diffusionmodules.openaimodel": module(
            "openaimodel", UNetModel=type("UNetModel", (), {})
        ),
        "comfy.patcher_extension": module(
            "comfy.patcher_extension",
            PatcherInjection=PatcherInjection,
            CallbacksMP=types.SimpleNamespace(**kinds),
            WrappersMP=types.SimpleNamespace(**{name: name.lower() for name in wraps}),
        ),
    }
    for name, value in made.items():
        above, _, own = name.rpartition(".")
        if above:
            setattr(made[above], own, value)
    return made
