"""What every adapter family makes of a weight at strength 1, in float64.

Written from the papers with plain loops and full matrices, on purpose in another way than the code under test.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

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


@dataclass(frozen=True)
class Given:
    """w: the weight; t: the file's tensors of it; both in float64. scale: alpha / rank, 1 without an alpha."""

    w: torch.Tensor
    t: Mapping[str, torch.Tensor]
    scale: float

    @property
    def flat(self) -> torch.Tensor:
        return self.w.flatten(1)

    @property
    def shape(self) -> Shape:
        return tuple(self.w.shape)


def _lora(g: Given) -> torch.Tensor:
    return g.flat + g.scale * _low_rank(g.t, "lora_up.weight", "lora_down.weight")


def _lora_cp(g: Given) -> torch.Tensor:
    up, down = g.t["lora_up.weight"].flatten(1).T, g.t["lora_down.weight"].flatten(1)
    return g.flat + g.scale * _tucker(g.t["lora_mid.weight"], up, down)


def _loha(g: Given) -> torch.Tensor:
    first = g.t["hada_w1_a"] @ g.t["hada_w1_b"]
    return g.flat + g.scale * first * (g.t["hada_w2_a"] @ g.t["hada_w2_b"])


def _loha_tucker(g: Given) -> torch.Tensor:
    first = _tucker(g.t["hada_t1"], g.t["hada_w1_a"], g.t["hada_w1_b"])
    return g.flat + g.scale * first * _tucker(g.t["hada_t2"], g.t["hada_w2_a"], g.t["hada_w2_b"])


def _lokr_whole(g: Given) -> torch.Tensor:
    return g.flat + _kron(g.t["lokr_w1"], g.t["lokr_w2"].flatten(1))


def _lokr_second(g: Given) -> torch.Tensor:
    return g.flat + g.scale * _kron(g.t["lokr_w1"], g.t["lokr_w2_a"] @ g.t["lokr_w2_b"])


def _lokr_both(g: Given) -> torch.Tensor:
    first = g.t["lokr_w1_a"] @ g.t["lokr_w1_b"]
    return g.flat + g.scale * _kron(first, g.t["lokr_w2_a"] @ g.t["lokr_w2_b"])


def _lokr_tucker(g: Given) -> torch.Tensor:
    second = _tucker(g.t["lokr_t2"], g.t["lokr_w2_a"], g.t["lokr_w2_b"])
    return g.flat + g.scale * _kron(g.t["lokr_w1"], second)


def _glora(g: Given) -> torch.Tensor:
    """w + w a + b; for a convolution, a acts on the input channels of every place of the kernel."""
    a = g.t["a1.weight"].flatten(1) @ g.t["a2.weight"].flatten(1)
    places = g.w.reshape(*g.w.shape[:2], -1)
    turned = torch.stack([places[..., k] @ a for k in range(places.shape[-1])], -1).flatten(1)
    return g.flat + g.scale * (turned + _low_rank(g.t, "b1.weight", "b2.weight"))


def _glora_old(g: Given) -> torch.Tensor:
    added = g.t["b2.weight"] @ g.t["b1.weight"]
    return g.flat + g.scale * (g.flat @ g.t["a2.weight"] @ g.t["a1.weight"] + added)


def _ia3_output(g: Given) -> torch.Tensor:
    return torch.diag(1 + g.t["weight"].flatten()) @ g.flat


def _ia3_input(g: Given) -> torch.Tensor:
    factors = (1 + g.t["weight"].flatten()).reshape(1, -1, *(1,) * (g.w.dim() - 2))
    return (g.w * factors).flatten(1)


def _dora_peft(g: Given) -> torch.Tensor:
    changed = g.flat + _low_rank(g.t, "lora_B.weight", "lora_A.weight")
    return _normed(changed, g.shape, g.t["lora_magnitude_vector"], True)


FORMULAS: dict[str, Callable[[Given], torch.Tensor]] = {
    "lora": _lora,
    "lora_cp": _lora_cp,
    "loha": _loha,
    "loha_tucker": _loha_tucker,
    "lokr_whole": _lokr_whole,
    "lokr_second": _lokr_second,
    "lokr_both": _lokr_both,
    "lokr_tucker": _lokr_tucker,
    "glora": _glora,
    "glora_old": _glora_old,
    "oft": lambda g: _turned(g.w, g.t, 0.0),
    "oft_constrained": lambda g: _turned(g.w, g.t, float(g.t["alpha"])),
    "boft": lambda g: _turned(g.w, g.t, 0.0),
    "ia3_output": _ia3_output,
    "ia3_input": _ia3_input,
    "ia3_peft": lambda g: torch.diag(g.t["ia3_l"].flatten()) @ g.flat,
    "whole": lambda g: g.flat + g.t["diff"].flatten(1),
    "replacement": lambda g: g.t["set_weight"].flatten(1),
    "dora_output": lambda g: _normed(_lora(g), g.shape, g.t["dora_scale"], True),
    "dora_input": lambda g: _normed(_lora(g), g.shape, g.t["dora_scale"], False),
    "dora_loha": lambda g: _normed(_loha(g), g.shape, g.t["dora_scale"], False),
    "dora_peft": _dora_peft,
}


def expected(kind: str, weight: torch.Tensor, tensors: Tensors, rank: int = RANK) -> torch.Tensor:
    """The weight at strength 1, in float64, of the weight's shape."""
    t = {name: tensor.double() for name, tensor in tensors.items()}
    scale = float(t["alpha"]) / rank if "alpha" in t else 1.0
    return FORMULAS[kind](Given(weight.double(), t, scale)).reshape(weight.shape)
