"""The matrices of a LoRA in another dtype, with every value that does not fit refused."""

from __future__ import annotations

from collections.abc import Mapping

import torch

from ..errors import LoraKeyError

KEEP = "keep"
DTYPES: dict[str, torch.dtype | None] = {
    KEEP: None,
    "fp32": torch.float32,
    "fp16": torch.float16,
    "bf16": torch.bfloat16,
}


def cast(
    tensors: Mapping[str, torch.Tensor],
    dtype: torch.dtype | None,
    label: str,
    own: Mapping[str, torch.dtype] | None = None,
) -> tuple[dict[str, torch.Tensor], float]:
    """The matrices in another dtype, and the largest rounding of one of them, relative to its norm.

    dtype: None keeps each as it is, or as `own` says. Single numbers (alphas) are never changed, nor is what is no
    floating-point tensor. Raises LoraKeyError where a value does not fit.
    """
    result, worst = {}, 0.0
    for key, tensor in tensors.items():
        wanted = dtype or (own or {}).get(key, tensor.dtype)
        if wanted == tensor.dtype or tensor.numel() <= 1 or not tensor.is_floating_point():
            result[key] = tensor
            continue
        wide = tensor if tensor.dtype == torch.float64 else tensor.float()
        result[key] = narrow = wide.to(wanted)
        back = narrow.to(wide.dtype)
        if not bool(torch.isfinite(back).all()):
            raise LoraKeyError(
                f"{label}: '{key}' reaches {float(wide.abs().max()):g}, more than {str(wanted).removeprefix('torch.')} "
                f"can hold ({torch.finfo(wanted).max:g}). Save it as bf16 or fp32."
            )
        if norm := float(wide.norm()):
            worst = max(worst, float((back - wide).norm()) / norm)
    return result, worst
