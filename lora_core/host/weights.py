"""The weights of a MODEL and a CLIP as they are, patches of nodes before included: read one at a time, nothing is loaded."""

from __future__ import annotations

from typing import Any

import comfy.lora
import torch

from ..merge.onbase import BaseModel, Read


def base_of(model: Any, clip: Any) -> BaseModel:
    """The weights of what is connected; None stays None."""
    return BaseModel(
        None if model is None else _reader(model), None if clip is None else _reader(clip.patcher)
    )


def _reader(patcher: Any) -> Read:
    """Each read asks the patcher anew: what is kept of it would be the weights of an earlier run."""

    def read(key: str) -> torch.Tensor:
        return weight_of(patcher.get_key_patches(key)[key], key)

    return read


def weight_of(patches: list[Any], key: str) -> torch.Tensor:
    """A weight with its patches, on the CPU; as it is stored where it has none. As the host's own merging reads it.

    patches: what ModelPatcher.get_key_patches says of the weight.
    """
    (stored, convert), *added = patches
    if not added and stored.is_floating_point() and stored.element_size() > 1:
        return stored.detach().cpu()
    wide = convert(stored.detach().to(device="cpu", dtype=torch.float32, copy=True), inplace=True)
    return comfy.lora.calculate_weight(added, wide, key) if added else wide
