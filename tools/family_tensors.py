"""State dicts of every adapter family, for a weight of a given shape."""

from __future__ import annotations

import math
from collections.abc import Callable

import torch

Tensors = dict[str, torch.Tensor]
Shape = tuple[int, ...]
RANK = 2


class Draw:
    """Seeded random tensors."""

    def __init__(self, seed: int = 0) -> None:
        self.generator = torch.Generator().manual_seed(seed)

    def __call__(self, *shape: int, spread: float = 0.3) -> torch.Tensor:
        return torch.randn(shape, generator=self.generator) * spread


def lora(shape: Shape, draw: Draw) -> Tensors:
    ones = (1,) * (len(shape) - 2)
    return {
        "lora_up.weight": draw(shape[0], RANK, *ones),
        "lora_down.weight": draw(RANK, *shape[1:]),
        "alpha": torch.tensor(3.0),
    }


def lora_cp(shape: Shape, draw: Draw) -> Tensors:
    ones = (1,) * (len(shape) - 2)
    return {
        "lora_up.weight": draw(shape[0], RANK, *ones),
        "lora_down.weight": draw(RANK, shape[1], *ones),
        "lora_mid.weight": draw(RANK, RANK, *shape[2:]),
        "alpha": torch.tensor(3.0),
    }


def loha(shape: Shape, draw: Draw) -> Tensors:
    columns = math.prod(shape[1:])
    return {
        "hada_w1_a": draw(shape[0], RANK),
        "hada_w1_b": draw(RANK, columns),
        "hada_w2_a": draw(shape[0], RANK),
        "hada_w2_b": draw(RANK, columns),
        "alpha": torch.tensor(3.0),
    }


def loha_tucker(shape: Shape, draw: Draw) -> Tensors:
    return {
        "hada_w1_a": draw(RANK, shape[0]),
        "hada_w1_b": draw(RANK, shape[1]),
        "hada_w2_a": draw(RANK, shape[0]),
        "hada_w2_b": draw(RANK, shape[1]),
        "hada_t1": draw(RANK, RANK, *shape[2:]),
        "hada_t2": draw(RANK, RANK, *shape[2:]),
        "alpha": torch.tensor(3.0),
    }


