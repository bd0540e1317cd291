"""Every model family that the host loads, built on the meta device: true layouts, no memory.

The host derives these settings from a checkpoint's shapes (comfy/model_detection.py); where its model class has
defaults of the published size, they are used. Depths are cut where only the repetition would grow.
"""

from __future__ import annotations

from typing import Any

import comfy.supported_models
import torch
from comfy.ldm.chroma.model import ChromaParams
from comfy.ldm.chroma_radiance.model import ChromaRadianceParams
from comfy.ldm.flux.model import FluxParams
from comfy.ldm.hunyuan_video.model import HunyuanVideoParams

from tools.unet_settings import SD15_UNET, SDXL_UNET

_HEADS = {"num_head_channels": 64, "use_temporal_resblock": False}
_UNET = SD15_UNET | _HEADS
_SD2 = _UNET | {"context_dim": 1024, "use_linear_in_transformer": True}
_CLASSES = {"num_classes": "sequential", "use_linear_in_transformer": True}
_SDXL = SDXL_UNET | _HEADS
_REFINER = (
    _UNET
    | _CLASSES
    | {
        "model_channels": 384,
        "transformer_depth": [0, 0, 4, 4, 4, 4, 0, 0],
        "transformer_depth_output": [0, 0, 0, 4, 4, 4, 4, 4, 4, 0, 0, 0],
        "transformer_depth_middle": 4,
        "context_dim": 1280,
        "adm_in_channels": 2560,
    }
)
_SVD = (
    _UNET
    | _CLASSES
    | {
        "in_channels": 8,
        "context_dim": 1024,
        "adm_in_channels": 768,
        "use_temporal_attention": True,
        "use_temporal_resblock": True,
        "extra_ff_mix_layer": True,
        "use_spatial_context": True,
        "merge_strategy": "learned_with_images",
        "merge_factor": 0.0,
        "video_kernel_size": [3, 1, 1],
    }
)
_X4 = _SD2 | {"model_channels": 256, "in_channels": 7, "num_classes": 1000}
_KOALA = _SDXL | {
    "num_res_blocks": [1, 1, 1],
    "transformer_depth": [0, 2, 5],
    "transformer_depth_output": [0, 0, 2, 2, 5, 5],
    "transformer_depth_middle": 5,
}
_FLUX = {
    "in_channels": 16,
    "out_channels": 16,
    "patch_size": 2,
    "vec_in_dim": 768,
    "context_in_dim": 4096,
    "hidden_size": 3072,
    "mlp_ratio": 4.0,
    "num_heads": 24,
    "depth": 19,
    "depth_single_blocks": 38,
    "axes_dim": [16, 56, 56],
    "theta": 10000,
    "qkv_bias": True,
}
_FLUX2 = _FLUX | {
    "patch_size": 1,
    "out_channels": 128,
    "in_channels": 128,
    "vec_in_dim": None,
    "hidden_size": 6144,
    "num_heads": 48,
    "mlp_ratio": 3.0,
    "depth": 8,
    "depth_single_blocks": 48,
    "axes_dim": [32, 32, 32, 32],
    "qkv_bias": False,
    "global_modulation": True,
    "mlp_silu_act": True,
    "ops_bias": False,
    "guidance_embed": True,
}
_CHROMA = {key: value for key, value in _FLUX.items() if key != "vec_in_dim"} | {
    "in_channels": 64,
    "out_channels": 64,
    "in_dim": 64,
    "out_dim": 3072,
    "hidden_dim": 5120,
    "n_layers": 5,
}
_RADIANCE = _CHROMA | {
    "in_channels": 3,
    "out_channels": 3,
    "patch_size": 16,
    "nerf_hidden_size": 64,
    "nerf_mlp_ratio": 4,
    "nerf_depth": 4,
    "nerf_max_freqs": 8,
    "nerf_tile_size": 512,
    "nerf_final_head_type": "conv",
    "nerf_embedder_dtype": torch.float32,
}
_HUNYUAN_VIDEO = _FLUX | {
    "patch_size": [1, 2, 2],
    "depth": 20,
    "depth_single_blocks": 40,
    "theta": 256,
    "guidance_embed": True,
    "byt5": False,
    "meanflow": False,
    "use_cond_type_embedding": False,
    "vision_in_dim": None,
}
_HUNYUAN_15 = _HUNYUAN_VIDEO | {
    "depth": 54,
    "depth_single_blocks": 0,
    "hidden_size": 2048,
    "num_heads": 16,
    "vec_in_dim": None,
    "context_in_dim": 3584,
    "byt5": True,
    "use_cond_type_embedding": True,
    "vision_in_dim": 1152,
}
_COSMOS = {
    "max_img_h": 240,
    "max_img_w": 240,
    "max_frames": 128,
    "in_channels": 16,
    "out_channels": 16,
    "patch_spatial": 2,
    "patch_temporal": 1,
    "pos_emb_cls": "rope3d",
    "use_adaln_lora": True,
}
_COSMOS_1 = _COSMOS | {
    "model_channels": 4096,
    "block_config": "FA-CA-MLP",
    "block_x_format": "THWBD",
    "num_blocks": 28,
    "num_heads": 32,
    "affline_emb_norm": True,
    "extra_per_block_abs_pos_emb": True,
    "extra_per_block_abs_pos_emb_type": "learnable",
}
_COSMOS_2 = _COSMOS | {"model_channels": 2048, "num_blocks": 28, "num_heads": 16}
_LUMINA = {
    "patch_size": 2,
    "in_channels": 16,
    "dim": 2304,
    "cap_feat_dim": 2304,
    "n_layers": 26,
    "n_heads": 24,
    "n_kv_heads": 8,
    "axes_dims": [32, 32, 32],
    "axes_lens": [300, 512, 512],
    "qk_norm": True,
}
_Z_IMAGE = _LUMINA | {
    "dim": 3840,
    "cap_feat_dim": 2560,
    "n_layers": 30,
    "n_heads": 30,
    "n_kv_heads": 30,
    "axes_dims": [32, 48, 48],
    "ffn_dim_multiplier": 8.0 / 3.0,
    "z_image_modulation": True,
    "pad_tokens_multiple": 32,
}
_WAN = {"dim": 2048, "num_layers": 30, "num_heads": 16}
_MOCHI = {
    "depth": 48,
    "num_heads": 24,
    "hidden_size_x": 3072,
    "hidden_size_y": 1536,
    "mlp_ratio_x": 4.0,
    "in_channels": 12,
    "learn_sigma": False,
    "qk_norm": True,
    "qkv_bias": False,
    "out_bias": True,
    "use_t5": True,
}
_HIDREAM = {
    "attention_head_dim": 128,
    "axes_dims_rope": [64, 32, 32],
    "caption_channels": [4096, 4096],
    "max_resolution": [128, 128],
    "in_channels": 16,
    "out_channels": 16,
    "patch_size": 2,
    "llama_layers": list(range(32)) + [31] * 16,
}
_OMNIGEN = {
    "axes_dim_rope": [40, 40, 40],
    "hidden_size": 2520,
    "num_attention_heads": 21,
    "num_kv_heads": 7,
    "num_layers": 32,
    "text_feat_dim": 2048,
}
_SD3 = {
    "in_channels": 16,
    "out_channels": 16,
    "patch_size": 2,
    "depth": 24,
    "input_size": None,
    "adm_in_channels": 2048,
    "context_embedder_config": {
        "target": "torch.nn.Linear",
        "params": {"in_features": 4096, "out_features": 1536},
    },
    "num_patches": 36864,
    "pos_embed_max_size": 192,
    "pos_embed_scaling_factor": None,
    "qk_norm": "rms",
    "x_block_self_attn_layers": list(range(13)),
}

