"""Layers whose weights are packed bytes that every forward unpacks: the contract of ComfyUI-GGUF, with its 8-bit blocks.

A weight is a tensor of its own class that calls itself by the unpacked shape; a MODEL's patches ride on the weight and are
computed at every use. LOOM_GGUF, the folder of a real ComfyUI-GGUF (its package `gguf` importable), takes that in its place.
"""

from __future__ import annotations

import importlib.util
import os
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import comfy.lora
import comfy.model_patcher
import comfy.ops
import comfy.utils
import torch

Q8_0 = 8  # the type's number in GGUF files: blocks of 32 numbers, each 2 bytes of scale and 32 signed bytes
BLOCK = 32


class PackedTensor(torch.Tensor):
    """uint8 (rows, bytes) that says the shape of the numbers in it."""

    def __init__(self, data: torch.Tensor, *, tensor_type: Any, tensor_shape: torch.Size) -> None:
        self.tensor_type, self.tensor_shape = tensor_type, tensor_shape
        self.patches: list[Any] = []

    def __new__(cls, data: torch.Tensor, **_: Any) -> PackedTensor:
        return super().__new__(cls, data)

    def to(self, *arguments: Any, **named: Any) -> Any:
        new: Any = super().to(*arguments, **named)
        new.tensor_type, new.tensor_shape = self.tensor_type, self.tensor_shape
        new.patches = list(self.patches)
        return new

    def detach(self) -> Any:
        return self

    @property
    def shape(self) -> Any:
        return getattr(self, "tensor_shape", self.size())


def unpacked(weight: Any, dtype: torch.dtype) -> torch.Tensor:
    blocks = weight.data.as_subclass(torch.Tensor).reshape(-1, BLOCK + 2)
    scale = blocks[:, :2].contiguous().view(torch.float16).to(dtype)
    return (scale * blocks[:, 2:].view(torch.int8)).reshape(tuple(weight.tensor_shape))


class _Packed:
    """What both kinds of layer do with their weight."""

    comfy_cast_weights = True

    def computed(self, x: torch.Tensor) -> torch.Tensor:
        weight: Any = self.weight  # type: ignore[attr-defined]
        wide = unpacked(weight, x.dtype)
        for patches, key in weight.patches:
            wide = comfy.lora.calculate_weight(patches, wide, key)
        return wide


class PackedLinear(_Packed, comfy.ops.manual_cast.Linear):
    def forward_comfy_cast_weights(self, x: torch.Tensor, *_: Any, **__: Any) -> torch.Tensor:
        return torch.nn.functional.linear(x, self.computed(x), self.bias)


class PackedConv2d(_Packed, comfy.ops.manual_cast.Conv2d):
    def forward_comfy_cast_weights(self, x: torch.Tensor, *_: Any, **__: Any) -> torch.Tensor:
        return self._conv_forward(x, self.computed(x), self.bias)


class PackedPatcher(comfy.model_patcher.ModelPatcher):
    """Puts the patches of a packed weight on it, unapplied."""

    def patch_weight_to_device(
        self, key: str, device_to: Any = None, *more: Any, **named: Any
    ) -> Any:
        weight: Any = comfy.utils.get_attr(self.model, key)
        if key not in self.patches or getattr(weight, "tensor_type", None) is None:
            return super().patch_weight_to_device(key, device_to, *more, **named)
        new = weight.to(device_to)
        new.patches = [(self.patches[key], key)]
        comfy.utils.set_attr_param(self.model, key, new)
        return None

    def unpatch_model(self, *arguments: Any, **named: Any) -> Any:
        for weight in self.model.parameters():
            if getattr(weight, "patches", None):
                weight.patches = []
        return super().unpatch_model(*arguments, **named)


@dataclass(frozen=True)
class Pack:
    """The classes of a pack, its unpacking, and its own number of the 8-bit type."""

    tensor: Any
    linear: type
    conv2d: type
    patcher: type
    unpacked: Any
    q8_0: Any


def pack() -> Pack:
    folder = os.environ.get("LOOM_GGUF")
    if not folder:
        return Pack(PackedTensor, PackedLinear, PackedConv2d, PackedPatcher, unpacked, Q8_0)
    name = "loom_gguf"
    if name not in sys.modules:
        spec = importlib.util.spec_from_file_location(
            name, Path(folder) / "__init__.py", submodule_search_locations=[folder]
        )
        assert spec is not None
        assert spec.loader is not None
        sys.modules[name] = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(sys.modules[name])
    ops: Any = importlib.import_module(f"{name}.ops")
    nodes: Any = importlib.import_module(f"{name}.nodes")
    numbers: Any = importlib.import_module("gguf").GGMLQuantizationType
    return Pack(
        ops.GGMLTensor, ops.GGMLOps.Linear, ops.GGMLOps.Conv2d, nodes.GGUFModelPatcher,
        ops.dequantize_tensor, numbers.Q8_0,
    )  # fmt: skip


def packed_bytes(weight: torch.Tensor) -> torch.Tensor:
    """(out, in, *kernel) -> uint8 (out, bytes): 8-bit blocks along the rows."""
    blocks = weight.float().reshape(-1, BLOCK)
    scale = (blocks.abs().amax(dim=1, keepdim=True) / 127).half()
    numbers = (blocks / scale.float().clamp_min(1e-12)).round().clamp(-127, 127).to(torch.int8)
    both = torch.cat([scale.view(torch.uint8), numbers.view(torch.uint8)], dim=1)
    return both.reshape(weight.shape[0], -1)


def in_packed_layers(model: Any, found: Pack) -> int:
    """Pack the weights of a MODEL's layers in place, where their rows are whole blocks. Returns how many."""
    kinds = {torch.nn.Linear: found.linear, torch.nn.Conv2d: found.conv2d}
    made = 0
    for module in model.model.diffusion_model.modules():
        kind = next((new for old, new in kinds.items() if isinstance(module, old)), None)
        if kind is None or module.weight[0].numel() % BLOCK:
            continue
        shape = torch.Size(tuple(module.weight.shape))
        weight = found.tensor(
            packed_bytes(module.weight.data), tensor_type=found.q8_0, tensor_shape=shape
        )
        module.weight = torch.nn.Parameter(weight, requires_grad=False)
        module.__class__ = kind
        made += 1
    model.__class__ = found.patcher
    return made
