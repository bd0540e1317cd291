"""Side branches on a network's layers, and the kohya file they are saved to."""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch.nn.functional import conv2d, linear


@dataclass(frozen=True)
class Branch:
    """A low-rank side branch of one layer, under the name that the file gives it."""

    name: str
    down: torch.nn.Parameter
    up: torch.nn.Parameter
    alpha: float

    @property
    def scale(self) -> float:
        """What the branch's output is multiplied by."""
        return self.alpha / self.down.shape[0]


def _shapes(layer: Any, rank: int) -> tuple[tuple[int, ...], tuple[int, ...]]:
    out, into, *kernel = layer.weight.shape
    ones = [1] * len(kernel)
    return (rank, into, *kernel), (out, rank, *ones)


def _side(layer: Any, branch: Branch, x: torch.Tensor) -> torch.Tensor:
    if branch.down.ndim == 2:
        return linear(linear(x, branch.down), branch.up)
    return conv2d(conv2d(x, branch.down, stride=layer.stride, padding=layer.padding), branch.up)


def attach(
    network: torch.nn.Module,
    names: Mapping[str, str],
    pattern: str,
    rank: int,
    alpha: float,
    generator: torch.Generator,
) -> list[Branch]:
    """Add a branch to every layer of the network whose path matches, and return the branches.

    A branch begins at zero, so the network computes what it did.

    Args:
        network: whose linear and convolution layers are taken.
        names: LoRA file names by layer path; layers without one are left alone.
        pattern: a regular expression that is searched for in the path.
        rank: rows of each down matrix, fewer where the layer has fewer inputs.
        alpha: the branches' alpha.
        generator: draws the down matrices.
    """
    branches = []
    for path, layer in network.named_modules():
        if not isinstance(layer, torch.nn.Linear | torch.nn.Conv2d):
            continue
        if path not in names or not re.search(pattern, path):
            continue
        down_shape, up_shape = _shapes(layer, rank)
        down = torch.randn(down_shape, generator=generator) / math.sqrt(math.prod(down_shape[1:]))
        branch = Branch(
            names[path], torch.nn.Parameter(down), torch.nn.Parameter(torch.zeros(up_shape)), alpha
        )
        _hook(layer, branch)
        branches.append(branch)
    return branches


def _hook(layer: torch.nn.Module, branch: Branch) -> None:
    def add(_: torch.nn.Module, inputs: tuple[torch.Tensor, ...], output: torch.Tensor) -> Any:
        return output + branch.scale * _side(layer, branch, inputs[0]).to(output.dtype)

    layer.register_forward_hook(add)


def parameters_of(branches: Iterable[Branch]) -> list[torch.nn.Parameter]:
    """Return what learns, in the order of the branches."""
    return [part for branch in branches for part in (branch.down, branch.up)]


def unet_names(model: Any) -> dict[str, str]:
    """Return kohya's name of every UNet layer by its path, as the host's own key map spells it."""
    import comfy.lora

    known = comfy.lora.model_lora_keys_unet(model.model, {})
    names = {}
    for name, key in known.items():
        if re.match("lora_unet_(down_blocks|mid_block|up_blocks)", name):
            path = str(key).removeprefix("diffusion_model.").removesuffix(".weight")
            names[path] = name
    return names


def write(
    branches: Iterable[Branch], file: Path, metadata: dict[str, str], gain: float = 1.0
) -> None:
    """Write the branches as a half-precision LoRA file in kohya's naming, each alpha times `gain`."""
    tensors = {}
    for branch in branches:
        tensors[f"{branch.name}.lora_down.weight"] = branch.down.detach().half().cpu().contiguous()
        tensors[f"{branch.name}.lora_up.weight"] = branch.up.detach().half().cpu().contiguous()
        tensors[f"{branch.name}.alpha"] = torch.tensor(branch.alpha * gain, dtype=torch.float16)
    file.parent.mkdir(parents=True, exist_ok=True)
    save_file(tensors, str(file), metadata=metadata)
