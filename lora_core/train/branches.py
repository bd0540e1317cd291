"""What is learned beside one layer, as its family has it: factors with gradients under the names that files give them."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch

from ..adapters import LowRank
from ..algebra import dora, loha, lokr, lowrank
from ..errors import TrainError
from .counters import number_of

UP, DOWN, MID, MAGNITUDE = "lora_up.weight", "lora_down.weight", "lora_mid.weight", "dora_scale"
Inner = LowRank | loha.LoHa | lokr.LoKr
_DELTAS: dict[type, Callable[[Any, torch.dtype], torch.Tensor]] = {
    LowRank: lowrank.delta,
    loha.LoHa: loha.delta,
    lokr.LoKr: lokr.delta,
}


@dataclass(frozen=True, eq=False)
class Branch:
    """What is learned for one layer.

    path: of the layer, and thus of its weight, such as input_blocks.1.1.proj_in. factors: the ending that files give
    a tensor -> it; all float32 with gradients. rate: share of the run's learning rate.
    """

    path: str
    factors: Mapping[str, torch.nn.Parameter]
    alpha: float
    rate: float = 1.0

    @property
    def parameters(self) -> tuple[torch.nn.Parameter, ...]:
        return tuple(self.factors.values())

    @property
    def down(self) -> torch.nn.Parameter:
        """Of LoRA and DoRA alone."""
        return self.factors[DOWN]

    @property
    def up(self) -> torch.nn.Parameter:
        """Of LoRA and DoRA alone."""
        return self.factors[UP]

    @property
    def magnitude(self) -> torch.nn.Parameter | None:
        return self.factors.get(MAGNITUDE)

    @property
    def inner(self) -> Inner:
        """The adapter of lora_core/algebra that the factors are, without its magnitude."""
        found = self.factors
        if UP in found:
            return LowRank(found[UP], found[DOWN], self.alpha, found.get(MID))
        if "hada_w1_a" in found:
            return loha.LoHa(**_fields(found, "hada_"), alpha=self.alpha)
        sides = {"w1": None, "w2": None, **_fields(found, "lokr_")}
        return lokr.LoKr(**sides, alpha=self.alpha)

    @property
    def scale(self) -> float:
        return self.inner.scale

    @property
    def rank(self) -> int | None:
        return self.inner.rank

    @property
    def beside(self) -> bool:
        """Whether it adds scale * up(down(x)) to what the layer gives; else the layer's weight is made anew."""
        return set(self.factors) == {UP, DOWN}

    def delta(self, shape: torch.Size) -> torch.Tensor:
        """What is added to the weight, of its shape."""
        dtype = next(iter(self.factors.values())).dtype
        return _DELTAS[type(self.inner)](self.inner, dtype).reshape(shape)

    def changed(self, weight: torch.Tensor) -> torch.Tensor:
        """The weight in place of the layer's own (out, in, *kernel), with gradients to the factors."""
        delta = self.delta(weight.shape)
        if self.magnitude is None:
            return weight + delta
        by_output = self.magnitude.shape[0] == weight.shape[0]
        return dora.decomposed(weight, delta, self.magnitude, by_output, 1.0)


def _fields(factors: Mapping[str, torch.nn.Parameter], prefix: str) -> dict[str, Any]:
    return {name.removeprefix(prefix): p for name, p in factors.items() if name.startswith(prefix)}


# --- new ones


@dataclass(frozen=True)
class Wish:
    """What a new branch is to be. rank: lowered to the layer's own. block: LoKr's smaller side at most, 0 for square."""

    rank: int
    alpha: float
    seed: int
    block: int = 8


def _spread(shape: tuple[int, ...], bound: float, name: str, wish: Wish, path: str) -> torch.Tensor:
    """Evenly spread between -bound and bound: the same for a seed, a layer and a name."""
    counters = (wish.seed, path) if name == DOWN else (wish.seed, path, name)
    generator = torch.Generator().manual_seed(number_of("adapter", *counters))
    return (torch.rand(shape, generator=generator) * 2 - 1) * bound


def _lora(path: str, weight: torch.Tensor, wish: Wish) -> tuple[dict[str, torch.Tensor], float]:
    """down is Kaiming-uniform (a = sqrt 5) as kohya's, up is 0."""
    out, inside, *kernel = weight.shape
    own = min(wish.rank, out, inside * math.prod(kernel))
    bound = 1 / math.sqrt(inside * math.prod(kernel))
    down = _spread((own, inside, *kernel), bound, DOWN, wish, path)
    up = torch.zeros(out, own, *[1] * len(kernel))
    return {DOWN: down, UP: up}, wish.alpha * own / wish.rank


def _dora(path: str, weight: torch.Tensor, wish: Wish) -> tuple[dict[str, torch.Tensor], float]:
    """A LoRA and the length of the weight's columns, one for each input channel, as the paper and the host have it."""
    factors, alpha = _lora(path, weight, wish)
    others = [dim for dim in range(weight.dim()) if dim != 1]
    length = torch.linalg.vector_norm(weight.float(), dim=others, keepdim=True)
    return {**factors, MAGNITUDE: length + torch.finfo(torch.float32).eps}, alpha


