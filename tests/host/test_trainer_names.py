"""Layer names as trainers write them, on the host's own models at full size: every one finds its weight, and the right one."""

from __future__ import annotations

import functools
from types import SimpleNamespace

import pytest
import torch
from meta_models import meta_model

from lora_core.files.naming import candidate_names
from lora_core.files.parse import parse_state_dict
from lora_core.host.targets import model_targets
from lora_core.resolve import resolve
from lora_core.stack.rows import StackRow

KOHYA = (".lora_up.weight", ".lora_down.weight")
PEFT = (".lora_B.weight", ".lora_A.weight")
XLABS = (".up.weight", ".down.weight")


@functools.cache
def targets_of(name: str):
    return model_targets(SimpleNamespace(model=meta_model(name)))


def each(pattern: str, count: int, *layers: str) -> list[str]:
    return [pattern.format(index) + layer for index in range(count) for layer in layers]


def flat(names: list[str], prefix: str) -> list[str]:
    return [prefix + name.replace(".", "_") for name in names]


def dotted(names: list[str], prefix: str) -> list[str]:
    return [prefix + name for name in names]


ATTENTION = (
    "attn1.to_q",
    "attn1.to_k",
    "attn1.to_v",
    "attn1.to_out.0",
    "attn2.to_q",
    "attn2.to_k",
    "attn2.to_v",
)
TRANSFORMER = (*ATTENTION, "attn2.to_out.0", "ff.net.0.proj", "ff.net.2")


def unet_diffusers(down: list[list[int]], mid: int, up: list[list[int]]) -> list[str]:
    """The transformer layers of a UNet as diffusers counts them: blocks, attentions, depth of each."""
    names = []
    for side, blocks in (("down_blocks", down), ("up_blocks", up)):
        for block, depths in enumerate(blocks):
            for attention, depth in enumerate(depths):
                at = f"{side}.{block}.attentions.{attention}"
                names += [f"{at}.proj_in", f"{at}.proj_out"]
                names += each(f"{at}.transformer_blocks.{{}}.", depth, *TRANSFORMER)
    names += ["mid_block.attentions.0.proj_in", "mid_block.attentions.0.proj_out"]
    return names + each("mid_block.attentions.0.transformer_blocks.{}.", mid, *TRANSFORMER)


def unet_sgm(inputs: dict[int, int], mid: int, outputs: dict[int, int]) -> list[str]:
    """The same as Stability's own code counts them, which kohya's SDXL trainer writes."""
    names = []
    for side, blocks in (("input_blocks", inputs), ("output_blocks", outputs)):
        for block, depth in blocks.items():
            names += [f"{side}.{block}.1.proj_in", f"{side}.{block}.1.proj_out"]
            names += each(f"{side}.{block}.1.transformer_blocks.{{}}.", depth, *TRANSFORMER)
    return names + each("middle_block.1.transformer_blocks.{}.", mid, *TRANSFORMER)


RESNET = ("conv1", "conv2", "time_emb_proj")
SD15 = unet_diffusers([[1, 1]] * 3, 1, [[], *[[1, 1, 1]] * 3])
SD15_CONV = each("down_blocks.{}.resnets.0.", 4, *RESNET) + [
    "down_blocks.0.downsamplers.0.conv",
    "up_blocks.1.upsamplers.0.conv",
    "up_blocks.1.resnets.2.conv_shortcut",
]
SDXL = unet_diffusers([[], [2, 2], [10, 10]], 10, [[10, 10, 10], [2, 2, 2]])
SDXL_SGM = unet_sgm({4: 2, 5: 2, 7: 10, 8: 10}, 10, {0: 10, 1: 10, 2: 10, 3: 2, 4: 2, 5: 2})

FLUX_OWN = each(
    "double_blocks.{}.", 19, "img_attn.qkv", "img_attn.proj", "txt_attn.qkv", "txt_attn.proj",
    "img_mlp.0", "img_mlp.2", "txt_mlp.0", "txt_mlp.2", "img_mod.lin", "txt_mod.lin",
) + each("single_blocks.{}.", 38, "linear1", "linear2", "modulation.lin")  # fmt: skip
JOINT = ("attn.to_q", "attn.to_k", "attn.to_v", "attn.to_out.0", "attn.add_q_proj", "attn.add_k_proj",
         "attn.add_v_proj", "attn.to_add_out", "ff.net.0.proj", "ff.net.2")  # fmt: skip
