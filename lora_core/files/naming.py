"""How trainers name the tensors of a LoRA, and how one module's name is said in other schemes.

Tables only: a tensor key is split into a module name and a part by its ending, never by its position.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

# Endings of the parts that are read. The first pattern that matches a key's end wins, so longer
# spellings stand first. `_lora.` and `.lora_linear_layer.` are the old diffusers spellings,
# `lora_A`/`lora_B` is PEFT's (with or without the adapter's name), `lora_down`/`lora_up` kohya's.
_PARTS: tuple[tuple[str, re.Pattern[str]], ...] = tuple(
    (part, re.compile(pattern + "$"))
    for part, pattern in (
        ("up", r"\.lora_linear_layer\.up\.weight"),
        ("down", r"\.lora_linear_layer\.down\.weight"),
        ("up", r"(?:\.|_)lora\.up\.weight"),
        ("down", r"(?:\.|_)lora\.down\.weight"),
        ("up", r"\.lora_up\.weight"),
        ("down", r"\.lora_down\.weight"),
        ("mid", r"\.lora_mid\.weight"),
        ("up", r"\.lora_B(?:\.[A-Za-z0-9_-]+)?\.weight"),
        ("down", r"\.lora_A(?:\.[A-Za-z0-9_-]+)?\.weight"),
        ("up", r"\.lora_B"),
        ("down", r"\.lora_A"),
        ("alpha", r"\.alpha"),
    )
)

# Whole differences of a weight or bias. They stand beside low-rank parts without changing them.
_DIFFERENCES: tuple[tuple[str, re.Pattern[str]], ...] = tuple(
    (part, re.compile(pattern + "$"))
    for part, pattern in (
        ("weight difference", r"\.(?:diff|w_norm)"),
        ("bias difference", r"\.(?:diff_b|b_norm)"),
    )
)

# Single keys that are recognised but not applied, without touching the rest of their module.
_NOT_READ = re.compile(r"\.(?:set_weight|lora_bias|lora_B\.bias|lora_up\.bias)$")

# Endings of families that are recognised but not applied. Each changes the formula of its whole
# module, so none of the module's parts may be applied without it.
_OTHER_FAMILIES: tuple[tuple[str, re.Pattern[str]], ...] = tuple(
    (family, re.compile(pattern + "$"))
    for family, pattern in (
        ("DoRA", r"\.(?:dora_scale|lora_magnitude_vector(?:\.[A-Za-z0-9_-]+)?(?:\.weight)?)"),
        ("LoHa", r"\.hada_(?:w1_a|w1_b|w2_a|w2_b|t1|t2)"),
        ("LoKr", r"\.lokr_(?:w1|w2|w1_a|w1_b|w2_a|w2_b|t1|t2)"),
        ("GLoRA", r"\.(?:a1|a2|b1|b2)\.weight"),
        ("OFT", r"\.(?:oft_blocks|oft_diag|rescale)"),
        ("IA3", r"\.on_input"),
        ("reshaped weight", r"\.reshape_weight"),
    )
)

_TEXT_ENCODER = re.compile(
    r"^(?:base_model\.model\.)?"
    r"(?:lora_te\d?_|lora_prior_te_|text_encoders?(?:_\d)?\.|clip_[lg]\.|t5xxl\.|text_model\.)"
)


@dataclass(frozen=True)
class KeyParts:
    """A tensor key, split.

    part: up, down, mid, alpha, "weight difference", "bias difference", or an ending that is not read.
    family: the name of a family that is not read and takes its whole module along; else None.
    """

    module: str
    part: str
    family: str | None = None


def split_key(key: str) -> KeyParts | None:
    """The module name and part of one tensor key, or None where no known ending fits."""
    for family, pattern in _OTHER_FAMILIES:
        if match := pattern.search(key):
            return KeyParts(key[: match.start()], match.group(0), family)
    for part, pattern in (*_DIFFERENCES, *_PARTS):
        if match := pattern.search(key):
            return KeyParts(key[: match.start()], part)
    return None


def is_recognised(key: str) -> bool:
    """Whether a key that `split_key` does not split is one that LoRA files are known to have."""
    return _NOT_READ.search(key) is not None


def is_text_encoder(module: str) -> bool:
    """Whether a module name speaks of a text encoder (of any scheme) rather than the diffusion model."""
    return _TEXT_ENCODER.match(module) is not None


def candidate_names(module: str) -> tuple[str, ...]:
    """The names to look for in the host's key map, best first: the module's own, then how other schemes say it.

    PEFT's `unet.down_blocks.0.attentions.0.proj_in` is kohya's `lora_unet_down_blocks_0_attentions_0_proj_in`,
    which the host knows; `base_model.model.` in front is PEFT's wrapper and means nothing.
    """
    bare = module.removeprefix("base_model.model.")
    others = _text_encoder_names(bare) if is_text_encoder(bare) else _model_names(bare)
    return tuple(dict.fromkeys((module, bare, *others)))


# Old diffusers wraps the projections of a text encoder in `to_q_lora`; the layers themselves are `q_proj`.
_OLD_PROJECTIONS = (
    ("to_q", "q_proj"),
    ("to_k", "k_proj"),
    ("to_v", "v_proj"),
    ("to_out", "out_proj"),
)


def _text_encoder_names(name: str) -> list[str]:
    if name.startswith("text_model."):
        return [f"text_encoder.{name}"]
    if name.startswith(("clip_l.", "clip_g.", "t5xxl.")):
        return [f"text_encoders.{name}"]
    return [
        name.removesuffix(old) + new
        for old, new in _OLD_PROJECTIONS
        if name.endswith(f".self_attn.{old}")
    ]


def _model_names(name: str) -> list[str]:
    if name.startswith("lora_unet__"):  # Wan-Fun's trainer
        return [name.replace("lora_unet__", "lora_unet_", 1)]
    if "." not in name or name.startswith("diffusion_model."):
        return []
    dotted = (
        name.removeprefix("unet.").removeprefix("transformer.").replace(".processor.to_", ".to_")
    )
    if dotted.endswith(".to_out"):
        dotted += ".0"
    return [
        f"transformer.{dotted}",
        f"diffusion_model.{dotted}",
        "lora_unet_" + dotted.replace(".", "_"),
    ]
