"""MODEL and CLIP -> TargetMap, through the host's own key maps. Kept per model: the host rebuilds it for every node."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any
from weakref import WeakKeyDictionary

import comfy.lora
import comfy.model_base
import comfy.utils
import torch

from ..targets import Target, TargetMap

# The host's configuration classes by name, in our words. A family not listed is "unknown", never an error.
_BASES = {
    "SD15": "SD1.5",
    "SD20": "SD2",
    "SD21UnclipL": "SD2",
    "SDXL": "SDXL",
    "SDXLRefiner": "SDXL refiner",
    "SD3": "SD3",
    "Flux": "Flux",
    "FluxSchnell": "Flux",
    "Chroma": "Chroma",
    "AuraFlow": "AuraFlow",
    "PixArtAlpha": "PixArt",
    "PixArtSigma": "PixArt",
    "HunyuanVideo": "HunyuanVideo",
    "LTXV": "LTX",
    "Lumina2": "Lumina2 / Z-Image",
    "WAN21_T2V": "Wan",
    "WAN21_I2V": "Wan",
    "QwenImage": "Qwen-Image",
    "HiDream": "HiDream",
    "GenmoMochi": "Mochi",
    "ACEStep": "ACE-Step",
}

# One map per inner model, shared by all clones of a patcher; it leaves with the model.
_known: WeakKeyDictionary[torch.nn.Module, TargetMap] = WeakKeyDictionary()


def model_targets(model: Any) -> TargetMap:
    """Names and shapes of a MODEL's weights."""
    return _targets(model.model, _model_names, _base(model.model))


def clip_targets(clip: Any) -> TargetMap:
    """Names and shapes of a CLIP's weights."""
    return _targets(clip.cond_stage_model, comfy.lora.model_lora_keys_clip, None)


def forget_targets(module: torch.nn.Module) -> None:
    """Drop what is known of an inner model, because its layers turned out to have changed."""
    _known.pop(module, None)


def _targets(
    module: torch.nn.Module, key_map: Callable[..., Mapping[str, Any]], base: str | None
) -> TargetMap:
    known = _known.get(module)
    if known is None:
        names = {name: _target(value) for name, value in key_map(module, {}).items()}
        known = _known[module] = TargetMap(names, _shapes(module), base)
    return known


def _model_names(inner: Any, names: dict[str, Any]) -> Mapping[str, Any]:
    """The host's own key map, and what it lacks: diffusers' names of HunyuanVideo, which is built like Flux."""
    known = comfy.lora.model_lora_keys_unet(inner, names)
    if isinstance(inner, comfy.model_base.HunyuanVideo):
        settings = inner.model_config.unet_config
        for name, value in comfy.utils.flux_to_diffusers(settings, "diffusion_model.").items():
            if name.endswith(".weight"):
                known.setdefault(f"transformer.{name.removesuffix('.weight')}", value)
    return known


def _shapes(module: torch.nn.Module) -> dict[str, tuple[int, ...]]:
    """Shapes as the layers compute with them: a quantised layer's state dict holds packed bytes instead."""
    saved = {key: tuple(tensor.shape) for key, tensor in module.state_dict().items()}
    live = module.named_parameters(remove_duplicate=False)
    return saved | {key: tuple(parameter.shape) for key, parameter in live}


def _target(value: Any) -> Target:
    """The host says a weight's key, or (key, slice), or (key, slice or None, function)."""
    if isinstance(value, str):
        return Target(value)
    key, offset, *rest = value
    return Target(key, None if offset is None else tuple(offset), rest[0] if rest else None)


def _base(inner: Any) -> str | None:
    classes = type(getattr(inner, "model_config", None)).__mro__
    return next((_BASES[c.__name__] for c in classes if c.__name__ in _BASES), None)
