"""Which layers of a network are trained, and with what rank: by parts, by pattern, by the block language."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

import torch

from ..errors import StackError, TrainError
from ..stack.blockstrengths import block_strengths
from ..stack.blocktable import BlockTable
from ..targets import Target

_CONVS = (torch.nn.Conv1d, torch.nn.Conv2d, torch.nn.Conv3d)

# What is trained, by name -> what the path of a layer must contain. "" is any layer that can be trained.
_ATTENTION = r"transformer_blocks|proj_in|proj_out"
PARTS = ("attention", "attention and convolutions", "all layers")
# Highest rank and alpha that a line of the ranks may ask for.
_MOST = 4096


def trainable_layers(network: torch.nn.Module) -> dict[str, torch.nn.Module]:
    """Path -> layer, for every Linear and every Conv without groups; the host's layers are subclasses of torch's.

    The host's quantised layers are not, but they name their widths as Linear does.
    """
    return {path: layer for path, layer in network.named_modules() if _can_learn(layer)}


def _can_learn(layer: Any) -> bool:
    if isinstance(layer, _CONVS):
        return layer.groups == 1 and layer.padding_mode == "zeros"
    weight = getattr(layer, "weight", None)
    linear = hasattr(layer, "in_features") and hasattr(layer, "out_features")
    return linear and isinstance(weight, torch.Tensor) and weight.dim() == 2


def chosen_layers(
    network: torch.nn.Module, parts: str = PARTS[0], pattern: str = ""
) -> dict[str, torch.nn.Module]:
    """The layers to train. parts: of PARTS; pattern: a regular expression searched for in the path, instead of parts.

    Without a pattern only layers inside numbered blocks count: what embeds or ends a network is left alone.
    Raises TrainError where nothing is left.
    """
    layers = trainable_layers(network)
    if pattern.strip():
        wanted = _expression(pattern.strip(), "The layer pattern")
        chosen = {path: layer for path, layer in layers.items() if wanted.search(path)}
    else:
        chosen = {
            path: layer for path, layer in layers.items() if _is_in(parts, path, layer, layers)
        }
    if not chosen:
        raise TrainError(
            f"No layer of the model is chosen by {pattern.strip() or parts!r}; it has {len(layers)} that could be, such "
            f"as {_some(layers)}. Choose other parts, or clear the pattern."
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
    unet = any("input_blocks" in other for other in layers)
    return bool(re.search(_ATTENTION, path)) if unet else not isinstance(layer, _CONVS)


def in_blocks(
    layers: Mapping[str, torch.nn.Module], text: str, table: BlockTable, prefix: str
) -> dict[str, torch.nn.Module]:
    """The layers that the block language leaves at 1; 0 leaves a block out. An empty text leaves all.

    prefix: of the layers' weights in the table, such as "diffusion_model.". Raises TrainError for other values (a
    layer is trained or not), for parts of one weight that differ, for unknown blocks, and where nothing is left.
    """
    if not text.strip():
        return dict(layers)
    try:
        strengths = block_strengths(text, table)
        factors = {path: strengths.factor_of(Target(f"{prefix}{path}.weight")) for path in layers}
    except StackError as error:
        raise TrainError(f"Blocks to train: {error}") from error
    odd = sorted({factor for factor in factors.values() if factor not in (0.0, 1.0)})
    if odd:
        raise TrainError(
            f"Blocks to train: {odd[0]:g} is neither 0 nor 1. A block is trained or it is not; its strength is chosen "
            "when the LoRA is applied."
        )
    chosen = {path: layer for path, layer in layers.items() if factors[path]}
    if layers and not chosen:
        raise TrainError(
            f"Blocks to train: '{text.strip()[:80]}' leaves none of the {len(layers)} chosen layers."
        )
    return chosen


def ranks_of(
    layers: Mapping[str, torch.nn.Module], text: str, rank: int, alpha: float
) -> dict[str, tuple[int, float]]:
    """Path -> (rank, alpha). text: lines "pattern = rank" or "pattern = rank / alpha"; the last that is found in a path
    counts, and rank 0 leaves the layer out. Without an alpha the scale stays that of all.

    Raises TrainError for a line that is none, and for a pattern that no layer's path has.
    """
    found = dict.fromkeys(layers, (rank, alpha))
    for line in filter(None, (line.partition("#")[0].strip() for line in text.splitlines())):
        pattern, own = _rank_line(line, rank, alpha)
        touched = [path for path in layers if pattern.search(path)]
        if not touched:
            raise TrainError(
                f"Ranks: no chosen layer has '{pattern.pattern}' in its path; they are such as {_some(layers)}."
            )
        found.update(dict.fromkeys(touched, own))
    kept = {path: own for path, own in found.items() if own[0]}
    if found and not kept:
        raise TrainError("Ranks: every layer has rank 0; nothing would be trained.")
    return kept


def _rank_line(line: str, rank: int, alpha: float) -> tuple[re.Pattern[str], tuple[int, float]]:
    pattern, _, numbers = line.rpartition("=")
    said = re.fullmatch(r"\s*(\d{1,5})\s*(?:/\s*(\d+(?:\.\d*)?))?\s*", numbers)
    if not pattern.strip() or said is None or int(said[1]) > _MOST:
        raise TrainError(
            f"Ranks: '{line[:80]}' is no line such as 'attn2 = 32' or 'ff = 8 / 4' (rank, and alpha after a slash; at "
            f"most {_MOST})."
        )
    own = int(said[1])
    scaled = alpha * own / rank if said[2] is None else float(said[2])
    if own and not scaled:
        raise TrainError(f"Ranks: '{line[:80]}' has alpha 0; nothing would be learned.")
    return _expression(pattern.strip(), "Ranks: the pattern"), (own, scaled)


def _expression(text: str, what: str) -> re.Pattern[str]:
    try:
        return re.compile(text)
    except re.error as error:
        raise TrainError(f"{what} '{text}' is no regular expression: {error}.") from error


def _some(layers: Mapping[str, Any]) -> str:
    return ", ".join(list(layers)[:5]) or "none"
