"""What is trained of a MODEL and a CLIP: their layers by the settings, new branches or those of an existing LoRA."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any

import comfy.ops
import torch

from ..errors import TrainError
from ..files.convert import convert
from ..files.parse import parse_state_dict
from ..files.reader import read_tensors
from ..files.schemes import COMFY
from ..stack.blocktable import block_table
from ..train import adapters
from ..train.choosing import chosen_layers, in_blocks, ranks_of, trainable_layers
from ..train.settings import TrainSettings
from .paths import find_lora
from .targets import clip_targets, model_targets

MODEL_PREFIX = "diffusion_model."
# The host's names of a text encoder's layers in a LoRA begin with this; the weights themselves do not.
_CLIP_NAMES = "text_encoders."
# Layers of a text encoder that are trained: attention and feed-forward of numbered blocks, whatever their family.
_TEXT_LAYERS = r"\.\d+\."


@dataclass(frozen=True, eq=False)
class Branches:
    """Of the network and of the text encoders; their paths are those in model.diffusion_model and cond_stage_model."""

    model: tuple[adapters.Branch, ...]
    text: tuple[adapters.Branch, ...] = ()

    @property
    def all(self) -> list[adapters.Branch]:
        return [*self.model, *self.text]


def branches_of(model: Any, clip: Any, settings: TrainSettings, existing: str | None) -> Branches:
    """New ones, or those of the LoRA file `existing` to go on from, on the models' devices.

    Raises TrainError where the settings choose nothing, or the file holds what cannot be trained on.
    """
    network, text = model.model.diffusion_model, clip.cond_stage_model
    table = block_table(model_targets(model), clip_targets(clip))
    layers = chosen_layers(network, settings.parts, settings.pattern)
    layers = in_blocks(layers, settings.blocks, table, MODEL_PREFIX)
    ranks = ranks_of(layers, settings.ranks, settings.rank, settings.alpha)
    made = _new(layers, settings, ranks, model.load_device)
    told: list[adapters.Branch] = []
    if settings.text_rate:
        chosen = chosen_layers(text, pattern=_TEXT_LAYERS)
        told = _new(chosen, settings, None, clip.patcher.load_device)
    if existing is not None:
        made, told = _from_file(existing, model, clip, made, told, settings)
    return Branches(tuple(made), tuple(adapters.at_rate(told, settings.text_rate)))


def _new(
    layers: dict[str, torch.nn.Module], settings: TrainSettings, ranks: Any, device: Any
) -> list[adapters.Branch]:
    return adapters.new_branches(
        layers,
        settings.rank,
        settings.alpha,
        settings.seed,
        device,
        settings.family,
        settings.kron_block,
        ranks,
        dense_weight,
    )


def _from_file(
    existing: str,
    model: Any,
    clip: Any,
    made: list[adapters.Branch],
    told: list[adapters.Branch],
    settings: TrainSettings,
) -> tuple[list[adapters.Branch], list[adapters.Branch]]:
    """Both parts with the file's weights. Its text encoder's part is trained on only where text encoders are."""
    name, path = find_lora(existing)
    tensors, metadata = read_tensors(path, name)
    adapter = parse_state_dict(tensors, name, metadata)
    native = convert(tensors, adapter, COMFY, model_targets(model), clip_targets(clip)).tensors
    words = {key: value for key, value in native.items() if key.startswith(_CLIP_NAMES)}
    if words and not settings.text_rate:
        raise TrainError(
            f"{name}: {len(words)} of its tensors are for the text encoder, which is not trained. Set text_rate above 0 "
            "to go on with both, or put it on MODEL and CLIP as it is and train a new one on top."
        )
    parts = []
    for prefix, network, new in (
        (MODEL_PREFIX, model.model.diffusion_model, made),
        (_CLIP_NAMES, clip.cond_stage_model, told),
    ):
        own = {k.removeprefix(prefix): v for k, v in native.items() if k.startswith(prefix)}
        if own:
            parsed = parse_state_dict(own, name)
            new = adapters.continued(new, trainable_layers(network), parsed)
        parts.append(new)
    return parts[0], parts[1]


def dense_weight(layer: Any) -> torch.Tensor:
    """A host's layer's weight in float32 as it computes with it: dequantised, with what the host puts on as it loads."""
    weight = layer.weight
    if hasattr(layer, "weight_function"):
        weight, _ = comfy.ops.cast_bias_weight(layer, dtype=torch.float32, device=weight.device)
    elif hasattr(weight, "dequantize") and type(weight) not in (torch.Tensor, torch.nn.Parameter):
        weight = weight.dequantize()
    return weight.detach().float()


@contextmanager
def attached(model: Any, clip: Any, branches: Branches) -> Iterator[None]:
    """Both networks with the branches acting, within the block only."""
    with ExitStack() as acting:
        network = model.model.diffusion_model
        acting.enter_context(adapters.attached(network, branches.model, dense_weight))
        if branches.text:
            text = clip.cond_stage_model
            acting.enter_context(adapters.attached(text, branches.text, dense_weight))
        yield
