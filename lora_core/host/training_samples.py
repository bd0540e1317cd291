"""Sample pictures of a training, by the host's own sampler, at fixed seeds, with and without the LoRA."""

from __future__ import annotations

import io
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import comfy.sample
import folder_paths
import numpy as np
import torch
from PIL import Image

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


@dataclass(frozen=True, eq=False)
class Sampler:
    """What is needed for pictures of the state of a training. acting: within it the branches act on the model.

    shape: of one latent, with a batch of 1. folder: where the strips of pictures are kept, inside the job's.
    """

    model: Any
    clip: Any
    vae: Any
    settings: TrainSettings
    prompts: tuple[str, ...]
    shape: tuple[int, ...]
    folder: Path
    acting: Callable[[], AbstractContextManager[None]]
    parameters: Sequence[torch.nn.Parameter]

    def base(self) -> dict[str, Any] | None:
        """Pictures without the LoRA; None where they are there from before."""
        if strip_file(self.folder, 0).is_file():
            return None
        return self._kept(0, self._pictures())

    def of(self, step: int, weights: Sequence[torch.Tensor]) -> dict[str, Any]:
        """Pictures with these weights; what the page is told of them."""
        with holding(self.parameters, weights), self.acting():
            pictures = self._pictures()
        return self._kept(step, pictures)

    def _pictures(self) -> list[Image.Image]:
        """Called in the host's own mode, with the model the host's."""
        wish, made = self.settings.samples, []
        cfg = wish.cfg or (1.0 if _guided(self.model) else _CFG)
        negative = _said(self.clip, "")
        for place, prompt in enumerate(self.prompts):
            seed = self.settings.seed + place + 1
            noise = torch.randn(self.shape, generator=torch.Generator().manual_seed(seed))
            latent = comfy.sample.sample(
                self.model, noise, wish.steps, cfg, _SAMPLER, _SCHEDULER, _said(self.clip, prompt), negative,
                torch.zeros(self.shape), disable_pbar=True, seed=seed,
            )  # fmt: skip
            pixels = self.vae.decode(latent)
            first = pixels.reshape(-1, *pixels.shape[-3:])[0].cpu().float().clamp(0, 1)
            made.append(Image.fromarray((first.numpy() * 255).round().astype(np.uint8)))
        return made

    def _kept(self, step: int, pictures: Sequence[Image.Image]) -> dict[str, Any]:
        """Into the job's folder, for the sheet, and into the host's temp folder, for the page."""
        joined = io.BytesIO()
        strip(pictures).save(joined, "PNG")
        write_bytes(joined.getvalue(), strip_file(self.folder, step))
        name = f"{self.folder.parent.name[:12]}-{self.folder.name[-12:]}-{step:08d}.png"
        write_bytes(joined.getvalue(), Path(folder_paths.get_temp_directory()) / _FOLDER / name)
        return {"step": step, "filename": name, "subfolder": _FOLDER, "type": "temp"}


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


def _said(clip: Any, prompt: str) -> Any:
    return clip.encode_from_tokens_scheduled(clip.tokenize(prompt))


def _guided(model: Any) -> bool:
    """Whether guidance is an input of the network, so that it wants no second, unguided answer."""
    return bool(model.model.model_config.unet_config.get("guidance_embed"))
