"""How branches act in a network that itself never changes: beside a layer, or with a weight made anew in its place."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any

import torch
from torch.nn.functional import conv1d, conv2d, conv3d, linear

from ..errors import TrainError
from .branches import Branch
from .choosing import trainable_layers
from .fused import linear_with_branch

# What is no packed or quantised weight.
_PLAIN = (torch.Tensor, torch.nn.Parameter)
_CONVOLVE = {1: conv1d, 2: conv2d, 3: conv3d}

# A layer -> its weight in float32 (float64 where it is that), without gradient, as the layer computes with it.
Dense = Callable[[Any], torch.Tensor]


def dense_weight(layer: Any) -> torch.Tensor:
    """Of a plain layer."""
    weight = layer.weight.detach()
    return weight if weight.dtype == torch.float64 else weight.float()


@contextmanager
def attached(
    network: torch.nn.Module, branches: Sequence[Branch], dense: Dense = dense_weight
) -> Iterator[None]:
    """The network with the branches acting, within the block only; nothing of the network itself is changed.

    Raises TrainError where a branch's layer is not there.
    """
    layers = trainable_layers(network)
    with ExitStack() as undo:
        for branch in branches:
            if branch.path not in layers:
                raise TrainError(f"The model has no layer {branch.path} to train.")
            layer = layers[branch.path]
            if branch.beside and type(layer.weight) in _PLAIN and _can_be_fused(layer):
                layer.forward = _fused(branch, layer, layer.forward)
                undo.callback(layer.__dict__.pop, "forward")
                continue
            hook = _beside(branch) if branch.beside else _instead(branch, dense)
            undo.callback(layer.register_forward_hook(hook).remove)
        yield


def _can_be_fused(layer: Any) -> bool:
    """A Linear whose forward nobody else has taken over."""
    return isinstance(layer, torch.nn.Linear) and "forward" not in layer.__dict__


def _fused(branch: Branch, layer: Any, original: Callable[..., torch.Tensor]) -> Any:
    """The layer's forward with the branch in it; apart where the host casts or patches the weight as it computes."""

    def forward(x: torch.Tensor) -> torch.Tensor:
        weight, down = layer.weight, branch.down
        apart = torch.is_autocast_enabled(x.device.type) or _is_cast(layer)
        if apart or not (x.dtype == weight.dtype == down.dtype and x.device == weight.device):
            output = original(x)
            return output + side(branch, layer, x).to(output.dtype)
        return linear_with_branch(x, weight, layer.bias, down, branch.up, branch.scale)

    return forward


def _is_cast(layer: Any) -> bool:
    """Whether the host's layer does more than torch's, by the attributes that it goes by."""
    asked = ("comfy_cast_weights", "weight_function", "bias_function")
    return any(bool(getattr(layer, name, None)) for name in asked)


def _beside(branch: Branch) -> Any:
    def add(layer: Any, inputs: tuple[torch.Tensor, ...], output: torch.Tensor) -> torch.Tensor:
        return output + side(branch, layer, inputs[0]).to(output.dtype)

    return add


def _instead(branch: Branch, dense: Dense) -> Any:
    """y + x (W' - W): the layer's own answer, quantised or not, and what the weight made anew changes of it."""

    def add(layer: Any, inputs: tuple[torch.Tensor, ...], output: torch.Tensor) -> torch.Tensor:
        if branch.magnitude is None:
            delta = branch.delta(layer.weight.shape)
        else:
            weight = dense(layer)
            delta = branch.changed(weight) - weight
        return output + _through(layer, inputs[0], delta).to(output.dtype)

    return add


def _through(layer: Any, x: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
    """The layer with another weight and no bias, in autocast's dtype, else in the weight's."""
    x = _in_dtype(x, weight.dtype)
    if weight.ndim == 2:
        return linear(x, weight)
    return _CONVOLVE[weight.ndim - 2](x, weight, None, layer.stride, layer.padding, layer.dilation)


def _in_dtype(x: torch.Tensor, dtype: torch.dtype) -> torch.Tensor:
    return x if torch.is_autocast_enabled(x.device.type) else x.to(dtype)


def side(branch: Branch, layer: Any, x: torch.Tensor) -> torch.Tensor:
    """What the branch adds to the layer's output for its input x, in autocast's dtype, else in float32."""
    inner = _through(layer, x, branch.down)
    if branch.down.ndim == 2:
        return linear(inner, branch.up * branch.scale)
    return _CONVOLVE[branch.down.ndim - 2](inner, branch.up * branch.scale)