def lokr_whole(shape: Shape, draw: Draw) -> Tensors:
    return {
        "lokr_w1": draw(2, 2),
        "lokr_w2": draw(shape[0] // 2, shape[1] // 2, *shape[2:]),
        "alpha": torch.tensor(3.0),
    }


def lokr_second(shape: Shape, draw: Draw) -> Tensors:
    return {
        "lokr_w1": draw(2, 2),
        "lokr_w2_a": draw(shape[0] // 2, RANK),
        "lokr_w2_b": draw(RANK, math.prod(shape[1:]) // 2),
        "alpha": torch.tensor(3.0),
    }


def lokr_both(shape: Shape, draw: Draw) -> Tensors:
    tensors = lokr_second(shape, draw)
    del tensors["lokr_w1"]
    return tensors | {"lokr_w1_a": draw(2, RANK), "lokr_w1_b": draw(RANK, 2)}


def lokr_tucker(shape: Shape, draw: Draw) -> Tensors:
    return {
        "lokr_w1": draw(2, 2),
        "lokr_w2_a": draw(RANK, shape[0] // 2),
        "lokr_w2_b": draw(RANK, shape[1] // 2),
        "lokr_t2": draw(RANK, RANK, *shape[2:]),
        "alpha": torch.tensor(3.0),
    }


def glora(shape: Shape, draw: Draw) -> Tensors:
    ones = (1,) * (len(shape) - 2)
    return {
        "a1.weight": draw(shape[1], RANK, *ones),
        "a2.weight": draw(RANK, shape[1], *ones),
        "b1.weight": draw(shape[0], RANK, *ones),
        "b2.weight": draw(RANK, *shape[1:]),
        "alpha": torch.tensor(3.0),
    }


def glora_old(shape: Shape, draw: Draw) -> Tensors:
    """The first LyCORIS versions: the roles of 1 and 2 the other way round, channels and kernel mixed together."""
    columns = math.prod(shape[1:])
    return {
        "a2.weight": draw(columns, RANK),
        "a1.weight": draw(RANK, columns),
        "b2.weight": draw(shape[0], RANK),
        "b1.weight": draw(RANK, columns),
        "alpha": torch.tensor(3.0),
    }


def oft(shape: Shape, draw: Draw) -> Tensors:
    return {"oft_blocks": draw(shape[0] // 4, 4, 4)}


def oft_constrained(shape: Shape, draw: Draw) -> Tensors:
    return {
        "oft_blocks": draw(shape[0] // 4, 4, 4),
        "rescale": 1 + draw(shape[0], *(1,) * (len(shape) - 1)),
        "alpha": torch.tensor(0.05),
    }


def boft(shape: Shape, draw: Draw) -> Tensors:
    return {"oft_blocks": draw(2, shape[0] // 4, 4, 4), "alpha": torch.tensor(0.0)}


def ia3_output(shape: Shape, draw: Draw) -> Tensors:
    stored = (shape[0],) if len(shape) == 2 else (1, shape[0], *(1,) * (len(shape) - 2))
    return {"weight": draw(*stored), "on_input": torch.tensor(0)}


def ia3_input(shape: Shape, draw: Draw) -> Tensors:
    stored = (shape[1],) if len(shape) == 2 else (1, shape[1], *(1,) * (len(shape) - 2))
    return {"weight": draw(*stored), "on_input": torch.tensor(1)}


def ia3_peft(shape: Shape, draw: Draw) -> Tensors:
    return {"ia3_l": 1 + draw(shape[0], *(1,) * (len(shape) - 1))}


def whole(shape: Shape, draw: Draw) -> Tensors:
    return {"diff": draw(*shape)}


def replacement(shape: Shape, draw: Draw) -> Tensors:
    return {"set_weight": draw(*shape)}


def dora_output(shape: Shape, draw: Draw) -> Tensors:
    return lora(shape, draw) | {"dora_scale": 1 + draw(shape[0], *(1,) * (len(shape) - 1))}


def dora_input(shape: Shape, draw: Draw) -> Tensors:
    scale = 1 + draw(1, shape[1], *(1,) * (len(shape) - 2))
    return lora(shape, draw) | {"dora_scale": scale}


def dora_loha(shape: Shape, draw: Draw) -> Tensors:
    scale = 1 + draw(1, shape[1], *(1,) * (len(shape) - 2))
    return loha(shape, draw) | {"dora_scale": scale}


def dora_peft(shape: Shape, draw: Draw) -> Tensors:
    tensors = {
        "lora_B.weight": draw(shape[0], RANK, *(1,) * (len(shape) - 2)),
        "lora_A.weight": draw(RANK, *shape[1:]),
    }
    return tensors | {"lora_magnitude_vector": 1 + draw(shape[0])}


MAKERS: dict[str, Callable[[Shape, Draw], Tensors]] = {
    "lora": lora, "lora_cp": lora_cp, "loha": loha, "loha_tucker": loha_tucker,
    "lokr_whole": lokr_whole, "lokr_second": lokr_second, "lokr_both": lokr_both, "lokr_tucker": lokr_tucker,
    "glora": glora, "glora_old": glora_old, "oft": oft, "oft_constrained": oft_constrained, "boft": boft,
    "ia3_output": ia3_output, "ia3_input": ia3_input, "ia3_peft": ia3_peft, "whole": whole,
    "replacement": replacement, "dora_output": dora_output, "dora_input": dora_input, "dora_loha": dora_loha,
    "dora_peft": dora_peft,
}  # fmt: skip
# Those that have a kernel of their own.
CONVOLUTION_ONLY = {"lora_cp", "loha_tucker", "lokr_tucker"}
SHAPES: dict[str, Shape] = {
    "Linear": (16, 12),
    "Conv1x1": (16, 12, 1, 1),
    "Conv3x3": (16, 12, 3, 3),
    # As most layers are: what tells inputs from outputs by their number must not be asked here.
    "Square": (16, 16),
    "SquareConv": (16, 16, 3, 3),
}
CASES = [
    (kind, layer)
    for kind in MAKERS
    for layer, shape in SHAPES.items()
    if len(shape) > 2 or kind not in CONVOLUTION_ONLY
]


def named(module: str, tensors: Tensors) -> Tensors:
    """The tensors under the module's name, as a file has them."""
    return {f"{module}.{name}": tensor for name, tensor in tensors.items()}
