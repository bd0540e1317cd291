"""The host's own model classes built small, with seeded random weights; and LoRAs for every weight of them."""

from __future__ import annotations

import os

import comfy.ldm.flux.model
import comfy.model_patcher
import comfy.supported_models
import torch
from comfy.supported_models_base import BASE

from tools import unet_settings as published

SD15_UNET = published.SD15_UNET | {
    "model_channels": 32,
    "num_res_blocks": [1, 1],
    "channel_mult": [1, 2],
    "transformer_depth": [1, 1],
    "transformer_depth_output": [1, 1, 1, 1],
    "num_heads": 4,
}
SDXL_UNET = SD15_UNET | {
    "context_dim": 2048,
    "use_linear_in_transformer": True,
    "adm_in_channels": 2816,
    "num_classes": "sequential",
    # The host's SDXL configuration fixes heads of 64 channels.
    "model_channels": 64,
}
FLUX_DIT = {
    "image_model": "flux",
    "in_channels": 16,
    "out_channels": 16,
    "patch_size": 2,
    "vec_in_dim": 32,
    "context_in_dim": 64,
    "hidden_size": 64,
    "mlp_ratio": 4.0,
    "num_heads": 4,
    "depth": 2,
    "depth_single_blocks": 2,
    "axes_dim": [4, 6, 6],
    "theta": 10000,
    "qkv_bias": True,
    "guidance_embed": True,
}

SD3_DIT = {
    "in_channels": 16,
    "out_channels": 16,
    "patch_size": 2,
    "depth": 2,
    "input_size": None,
    "adm_in_channels": 32,
    "context_embedder_config": {
        "target": "torch.nn.Linear",
        "params": {"in_features": 64, "out_features": 128},
    },
    "num_patches": 24 * 24,
    "pos_embed_max_size": 24,
    "pos_embed_scaling_factor": None,
    "qk_norm": "rms",
    "x_block_self_attn_layers": [0],
}
LUMINA_DIT = {
    "image_model": "lumina2",
    "patch_size": 2,
    "in_channels": 16,
    "dim": 64,
    "cap_feat_dim": 32,
    "n_layers": 2,
    "n_refiner_layers": 1,
    "n_heads": 4,
    "n_kv_heads": 2,
    "axes_dims": [4, 6, 6],
    "axes_lens": [300, 512, 512],
    "qk_norm": True,
}
Z_IMAGE_DIT = LUMINA_DIT | {
    "dim": 256,
    "n_heads": 16,
    "n_kv_heads": 16,
    "ffn_dim_multiplier": 8.0 / 3.0,
    "z_image_modulation": True,
    "time_scale": 1000.0,
    "pad_tokens_multiple": 32,
}
WAN_DIT = {
    "image_model": "wan2.1",
    "model_type": "t2v",
    "dim": 64,
    "ffn_dim": 128,
    "freq_dim": 32,
    "text_dim": 32,
    "num_heads": 4,
    "num_layers": 2,
}
QWEN_DIT = {
    "image_model": "qwen_image",
    "num_layers": 2,
    "attention_head_dim": 16,
    "num_attention_heads": 4,
    "joint_attention_dim": 32,
    "axes_dims_rope": (4, 6, 6),
}
COSMOS_DIT = {
    "image_model": "cosmos_predict2",
    "max_img_h": 240,
    "max_img_w": 240,
    "max_frames": 128,
    "in_channels": 16,
    "out_channels": 16,
    "patch_spatial": 2,
    "patch_temporal": 1,
    "concat_padding_mask": True,
    "crossattn_emb_channels": 32,
    "pos_emb_cls": "rope3d",
    "use_adaln_lora": True,
    "adaln_lora_dim": 8,
    "model_channels": 64,
    "num_blocks": 2,
    "num_heads": 4,
}