# The host's configuration class -> what detection would have added to it.
SETTINGS: dict[str, dict[str, Any]] = {
    **dict.fromkeys(("SD15", "SD15_instructpix2pix", "Stable_Zero123"), _UNET),
    "LotusD": _SD2 | _CLASSES | {"adm_in_channels": 4},
    "SD20": _SD2,
    "SD21UnclipL": _SD2 | _CLASSES | {"adm_in_channels": 1536},
    "SD21UnclipH": _SD2 | _CLASSES | {"adm_in_channels": 2048},
    **dict.fromkeys(("SDXL", "SDXL_instructpix2pix", "SSD1B", "Segmind_Vega"), _SDXL),
    **dict.fromkeys(("KOALA_700M", "KOALA_1B"), _KOALA),
    "SDXLRefiner": _REFINER,
    "SD_X4Upscaler": _X4,
    **dict.fromkeys(("SVD_img2vid", "SV3D_u", "SV3D_p"), _SVD),
    "Stable_Cascade_C": {},
    "Stable_Cascade_B": {},
    "SD3": _SD3,
    "StableAudio": {},
    "AuraFlow": {"max_seq": 64 * 64, "n_layers": 36, "n_double_layers": 4},
    **dict.fromkeys(("PixArtAlpha", "PixArtSigma"), {"depth": 28}),
    **dict.fromkeys(("HunyuanDiT", "HunyuanDiT1"), {"depth": 40, "hidden_size": 1408}),
    **dict.fromkeys(("Flux", "FluxInpaint", "FluxSchnell"), _FLUX),
    "Flux2": _FLUX2,
    "GenmoMochi": _MOCHI,
    "LTXV": {},
    **dict.fromkeys(("HunyuanVideo", "HunyuanVideoI2V", "HunyuanVideoSkyreelsI2V"), _HUNYUAN_VIDEO),
    **dict.fromkeys(("HunyuanVideo15", "HunyuanVideo15_SR_Distilled"), _HUNYUAN_15),
    "HunyuanImage21": _HUNYUAN_VIDEO | {"patch_size": [1, 1], "byt5": True, "meanflow": True},
    "HunyuanImage21Refiner": _HUNYUAN_VIDEO | {"patch_size": [1, 1, 1]},
    **dict.fromkeys(("CosmosT2V", "CosmosI2V"), _COSMOS_1),
    **dict.fromkeys(("CosmosT2IPredict2", "CosmosI2VPredict2"), _COSMOS_2),
    "Lumina2": _LUMINA,
    "ZImage": _Z_IMAGE,
    **dict.fromkeys(("WAN21_T2V", "WAN22_T2V", "WAN21_I2V", "WAN21_FunControl2V"), _WAN),
    **dict.fromkeys(("WAN21_Camera", "WAN22_Camera", "WAN22_S2V", "WAN21_HuMo"), _WAN),
    "WAN22_Animate": _WAN | {"dim": 5120, "num_heads": 40},
    "WAN21_Vace": _WAN | {"vace_layers": 15, "vace_in_dim": 96},
    **dict.fromkeys(("Hunyuan3Dv2", "Hunyuan3Dv2mini", "Hunyuan3Dv2_1"), {}),
    "HiDream": _HIDREAM,
    "Chroma": _CHROMA,
    "ChromaRadiance": _RADIANCE,
    "ACEStep": {},
    "Omnigen2": _OMNIGEN,
    "QwenImage": {},
}


