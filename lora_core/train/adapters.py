"""The branches of a run: new ones for chosen layers, those of an existing LoRA, and back into a state dict."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import torch

from ..adapters import AdapterFile
from ..errors import TrainError
from .acting import Dense, attached, dense_weight, side
from .branches import FAMILIES, Branch, Wish, branch_of, factors_of
from .choosing import PARTS, chosen_layers, trainable_layers

__all__ = [
    "FAMILIES",
    "PARTS",
    "Branch",
    "attached",
    "chosen_layers",
    "continued",
    "new_branches",
    "parameters_of",
    "rates_of",
    "side",
    "state_dict_of",
    "trainable_layers",
]


def new_branches(
    layers: Mapping[str, Any],
    rank: int,
    alpha: float,
    seed: int,
    device: Any = "cpu",
    family: str = "LoRA",
    block: int = 8,
    ranks: Mapping[str, tuple[int, float]] | None = None,
    dense: Dense = dense_weight,
) -> list[Branch]:
    """A branch for each layer that begins as no change at all.

    The numbers depend on the seed and the layer's path alone. A rank above a layer's own is lowered to it, and alpha
    with it, so that the scale stays. family: of FAMILIES. block: LoKr's smaller side at most, 0 for square.
    ranks: path -> (rank, alpha) instead of those for all; a layer that it lacks gets no branch.
    dense: a layer's weight in float32, which DoRA asks for. Raises TrainError.
    """
    if family not in FAMILIES:
        raise TrainError(f"'{family}' is not trained; choose one of {', '.join(FAMILIES)}.")
    if rank < 1:
        raise TrainError(f"rank is {rank}; it must be 1 or more.")
    made = []
    for path, layer in layers.items():
        if ranks is not None and path not in ranks:
            continue
        own, scaled = (rank, alpha) if ranks is None else ranks[path]
        weight = dense(layer) if family == "DoRA" else layer.weight
        factors, final = FAMILIES[family](path, weight, Wish(own, scaled, seed, block))
        made.append(branch_of(path, factors, final, device))
    return made


def continued(
    branches: Sequence[Branch], layers: Mapping[str, Any], adapter: AdapterFile
) -> list[Branch]:
    """The branches with the weights, families and alphas of an existing LoRA whose modules are named by layer path.

    Layers that it has and `branches` lack are added; those that it lacks stay new. Raises TrainError where a module of
    it is of no trained family, finds no layer, or has another shape: to go on training a part of a LoRA would lose the
    rest.
    """
    found = {branch.path: branch for branch in branches}
    device = branches[0].parameters[0].device if branches else "cpu"
    bad = [f"{key[0]} ({value.family})" for key, value in adapter.differences.items()]
    bad += [f"{leftover.key} ({leftover.reason})" for leftover in adapter.leftovers]
    for path, module in adapter.modules.items():
        layer = layers.get(path)
        if layer is None:
            bad.append(f"{path} (no such layer to train)")
        elif module.span != _span(layer):
            bad.append(f"{path} (shape {module.span})")
        else:
            try:
                factors, alpha = factors_of(module, layer.weight.shape)
            except TrainError:
                bad.append(f"{path} ({module.family})")
                continue
            rate = found[path].rate if path in found else 1.0
            found[path] = branch_of(path, factors, alpha, device, rate)
    if bad:
        raise TrainError(
            f"{adapter.label}: training cannot go on from it, because {len(bad)} of its parts are no LoRA, DoRA, LoHa or "
            f"LoKr of this model's layers: {', '.join(bad[:10])}. Put it on the model as it is, and train a new one on "
            "top."
        )
    return list(found.values())


def _span(layer: Any) -> tuple[int, int]:
    shape = layer.weight.shape
    return int(shape[0]), math.prod(shape[1:])


def at_rate(branches: Sequence[Branch], rate: float) -> list[Branch]:
    """The same branches, learning at this share of the run's rate."""
    return [replace(branch, rate=rate) for branch in branches]


def parameters_of(branches: Sequence[Branch]) -> list[torch.nn.Parameter]:
    """What learns, in the order of the branches."""
    return [parameter for branch in branches for parameter in branch.parameters]


def rates_of(branches: Sequence[Branch]) -> list[float]:
    """The share of the run's learning rate for each of parameters_of."""
    return [branch.rate for branch in branches for _ in branch.parameters]


def state_dict_of(
    branches: Sequence[Branch], values: Sequence[torch.Tensor] | None = None, prefix: str = ""
) -> dict[str, torch.Tensor]:
    """The branches as a LoRA under their layers' paths, float32 copies on the CPU. values: instead of the parameters
    (an average of them), in the order of parameters_of.
    """
    numbers = iter(parameters_of(branches) if values is None else values)
    tensors = {}
    for branch in branches:
        for ending in branch.factors:
            tensors[f"{prefix}{branch.path}.{ending}"] = next(numbers).detach().cpu().clone()
        tensors[f"{prefix}{branch.path}.alpha"] = torch.tensor(branch.alpha)
    return tensors
