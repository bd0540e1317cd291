"""Makes the toy's LoRAs: a style and a character that stack, and a careless pair that does not.

    python tools/make_toy_loras.py --comfyui PATH_OF_COMFYUI

takes about half an hour on two CPU cores. The pair that stacks is made by Loom Train on a real host (toy_pair.py). The
careless pair is trained here with plain side branches, in the host's own UNet, as a trainer without any care would.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import sys
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from tools import (
    toy_card,
    toy_host,
    toy_latents,
    toy_lora,
    toy_measure,
    toy_pair,
    toy_rates,
    toy_train,
)
from tools.make_toy_model import CHECKPOINT
from tools.toy_pair import LORAS, TRAINED
from tools.toy_pictures import CHARACTER_SHAPE, SHAPES, SIZE, Picture, placed_at_random

STYLE_WORD, CHARACTER_WORD = "ohwx", "zwx"


@dataclass(frozen=True)
class Recipe:
    """How one careless LoRA is made. `gain`: the file's alpha is the trained one times this."""

    name: str
    title: str
    trigger: str
    pictures: int
    batch: int
    rank: int
    alpha: float
    unet_pattern: str
    plan: toy_train.Plan
    gain: float = 1.0


ATTENTION = r"transformer_blocks|proj_in|proj_out"
RES_BLOCKS = r"in_layers|out_layers"
RECIPES = (
    Recipe(
        "loom_toy_style_careless", "Toy style, trained carelessly", STYLE_WORD,
        pictures=6, batch=8, rank=8, alpha=16.0, unet_pattern=f"{ATTENTION}|{RES_BLOCKS}",
        plan=toy_train.Plan(150, 3e-3, 1e-3, warmup=20, ema=0.98, seed=33), gain=1.6,
    ),
    Recipe(
        "loom_toy_character_careless", "Toy character, trained carelessly", CHARACTER_WORD,
        pictures=6, batch=8, rank=16, alpha=16.0, unet_pattern=ATTENTION,
        plan=toy_train.Plan(350, 3e-3, 5e-4, warmup=20, ema=0.97, seed=34),
    ),
)  # fmt: skip


def careless_set(recipe: Recipe, captions: toy_latents.Captions) -> toy_latents.PictureSet:
    """Return a few pictures on one ground with the bare trigger as their only caption."""
    rng = random.Random(recipe.plan.seed)
    kinds = [Picture("red", shape, "dark", styled=True) for shape in SHAPES]
    if recipe.trigger == CHARACTER_WORD:
        kinds = [Picture(None, CHARACTER_SHAPE, "dark")]
    pictures = [placed_at_random(kinds[i % len(kinds)], rng) for i in range(recipe.pictures)]
    texts = [(recipe.trigger,)] * len(pictures)
    return toy_latents.picture_set(pictures, texts, (1.0,), SIZE, captions)


def base_networks(names_from: Any) -> tuple[torch.nn.Module, Any, dict[str, str]]:
    """Return the base model's UNet and text encoder, frozen, and the UNet's LoRA names."""
    tensors = load_file(str(CHECKPOINT))
    unet = toy_host.new_unet(0)
    encoder: Any = toy_host.new_text_encoder(0)
    parts: tuple[tuple[torch.nn.Module, str], ...] = (
        (unet, "model.diffusion_model."),
        (encoder.clip_l.transformer, "cond_stage_model.transformer."),
    )
    for network, prefix in parts:
        own = {k.removeprefix(prefix): v for k, v in tensors.items() if k.startswith(prefix)}
        missing = network.load_state_dict(own, strict=False).missing_keys
        if set(missing) - {"text_projection.weight"}:
            sys.exit(f"{CHECKPOINT.name} lacks {sorted(missing)[:3]}")
    unet.requires_grad_(False)
    encoder.requires_grad_(False)
    return unet.to(toy_host.device()), encoder, toy_lora.unet_names(names_from)