CONTEXT_FF = ("ff_context.net.0.proj", "ff_context.net.2")
SINGLE = ("attn.to_q", "attn.to_k", "attn.to_v", "proj_mlp", "proj_out")
FLUX_DIFFUSERS = each(
    "transformer_blocks.{}.", 19, *JOINT, *CONTEXT_FF, "norm1.linear", "norm1_context.linear"
) + each("single_transformer_blocks.{}.", 38, *SINGLE, "norm.linear")
FLUX_XLABS = each(
    "double_blocks.{}.processor.", 19, "qkv_lora1", "qkv_lora2", "proj_lora1", "proj_lora2"
) + each("single_blocks.{}.processor.", 38, "qkv_lora", "proj_lora")
HUNYUAN_DIFFUSERS = each("transformer_blocks.{}.", 20, *JOINT, *CONTEXT_FF) + each(
    "single_transformer_blocks.{}.", 40, *SINGLE
)
HUNYUAN_MUSUBI = each(
    "double_blocks.{}.", 20, "img_attn_qkv", "img_attn_proj", "txt_attn_qkv", "txt_attn_proj",
    "img_mlp.fc1", "img_mlp.fc2", "txt_mlp.fc1", "txt_mlp.fc2", "img_mod.linear", "txt_mod.linear",
) + each("single_blocks.{}.", 40, "linear1", "linear2", "modulation.linear")  # fmt: skip
SD3_OWN = each(
    "joint_blocks.{}.", 23, "x_block.attn.qkv", "x_block.attn.proj", "x_block.mlp.fc1",
    "x_block.mlp.fc2", "context_block.attn.qkv", "context_block.attn.proj", "context_block.mlp.fc1",
    "x_block.adaLN_modulation.1", "context_block.adaLN_modulation.1",
)  # fmt: skip
SD3_DIFFUSERS = each("transformer_blocks.{}.", 23, *JOINT, *CONTEXT_FF)
WAN_OWN = each(
    "blocks.{}.", 30, "self_attn.q", "self_attn.k", "self_attn.v", "self_attn.o",
    "cross_attn.q", "cross_attn.k", "cross_attn.v", "cross_attn.o", "ffn.0", "ffn.2",
)  # fmt: skip
WAN_DIFFUSERS = each(
    "blocks.{}.", 30, *ATTENTION, "attn2.to_out.0", "ffn.net.0.proj", "ffn.net.2"
) + ["condition_embedder.time_embedder.linear_1", "condition_embedder.text_embedder.linear_2"]
QWEN = each(
    "transformer_blocks.{}.", 60, *JOINT[:8], "img_mlp.net.0.proj", "img_mlp.net.2",
    "txt_mlp.net.0.proj", "txt_mlp.net.2", "img_mod.1", "txt_mod.1",
)  # fmt: skip
PIXART = each("transformer_blocks.{}.", 28, *TRANSFORMER) + ["proj_out", "pos_embed.proj"]
Z_IMAGE = each(
    "layers.{}.", 30, "attention.to_q", "attention.to_k", "attention.to_v", "attention.to_out.0",
    "feed_forward.w1", "feed_forward.w2", "feed_forward.w3", "adaLN_modulation.0",
) + each("noise_refiner.{}.", 2, "attention.to_q", "attention.to_out.0", "feed_forward.w1")  # fmt: skip

