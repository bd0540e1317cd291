"""Which base model a LoRA was made for, from its key names, shapes and metadata."""

from __future__ import annotations

import re
from collections.abc import Callable

from ..adapters import AdapterFile
from .cache import once_an_object

# Key names that only one base has. The first base that is found wins: the special ones stand first.
# HunyuanVideo is built like Flux with a block more of each kind; kohya's underscores hide the rest.
_NAMES: tuple[tuple[str, re.Pattern[str]], ...] = tuple(
    (base, re.compile(pattern))
    for base, pattern in (
        ("AuraFlow", r"joint_transformer_blocks[._]\d+|single_transformer_blocks[._]\d+[._]ff[._]"),
        (
            "HunyuanVideo",
            r"double_blocks\.\d+\.img_attn_|double_blocks[._]19[._]|[._]single_blocks[._]3[89][._]",
        ),
        ("Flux", r"(?:^|[._])single_blocks[._]\d+[._]linear1|single_transformer_blocks[._]\d+"),
        ("Flux", r"(?:^|[._])double_blocks[._]\d+[._]img_(?:attn|mlp|mod)"),
        ("SD3", r"(?:^|[._])joint_blocks[._]\d+"),
        ("Wan", r"(?:^|[._])blocks[._]\d+[._](?:(?:self|cross)_attn[._][qkvo](?:$|\.)|ffn[._])"),
        ("Qwen-Image", r"transformer_blocks[._]\d+[._](?:img|txt)_m(?:lp|od)"),
        ("Lumina2 / Z-Image", r"(?:noise_refiner|context_refiner)[._]\d+"),
    )
)

# Width of the text features that a UNet's cross-attention reads: the input of attn2.to_k.
_CONTEXT_WIDTH = {768: "SD1.5", 1024: "SD2", 2048: "SDXL"}
_UNET_BLOCK = re.compile(r"(?:down|up|mid|input|output|middle)_block")
_CROSS_ATTENTION = re.compile(r"attn2[._](?:processor[._])?to_[kv]$")
_SECOND_TEXT_ENCODER = re.compile(r"^(?:lora_te2_|text_encoder_2\.)")

# What trainers write, from the field that says most to the one that is only a file name.
_METADATA_FIELDS = ("ss_base_model_version", "modelspec.architecture", "ss_sd_model_name")
_METADATA_MARKS: tuple[tuple[str, re.Pattern[str]], ...] = tuple(
    (base, re.compile(rf"(?<![a-z0-9])(?:{marks})(?![a-z])"))
    for base, marks in (
        ("SDXL", r"sdxl|sd_?xl|stable-diffusion-xl"),
        ("SD3", r"sd3|stable-diffusion-3"),
        ("Flux", r"flux"),
        ("Wan", r"wan"),
        ("Qwen-Image", r"qwen"),
        ("SD2", r"sd_v2|stable-diffusion-v2"),
        ("SD1.5", r"sd_v1|sd_?1\.5|sd15|stable-diffusion-v1"),
    )
)


@once_an_object
def base_of(adapter: AdapterFile) -> str | None:
    """The base this LoRA was made for, in words, or None where nothing tells.

    Names and shapes come first: metadata is what a person typed, keys are what was trained.
    """
    methods: tuple[Callable[[AdapterFile], str | None], ...] = (
        _from_unet,
        _from_names,
        _from_metadata,
    )
    return next((base for method in methods if (base := method(adapter)) is not None), None)


def _from_unet(adapter: AdapterFile) -> str | None:
    """A UNet by the width of its text features, or by having a second text encoder."""
    unet = [name for name in adapter.modules if _UNET_BLOCK.search(name)]
    widths = (adapter.modules[name].span[1] for name in unet if _CROSS_ATTENTION.search(name))
    base = next(
        (
            _CONTEXT_WIDTH[width]
            for width in widths
            if width is not None and width in _CONTEXT_WIDTH
        ),
        None,
    )
    if base is None and unet and any(_SECOND_TEXT_ENCODER.match(name) for name in adapter.modules):
        return "SDXL"
    return base


def _from_names(adapter: AdapterFile) -> str | None:
    names = [*adapter.modules, *adapter.unread]
    return next(
        (base for base, pattern in _NAMES if any(pattern.search(name) for name in names)), None
    )


def _from_metadata(adapter: AdapterFile) -> str | None:
    for field in _METADATA_FIELDS:
        base = base_named(adapter.metadata.get(field, ""))
        if base is not None:
            return base
    return None


def base_named(said: str) -> str | None:
    """The base that a trainer's or a person's words speak of, or None where they name none that is known."""
    lowered = said.lower()
    return next((base for base, pattern in _METADATA_MARKS if pattern.search(lowered)), None)
