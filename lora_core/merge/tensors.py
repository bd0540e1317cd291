"""Merged factors -> the tensors of a LoRA file."""

from __future__ import annotations

import math

import torch

from ..adapters import AdapterFile, LowRank
from ..algebra.factorspace import Factors, equilibrated
from ..errors import MergeError

DTYPES = {
    "auto": None,
    "fp16": torch.float16,
    "bf16": torch.bfloat16,
    "fp32": torch.float32,
}


def common_dtype(files: list[AdapterFile]) -> torch.dtype:
    """fp32 where a row holds it, bf16 where all are bf16, else fp16."""
    seen = {
        tensor.dtype
        for file in files
        for adapter in (*file.modules.values(), *file.differences.values())
        for tensor in adapter.tensors
    }
    if seen & {torch.float32, torch.float64}:
        return torch.float32
    return torch.bfloat16 if seen == {torch.bfloat16} else torch.float16


def low_rank(
    name: str, factors: Factors, inner_shape: tuple[int, ...], dtype: torch.dtype
) -> LowRank:
    """An adapter with alpha = rank (scale 1), both sides about equally long, in the dtype of the file.

    inner_shape: (in,) or (in, *kernel). Raises MergeError where a number is too large for the dtype.
    """
    even = equilibrated(factors)
    if math.prod(inner_shape) != even.shape[1]:
        inner_shape = (even.shape[1],)
    ones = (1,) * (len(inner_shape) - 1)
    up = even.up.to(dtype).reshape(even.shape[0], even.rank, *ones).contiguous()
    down = even.down.to(dtype).reshape(even.rank, *inner_shape).contiguous()
    keys = tuple(f"{name}.{part}" for part in ("lora_up.weight", "lora_down.weight", "alpha"))
    for tensor in (up, down):
        check_range(name, tensor)
    return LowRank(up, down, float(even.rank), None, keys)


def check_range(name: str, tensor: torch.Tensor) -> None:
    """Raises MergeError where the dtype could not hold a number."""
    if not bool(torch.isfinite(tensor).all()):
        kind = str(tensor.dtype).removeprefix("torch.")
        raise MergeError(
            f"'{name}' has numbers too large for {kind} after the merge. Choose fp32 or bf16, or smaller strengths."
        )


def adapter_tensors(name: str, adapter: LowRank) -> dict[str, torch.Tensor]:
    """A module's tensors under kohya's endings."""
    tensors = {f"{name}.lora_up.weight": adapter.up, f"{name}.lora_down.weight": adapter.down}
    if adapter.mid is not None:
        tensors[f"{name}.lora_mid.weight"] = adapter.mid
    if adapter.alpha is not None:
        tensors[f"{name}.alpha"] = torch.tensor(adapter.alpha)
    return tensors


def state_dict(file: AdapterFile) -> dict[str, torch.Tensor]:
    """The tensors of a merged file under kohya's endings, which core and every loader read: a LORA_MODEL."""
    tensors: dict[str, torch.Tensor] = {}
    for name, adapter in file.modules.items():
        if not isinstance(adapter, LowRank):
            raise MergeError(f"'{name}' is no low-rank adapter and cannot be written as one.")
        tensors |= adapter_tensors(name, adapter)
    for (name, kind), difference in file.differences.items():
        tensors[f"{name}.{'diff' if kind == 'weight' else 'diff_b'}"] = difference.tensor
    return tensors


def file_bytes(file: AdapterFile) -> int:
    """About the size of the saved file, a little more rather than less: its numbers and its header."""
    names = sum(header_bytes(name) for name in file.modules)
    names += sum(_LINE_BYTES + len(name) for name, _ in file.differences)
    return file.nbytes + names


def header_bytes(module: str) -> int:
    """What a module takes beside the numbers of its two matrices: its alpha, and three lines of the header."""
    return 4 + 3 * (_LINE_BYTES + len(module))


# A line of a safetensors header without the module's name: the ending, dtype, shape and offsets.
_LINE_BYTES = 100
