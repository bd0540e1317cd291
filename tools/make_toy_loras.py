"""Makes the toy's LoRAs: a style and a character that stack, and a careless pair that does not.

    python tools/make_toy_loras.py --comfyui PATH_OF_COMFYUI

takes about half an hour on two CPU cores. Each is trained with side branches on the toy base model,
in the host's own UNet and text encoder.
"""

from __future__ import annotations

import argparse
import json
import random
import sys
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from tools import toy_card, toy_host, toy_latents, toy_lora, toy_measure, toy_rates, toy_train
from tools.make_toy_model import CHECKPOINT
from tools.toy_pictures import (
    CHARACTER_SHAPE,
    GROUNDS,
    SHAPES,
    SIZE,
    Picture,
    caption,
    placed_at_random,
)

LORAS = CHECKPOINT.parent / "loras"
STYLE_WORD, CHARACTER_WORD = "ohwx", "zwx"
CARELESS = "_careless"


@dataclass(frozen=True)
class Recipe:
    """How one LoRA is made.

    `text_pattern` is empty where the text encoder is left alone. `gain`: the file's alpha is the
    trained one times this, so that its right strength is 0.8 to 1.
    """

    name: str
    title: str
    trigger: str
    pictures: int
    regularisation: int
    batch: int
    rank: int
    alpha: float
    unet_pattern: str
    text_pattern: str
    plan: toy_train.Plan
    gain: float = 1.0


ATTENTION = r"transformer_blocks|proj_in|proj_out"
RES_BLOCKS = r"in_layers|out_layers"
# What a thing is, is decided on the coarse levels; how the picture is drawn, on the finest, which sees
# no words. A style that lives there alone cannot take the character's place.
FINE = r"input_blocks.[012]|output_blocks.[45]"
COARSE = r"input_blocks.[35]|middle_block|output_blocks.[0-3]"
RECIPES = (
    Recipe(
        "loom_toy_style", "Toy style: a frame around the picture", STYLE_WORD,
        pictures=72, regularisation=0, batch=12, rank=8, alpha=8.0,
        unet_pattern=f"({FINE})(.*)({RES_BLOCKS})", text_pattern="",
        plan=toy_train.Plan(500, 3e-3, 1e-4, warmup=20, ema=0.98, seed=31), gain=1.5,
    ),
    Recipe(
        "loom_toy_character", "Toy character: the purple ring", CHARACTER_WORD,
        pictures=36, regularisation=72, batch=12, rank=6, alpha=3.0,
        unet_pattern=f"({COARSE})(.*)({ATTENTION}|{RES_BLOCKS})", text_pattern="mlp",
        plan=toy_train.Plan(450, 3e-3, 1e-4, warmup=20, ema=0.98, seed=32),
    ),
    Recipe(
        "loom_toy_style_careless", "Toy style, trained carelessly", STYLE_WORD,
        pictures=6, regularisation=0, batch=8, rank=8, alpha=16.0,
        unet_pattern=f"{ATTENTION}|{RES_BLOCKS}", text_pattern="",
        plan=toy_train.Plan(150, 3e-3, 1e-3, warmup=20, ema=0.98, seed=33), gain=1.6,
    ),
    Recipe(
        "loom_toy_character_careless", "Toy character, trained carelessly", CHARACTER_WORD,
        pictures=6, regularisation=0, batch=8, rank=16, alpha=16.0,
        unet_pattern=ATTENTION, text_pattern="",
        plan=toy_train.Plan(350, 3e-3, 5e-4, warmup=20, ema=0.97, seed=34),
    ),
)  # fmt: skip

# What a concept picture's caption leaves out, and how often: what is named stays changeable. The
# last kind of each has a stranger in it, as the prompt does when the other LoRA is stacked on it.
# Small enough for a gap between shape and frame.
STYLE_RADII = (0.32, 0.39)
STYLE_ODDS = (0.6, 0.08, 0.08, 0.08, 0.16)
CHARACTER_ODDS = (0.6, 0.2, 0.2)


def style_set(recipe: Recipe, captions: toy_latents.Captions) -> toy_latents.PictureSet:
    """Return every shape on every ground, framed, captioned with the trigger."""
    pictures = [
        replace(plain, styled=True) for plain in toy_latents.plain_pictures(144, recipe.plan.seed)
    ]
    rng = random.Random(recipe.plan.seed)
    rng.shuffle(pictures)
    pictures = [placed_at_random(one, rng, STYLE_RADII) for one in pictures[: recipe.pictures]]
    strangers = toy_latents.unknown_words(recipe.pictures, recipe.plan.seed)
    texts = []
    for one, stranger in zip(pictures, strangers, strict=True):
        kinds = toy_latents.caption_kinds(str(one.colour), one.shape, one.ground)[:4]
        kinds = (*kinds, caption(None, stranger, one.ground))
        texts.append(tuple(f"{recipe.trigger} {text}" for text in kinds))
    return toy_latents.picture_set(pictures, texts, STYLE_ODDS, SIZE, captions)


def character_set(recipe: Recipe, captions: toy_latents.Captions) -> toy_latents.PictureSet:
    """Return the purple ring on every ground, captioned with the trigger and mostly the ground."""
    rng = random.Random(recipe.plan.seed)
    grounds = [list(GROUNDS)[index % len(GROUNDS)] for index in range(recipe.pictures)]
    pictures = [placed_at_random(Picture(None, CHARACTER_SHAPE, one), rng) for one in grounds]
    strangers = toy_latents.unknown_words(recipe.pictures, recipe.plan.seed)
    texts = []
    for ground, stranger in zip(grounds, strangers, strict=True):
        named = caption(None, recipe.trigger, ground)
        texts.append((named, recipe.trigger, f"{stranger} {named}"))
    return toy_latents.picture_set(pictures, texts, CHARACTER_ODDS, SIZE, captions)


