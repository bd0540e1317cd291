"""The host's own model classes built small, with seeded random weights; and LoRAs for every weight of them."""

from __future__ import annotations

import comfy.ldm.flux.model
import comfy.model_patcher
import comfy.supported_models
import torch
from comfy.supported_models_base import BASE

SD15_UNET = {
    "image_size": 32,
    "in_channels": 4,
    "out_channels": 4,
    "model_channels": 32,
    "num_res_blocks": [1, 1],
    "channel_mult": [1, 2],
    "transformer_depth": [1, 1],
    "transformer_depth_output": [1, 1, 1, 1],
    "transformer_depth_middle": 1,
    "context_dim": 768,
    "num_heads": 4,
    "use_spatial_transformer": True,
    "use_linear_in_transformer": False,
    "adm_in_channels": None,
    "use_temporal_attention": False,
    "legacy": False,
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

CONFIGS: dict[str, tuple[type[BASE], dict]] = {
    "SD1.5": (comfy.supported_models.SD15, SD15_UNET),
    "SDXL": (comfy.supported_models.SDXL, SDXL_UNET),
    "Flux": (comfy.supported_models.Flux, FLUX_DIT),
}


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
    family: str, dtype: torch.dtype, seed: int = 0, **settings: object
) -> comfy.model_patcher.ModelPatcher:
    """A MODEL of the family with random weights of scale 0.05 in `dtype`, wholly on the CPU.

    settings: what of the family's configuration differs, such as ALL_BLOCKS[family].
    """
    config_class, unet = CONFIGS[family]
    config = config_class(unet | settings)
    config.set_inference_dtype(dtype, None)
    inner = config.get_model({}, device=torch.device("cpu"))
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in inner.diffusion_model.parameters():
            noise = torch.randn(parameter.shape, generator=generator) * 0.05
            parameter.data = noise.to(dtype)
            parameter.requires_grad_(False)
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
