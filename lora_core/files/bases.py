"""Which base model a LoRA was made for, from its key names, shapes and metadata."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable

from ..adapters import AdapterFile

# Key names that only one base has. Looked for in order: the telling ones first.
_NAMES: tuple[tuple[str, re.Pattern[str]], ...] = tuple(
    (base, re.compile(pattern))
    for base, pattern in (
        ("Flux", r"(?:^|[._])single_blocks[._]\d+[._]linear1|single_transformer_blocks[._]\d+"),
        ("Flux", r"(?:^|[._])double_blocks[._]\d+[._]img_(?:attn|mlp|mod)"),
        ("SD3", r"(?:^|[._])joint_blocks[._]\d+"),
        ("Wan", r"(?:^|[._])blocks[._]\d+[._](?:self_attn|cross_attn|ffn)[._]"),
        ("Qwen-Image", r"transformer_blocks[._]\d+[._](?:img|txt)_m(?:lp|od)"),
        ("Lumina2 / Z-Image", r"(?:noise_refiner|context_refiner)[._]\d+"),
        ("SDXL", r"(?:lora_te2_|text_encoder_2\.)"),
    )
)

# Width of the text features that cross-attention reads: the input of attn2.to_k.
_CONTEXT_WIDTH = {768: "SD1.5", 1024: "SD2", 2048: "SDXL"}
_CROSS_ATTENTION = re.compile(r"attn2[._](?:processor[._])?to_[kv]$")

_METADATA_BASES: tuple[tuple[str, str], ...] = (
    ("sdxl", "SDXL"),
    ("stable-diffusion-xl", "SDXL"),
    ("sd3", "SD3"),
    ("stable-diffusion-3", "SD3"),
    ("flux", "Flux"),
    ("wan", "Wan"),
    ("qwen", "Qwen-Image"),
    ("sd_v2", "SD2"),
    ("stable-diffusion-v2", "SD2"),
    ("sd_v1", "SD1.5"),
    ("sd_1.5", "SD1.5"),
    ("stable-diffusion-v1", "SD1.5"),
)


def base_of(adapter: AdapterFile) -> str | None:
    """The base this LoRA was made for, in words, or None where nothing tells.

    Names and shapes come first: metadata is what a person typed, keys are what was trained.
    """
    methods: tuple[Callable[[AdapterFile], str | None], ...] = (_from_shapes, _from_names, _from_metadata)
    return next((base for method in methods if (base := method(adapter)) is not None), None)


def _from_shapes(adapter: AdapterFile) -> str | None:
    for name, module in adapter.modules.items():
        if _CROSS_ATTENTION.search(name):
            base = _CONTEXT_WIDTH.get(int(module.down.shape[1]))
            if base is not None:
                return base
    return None


def _from_names(adapter: AdapterFile) -> str | None:
    return base_from_names([*adapter.modules, *(left.key for left in adapter.leftovers)])


def base_from_names(names: Iterable[str]) -> str | None:
    """The first base whose telling key names occur."""
    found = {base for name in names for base, pattern in _NAMES if pattern.search(name)}
    return next((base for base, _ in _NAMES if base in found), None)


def _from_metadata(adapter: AdapterFile) -> str | None:
    said = " ".join(
        adapter.metadata.get(field, "")
        for field in ("ss_base_model_version", "modelspec.architecture", "ss_sd_model_name")
    ).lower()
    return next((base for mark, base in _METADATA_BASES if mark in said), None)
