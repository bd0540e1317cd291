"""Models of real sizes with seeded random weights, LoRAs for them, and what one step hands to them."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from comfy.cli_args import args as host_args

from tools.unet_settings import SD15_UNET, SDXL_UNET

host_args.cpu = not torch.cuda.is_available()

import comfy.ldm.flux.model  # noqa: E402
import comfy.model_management  # noqa: E402
import comfy.model_patcher  # noqa: E402
import comfy.supported_models  # noqa: E402
import safetensors.torch  # noqa: E402

ALPHA = 16.0
DTYPES = {"fp16": torch.float16, "bf16": torch.bfloat16, "fp32": torch.float32}

_SD15 = SD15_UNET | {"num_heads": 8}
_SDXL = SDXL_UNET | {"num_heads": 8}
_ONE_LEVEL = {
    "channel_mult": [1],
    "num_res_blocks": [2],
    "transformer_depth": [1, 1],
    "transformer_depth_output": [1, 1, 1],
}
# One block of each kind at Flux's width.
_FLUX_BLOCK = {
    "image_model": "flux",
    "in_channels": 16,
    "out_channels": 16,
    "patch_size": 2,
    "vec_in_dim": 768,
    "context_in_dim": 4096,
    "hidden_size": 3072,
    "mlp_ratio": 4.0,
    "num_heads": 24,
    "depth": 1,
    "depth_single_blocks": 1,
    "axes_dim": [16, 56, 56],
    "theta": 10000,
    "qkv_bias": True,
    "guidance_embed": True,
}
if "txt_ids_dims" in comfy.ldm.flux.model.FluxParams.__dataclass_fields__:
    _FLUX_BLOCK["txt_ids_dims"] = []


@dataclass(frozen=True)
class BenchModel:
    """config: the host's class and its settings. latent, context, vector: shapes of a step's input, without the batch.

    adapted: names of layers, any of which a LoRA of a usual trainer adapts. batch: cond and uncond, or cond alone.
    """

    config: type
    settings: dict[str, Any]
    latent: tuple[int, ...]
    context: tuple[int, int]
    vector: int | None
    adapted: tuple[str, ...]
    batch: int = 2


_UNET = ("transformer_blocks", ".proj_in.", ".proj_out.")
_MODELS = comfy.supported_models
MODELS: dict[str, BenchModel] = {
    "sd15": BenchModel(_MODELS.SD15, _SD15, (4, 64, 64), (77, 768), None, _UNET),
    # Its widest level in pixels alone, which is where training spends its time.
    "sd15 level": BenchModel(_MODELS.SD15, _SD15 | _ONE_LEVEL, (4, 64, 64), (77, 768), None, _UNET),
    "sdxl": BenchModel(_MODELS.SDXL, _SDXL, (4, 128, 128), (77, 2048), 2816, _UNET),
    "flux": BenchModel(
        _MODELS.Flux,
        _FLUX_BLOCK,
        (16, 64, 64),
        (256, 4096),
        768,
        ("double_blocks", "single_blocks"),
        batch=1,
    ),
    # To see that a benchmark runs; its figures say nothing.
    "tiny": BenchModel(
        _MODELS.SD15,
        _SD15 | {"model_channels": 32, "num_heads": 4},
        (4, 16, 16),
        (77, 768),
        None,
        _UNET,
    ),
}


def random_model(name: str, dtype: torch.dtype) -> Any:
    """A MODEL of MODELS with seeded random weights, in the class that the host gives to its own loaders."""
    size = MODELS[name]
    config = size.config(size.settings)
    config.set_inference_dtype(dtype, None)
    inner = config.get_model({}, device=torch.device("cpu"))
    generator = torch.Generator().manual_seed(0)
    for parameter in inner.diffusion_model.parameters():
        parameter.requires_grad_(False)
        parameter.data = (torch.randn(parameter.shape, generator=generator) * 0.03).to(dtype)
    inner.diffusion_model.eval()
    patcher = getattr(comfy.model_patcher, "CoreModelPatcher", comfy.model_patcher.ModelPatcher)
    load = comfy.model_management.get_torch_device()
    return patcher(inner, load_device=load, offload_device=torch.device("cpu"))


def random_loras(model: Any, name: str, folder: Path, count: int, rank: int) -> list[str]:
    """`count` files in kohya naming for the layers that most trainers adapt; their names."""
    parts = MODELS[name].adapted
    state = model.model.state_dict().items()
    shapes = {key: tuple(value.shape) for key, value in state}
    adapted = {key: shape for key, shape in shapes.items() if is_adapted(key, shape, parts)}
    for index in range(count):
        generator = torch.Generator().manual_seed(100 + index)
        tensors = {}
        for key, shape in adapted.items():
            module = "lora_unet_" + key[len("diffusion_model.") : -len(".weight")].replace(".", "_")
            ones = (1,) * (len(shape) - 2)
            up = torch.randn(shape[0], rank, *ones, generator=generator)
            down = torch.randn(rank, *shape[1:], generator=generator)
            tensors[f"{module}.lora_up.weight"] = up * 0.02
            tensors[f"{module}.lora_down.weight"] = down * 0.02
            tensors[f"{module}.alpha"] = torch.tensor(ALPHA)
        safetensors.torch.save_file(
            {k: v.half() for k, v in tensors.items()}, folder / f"lora_{index}.safetensors"
        )
    return [f"lora_{index}.safetensors" for index in range(count)]


def is_adapted(key: str, shape: tuple[int, ...], parts: Iterable[str]) -> bool:
    return key.endswith(".weight") and len(shape) >= 2 and any(part in key for part in parts)


def one_step(model: Any, name: str) -> Callable[[], torch.Tensor]:
    """A function that calls the inner model as a sampler does, on the device that it is loaded on."""
    size, inner, device = MODELS[name], model.model, model.load_device
    generator = torch.Generator().manual_seed(1)

    def noise(*shape: int) -> torch.Tensor:
        return torch.randn(size.batch, *shape, generator=generator).to(device)

    x, context = noise(*size.latent), noise(*size.context)
    more: dict[str, torch.Tensor] = {} if size.vector is None else {"y": noise(size.vector)}
    if size.settings.get("guidance_embed"):
        more["guidance"] = torch.full((size.batch,), 3.5, device=device)
    sigma = inner.model_sampling.sigma(inner.model_sampling.timestep(torch.tensor([1.0])))
    sigmas = sigma.to(device).expand(size.batch)

    def step() -> torch.Tensor:
        return inner.apply_model(x, sigmas, c_crossattn=context, transformer_options={}, **more)

    return step