CONFIGS: dict[str, tuple[type[BASE], dict]] = {
    "SD1.5": (comfy.supported_models.SD15, SD15_UNET),
    "SDXL": (comfy.supported_models.SDXL, SDXL_UNET),
    "Flux": (comfy.supported_models.Flux, FLUX_DIT),
    "SD3": (comfy.supported_models.SD3, SD3_DIT),
    "Lumina2": (comfy.supported_models.Lumina2, LUMINA_DIT),
    "Z-Image": (comfy.supported_models.ZImage, Z_IMAGE_DIT),
    "Wan": (comfy.supported_models.WAN21_T2V, WAN_DIT),
    "Qwen-Image": (comfy.supported_models.QwenImage, QWEN_DIT),
    "Cosmos": (comfy.supported_models.CosmosT2IPredict2, COSMOS_DIT),
}


# Two UNets and a transformer; every family where a test's time is not to be sampled.
SAMPLED = list(CONFIGS) if os.environ.get("LOOM_FULL") else ["SD1.5", "SDXL", "Flux"]

# Newer hosts ask for one field more.
if "txt_ids_dims" in comfy.ldm.flux.model.FluxParams.__dataclass_fields__:
    FLUX_DIT["txt_ids_dims"] = []


# The published numbers of blocks, at small widths.
ALL_BLOCKS: dict[str, dict] = {
    "SD1.5": {
        "num_res_blocks": [2, 2, 2, 2],
        "channel_mult": [1, 1, 2, 2],
        "transformer_depth": [1, 1, 1, 1, 1, 1, 0, 0],
        "transformer_depth_output": [1, 1, 1, 1, 1, 1, 1, 1, 1, 0, 0, 0],
    },
    "SDXL": {
        "num_res_blocks": [2, 2, 2],
        "channel_mult": [1, 1, 1],
        "transformer_depth": [0, 0, 1, 1, 1, 1],
        "transformer_depth_output": [0, 0, 0, 1, 1, 1, 1, 1, 1],
    },
    "Flux": {"depth": 19, "depth_single_blocks": 38},
}


def small_model(
    family: str,
    dtype: torch.dtype,
    seed: int = 0,
    compute: torch.dtype | None = None,
    **settings: object,
) -> comfy.model_patcher.ModelPatcher:
    """A MODEL of the family with random weights of scale 0.05 in `dtype`, wholly on the CPU.

    compute: what it computes in where that is not `dtype`. settings: what of the family's configuration differs, such as ALL_BLOCKS[family].
    """
    config_class, unet = CONFIGS[family]
    config = config_class(unet | settings)
    config.set_inference_dtype(dtype, compute)
    inner = config.get_model({}, device=torch.device("cpu"))
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in inner.diffusion_model.parameters():
            noise = torch.randn(parameter.shape, generator=generator) * 0.05
            # The host keeps some in float32 whatever the rest is in.
            parameter.data = noise.to(parameter.dtype)
            parameter.requires_grad_(False)
        for name, buffer in inner.diffusion_model.named_buffers():
            if name == "pos_embed":  # a checkpoint brings it; here it is memory that nobody wrote
                buffer.fill_(0.1)
    inner.diffusion_model.eval()
    cpu = torch.device("cpu")
    return comfy.model_patcher.ModelPatcher(inner, load_device=cpu, offload_device=cpu)


def kohya_lora(
    shapes: dict[str, tuple[int, ...]],
    *,
    rank: int,
    alpha: float,
    seed: int,
    dtype: torch.dtype = torch.float16,
    prefix: str = "lora_unet_",
    strip: str = "diffusion_model.",
    scale: float = 0.05,
) -> dict[str, torch.Tensor]:
    """A LoRA in kohya naming for every matrix and convolution among `shapes` (weight name -> shape)."""
    generator = torch.Generator().manual_seed(seed)
    tensors = {}
    for key, shape in shapes.items():
        if not key.endswith(".weight") or len(shape) < 2 or not key.startswith(strip):
            continue
        name = prefix + key[len(strip) : -len(".weight")].replace(".", "_")
        ones = (1,) * (len(shape) - 2)
        tensors[f"{name}.lora_up.weight"] = (
            torch.randn(shape[0], rank, *ones, generator=generator) * scale
        )
        tensors[f"{name}.lora_down.weight"] = (
            torch.randn(rank, *shape[1:], generator=generator) * scale
        )
        tensors[f"{name}.alpha"] = torch.tensor(float(alpha))
    return {key: tensor.to(dtype) for key, tensor in tensors.items()}
