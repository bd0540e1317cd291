"""Makes the toy base model from nothing: pictures, UNet, decoder, half-precision file, card.

    python tools/make_toy_model.py --comfyui PATH_OF_COMFYUI

takes about an hour on two CPU cores and minutes on a GPU. Every stage keeps its state in the work
folder, so a run that was killed goes on where it was.
"""

from __future__ import annotations

import argparse
import functools
import sys
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from tools import toy_card, toy_host, toy_latents, toy_measure, toy_train, toy_vae
from tools.toy_pictures import DRIFT, RADII

UNET_SEED, TEXT_SEED, DECODER_SEED = 1, 2, 3
CHECKPOINT = toy_host.TOOLS / "toy_model" / "loom_toy.safetensors"
LARGEST_FILE = 24_000_000
MEASURED_SEEDS = (1000,)


@dataclass(frozen=True)
class Stage:
    """One stage of the UNet's training: pictures of one size."""

    name: str
    size: int
    pictures: int
    radii: tuple[float, float]
    drift: float
    batch: int
    unknown_words: int
    tilted: bool
    plan: toy_train.Plan


# From easy to hard: a network this small binds a shape's word to the shape only while it need not
# find out where the shape is. So shapes fill the frame at first, in small pictures, which cost a
# fraction; then they get smaller and move about; then the same again at full size, where words that
# mean nothing are to be passed over, as a trigger is before its LoRA is loaded.
FILLING, SMALLER, PLACED, SETTLED = (0.36, 0.43), (0.28, 0.40), (0.27, 0.43), (0.34, 0.43)
FREE, PLACED_DRIFT = 0.5, 0.10
STAGES = (
    Stage(
        "filling-128", 128, 1440, FILLING, FREE, 32, 0, False,
        toy_train.Plan(500, 3e-3, 2e-3, warmup=50, seed=11),
    ),
    Stage(
        "moving-128", 128, 1440, SMALLER, FREE, 32, 0, False,
        toy_train.Plan(200, 2e-3, 1.5e-3, warmup=20, seed=12),
    ),
    Stage(
        "filling-256", 256, 1440, FILLING, FREE, 16, 0, False,
        toy_train.Plan(400, 2e-3, 1.5e-3, warmup=20, seed=13),
    ),
    Stage(
        "full-256", 256, 1440, RADII, DRIFT, 16, 12, True,
        toy_train.Plan(1900, 2e-3, 2e-5, warmup=20, seed=14),
    ),
    Stage(
        "placed-256", 256, 2880, PLACED, PLACED_DRIFT, 16, 24, True,
        toy_train.Plan(2600, 1e-3, 1e-5, warmup=50, seed=15),
    ),
    Stage(
        "settled-256", 256, 2880, SETTLED, DRIFT, 16, 24, True,
        toy_train.Plan(900, 6e-4, 1e-5, warmup=30, seed=16),
    ),
)  # fmt: skip