# The host's class, and for each trainer its names and the endings it writes.
FILES = {
    "SD1.5 kohya": ("SD15", flat(SD15, "lora_unet_"), KOHYA),
    "SD1.5 kohya convolutions (LoCon)": ("SD15", flat(SD15_CONV, "lora_unet_"), KOHYA),
    "SD1.5 PEFT": ("SD15", dotted(SD15, "unet."), PEFT),
    "SD1.5 PEFT wrapper": ("SD15", dotted(SD15, "base_model.model."), PEFT),
    "SD1.5 SimpleTuner LyCORIS": ("SD15", flat(SD15, "lycoris_"), KOHYA),
    "SD1.5 kohya OFT prefix": ("SD15", flat(SD15, "oft_unet_"), KOHYA),
    "SD2 kohya": ("SD20", flat(SD15, "lora_unet_"), KOHYA),
    "SDXL kohya": ("SDXL", flat(SDXL_SGM, "lora_unet_"), KOHYA),
    "SDXL OneTrainer": ("SDXL", flat(SDXL, "lora_unet_"), KOHYA),
    "SDXL diffusers": ("SDXL", dotted(SDXL, "unet."), PEFT),
    "Flux kohya": ("Flux", flat(FLUX_OWN, "lora_unet_"), KOHYA),
    "Flux ai-toolkit, diffusers, SimpleTuner": ("Flux", dotted(FLUX_DIFFUSERS, "transformer."), PEFT),
    "Flux OneTrainer": ("Flux", flat(FLUX_DIFFUSERS, "lora_transformer_"), KOHYA),
    "Flux SimpleTuner LyCORIS": ("Flux", flat(FLUX_DIFFUSERS, "lycoris_"), KOHYA),
    "Flux ComfyUI": ("Flux", dotted(FLUX_OWN, "diffusion_model."), KOHYA),
    "Flux BFL": ("Flux", FLUX_OWN, PEFT),
    "Flux XLabs": ("Flux", FLUX_XLABS, XLABS),
    "Chroma kohya": ("Chroma", flat([n for n in FLUX_OWN if "mod" not in n], "lora_unet_"), KOHYA),
    "SD3 kohya": ("SD3", flat(SD3_OWN, "lora_unet_"), KOHYA),
    "SD3 diffusers": ("SD3", dotted(SD3_DIFFUSERS, "transformer."), PEFT),
    "SD3 OneTrainer": ("SD3", flat(SD3_DIFFUSERS, "lora_transformer_"), KOHYA),
    "Wan musubi": ("WAN21_T2V", flat(WAN_OWN, "lora_unet_"), KOHYA),
    "Wan diffusion-pipe, ai-toolkit": ("WAN21_T2V", dotted(WAN_OWN, "diffusion_model."), PEFT),
    "Wan diffusers": ("WAN21_T2V", dotted(WAN_DIFFUSERS, "transformer."), PEFT),
    "Wan-Fun": ("WAN21_T2V", flat(WAN_OWN, "lora_unet__"), KOHYA),
    "Qwen-Image musubi": ("QwenImage", flat(QWEN, "lora_unet_"), KOHYA),
    "Qwen-Image diffusers": ("QwenImage", dotted(QWEN, "transformer."), PEFT),
    "Qwen-Image ModelScope": ("QwenImage", QWEN, (".lora_B.default.weight", ".lora_A.default.weight")),
    "Qwen-Image diffusion-pipe": ("QwenImage", dotted(QWEN, "diffusion_model."), PEFT),
    "Z-Image ai-toolkit": ("ZImage", dotted(Z_IMAGE, "diffusion_model."), PEFT),
    "Z-Image diffusers": ("ZImage", dotted(Z_IMAGE, "transformer."), PEFT),
    "Z-Image musubi": ("ZImage", flat(Z_IMAGE, "lora_unet_"), KOHYA),
    "HunyuanVideo diffusion-pipe": ("HunyuanVideo", dotted(HUNYUAN_MUSUBI, "transformer."), PEFT),
    "HunyuanVideo musubi": ("HunyuanVideo", flat(HUNYUAN_MUSUBI, "lora_unet_"), KOHYA),
    "HunyuanVideo diffusers": ("HunyuanVideo", dotted(HUNYUAN_DIFFUSERS, "transformer."), PEFT),
    "LTX diffusers": ("LTXV", dotted(each("transformer_blocks.{}.", 28, *TRANSFORMER), "transformer."), PEFT),
    "HiDream SimpleTuner": (
        "HiDream",
        dotted(each("double_stream_blocks.{}.block.attn1.", 16, "to_q", "to_k_t", "to_out"), "transformer."),
        PEFT,
    ),
    "AuraFlow diffusers": (
        "AuraFlow",
        dotted(each("single_transformer_blocks.{}.attn.", 32, "to_q", "to_k", "to_out.0"), "transformer."),
        PEFT,
    ),
    "PixArt diffusers": ("PixArtSigma", dotted(PIXART, "transformer."), PEFT),
    "PixArt diffusers' training script": ("PixArtSigma", dotted(PIXART, "base_model.model."), PEFT),
    "PixArt Alpha, first PEFT script": ("PixArtAlpha", dotted(PIXART, "unet.base_model.model."), PEFT),
    "PixArt OneTrainer": ("PixArtSigma", flat(PIXART, "lora_transformer_"), KOHYA),
    "ACE-Step": ("ACEStep", each("transformer_blocks.{}.", 24, "attn.to_q", "cross_attn.to_k"), PEFT),
    "Mochi": ("GenmoMochi", each("blocks.{}.attn.", 48, "qkv_x", "qkv_y", "proj_x"), (".lora_B", ".lora_A")),
    "Cosmos diffusion-pipe": (
        "CosmosT2IPredict2",
        dotted(each("blocks.{}.", 28, "self_attn.q_proj", "cross_attn.k_proj", "mlp.layer1"), "diffusion_model."),
        PEFT,
    ),
}  # fmt: skip


