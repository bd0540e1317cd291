"""State dict -> AdapterFile: every key is consumed once, by name, or listed as left over with the reason."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import torch

from ..adapters import AdapterFile, Leftover, LowRank
from ..errors import LoraFileError, LoraKeyError
from .naming import split_key


def parse_state_dict(
    tensors: Mapping[str, torch.Tensor],
    label: str,
    *,
    path: Path | None = None,
    metadata: Mapping[str, str] | None = None,
) -> AdapterFile:
    """Group the tensors of a LoRA into adapters.

    Raises LoraKeyError where two keys name the same part of one module, a half is missing, or ranks differ;
    LoraFileError where a tensor holds NaN or infinity, or there is no tensor at all.
    """
    if not tensors:
        raise LoraFileError(f"{label}: holds no tensors. Is it a finished LoRA? Download or save it again.")
    grouped, leftovers = _group(tensors, label)
    modules: dict[str, LowRank] = {}
    for name, parts in grouped.items():
        family = next((family for _, family in parts.values() if family), None)
        if family is not None:
            reason = f"{family} adapters are not read yet"
            leftovers += [Leftover(key, reason) for key, _ in parts.values()]
        else:
            modules[name] = _low_rank(name, {part: key for part, (key, _) in parts.items()}, tensors, label)
    return AdapterFile(label, path, modules, tuple(leftovers), dict(metadata or {}))


def _group(
    tensors: Mapping[str, torch.Tensor], label: str
) -> tuple[dict[str, dict[str, tuple[str, str | None]]], list[Leftover]]:
    """module -> part -> (key, family), and the keys with no known ending."""
    grouped: dict[str, dict[str, tuple[str, str | None]]] = {}
    leftovers: list[Leftover] = []
    for key in tensors:
        split = split_key(key)
        if split is None:
            leftovers.append(Leftover(key, "not a name that any LoRA format uses"))
            continue
        parts = grouped.setdefault(split.module, {})
        if split.part in parts:
            raise LoraKeyError(
                f"{label}: the keys '{parts[split.part][0]}' and '{key}' both give the {split.part} part of "
                f"'{split.module}'. A LoRA may hold it once; save the file again with one naming scheme."
            )
        parts[split.part] = (key, split.family)
    return grouped, leftovers


def _low_rank(name: str, keys: Mapping[str, str], tensors: Mapping[str, torch.Tensor], label: str) -> LowRank:
    """The checked adapter of one module."""
    missing = [part for part in ("up", "down") if part not in keys]
    if missing:
        have = ", ".join(f"'{key}'" for key in keys.values())
        raise LoraKeyError(
            f"{label}: '{name}' has {have} but no {' and no '.join(missing)} matrix. "
            "The file is incomplete: download or save it again."
        )
    for key in keys.values():
        _check_finite(key, tensors[key], label)
    alpha = float(_scalar(keys["alpha"], tensors, label)) if "alpha" in keys else None
    mid = tensors[keys["mid"]] if "mid" in keys else None
    adapter = LowRank(tensors[keys["up"]], tensors[keys["down"]], alpha, mid, tuple(keys.values()))
    _check_ranks(name, adapter, label)
    return adapter


def _scalar(key: str, tensors: Mapping[str, torch.Tensor], label: str) -> torch.Tensor:
    tensor = tensors[key]
    if tensor.numel() != 1:
        raise LoraKeyError(f"{label}: '{key}' must hold one number; its shape is {tuple(tensor.shape)}.")
    return tensor.reshape(())


def _check_finite(key: str, tensor: torch.Tensor, label: str) -> None:
    """A sum carries any NaN or infinity through and costs one pass; only a suspicious one is looked at closely."""
    if not tensor.is_floating_point():
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


def _check_ranks(name: str, adapter: LowRank, label: str) -> None:
    up, down, mid = adapter.up, adapter.down, adapter.mid
    parts = {"up": up, "down": down} | ({} if mid is None else {"mid": mid})
    shapes = ", ".join(f"{part} {tuple(tensor.shape)}" for part, tensor in parts.items())
    if any(tensor.dim() < 2 or tensor.numel() == 0 for tensor in parts.values()):
        raise LoraKeyError(f"{label}: '{name}' is not made of matrices with numbers in them ({shapes}).")
    inner = (down.shape[0], down.shape[0]) if mid is None else (mid.shape[0], mid.shape[1])
    if up[0].numel() != inner[0] or down.shape[0] != inner[1]:
        raise LoraKeyError(
            f"{label}: the ranks of '{name}' do not agree ({shapes}): up must be (out, rank), down (rank, in)."
        )
