"""State dict -> AdapterFile: every key is consumed once, by name, or listed as left over with the reason."""

from __future__ import annotations

from collections.abc import Mapping

import torch

from ..adapters import AdapterFile, Difference, Leftover, LowRank
from ..errors import LoraFileError, LoraKeyError
from .naming import KeyParts, is_recognised, split_key

_FACTOR_DTYPES = {torch.float64, torch.float32, torch.float16, torch.bfloat16}
_FACTOR_DTYPES |= {
    getattr(torch, name) for name in ("float8_e4m3fn", "float8_e5m2") if hasattr(torch, name)
}

# Key of each part of one module.
_Parts = dict[str, str]


def parse_state_dict(
    tensors: Mapping[str, torch.Tensor],
    label: str,
    metadata: Mapping[str, str] | None = None,
    checked: bool = False,
) -> AdapterFile:
    """Group the tensors of a LoRA into adapters.

    checked: the values are known to be finite and are not searched for NaN again.
    Raises LoraKeyError where two keys name the same part of one module, a half is missing, or ranks differ;
    LoraFileError where a tensor holds NaN or infinity or is no floating-point tensor, or there is none at all.
    """
    if not tensors:
        raise LoraFileError(
            f"{label}: holds no tensors. Is it a finished LoRA? Download or save it again."
        )
    grouped, unread, leftovers = _group(tensors, label)
    modules: dict[str, LowRank] = {}
    differences: dict[tuple[str, str], Difference] = {}
    for name, parts in grouped.items():
        for part in ("weight", "bias"):
            if key := parts.pop(f"{part} difference", None):
                _check_values(key, tensors[key], label, checked=checked)
                differences[name, part] = Difference(tensors[key], part, (key,))
        if set(parts) == {"alpha"}:
            leftovers.append(Leftover(parts["alpha"], "an alpha without matrices"))
        elif parts:
            modules[name] = _low_rank(name, parts, tensors, label, checked)
    return AdapterFile(
        label, modules, tuple(leftovers), dict(metadata or {}), differences, tuple(unread)
    )


def _group(
    tensors: Mapping[str, torch.Tensor], label: str
) -> tuple[dict[str, _Parts], dict[str, str], list[Leftover]]:
    """Modules that are read, modules of other families with the family, and keys that belong to neither."""
    grouped: dict[str, _Parts] = {}
    unread: dict[str, str] = {}
    leftovers: list[Leftover] = []
    for key in tensors:
        split = split_key(key)
        if split is None:
            reason = (
                "not read yet" if is_recognised(key) else "not a name that any LoRA format uses"
            )
            leftovers.append(Leftover(key, reason))
            continue
        _put(grouped, split, key, label)
        if split.family is not None:
            unread[split.module] = split.family
    for module, family in unread.items():
        keys = grouped.pop(module).values()
        leftovers += [Leftover(key, f"{family} adapters are not read yet") for key in keys]
    return grouped, unread, leftovers


def _put(grouped: dict[str, _Parts], split: KeyParts, key: str, label: str) -> None:
    parts = grouped.setdefault(split.module, {})
    if split.part in parts:
        raise LoraKeyError(
            f"{label}: the keys '{parts[split.part]}' and '{key}' both give the {split.part} part of "
            f"'{split.module}'. A LoRA may hold it once; save the file again with one naming scheme."
        )
    parts[split.part] = key


def _low_rank(
    name: str, keys: _Parts, tensors: Mapping[str, torch.Tensor], label: str, checked: bool
) -> LowRank:
    """The checked adapter of one module."""
    missing = [part for part in ("up", "down") if part not in keys]
    if missing:
        have = ", ".join(f"'{key}'" for key in keys.values())
        raise LoraKeyError(
            f"{label}: '{name}' has {have} but no {' and no '.join(missing)} matrix. "
            "The file is incomplete: download or save it again."
        )
    for part, key in keys.items():
        _check_values(key, tensors[key], label, any_dtype=part == "alpha", checked=checked)
    alpha = _number(keys["alpha"], tensors, label) if "alpha" in keys else None
    mid = tensors[keys["mid"]] if "mid" in keys else None
    adapter = LowRank(tensors[keys["up"]], tensors[keys["down"]], alpha, mid, tuple(keys.values()))
    _check_shapes(name, adapter, label)
    return adapter


def _number(key: str, tensors: Mapping[str, torch.Tensor], label: str) -> float:
    tensor = tensors[key]
    if tensor.numel() != 1 or tensor.is_complex():
        raise LoraKeyError(
            f"{label}: '{key}' must hold one number; its shape is {tuple(tensor.shape)}."
        )
    return float(tensor.reshape(()))


def _check_values(
    key: str, tensor: torch.Tensor, label: str, any_dtype: bool = False, checked: bool = False
) -> None:
    """A sum carries any NaN or infinity through and costs one pass; only a suspicious one is looked at closely."""
    if tensor.dtype not in _FACTOR_DTYPES:
        if any_dtype:
            return
        raise LoraFileError(
            f"{label}: '{key}' holds {str(tensor.dtype).removeprefix('torch.')} numbers; a LoRA holds floating-point "
            "ones. It is quantised or no LoRA: get it in fp32, fp16, bf16 or fp8."
        )
    if checked:
        return
    values = tensor if tensor.element_size() > 1 else tensor.float()
    if torch.isfinite(values.sum(dtype=torch.float32)):
        return
    bad = int((~torch.isfinite(values)).sum())
    if bad:
        raise LoraFileError(
            f"{label}: '{key}' holds {bad} values that are NaN or infinite (of {tensor.numel()}). "
            "Its training diverged or the file is damaged; use an earlier checkpoint or download it again."
        )


def _check_shapes(name: str, adapter: LowRank, label: str) -> None:
    up, down, mid = adapter.up, adapter.down, adapter.mid
    shapes = ", ".join(str(tuple(tensor.shape)) for tensor in adapter.tensors)
    if any(tensor.dim() < 2 or tensor.numel() == 0 for tensor in adapter.tensors):
        raise LoraKeyError(
            f"{label}: '{name}' is not made of matrices with numbers in them ({shapes})."
        )
    inner = (down.shape[0], down.shape[0]) if mid is None else (mid.shape[0], mid.shape[1])
    if up[0].numel() != inner[0] or down.shape[0] != inner[1]:
        raise LoraKeyError(
            f"{label}: the ranks of '{name}' do not agree (up, down: {shapes}): up must be (out, rank), down (rank, in)."
        )
    if mid is not None and down[0].numel() != down.shape[1]:
        raise LoraKeyError(
            f"{label}: '{name}' has a mid matrix, so its down must be 1x1 (up, down, mid: {shapes})."
        )