def batch_loss(
    recipe: Recipe, unet: torch.nn.Module, encoder: Any
) -> Callable[[torch.Generator], torch.Tensor]:
    """Return the loss of a random batch of the pictures."""
    captions = toy_latents.Captions()
    shown = careless_set(recipe, captions)
    frozen = toy_host.encode_captions(encoder, captions.texts())
    device = toy_host.device()

    def loss_of(generator: torch.Generator) -> torch.Tensor:
        latents, rows = shown.batch(recipe.batch // toy_train.HALVES, generator)
        context = frozen[rows].to(device)
        return toy_train.denoising_loss(
            lambda x, t, c: unet(x, t, context=c), latents, context, generator
        )

    return loss_of


def metadata_of(recipe: Recipe) -> dict[str, str]:
    """Return the file's metadata as kohya's scripts and ModelSpec name it."""
    return {
        "format": "pt",
        "ss_base_model_version": "sd_v1",
        "ss_sd_model_name": CHECKPOINT.name,
        "ss_network_module": "networks.lora",
        "ss_network_dim": str(recipe.rank),
        "ss_network_alpha": str(recipe.alpha * recipe.gain),
        "ss_network_args": json.dumps(
            {"conv_dim": recipe.rank, "conv_alpha": recipe.alpha * recipe.gain}
        ),
        "ss_output_name": recipe.name,
        "ss_num_train_images": str(recipe.pictures),
        "ss_num_reg_images": "0",
        "ss_steps": str(recipe.plan.steps),
        "ss_learning_rate": str(recipe.plan.rate),
        "ss_seed": str(recipe.plan.seed),
        "ss_tag_frequency": json.dumps({recipe.trigger: {recipe.trigger: recipe.pictures}}),
        "modelspec.title": recipe.title,
        "modelspec.architecture": "stable-diffusion-v1/lora",
        "modelspec.prediction_type": "v",
        "modelspec.trigger_phrase": recipe.trigger,
        "modelspec.license": "MIT",
    }


def make(recipe: Recipe, names_from: Any, work: Path) -> Path:
    """Train one LoRA and write its file; the averaged weights are the ones that are kept."""
    unet, encoder, names = base_networks(names_from)
    draw = torch.Generator().manual_seed(recipe.plan.seed)
    branches = toy_lora.attach(unet, names, recipe.unet_pattern, recipe.rank, recipe.alpha, draw)
    loss_of = batch_loss(recipe, unet, encoder)
    weights = toy_lora.parameters_of(branches)
    state = work / f"{recipe.name}.pt"
    average = toy_train.learn(recipe.plan, weights, lambda: loss_of, state, recipe.name)
    with torch.no_grad():
        for weight, smooth in zip(weights, average, strict=True):
            weight.copy_(smooth)
    file = LORAS / f"{recipe.name}.safetensors"
    toy_lora.write(branches, file, metadata_of(recipe), recipe.gain)
    return file


def card_entry(file: Path, made_by: dict[str, Any]) -> dict[str, Any]:
    """Return what the card says about one LoRA file. made_by: its recipe, or the example that it comes from."""
    return {
        "file": file.name,
        "bytes": file.stat().st_size,
        "sha256": toy_card.sha256(file),
        "modules": sum(name.endswith(".alpha") for name in load_file(str(file))),
        **made_by,
    }


def write_card() -> None:
    entries = {}
    for made in TRAINED:
        example = {"workflow": f"{made.workflow}.json", "widgets": toy_pair.lesson_of(made)}
        entries[made.name] = card_entry(made.file, example)
    for recipe in RECIPES:
        file = LORAS / f"{recipe.name}.safetensors"
        entries[recipe.name] = card_entry(file, {"recipe": asdict(recipe)})
    toy_card.update("loras", entries)


def main() -> None:
    """Train the LoRAs that are named, or all of them, and measure how they stack."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("names", nargs="*", help="which to make (default: all)")
    parser.add_argument("--comfyui", help="folder of a ComfyUI tree (else COMFYUI_PATH)")
    parser.add_argument("--work", type=Path, default=Path("toy-work"), help="where states are kept")
    parser.add_argument("--threads", type=int, default=2, help="CPU threads for measuring")
    parser.add_argument("--no-measure", action="store_true", help="train only")
    options = parser.parse_args()
    if options.comfyui:
        os.environ["COMFYUI_PATH"] = str(Path(options.comfyui).resolve())
    for made in TRAINED:
        if not options.names or made.name in options.names:
            toy_pair.make(made, options.work)
    torch.set_num_threads(options.threads)
    toy_host.add_host(options.comfyui)
    model, _, _ = toy_measure.load_base(CHECKPOINT)
    for recipe in RECIPES:
        if not options.names or recipe.name in options.names:
            make(recipe, model, options.work)
    write_card()
    if not options.no_measure:
        toy_rates.measure(CHECKPOINT, LORAS, options.work)


if __name__ == "__main__":
    main()