def _loha(path: str, weight: torch.Tensor, wish: Wish) -> tuple[dict[str, torch.Tensor], float]:
    """As LyCORIS begins: standard deviations 1 for the b matrices, 0.1 for the first a, and a second a of 0."""
    out, inside = weight.shape[0], weight[0].numel()
    own = min(wish.rank, out, inside)
    shapes = {"hada_w1_a": (out, own), "hada_w1_b": (own, inside)}
    shapes |= {"hada_w2_a": (out, own), "hada_w2_b": (own, inside)}
    sizes = {"hada_w1_a": 0.1, "hada_w1_b": 1.0, "hada_w2_a": 0.0, "hada_w2_b": 1.0}
    # An even spread of this bound has the standard deviation 1.
    factors = {
        name: _spread(shape, sizes[name] * math.sqrt(3), name, wish, path)
        for name, shape in shapes.items()
    }
    return factors, wish.alpha * own / wish.rank


def _lokr(path: str, weight: torch.Tensor, wish: Wish) -> tuple[dict[str, torch.Tensor], float]:
    """The smaller side whole; the larger whole too where the rank would be no smaller, else decomposed. It begins at 0."""
    out, inside, *kernel = weight.shape
    (out1, out2), (in1, in2) = divided(out, wish.block), divided(inside, wish.block)
    wide = in2 * math.prod(kernel)
    first = _spread((out1, in1), 1 / math.sqrt(in1), "lokr_w1", wish, path)
    if 2 * wish.rank >= max(out2, in2):
        return {"lokr_w1": first, "lokr_w2": torch.zeros(out2, in2, *kernel)}, wish.alpha
    down = _spread((wish.rank, wide), 1 / math.sqrt(wide), "lokr_w2_b", wish, path)
    factors = {"lokr_w1": first, "lokr_w2_a": torch.zeros(out2, wish.rank), "lokr_w2_b": down}
    return factors, wish.alpha


def divided(size: int, most: int) -> tuple[int, int]:
    """(small, size // small) with the largest divisor small <= most; most 0: the pair nearest to a square."""
    most = most or math.isqrt(size)
    small = next(n for n in range(min(most, size), 0, -1) if size % n == 0)
    return small, size // small


# Family -> (path, the layer's weight in float32, wish) -> its factors and alpha. Each begins as no change at all.
FAMILIES: dict[str, Callable[[str, torch.Tensor, Wish], tuple[dict[str, torch.Tensor], float]]] = {
    "LoRA": _lora,
    "DoRA": _dora,
    "LoHa": _loha,
    "LoKr": _lokr,
}


def branch_of(
    path: str,
    factors: Mapping[str, torch.Tensor],
    alpha: float,
    device: Any = "cpu",
    rate: float = 1.0,
) -> Branch:
    """Copies of the factors that learn."""
    learning = {
        name: torch.nn.Parameter(tensor.detach().to(device, torch.float32).clone())
        for name, tensor in factors.items()
    }
    return Branch(path, learning, alpha, rate)


def factors_of(adapter: Any, shape: torch.Size) -> tuple[dict[str, torch.Tensor], float]:
    """(ending -> tensor, alpha) of an adapter that was read, for a weight of this shape.

    Raises TrainError for a family that is not trained.
    """
    if isinstance(adapter, dora.DoRA):
        factors, alpha = factors_of(adapter.inner, shape)
        ones = [1] * len(shape)
        ones[0 if adapter.by_output else 1] = -1
        return {**factors, MAGNITUDE: adapter.magnitude.reshape(ones)}, alpha
    if isinstance(adapter, LowRank) and adapter.grown is None:
        named = {DOWN: adapter.down, UP: adapter.up, MID: adapter.mid}
        if adapter.mid is None:
            ones = [1] * (len(shape) - 2)
            named[DOWN] = adapter.down.reshape(adapter.rank, *shape[1:])
            named[UP] = adapter.up.reshape(shape[0], adapter.rank, *ones)
    elif isinstance(adapter, loha.LoHa):
        names = ("w1_a", "w1_b", "w2_a", "w2_b", "t1", "t2")
        named = {f"hada_{name}": getattr(adapter, name) for name in names}
    elif isinstance(adapter, lokr.LoKr):
        names = ("w1", "w2", "w1_a", "w1_b", "w2_a", "w2_b", "t2")
        named = {f"lokr_{name}": getattr(adapter, name) for name in names}
    else:
        raise TrainError(f"{adapter.family} is not trained; {', '.join(FAMILIES)} are.")
    alpha = float(adapter.rank or 1) if adapter.alpha is None else adapter.alpha
    return {name: tensor for name, tensor in named.items() if tensor is not None}, alpha
