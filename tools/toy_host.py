"""Makes the modules of a ComfyUI tree importable, and builds the toy's networks from its classes.

The toy is trained inside the very classes that will load it, so nothing can differ between the two.
"""

from __future__ import annotations

import math
import os
import sys
from pathlib import Path
from typing import Any

import torch

TOOLS = Path(__file__).resolve().parent

LATENT_CHANNELS = 4
END_TOKEN = 49407
CHANNEL_MULT = (1, 2, 2)
# Attention stays away from the finest level, where it costs most and decides nothing; of the two
# blocks that each coarser level has on the way up, the first keeps it.
DEPTH_DOWN = (0, 1, 1)
DEPTH_UP = (0, 0, 0, 1, 0, 1)


def add_host(path: str | None) -> None:
    """Put the ComfyUI tree at `path` (or COMFYUI_PATH) on the import path and choose its device.

    Raises:
        SystemExit: when there is no ComfyUI there.
    """
    root = Path(path or os.environ.get("COMFYUI_PATH", ""))
    if not (root / "comfy" / "supported_models.py").is_file():
        sys.exit("no ComfyUI found: name its folder with --comfyui or COMFYUI_PATH")
    # The host goes first: this repository has a package called `nodes` too.
    sys.path[:0] = [str(root), str(TOOLS)]
    from comfy.cli_args import args

    args.cpu = not torch.cuda.is_available()
    args.use_pytorch_cross_attention = True
    import toy_pack  # noqa: F401 - registers the toy with the host


def device() -> torch.device:
    """The device that training runs on."""
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


def _fill(module: torch.nn.Module, generator: torch.Generator) -> None:
    for name, parameter in module.named_parameters():
        if parameter.ndim <= 1:
            # Norm weights are the only vectors that end in "weight".
            parameter.fill_(1.0 if name.endswith("weight") else 0.0)
        else:
            fan_in = parameter[0].numel()
            parameter.normal_(std=1 / math.sqrt(fan_in), generator=generator)


def new_unet(seed: int) -> torch.nn.Module:
    """Return the host's UNet at the toy's sizes with seeded weights.

    Every branch that adds to a residual stream begins at zero, which is what SD1.5 does too.
    """
    import comfy.ops
    import toy_pack
    from comfy.ldm.modules.diffusionmodules.openaimodel import UNetModel

    unet = UNetModel(
        image_size=32, in_channels=LATENT_CHANNELS, out_channels=LATENT_CHANNELS,
        model_channels=toy_pack.MODEL_CHANNELS, num_res_blocks=[1] * len(CHANNEL_MULT),
        channel_mult=list(CHANNEL_MULT), num_heads=toy_pack.ATTENTION_HEADS,
        use_spatial_transformer=True, transformer_depth=list(DEPTH_DOWN),
        transformer_depth_output=list(DEPTH_UP), transformer_depth_middle=1,
        context_dim=toy_pack.TEXT_WIDTH, legacy=False, device="cpu",
        operations=comfy.ops.disable_weight_init,
    )  # fmt: skip
    with torch.no_grad():
        _fill(unet, torch.Generator().manual_seed(seed))
        for name, parameter in unet.named_parameters():
            if name.rpartition(".")[0].endswith(("out_layers.3", "proj_out", "out.2")):
                parameter.zero_()
    return unet


def new_text_encoder(seed: int) -> torch.nn.Module:
    """Return the small text encoder with seeded weights; it stays as it is, untrained.

    Words lie at random. Nothing lies at the tokens that end and pad a prompt, so attention fills
    them with a summary of the words before them. That matters: they are nine tenths of the 77, and
    a UNet that begins by looking at all tokens alike would hardly see the few words otherwise.
    """
    import toy_pack

    encoder = toy_pack.ToyTextEncoder(device="cpu", dtype=torch.float32)
    with torch.no_grad():
        _fill(encoder, torch.Generator().manual_seed(seed))
        for name, parameter in encoder.named_parameters():
            if name.endswith("token_embedding.weight"):
                parameter.mul_(math.sqrt(parameter.shape[1]))
                parameter[END_TOKEN] = 0
            elif name.endswith("position_embedding.weight"):
                parameter.zero_()
            elif name.endswith(("out_proj.weight", "fc2.weight")):
                parameter.mul_(0.3)
        # The file holds half precision: train with exactly what will be loaded.
        for parameter in encoder.parameters():
            parameter.copy_(parameter.half().float())
    return encoder


def tokens_of(captions: list[str]) -> list[Any]:
    """Return the host tokenizer's tokens of each caption."""
    import comfy.sd1_clip

    tokenizer = comfy.sd1_clip.SD1Tokenizer()
    return [tokenizer.tokenize_with_weights(text) for text in captions]


def encode_tokens(encoder: Any, tokens: list[Any]) -> torch.Tensor:
    """Return the text conditioning of tokens, shape (captions, 77, text width)."""
    return torch.cat([encoder.encode_token_weights(one)[0] for one in tokens]).float()


def encode_captions(encoder: Any, captions: list[str]) -> torch.Tensor:
    """Return the text conditioning of captions, shape (captions, 77, text width), without grads."""
    with torch.no_grad():
        return encode_tokens(encoder, tokens_of(captions))