# Fields that newer hosts' settings have too.
_NEWER = {
    "txt_ids_dims": [],
    "vec_in_dim": None,
    "meanflow_sum": False,
    "use_x0": False,
    "use_sequential_txt_ids": False,
}
_PARAMETERS = {
    **dict.fromkeys(("Flux", "FluxInpaint", "FluxSchnell", "Flux2"), FluxParams),
    "Chroma": ChromaParams,
    "ChromaRadiance": ChromaRadianceParams,
    **{name: HunyuanVideoParams for name in SETTINGS if name.startswith(("HunyuanV", "HunyuanI"))},
}

# What two families take from the checkpoint itself while they are built.
_EMBEDDER = {
    f"conditioner.conditioners.{which}.embedder.embedding.{name}": torch.zeros(shape)
    for which in ("seconds_start", "seconds_total")
    for name, shape in (("0.weights", (128,)), ("1.weight", (768, 257)), ("1.bias", (768,)))
}
_WEIGHTS: dict[str, dict[str, torch.Tensor]] = {
    "Stable_Zero123": {
        "cc_projection.weight": torch.zeros(768, 772, device="meta"),
        "cc_projection.bias": torch.zeros(768, device="meta"),
    },
    "StableAudio": _EMBEDDER,
}


def meta_model(name: str) -> Any:
    """The host's inner model of a configuration class, its weights on the meta device."""
    config_class = getattr(comfy.supported_models, name)
    fields = getattr(_PARAMETERS.get(name), "__dataclass_fields__", {})
    newer = {key: value for key, value in _NEWER.items() if key in fields}
    config = config_class(newer | SETTINGS[name] | config_class.unet_config)
    config.set_inference_dtype(torch.float16, None)
    config.noise_aug_config = {
        "noise_schedule_config": {"timesteps": 1000, "beta_schedule": "squaredcos_cap_v2"},
        "timestep_dim": 768,
    }
    return config.get_model(_WEIGHTS.get(name, {}), device=torch.device("meta"))