def stage_loss(
    stage: Stage, unet: torch.nn.Module, encoder: torch.nn.Module
) -> Callable[[torch.Generator], torch.Tensor]:
    """Return the loss of one random batch of the stage's pictures."""
    captions = toy_latents.Captions()
    seed = stage.plan.seed
    drawn = toy_latents.plain_pictures(stage.pictures, seed, stage.radii, stage.drift)
    pictures = toy_latents.plain_set(drawn, stage.size, seed, captions, stage.unknown_words)
    table = toy_host.encode_captions(encoder, captions.texts()).to(toy_host.device())

    def predict(noisy: torch.Tensor, steps: torch.Tensor, context: torch.Tensor) -> torch.Tensor:
        return unet(noisy, steps, context=context)

    def loss_of(generator: torch.Generator) -> torch.Tensor:
        latents, rows = pictures.batch(stage.batch // toy_train.HALVES, generator)
        return toy_train.denoising_loss(predict, latents, table[rows], generator, stage.tilted)

    return loss_of


def train_unet(work: Path, encoder: torch.nn.Module) -> torch.nn.Module:
    """Train the UNet through all stages and return it with its averaged weights."""
    unet = toy_host.new_unet(UNET_SEED).to(toy_host.device())
    weights = list(unet.parameters())
    for stage in STAGES:
        average = toy_train.learn(
            stage.plan,
            weights,
            functools.partial(stage_loss, stage, unet, encoder),
            work / f"unet-{stage.name}.pt",
            f"unet {stage.name}",
        )
        with torch.no_grad():
            for weight, smooth in zip(weights, average, strict=True):
                weight.copy_(smooth)
    return unet.cpu()


def checkpoint_tensors(
    unet: torch.nn.Module, encoder: Any, vae: torch.nn.Module
) -> dict[str, torch.Tensor]:
    """Return the tensors of an SD1.5 checkpoint in half precision."""
    text = {
        f"text_model.{name}": tensor
        for name, tensor in encoder.clip_l.transformer.text_model.state_dict().items()
    }
    parts = (
        ("model.diffusion_model.", unet.state_dict()),
        ("cond_stage_model.transformer.", text),
        ("first_stage_model.", vae.state_dict()),
    )
    return {
        prefix + name: tensor.detach().half().contiguous()
        for prefix, tensors in parts
        for name, tensor in tensors.items()
    }


def write_checkpoint(tensors: dict[str, torch.Tensor]) -> None:
    """Write the checkpoint file.

    Raises:
        SystemExit: when it grew past what the repository should carry.
    """
    metadata = {
        "format": "pt",
        "modelspec.title": "LoRA Loom toy model",
        "modelspec.architecture": "stable-diffusion-v1",
        "modelspec.description": "SD1.5 at small widths for tests and a demo; needs tools/toy_pack",
        "modelspec.license": "MIT",
    }
    CHECKPOINT.parent.mkdir(parents=True, exist_ok=True)
    save_file(tensors, str(CHECKPOINT), metadata=metadata)
    size = CHECKPOINT.stat().st_size
    if size > LARGEST_FILE:
        sys.exit(f"{CHECKPOINT.name} has {size} bytes, more than {LARGEST_FILE}")


def measure(work: Path) -> dict[str, Any]:
    """Sample every prompt through the host and return the rates; save a sheet of pictures."""
    base = toy_measure.load_base(CHECKPOINT)
    wanted = toy_measure.every_prompt()
    prompts = toy_measure.prompts_of(wanted)
    began = time.monotonic()
    shown = []
    for first in MEASURED_SEEDS:
        seeds = range(first, first + len(prompts))
        shown += toy_measure.show(base, prompts, list(seeds))
    pace = (time.monotonic() - began) / len(shown)
    toy_measure.sheet([one.picture for one in shown[: len(prompts)]], 18).save(work / "base.png")
    return {
        "prompts": len(prompts),
        "seeds": f"first seed + number of the prompt, first seeds {list(MEASURED_SEEDS)}",
        "pictures": len(shown),
        **toy_measure.obedience(shown, wanted * len(MEASURED_SEEDS)),
        "seconds_per_picture": round(pace, 2),
    }


def card_entries(unet: torch.nn.Module, vae: torch.nn.Module, encoder: Any) -> dict[str, Any]:
    """Return what the card says about the model beside the measured rates."""
    sizes = {"unet": unet, "vae": vae, "text_encoder": encoder.clip_l.transformer.text_model}
    return {
        "file": CHECKPOINT.name,
        "bytes": CHECKPOINT.stat().st_size,
        "sha256": toy_card.sha256(CHECKPOINT),
        "parameters": {
            name: sum(p.numel() for p in module.parameters()) for name, module in sizes.items()
        },
        "training": [asdict(stage) for stage in STAGES],
        "decoder_training": asdict(toy_vae.PLAN),
    }


def main() -> None:
    """Run every stage that has not been run yet, write the file, measure it, write its card."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--comfyui", help="folder of a ComfyUI tree (else COMFYUI_PATH)")
    parser.add_argument("--work", type=Path, default=Path("toy-work"), help="where states are kept")
    parser.add_argument("--threads", type=int, default=2, help="CPU threads")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    toy_host.add_host(options.comfyui)
    encoder = toy_host.new_text_encoder(TEXT_SEED)
    unet = train_unet(options.work, encoder)
    vae = toy_vae.new_vae(DECODER_SEED)
    toy_vae.train_decoder(vae, options.work)
    write_checkpoint(checkpoint_tensors(unet, encoder, vae))
    entries = card_entries(unet, vae, encoder)
    toy_card.update("base", {**entries, "measured": measure(options.work)})


if __name__ == "__main__":
    main()
