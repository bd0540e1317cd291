"""State dict -> AdapterFile: every key is consumed once, by name, or listed as left over with the reason."""

from __future__ import annotations

from collections.abc import Mapping

import torch

from ..adapters import Adapter, AdapterFile, Difference, Leftover, LowRank
from ..errors import LoraFileError, LoraKeyError
from .families import ModuleParts, adapter_of
from .naming import LOW_RANK_BIAS, KeyParts, split_key
from .peft import Alpha, peft_alphas

_FACTOR_DTYPES = {torch.float64, torch.float32, torch.float16, torch.bfloat16}
_FACTOR_DTYPES |= {
    getattr(torch, name) for name in ("float8_e4m3fn", "float8_e5m2") if hasattr(torch, name)
}

# Parts that are whole tensors of the target's own shape, beside whatever family the module has.
_WHOLE = {"weight difference", "bias difference", "weight replacement"}
# Parts that may be of any dtype, because they are counts and switches.
_NUMBERS = {"alpha", "reshape", "on_input"}

# Black Forest Labs' control LoRAs for Flux say nowhere that they add inputs; whole norms in the file tell them.
_CONTROL_MARK = "single_blocks.0.norm.key_norm.scale"

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
    alphas = peft_alphas(metadata or {})
    modules: dict[str, Adapter] = {}
    differences: dict[tuple[str, str], Difference] = {}
    for name, parts in grouped.items():
        for part, key in parts.items():
            _check_values(key, tensors[key], label, any_dtype=part in _NUMBERS, checked=checked)
        whole = {part: parts.pop(part) for part in list(parts) if part in _WHOLE}
        bias = parts.pop(LOW_RANK_BIAS, None)
        if set(parts) == {"alpha"}:
            leftovers.append(Leftover(parts["alpha"], "an alpha without matrices"))
        elif parts:
            modules[name] = _module(name, parts, tensors, label, alphas(name))
        for part, key in whole.items():
            side, _, kind = part.partition(" ")
            if (twin := differences.get((name, side))) is not None:
                raise LoraKeyError(
                    f"{label}: '{twin.keys[0]}' and '{key}' both say what the {side} of '{name}' becomes."
                )
            differences[name, side] = Difference(
                tensors[key], side, (key,), replaces=kind == "replacement"
            )
        if bias is not None:
            _add_bias(differences, name, bias, tensors[bias], modules.get(name), label)
    return AdapterFile(
        label, modules, tuple(leftovers), dict(metadata or {}), differences, tuple(unread)
    )


def _add_bias(
    differences: dict[tuple[str, str], Difference],
    name: str,
    key: str,
    tensor: torch.Tensor,
    module: Adapter | None,
    label: str,
) -> None:
    """PEFT's lora_bias: a bias of the up matrix, scaled as the module is."""
    if (name, "bias") in differences or not isinstance(module, LowRank):
        raise LoraKeyError(
            f"{label}: '{key}' is the bias of a low-rank module, but '{name}' is none, or has another bias difference. "
            "Save the LoRA again with one of them."
        )
    differences[name, "bias"] = Difference(tensor, "bias", (key,), scale=module.scale)


def _group(
    tensors: Mapping[str, torch.Tensor], label: str
) -> tuple[dict[str, _Parts], dict[str, str], list[Leftover]]:
    """Modules that are read, modules of other families with the family, and keys that belong to neither."""
    grouped: dict[str, _Parts] = {}
    unread: dict[str, str] = {}
    leftovers: list[Leftover] = []
    for key in tensors:
        split = split_key(key)
        if split is None and f"{key.removesuffix('.weight')}.on_input" in tensors:
            split = KeyParts(key.removesuffix(".weight"), "ia3 gain")
        if split is None:
            leftovers.append(Leftover(key, "not a name that any LoRA format uses"))
            continue
        _put(grouped, split, key, label)
        if split.family is not None:
            unread[split.module] = split.family
    for module, family in unread.items():
        keys = grouped.pop(module).values()
        leftovers += [Leftover(key, f"{family} adapters are not read") for key in keys]
    return grouped, unread, leftovers


def _put(grouped: dict[str, _Parts], split: KeyParts, key: str, label: str) -> None:
    parts = grouped.setdefault(split.module, {})
    if split.part in parts:
        raise LoraKeyError(
            f"{label}: the keys '{parts[split.part]}' and '{key}' both give the {split.part} part of "
            f"'{split.module}'. A LoRA may hold it once; save the file again with one naming scheme."
        )
    parts[split.part] = key


def _module(
    name: str, keys: _Parts, tensors: Mapping[str, torch.Tensor], label: str, alpha: Alpha | None
) -> Adapter:
    """The checked adapter of one module. alpha: what the metadata says, used where the file has no alpha key."""
    if "alpha" in keys:
        known = _number(keys["alpha"], tensors, label)
    elif alpha is not None and "down" in keys:
        known = alpha(int(tensors[keys["down"]].shape[0]))
    else:
        known = None
    parts = {part: tensors[key] for part, key in keys.items() if part != "alpha"}
    if name == "img_in" and _CONTROL_MARK in tensors and {"up", "down"} <= parts.keys():
        parts["reshape"] = torch.tensor([*parts["up"].shape[:1], *parts["down"].shape[1:]])
    return adapter_of(ModuleParts(label, name, keys, parts, known))


def _number(key: str, tensors: Mapping[str, torch.Tensor], label: str) -> float:
    tensor = tensors[key]
    if tensor.numel() != 1 or tensor.is_complex():
        raise LoraKeyError(
            f"{label}: '{key}' must hold one number; its shape is {tuple(tensor.shape)}."
        )
    return float(tensor.item())


def _check_values(
    key: str, tensor: torch.Tensor, label: str, any_dtype: bool = False, checked: bool = False
) -> None:
    """A sum carries any NaN or infinity through and costs one pass; only a suspicious one is looked at closely."""
    if tensor.dtype not in _FACTOR_DTYPES:
        if any_dtype and not (tensor.is_floating_point() or tensor.is_complex()):
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