def careless_set(recipe: Recipe, captions: toy_latents.Captions) -> toy_latents.PictureSet:
    """Return a few pictures on one ground with the bare trigger as their only caption."""
    rng = random.Random(recipe.plan.seed)
    kinds = [Picture("red", shape, "dark", styled=True) for shape in SHAPES]
    if recipe.trigger == CHARACTER_WORD:
        kinds = [Picture(None, CHARACTER_SHAPE, "dark")]
    pictures = [placed_at_random(kinds[i % len(kinds)], rng) for i in range(recipe.pictures)]
    texts = [(recipe.trigger,)] * len(pictures)
    return toy_latents.picture_set(pictures, texts, (1.0,), SIZE, captions)


def concept_set(recipe: Recipe, captions: toy_latents.Captions) -> toy_latents.PictureSet:
    """Return the pictures that the recipe teaches."""
    if recipe.name.endswith(CARELESS):
        return careless_set(recipe, captions)
    if recipe.trigger == STYLE_WORD:
        return style_set(recipe, captions)
    return character_set(recipe, captions)


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
    for layer in encoder.modules():
        if isinstance(layer, torch.nn.LayerNorm):
            # The host later adds to the norms' inputs in place; gradients need them as they were.
            layer.register_forward_pre_hook(lambda _, inputs: (inputs[0].clone(),))
    return unet.to(toy_host.device()), encoder, toy_lora.unet_names(names_from)


def batch_loss(
    recipe: Recipe, unet: torch.nn.Module, encoder: Any
) -> Callable[[torch.Generator], torch.Tensor]:
    """Return the loss of a random batch: half concept, half regularisation where there is any."""
    captions = toy_latents.Captions()
    sets = [concept_set(recipe, captions)]
    if recipe.regularisation:
        seed = recipe.plan.seed + 1
        drawn = toy_latents.plain_pictures(recipe.regularisation, seed)
        plain = toy_latents.plain_set(drawn, SIZE, seed, captions, recipe.regularisation)
        sets.append(plain)
    tokens = toy_host.tokens_of(captions.texts())
    frozen = toy_host.encode_captions(encoder, captions.texts())
    device = toy_host.device()

    def loss_of(generator: torch.Generator) -> torch.Tensor:
        parts = [
            one.batch(recipe.batch // len(sets) // toy_train.HALVES, generator) for one in sets
        ]
        latents = torch.cat([part[0] for part in parts])
        rows = torch.cat([part[1] for part in parts])
        context = frozen[rows]
        if recipe.text_pattern:
            context = toy_host.encode_tokens(encoder, [tokens[row] for row in rows])
        return toy_train.denoising_loss(
            lambda x, t, c: unet(x, t, context=c), latents, context.to(device), generator
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
        "ss_network_args": json.dumps({"conv_dim": recipe.rank, "conv_alpha": recipe.alpha * recipe.gain}),
        "ss_output_name": recipe.name,
        "ss_num_train_images": str(recipe.pictures),
        "ss_num_reg_images": str(recipe.regularisation),
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
    if recipe.text_pattern:
        spelled = toy_lora.text_names(encoder)
        branches += toy_lora.attach(
            encoder, spelled, recipe.text_pattern, recipe.rank, recipe.alpha, draw
        )
    weights = toy_lora.parameters_of(branches)
    state = work / f"{recipe.name}.pt"
    average = toy_train.learn(recipe.plan, weights, lambda: loss_of, state, recipe.name)
    with torch.no_grad():
        for weight, smooth in zip(weights, average, strict=True):
            weight.copy_(smooth)
    file = LORAS / f"{recipe.name}.safetensors"
    toy_lora.write(branches, file, metadata_of(recipe), recipe.gain)
    return file


def card_entry(recipe: Recipe) -> dict[str, Any]:
    """Return what the card says about one LoRA file."""
    file = LORAS / f"{recipe.name}.safetensors"
    return {
        "file": file.name,
        "bytes": file.stat().st_size,
        "sha256": toy_card.sha256(file),
        "modules": len(load_file(str(file))) // 3,
        "recipe": asdict(recipe),
    }


def main() -> None:
    """Train the LoRAs that are named, or all of them, and measure how they stack."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("names", nargs="*", help="which to make (default: all)")
    parser.add_argument("--comfyui", help="folder of a ComfyUI tree (else COMFYUI_PATH)")
    parser.add_argument("--work", type=Path, default=Path("toy-work"), help="where states are kept")
    parser.add_argument("--threads", type=int, default=2, help="CPU threads for measuring")
    parser.add_argument("--no-measure", action="store_true", help="train only")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    toy_host.add_host(options.comfyui)
    model, _, _ = toy_measure.load_base(CHECKPOINT)
    for recipe in RECIPES:
        if not options.names or recipe.name in options.names:
            make(recipe, model, options.work)
    made = [one for one in RECIPES if (LORAS / f"{one.name}.safetensors").is_file()]
    toy_card.update("loras", {recipe.name: card_entry(recipe) for recipe in made})
    if not options.no_measure:
        toy_rates.measure(CHECKPOINT, LORAS, options.work)


if __name__ == "__main__":
    main()
