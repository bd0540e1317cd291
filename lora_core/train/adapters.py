"""LoRA and LoCon branches with gradients, hung beside the layers of a network that itself never changes."""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch.nn.functional import conv1d, conv2d, conv3d, linear

from ..adapters import AdapterFile, LowRank
from ..errors import TrainError
from .counters import number_of

_CONVOLVE = {1: conv1d, 2: conv2d, 3: conv3d}
_CONVS = (torch.nn.Conv1d, torch.nn.Conv2d, torch.nn.Conv3d)

# What is trained, by name -> what the path of a layer must contain. "" is any layer that can be trained.
_ATTENTION = r"transformer_blocks|proj_in|proj_out"
PARTS = ("attention", "attention and convolutions", "all layers")


@dataclass(frozen=True, eq=False)
class Branch:
    """One low-rank branch beside a layer: x -> (alpha / rank) * up(down(x)). Weights are float32 and have gradients.

    path: of the layer, and thus of its weight, such as input_blocks.1.1.proj_in.
    down: (rank, in) or (rank, in, *kernel). up: (out, rank) or (out, rank, 1, ...).
    """

    path: str
    down: torch.nn.Parameter
    up: torch.nn.Parameter
    alpha: float

    @property
    def rank(self) -> int:
        return int(self.down.shape[0])

    @property
    def scale(self) -> float:
        return self.alpha / self.rank

    @property
    def parameters(self) -> tuple[torch.nn.Parameter, torch.nn.Parameter]:
        return self.down, self.up


def trainable_layers(network: torch.nn.Module) -> dict[str, torch.nn.Module]:
    """Path -> layer, for every Linear and every Conv without groups; the host's layers are subclasses of torch's."""
    return {
        path: layer
        for path, layer in network.named_modules()
        if isinstance(layer, torch.nn.Linear)
        or (isinstance(layer, _CONVS) and layer.groups == 1 and layer.padding_mode == "zeros")
    }


def chosen_layers(
    network: torch.nn.Module, parts: str = PARTS[0], pattern: str = ""
) -> dict[str, torch.nn.Module]:
    """The layers to train. parts: of PARTS; pattern: a regular expression searched for in the path, instead of parts.

    Without a pattern only layers inside numbered blocks count: what embeds or ends a network is left alone.
    Raises TrainError where nothing is left.
    """
    layers = trainable_layers(network)
    if pattern.strip():
        try:
            wanted = re.compile(pattern.strip())
        except re.error as error:
            raise TrainError(
                f"The layer pattern '{pattern}' is no regular expression: {error}."
            ) from error
        chosen = {path: layer for path, layer in layers.items() if wanted.search(path)}
    else:
        chosen = {
            path: layer for path, layer in layers.items() if _is_in(parts, path, layer, layers)
        }
    if not chosen:
        some = ", ".join(list(layers)[:5]) or "none"
        raise TrainError(
            f"No layer of the model is chosen by {pattern.strip() or parts!r}; it has {len(layers)} that could be, such "
            f"as {some}. Choose other parts, or clear the pattern."
        )
    return chosen


def _is_in(
    parts: str, path: str, layer: torch.nn.Module, layers: Mapping[str, torch.nn.Module]
) -> bool:
    if parts == PARTS[2]:
        return True
    if not re.search(r"(^|\.)\d+\.", path) and "middle_block" not in path:
        return False
    if parts == PARTS[1]:
        return "emb" not in path
    unet = any("transformer_blocks" in other for other in layers)
    return bool(re.search(_ATTENTION, path)) if unet else isinstance(layer, torch.nn.Linear)


def new_branches(
    layers: Mapping[str, Any], rank: int, alpha: float, seed: int, device: Any = "cpu"
) -> list[Branch]:
    """A branch for each layer that begins at zero: down is Kaiming-uniform (a = sqrt 5) as kohya's, up is 0.

    The numbers depend on the seed and the layer's path alone. A rank above a layer's own is lowered to it, and alpha
    with it, so that the scale stays.
    """
    if rank < 1:
        raise TrainError(f"rank is {rank}; it must be 1 or more.")
    branches = []
    for path, layer in layers.items():
        out, inside, *kernel = layer.weight.shape
        own = min(rank, out, inside * math.prod(kernel))
        generator = torch.Generator().manual_seed(number_of("adapter", seed, path))
        bound = 1 / math.sqrt(inside * math.prod(kernel))
        down = (torch.rand(own, inside, *kernel, generator=generator) * 2 - 1) * bound
        up = torch.zeros(out, own, *[1] * len(kernel))
        branches.append(_branch(path, down, up, alpha * own / rank, device))
    return branches


