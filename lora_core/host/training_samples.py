"""Sample pictures of a training, by the host's own sampler, at fixed seeds, with and without the LoRA."""

from __future__ import annotations

import io
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import comfy.sample
import folder_paths
import numpy as np
import safetensors.torch
import torch
from PIL import Image

from ..files.reader import read_tensors
from ..files.writer import write_bytes
from ..train.captions import plain_caption
from ..train.preserve import without
from ..train.run import holding
from ..train.sample_sheet import strip, strip_file
from ..train.samples import Plan
from ..train.settings import TrainSettings

_SAMPLER, _SCHEDULER = "euler", "normal"
# Where the family has no guidance of its own built in.
_CFG = 4.0
_FOLDER = "loom_train"


# A prompt -> the host's conditioning. Latents of a step, one a prompt -> what the page is told of them.
Say = Callable[[str], Any]
Keep = Callable[[int, Sequence[torch.Tensor]], dict[str, Any]]


@dataclass(frozen=True, eq=False)
class Sampler:
    """What is needed for pictures of the state of a training. acting: within it the branches act on the model.

    shape: of one latent, with a batch of 1. folder: where the pictures of this training are kept.
    """

    model: Any
    settings: TrainSettings
    prompts: tuple[str, ...]
    shape: tuple[int, ...]
    folder: Path
    acting: Callable[[], AbstractContextManager[None]]
    parameters: Sequence[torch.nn.Parameter]
    say: Say
    keep: Keep

    def base(self) -> dict[str, Any] | None:
        """Pictures without the LoRA; None where they are there from before."""
        if strip_file(self.folder, 0).is_file() or latents_file(self.folder, 0).is_file():
            return None
        return self.keep(0, self._latents())

    def of(self, step: int, weights: Sequence[torch.Tensor]) -> dict[str, Any]:
        """Pictures with these weights; what the page is told of them."""
        with holding(self.parameters, weights), self.acting(), _as_written():
            latents = self._latents()
        return self.keep(step, latents)

    def _latents(self) -> list[torch.Tensor]:
        """Called in the host's own mode, with the model the host's."""
        wish, made = self.settings.samples, []
        cfg = wish.cfg or (1.0 if _guided(self.model) else _CFG)
        negative = self.say("")
        for place, prompt in enumerate(self.prompts):
            seed = self.settings.seed + place + 1
            noise = torch.randn(self.shape, generator=torch.Generator().manual_seed(seed))
            made.append(
                comfy.sample.sample(
                    self.model, noise, wish.steps, cfg, _SAMPLER, _SCHEDULER, self.say(prompt), negative,
                    torch.zeros(self.shape), disable_pbar=True, seed=seed,
                )
            )  # fmt: skip
        return made


def _as_written() -> AbstractContextManager[None]:
    """Within it, what another node compiled runs uncompiled: a compiled network does not see branches that came later.

    Before torch 2.6 there is no such switch.
    """
    set_stance = getattr(torch.compiler, "set_stance", None)
    return nullcontext() if set_stance is None else set_stance("force_eager")


def shown_by(vae: Any, folder: Path) -> Keep:
    """Keeps latents as pictures: in the training's folder for the sheet, in the host's temp folder for the page."""

    def keep(step: int, latents: Sequence[torch.Tensor]) -> dict[str, Any]:
        joined = io.BytesIO()
        strip([_picture(vae, latent) for latent in latents]).save(joined, "PNG")
        write_bytes(joined.getvalue(), strip_file(folder, step))
        name = f"{folder.parent.name[:12]}-{folder.name[-12:]}-{step:08d}.png"
        write_bytes(joined.getvalue(), Path(folder_paths.get_temp_directory()) / _FOLDER / name)
        return {"step": step, "filename": name, "subfolder": _FOLDER, "type": "temp"}

    return keep


def _picture(vae: Any, latent: torch.Tensor) -> Image.Image:
    pixels = vae.decode(latent)
    first = pixels.reshape(-1, *pixels.shape[-3:])[0].cpu().float().clamp(0, 1)
    return Image.fromarray((first.numpy() * 255).round().astype(np.uint8))


def latents_file(folder: Path, step: int) -> Path:
    """Sample pictures of a process that has no VAE."""
    return folder / f"latents-{step:08d}.safetensors"


def kept_as_latents(folder: Path) -> Keep:
    def keep(step: int, latents: Sequence[torch.Tensor]) -> dict[str, Any]:
        named = {str(n): each.detach().cpu().contiguous() for n, each in enumerate(latents)}
        write_bytes(safetensors.torch.save(named), latents_file(folder, step))
        return {"step": step}

    return keep


def show_latents(vae: Any, folder: Path) -> list[dict[str, Any]]:
    """Pictures of the latents that have none yet; what the page is told of each. Raises LoraFileError."""
    keep, shown = shown_by(vae, folder), []
    for path in sorted(folder.glob("latents-*.safetensors")):
        step = int(path.stem.split("-")[1])
        if not strip_file(folder, step).is_file():
            tensors, _ = read_tensors(path, path.name)
            shown.append(keep(step, [tensors[str(n)] for n in range(len(tensors))]))
    return shown


def prompts_of(plan: Plan, settings: TrainSettings) -> tuple[str, ...]:
    """Those that are wished, or the first caption as it is taught, and the same without the trigger."""
    if settings.samples.every < 0:
        return ()
    wished = [line.strip() for line in settings.samples.prompts.splitlines() if line.strip()]
    if wished:
        return tuple(wished)
    dataset = plan.dataset
    taught = plain_caption(dataset.images[dataset.training[0]], dataset.settings)
    return tuple(dict.fromkeys((taught, without(taught, dataset.settings.trigger))))


def said_by(clip: Any) -> Say:
    return lambda prompt: clip.encode_from_tokens_scheduled(clip.tokenize(prompt))


def _guided(model: Any) -> bool:
    """Whether guidance is an input of the network, so that it wants no second, unguided answer."""
    return bool(model.model.model_config.unet_config.get("guidance_embed"))
