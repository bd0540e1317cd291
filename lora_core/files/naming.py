"""How trainers name the tensors of a LoRA, and how one module's name is said in other schemes.

Tables only: a tensor key is split into a module name and a part by its ending, never by its position.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

# Endings of the parts that are read, without the dot before them. `lora.up` and `lora_linear_layer` are the
# old diffusers spellings, `lora_A`/`lora_B` is PEFT's, `lora_down`/`lora_up` kohya's; the rest is LyCORIS'.
LOW_RANK_BIAS = "low-rank bias"
_ENDINGS: dict[str, str] = {
    "lora_linear_layer.up.weight": "up",
    "lora_linear_layer.down.weight": "down",
    "lora.up.weight": "up",
    "lora.down.weight": "down",
    "lora_up.weight": "up",
    "lora_down.weight": "down",
    "lora_mid.weight": "mid",
    "lora_B.weight": "up",
    "lora_A.weight": "down",
    "lora_B": "up",
    "lora_A": "down",
    "alpha": "alpha",
    "reshape_weight": "reshape",
    "dora_scale": "magnitude",
    "lora_magnitude_vector": "row magnitude",
    "lora_magnitude_vector.weight": "row magnitude",
    **{f"hada_{part}": f"hada_{part}" for part in ("w1_a", "w1_b", "w2_a", "w2_b", "t1", "t2")},
    **{
        f"lokr_{part}": f"lokr_{part}"
        for part in ("w1", "w2", "w1_a", "w1_b", "w2_a", "w2_b", "t2")
    },
    **{f"{part}.weight": f"glora_{part}" for part in ("a1", "a2", "b1", "b2", "bm")},
    "oft_blocks": "oft_blocks",
    "rescale": "rescale",
    "on_input": "on_input",
    "ia3_l": "ia3_l",
    "diff": "weight difference",
    "w_norm": "weight difference",
    "diff_b": "bias difference",
    "b_norm": "bias difference",
    "set_weight": "weight replacement",
    "lora_bias": LOW_RANK_BIAS,
    "lora_B.bias": LOW_RANK_BIAS,
    "lora_up.bias": LOW_RANK_BIAS,
}
_LONGEST_ENDING = 3

# PEFT may put the adapter's name inside: lora_B.default.weight, lora_magnitude_vector.style.
_WITH_ADAPTER_NAME = re.compile(
    r"\.(?P<part>lora_A|lora_B|lora_magnitude_vector|ia3_l)\.[A-Za-z0-9_-]+(?P<last>\.weight|\.bias|)$"
)
# The oldest diffusers spelling has no dot: to_q_lora.up.weight.
_OLD_DIFFUSERS = re.compile(r"_lora\.(?P<part>up|down)\.weight$")

# XLabs and USO train beside Flux's attention processors: 1 is the picture's stream, 2 the text's.
_PROCESSOR = re.compile(
    r"\.processor\.(?P<layer>(?:qkv|proj)_lora[12]?)\.(?P<part>up|down)\.weight$"
)
_PROCESSOR_LAYERS = {
    "qkv_lora1": "img_attn.qkv",
    "proj_lora1": "img_attn.proj",
    "qkv_lora2": "txt_attn.qkv",
    "proj_lora2": "txt_attn.proj",
    "qkv_lora": "linear1_qkv",
    "proj_lora": "linear2",
}
# Black Forest Labs' control LoRAs carry whole norms beside their matrices.
_REPLACED_NORM = ("_norm.scale",)

# Endings of families that are recognised but not applied. Each changes the formula of its whole
# module, so none of the module's parts may be applied without it.
_OTHER_FAMILIES: tuple[tuple[str, re.Pattern[str]], ...] = tuple(
    (family, re.compile(pattern + "$"))
    for family, pattern in (
        ("OFT (of PEFT or an old LyCORIS)", r"\.(?:oft_diag|oft_[rR](?:\.[A-Za-z0-9_.-]+)?|oft_s)"),
        ("LoKr (with a first core)", r"\.lokr_t1"),
        ("BOFT (of PEFT)", r"\.boft_[RsP](?:\.[A-Za-z0-9_-]+)?"),
        ("VeRA", r"\.vera_lambda_[bd](?:\.[A-Za-z0-9_-]+)?"),
        ("sparse bias of an old LyCORIS", r"\.bias_(?:indices|values|size)"),
    )
)

_TEXT_ENCODER = re.compile(
    r"^(?:base_model\.model\.)?"
    r"(?:lora_te\d?_|lora_prior_te_|text_encoders?(?:_\d)?\.|clip_[lg]\.|t5xxl\.|text_model\.)"
)


@dataclass(frozen=True)
class KeyParts:
    """A tensor key, split.

    part: what the tensor is within its module (a value of the endings' table), or an ending that is not read.
    family: the name of a family that is not read and takes its whole module along; else None.
    """

    module: str
    part: str
    family: str | None = None


def split_key(key: str) -> KeyParts | None:
    """The module name and part of one tensor key, or None where no known ending fits."""
    pieces = key.split(".")
    for count in range(min(_LONGEST_ENDING, len(pieces) - 1), 0, -1):
        ending = ".".join(pieces[-count:])
        if (part := _ENDINGS.get(ending)) is not None:
            return KeyParts(key[: -len(ending) - 1], part)
    if match := _WITH_ADAPTER_NAME.search(key):
        part = _ENDINGS.get(match["part"] + match["last"])
        return None if part is None else KeyParts(key[: match.start()], part)
    if match := _PROCESSOR.search(key):
        module = f"{key[: match.start()]}.{_PROCESSOR_LAYERS[match['layer']]}"
        return KeyParts(module, match["part"])
    if match := _OLD_DIFFUSERS.search(key):
        return KeyParts(key[: match.start()], match["part"])
    if key.endswith(_REPLACED_NORM):
        return KeyParts(key, "weight replacement")
    for family, pattern in _OTHER_FAMILIES:
        if match := pattern.search(key):
            return KeyParts(key[: match.start()], match.group(0), family)
    return None


def is_text_encoder(module: str) -> bool:
    """Whether a module name speaks of a text encoder (of any scheme) rather than the diffusion model."""
    return _TEXT_ENCODER.match(module) is not None


def candidate_names(module: str) -> tuple[str, ...]:
    """The names to look for in the host's key map, best first: the module's own, then how other schemes say it."""
    bare = module.removeprefix("base_model.model.")
    others = _text_encoder_names(bare) if is_text_encoder(bare) else _model_names(bare)
    return tuple(dict.fromkeys((module, bare, *others)))


# What trainers put in front of a model's own layer name. They mean nothing more, and some stand two in a row.
_PREFIXES = (
    "base_model.model.", "model.diffusion_model.", "diffusion_model.", "transformer.", "unet.", "model.", "net.",
    "lora_unet_", "lora_transformer_", "lora_prior_unet_", "lycoris_", "oft_unet_",
)  # fmt: skip


def bare_name(name: str) -> str:
    """A model layer's name without any trainer's prefix, dots as underscores: how all schemes say the same layer.

    `transformer.blocks.0.attn1.to_q`, `lora_unet_blocks_0_attn1_to_q` and `lycoris_blocks_0_attn1_to_q` become one.
    """
    stripped = True
    while stripped:
        stripped = False
        for prefix in _PREFIXES:
            if name.startswith(prefix):
                name, stripped = name[len(prefix) :], True
    return name.replace(".", "_").lstrip("_")


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


# Diffusers' names of layers that a host's own model calls otherwise, where the host's key map lacks them (Wan).
_DIFFUSERS_LAYERS: tuple[tuple[re.Pattern[str], str], ...] = tuple(
    (re.compile(pattern), own)
    for pattern, own in (
        (r"^(blocks_\d+)_attn1_to_([qkv])$", r"\1_self_attn_\2"),
        (r"^(blocks_\d+)_attn1_to_out_0$", r"\1_self_attn_o"),
        (r"^(blocks_\d+)_attn2_to_([qkv])$", r"\1_cross_attn_\2"),
        (r"^(blocks_\d+)_attn2_to_out_0$", r"\1_cross_attn_o"),
        (r"^(blocks_\d+)_attn2_add_([kv])_proj$", r"\1_cross_attn_\2_img"),
        (r"^(blocks_\d+)_ffn_net_0_proj$", r"\1_ffn_0"),
        (r"^(blocks_\d+)_ffn_net_2$", r"\1_ffn_2"),
        (r"^condition_embedder_time_embedder_linear_1$", "time_embedding_0"),
        (r"^condition_embedder_time_embedder_linear_2$", "time_embedding_2"),
        (r"^condition_embedder_time_proj$", "time_projection_1"),
        (r"^condition_embedder_text_embedder_linear_1$", "text_embedding_0"),
        (r"^condition_embedder_text_embedder_linear_2$", "text_embedding_2"),
    )
)


def _model_names(name: str) -> list[str]:
    """Bare names: they are found in the map's bare names, whatever prefix the host or the file has."""
    dotted = name.replace(".processor.to_", ".to_")
    bare = bare_name(dotted)
    names = [bare]
    if bare.endswith("_to_out"):
        names.append(bare + "_0")
    if name.endswith(_REPLACED_NORM):
        # Newer hosts call the weight of such a norm "weight", as of any other layer.
        names.append(bare.removesuffix("_scale"))
    names += [pattern.sub(own, bare) for pattern, own in _DIFFUSERS_LAYERS if pattern.match(bare)]
    return names
