"""More of the host's families built small, for what runs on layers: v and flow objectives, DiTs, video, audio."""

from __future__ import annotations

import comfy.model_base
import comfy.model_patcher
import comfy.samplers
import comfy.supported_models
import torch
from small_models import SD15_UNET


class _SD2V(comfy.supported_models.SD20):
    """SD2 whose checkpoint says that it predicts v."""

    def model_type(self, state_dict, prefix=""):
        return comfy.model_base.ModelType.V_PREDICTION


_SD2 = SD15_UNET | {
    "context_dim": 1024,
    "use_linear_in_transformer": True,
    "model_channels": 64,
}
_SD3 = {
    "in_channels": 16,
    "patch_size": 2,
    "depth": 2,
    "input_size": None,
    "adm_in_channels": 2048,
    "num_patches": 64,
    "pos_embed_max_size": 8,
    "pos_embed_scaling_factor": None,
    "context_embedder_config": {
        "target": "torch.nn.Linear",
        "params": {"in_features": 64, "out_features": 128},
    },
}
_WAN = {
    "image_model": "wan2.1",
    "model_type": "t2v",
    "dim": 128,
    "ffn_dim": 256,
    "num_heads": 1,
    "num_layers": 2,
    "text_dim": 64,
}

# family -> (configuration, settings, latent, width of a text token, width of the pooled text)
MORE = {
    "SD2 v": (_SD2V, _SD2, (4, 8, 8), 1024, 8),
    "SD3": (comfy.supported_models.SD3, _SD3, (16, 8, 8), 64, 2048),
    "Wan": (comfy.supported_models.WAN21_T2V, _WAN, (16, 2, 8, 8), 64, 8),
}


def more_model(family: str, dtype: torch.dtype = torch.float32):
    config_class, settings, *_ = MORE[family]
    config = config_class(settings)
    config.set_inference_dtype(dtype, None)
    cpu = torch.device("cpu")
    inner = config.get_model({}, device=cpu)
    generator = torch.Generator().manual_seed(0)
    for parameter in inner.diffusion_model.parameters():
        parameter.data = (torch.randn(parameter.shape, generator=generator) * 0.05).to(dtype)
        parameter.requires_grad_(False)
    inner.diffusion_model.eval()
    return comfy.model_patcher.ModelPatcher(inner, load_device=cpu, offload_device=cpu)


def more_sampled(model, family: str, steps: int = 1) -> torch.Tensor:
    _, _, latent, width, pooled = MORE[family]
    generator = torch.Generator().manual_seed(7)

    def text() -> list:
        context = torch.randn(1, 7, width, generator=generator)
        return [[context, {"pooled_output": torch.randn(1, pooled, generator=generator)}]]

    guider = comfy.samplers.CFGGuider(model)
    guider.set_conds(text(), text())
    guider.set_cfg(3.0)
    noise = torch.randn(2, *latent, generator=generator)
    sampling = model.get_model_object("model_sampling")
    return guider.sample(
        noise,
        torch.zeros_like(noise),
        comfy.samplers.sampler_object("euler"),
        comfy.samplers.calculate_sigmas(sampling, "simple", steps),
        disable_pbar=True,
        seed=7,
    )