def continued(
    branches: Sequence[Branch], layers: Mapping[str, Any], adapter: AdapterFile
) -> list[Branch]:
    """The branches with the weights, ranks and alphas of an existing LoRA whose modules are named by layer path.

    Layers that it has and `branches` lack are added; those that it lacks stay new. Raises TrainError where a module of
    it is no plain LoRA, finds no layer, or has another shape: to go on training a part of a LoRA would lose the rest.
    """
    found = {branch.path: branch for branch in branches}
    device = branches[0].down.device if branches else "cpu"
    bad = [f"{key[0]} ({value.family})" for key, value in adapter.differences.items()]
    bad += [f"{leftover.key} ({leftover.reason})" for leftover in adapter.leftovers]
    for path, module in adapter.modules.items():
        layer = layers.get(path)
        if not isinstance(module, LowRank) or module.mid is not None:
            bad.append(f"{path} ({module.family})")
        elif layer is None:
            bad.append(f"{path} (no such layer to train)")
        elif not _fits(module, layer):
            bad.append(f"{path} (shape {module.span})")
        else:
            shape = layer.weight.shape
            down = module.down.float().reshape(module.rank, *shape[1:])
            up = module.up.float().reshape(shape[0], module.rank, *[1] * (len(shape) - 2))
            alpha = float(module.rank) if module.alpha is None else module.alpha
            found[path] = _branch(path, down, up, alpha, device)
    if bad:
        raise TrainError(
            f"{adapter.label}: training cannot go on from it, because {len(bad)} of its parts are no plain LoRA of this "
            f"model's layers: {', '.join(bad[:10])}. Put it on the model as it is, and train a new one on top."
        )
    return list(found.values())


def _fits(module: LowRank, layer: Any) -> bool:
    shape = layer.weight.shape
    out, inside = module.span
    return (out, inside) == (shape[0], math.prod(shape[1:]))


def _branch(path: str, down: torch.Tensor, up: torch.Tensor, alpha: float, device: Any) -> Branch:
    return Branch(
        path,
        torch.nn.Parameter(down.to(device, torch.float32).clone()),
        torch.nn.Parameter(up.to(device, torch.float32).clone()),
        alpha,
    )


@contextmanager
def attached(network: torch.nn.Module, branches: Sequence[Branch]) -> Iterator[None]:
    """The network with the branches acting, within the block only; nothing of the network itself is changed.

    Raises TrainError where a branch's layer is not there.
    """
    layers = trainable_layers(network)
    handles = []
    try:
        for branch in branches:
            if branch.path not in layers:
                raise TrainError(f"The model has no layer {branch.path} to train.")
            layer = layers[branch.path]
            handles.append(layer.register_forward_hook(_hook(branch)))
        yield
    finally:
        for handle in handles:
            handle.remove()


def _hook(branch: Branch) -> Any:
    def add(layer: Any, inputs: tuple[torch.Tensor, ...], output: torch.Tensor) -> torch.Tensor:
        return output + side(branch, layer, inputs[0]).to(output.dtype)

    return add


def side(branch: Branch, layer: Any, x: torch.Tensor) -> torch.Tensor:
    """What the branch adds to the layer's output for its input x, in autocast's dtype, else in float32."""
    if not torch.is_autocast_enabled(x.device.type):
        x = x.to(branch.down.dtype)
    if branch.down.ndim == 2:
        return linear(linear(x, branch.down), branch.up * branch.scale)
    convolve = _CONVOLVE[branch.down.ndim - 2]
    inner = convolve(x, branch.down, None, layer.stride, layer.padding, layer.dilation)
    return convolve(inner, branch.up * branch.scale)


def parameters_of(branches: Sequence[Branch]) -> list[torch.nn.Parameter]:
    """What learns, in the order of the branches."""
    return [parameter for branch in branches for parameter in branch.parameters]


def state_dict_of(
    branches: Sequence[Branch], values: Sequence[torch.Tensor] | None = None, prefix: str = ""
) -> dict[str, torch.Tensor]:
    """The branches as a LoRA under their layers' paths, float32 copies on the CPU. values: instead of the parameters
    (an average of them), in the order of parameters_of.
    """
    numbers = list(parameters_of(branches) if values is None else values)
    tensors = {}
    for place, branch in enumerate(branches):
        down, up = numbers[2 * place], numbers[2 * place + 1]
        tensors[f"{prefix}{branch.path}.lora_down.weight"] = down.detach().cpu().clone()
        tensors[f"{prefix}{branch.path}.lora_up.weight"] = up.detach().cpu().clone()
        tensors[f"{prefix}{branch.path}.alpha"] = torch.tensor(branch.alpha)
    return tensors
