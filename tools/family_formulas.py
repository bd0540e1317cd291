"""What every adapter family makes of a weight at strength 1, in float64.

Written from the papers with plain loops and full matrices, on purpose in another way than the code under test.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping

import torch

from tools.family_tensors import RANK, Shape, Tensors


def _low_rank(t: Mapping[str, torch.Tensor], up: str, down: str) -> torch.Tensor:
    return t[up].flatten(1) @ t[down].flatten(1)


def _tucker(core: torch.Tensor, a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
    """sum over p and q of core[p, q, kernel] a[p, o] b[q, i]."""
    total = torch.zeros(a.shape[1], b.shape[1], *core.shape[2:], dtype=core.dtype)
    for p in range(core.shape[0]):
        for q in range(core.shape[1]):
            outer = torch.outer(a[p], b[q])
            total += outer.reshape(*outer.shape, *(1,) * (core.dim() - 2)) * core[p, q]
    return total.flatten(1)


def _kron(w1: torch.Tensor, w2: torch.Tensor) -> torch.Tensor:
    return torch.cat([torch.cat([x * w2 for x in row], 1) for row in w1], 0)


def _rotation(block: torch.Tensor) -> torch.Tensor:
    eye = torch.eye(len(block), dtype=block.dtype)
    return (eye + block) @ torch.linalg.inv(eye - block)


def _turned(weight: torch.Tensor, t: Mapping[str, torch.Tensor], alpha: float) -> torch.Tensor:
    """The rotation as one full matrix: block diagonal for OFT, a product of permuted ones for BOFT."""
    rows, blocks = weight.shape[0], t["oft_blocks"]
    skew = blocks - blocks.transpose(-1, -2)
    limit = alpha * rows
    if limit and skew.norm() > limit:
        skew = skew * limit / skew.norm()
    if blocks.dim() == 3:
        turned = torch.block_diag(*(_rotation(b) for b in skew)).T @ weight.flatten(1)
    else:
        turned = weight.flatten(1)
        for stage, part in enumerate(skew):
            stride = 2**stage * (blocks.shape[-1] // 2)
            order = [
                group * 2 * stride + pair * stride + lane
                for group in range(rows // (2 * stride))
                for lane in range(stride)
                for pair in range(2)
            ]
            turn = torch.block_diag(*(_rotation(b) for b in part))
            mixed = turn @ turned[order]
            turned = torch.empty_like(mixed)
            turned[order] = mixed
    return turned * t["rescale"].reshape(-1, 1) if "rescale" in t else turned


def _normed(changed: torch.Tensor, shape: Shape, scale: torch.Tensor, rows: bool) -> torch.Tensor:
    whole = changed.reshape(shape)
    result = whole.clone()
    for index in range(shape[0] if rows else shape[1]):
        part = whole[index] if rows else whole[:, index]
        new = part * scale.flatten()[index] / part.norm()
        if rows:
            result[index] = new
        else:
            result[:, index] = new
    return result.flatten(1)


def expected(kind: str, weight: torch.Tensor, tensors: Tensors, rank: int = RANK) -> torch.Tensor:
    """The weight at strength 1, in float64, of the weight's shape."""
    t = {name: tensor.double() for name, tensor in tensors.items()}
    w = weight.double()
    flat, shape = w.flatten(1), tuple(w.shape)
    scale = float(t["alpha"]) / rank if "alpha" in t else 1.0
    results: dict[str, Callable[[], torch.Tensor]] = {
        "lora": lambda: flat + scale * _low_rank(t, "lora_up.weight", "lora_down.weight"),
        "lora_cp": lambda: (
            flat
            + scale
            * _tucker(
                t["lora_mid.weight"],
                t["lora_up.weight"].flatten(1).T,
                t["lora_down.weight"].flatten(1),
            )
        ),
        "loha": lambda: (
            flat + scale * (t["hada_w1_a"] @ t["hada_w1_b"]) * (t["hada_w2_a"] @ t["hada_w2_b"])
        ),
        "loha_tucker": lambda: (
            flat
            + scale
            * _tucker(t["hada_t1"], t["hada_w1_a"], t["hada_w1_b"])
            * _tucker(t["hada_t2"], t["hada_w2_a"], t["hada_w2_b"])
        ),
        "lokr_whole": lambda: flat + _kron(t["lokr_w1"], t["lokr_w2"].flatten(1)),
        "lokr_second": lambda: flat + scale * _kron(t["lokr_w1"], t["lokr_w2_a"] @ t["lokr_w2_b"]),
        "lokr_both": lambda: (
            flat + scale * _kron(t["lokr_w1_a"] @ t["lokr_w1_b"], t["lokr_w2_a"] @ t["lokr_w2_b"])
        ),
        "lokr_tucker": lambda: (
            flat
            + scale * _kron(t["lokr_w1"], _tucker(t["lokr_t2"], t["lokr_w2_a"], t["lokr_w2_b"]))
        ),
        "glora": lambda: (
            flat
            + scale
            * (
                torch.stack(
                    [
                        (w[..., k] if w.dim() == 2 else w.flatten(2)[..., k])
                        for k in range(math.prod(shape[2:]))
                    ],
                    -1,
                )
                .transpose(1, 2)
                .matmul(t["a1.weight"].flatten(1) @ t["a2.weight"].flatten(1))
                .transpose(1, 2)
                .flatten(1)
                if w.dim() > 2
                else flat @ t["a1.weight"] @ t["a2.weight"]
            )
            + scale * _low_rank(t, "b1.weight", "b2.weight")
        ),
        "glora_old": lambda: (
            flat
            + scale * (flat @ t["a2.weight"] @ t["a1.weight"] + t["b2.weight"] @ t["b1.weight"])
        ),
        "oft": lambda: _turned(w, t, 0.0),
        "oft_constrained": lambda: _turned(w, t, float(t["alpha"])),
        "boft": lambda: _turned(w, t, 0.0),
        "ia3_output": lambda: torch.diag(1 + t["weight"].flatten()) @ flat,
        "ia3_input": lambda: (
            w * (1 + t["weight"].flatten()).reshape(1, -1, *(1,) * (w.dim() - 2))
        ).flatten(1),
        "ia3_peft": lambda: torch.diag(t["ia3_l"].flatten()) @ flat,
        "whole": lambda: flat + t["diff"].flatten(1),
        "replacement": lambda: t["set_weight"].flatten(1),
        "dora_output": lambda: _normed(
            flat + scale * _low_rank(t, "lora_up.weight", "lora_down.weight"),
            shape,
            t["dora_scale"],
            True,
        ),
        "dora_input": lambda: _normed(
            flat + scale * _low_rank(t, "lora_up.weight", "lora_down.weight"),
            shape,
            t["dora_scale"],
            False,
        ),
        "dora_loha": lambda: _normed(
            flat + scale * (t["hada_w1_a"] @ t["hada_w1_b"]) * (t["hada_w2_a"] @ t["hada_w2_b"]),
            shape,
            t["dora_scale"],
            False,
        ),
        "dora_peft": lambda: _normed(
            flat + _low_rank(t, "lora_B.weight", "lora_A.weight"),
            shape,
            t["lora_magnitude_vector"],
            True,
        ),
    }
    return results[kind]().reshape(shape)