def state_dict(names: list[str], endings: tuple[str, str], targets) -> dict[str, torch.Tensor]:
    """Factors of the shape of the weight that each name means; names that mean none get a shape of their own."""
    tensors = {}
    for name in names:
        probe = next(iter(parse_state_dict(_pair(name, endings, 4, 4), "x").modules))
        found = (targets.find(one) for one in candidate_names(probe))
        target = next((t for t in found if t is not None and targets.shape_of(t)), None)
        shape = (4, 4) if target is None else targets.shape_of(target)
        tensors |= _pair(name, endings, shape[0], *shape[1:])
    return tensors


def _pair(name: str, endings: tuple[str, str], out: int, *inner: int) -> dict[str, torch.Tensor]:
    return {name + endings[0]: torch.ones(out, 1), name + endings[1]: torch.ones(1, *inner)}


@pytest.mark.parametrize("file", FILES)
def test_every_name_of_the_trainer_finds_its_own_weight(file):
    family, names, endings = FILES[file]
    targets = targets_of(family)
    tensors = state_dict(names, endings, targets)
    parsed = parse_state_dict(tensors, file)
    resolved, account = resolve([(StackRow(file), parsed)], targets, None, "strict")
    assert not account.warnings
    assert len(names) == len(resolved.model.steps) == account.rows[0].model.matched


RIGHT_PLACES = {
    "transformer.transformer_blocks.3.attn.to_k": ("Flux", "double_blocks.3.img_attn.qkv", (0, 3072, 3072)),
    "lora_transformer_single_transformer_blocks_5_proj_mlp": ("Flux", "single_blocks.5.linear1", (0, 9216, 12288)),
    "single_blocks.7.linear1_qkv": ("Flux", "single_blocks.7.linear1", (0, 0, 9216)),
    "lora_unet_layers_4_attention_to_v": ("ZImage", "layers.4.attention.qkv", (0, 7680, 3840)),
    "transformer.transformer_blocks.2.attn.add_v_proj": (
        "HunyuanVideo", "double_blocks.2.txt_attn.qkv", (0, 6144, 3072),
    ),
    "transformer.blocks.9.attn2.to_out.0": ("WAN21_T2V", "blocks.9.cross_attn.o", None),
    "transformer.transformer_blocks.6.attn2.to_v": (
        "PixArtSigma", "blocks.6.cross_attn.kv_linear", (0, 1152, 1152),
    ),
    "unet.up_blocks.1.attentions.2.transformer_blocks.0.attn2.to_k": (
        "SD15", "output_blocks.5.1.transformer_blocks.0.attn2.to_k", None,
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", RIGHT_PLACES)
def test_a_name_means_the_place_that_it_meant_in_training(name):
    family, place, offset = RIGHT_PLACES[name]
    targets = targets_of(family)
    target = next(t for n in candidate_names(name) if (t := targets.find(n)) is not None)
    assert (target.key, target.offset) == (f"diffusion_model.{place}.weight", offset)


def test_a_control_lora_of_black_forest_labs_is_read_whole():
    """Grown inputs, biases beside the matrices, and whole norms."""
    targets = targets_of("Flux")
    tensors = _pair("img_in", PEFT, 3072, 128) | {"img_in.lora_B.bias": torch.ones(3072)}
    tensors |= {
        "single_blocks.0.norm.key_norm.scale": torch.ones(128),
        "double_blocks.0.img_attn.norm.query_norm.scale": torch.ones(128),
    }
    parsed = parse_state_dict(tensors, "control")
    resolved, account = resolve([(StackRow("control"), parsed)], targets, None, "strict")
    assert not account.warnings
    # Newer hosts call a norm's scale its weight.
    norm = (
        "scale" if "scale" in next(key for key in targets.shapes if "key_norm" in key) else "weight"
    )
    steps = {
        target.key: [kind for kind, _, _ in found] for target, found in resolved.model.steps.items()
    }
    assert steps == {
        "diffusion_model.img_in.weight": ["grow", "low_rank"],
        "diffusion_model.img_in.bias": ["difference"],
        f"diffusion_model.single_blocks.0.norm.key_norm.{norm}": ["set"],
        f"diffusion_model.double_blocks.0.img_attn.norm.query_norm.{norm}": ["set"],
    }
