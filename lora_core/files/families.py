"""The parts of one module -> its adapter: which family they make, whether they are whole, whether their shapes agree."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import torch

from ..adapters import Adapter, LowRank
from ..algebra.dora import DoRA
from ..algebra.glora import GLoRA, oriented
from ..algebra.ia3 import IA3
from ..algebra.loha import LoHa
from ..algebra.lokr import LoKr
from ..algebra.oft import Rotation
from ..errors import LoraKeyError

_MOST_SIDES = 8
# Parts that may stand beside any family.
BESIDE = {"alpha", "magnitude", "row magnitude"}


@dataclass(frozen=True)
class ModuleParts:
    """The tensors of one module by part, and the keys they came from. alpha: from the file, or from its metadata."""

    label: str
    name: str
    keys: Mapping[str, str]
    tensors: Mapping[str, torch.Tensor]
    alpha: float | None

    def get(self, part: str) -> torch.Tensor | None:
        return self.tensors.get(part)

    def need(self, *parts: str) -> tuple[torch.Tensor, ...]:
        """These parts. Raises LoraKeyError that names the missing ones."""
        missing = [part for part in parts if part not in self.tensors]
        if missing:
            have = ", ".join(f"'{key}'" for key in self.keys.values())
            raise LoraKeyError(
                f"{self.label}: '{self.name}' has {have} but no {' and no '.join(missing)} matrix. "
                "The file is incomplete: download or save it again."
            )
        return tuple(self.tensors[part] for part in parts)

    def refuse(self, reason: str) -> LoraKeyError:
        shapes = ", ".join(f"{part} {tuple(t.shape)}" for part, t in self.tensors.items())
        return LoraKeyError(f"{self.label}: '{self.name}': {reason} ({shapes}).")

    @property
    def consumed(self) -> tuple[str, ...]:
        return tuple(self.keys.values())


def _low_rank(parts: ModuleParts) -> LowRank:
    up, down = parts.need("up", "down")
    grown = parts.get("reshape")
    if grown is not None and grown.numel() > _MOST_SIDES:
        raise parts.refuse(f"the shape that it grows to has more than {_MOST_SIDES} sides")
    adapter = LowRank(
        up,
        down,
        parts.alpha,
        parts.get("mid"),
        parts.consumed,
        None if grown is None else tuple(int(size) for size in grown.flatten().tolist()),
    )
    _check_low_rank(parts, adapter)
    return adapter


def _check_low_rank(parts: ModuleParts, adapter: LowRank) -> None:
    up, down, mid = adapter.up, adapter.down, adapter.mid
    inner = (down.shape[0], down.shape[0]) if mid is None else (mid.shape[0], mid.shape[1])
    if up[0].numel() != inner[0] or down.shape[0] != inner[1]:
        raise parts.refuse("the ranks do not agree: up must be (out, rank), down (rank, in)")
    if mid is not None and down[0].numel() != down.shape[1]:
        raise parts.refuse("it has a mid matrix, so its down must be 1x1")


def _loha(parts: ModuleParts) -> LoHa:
    w1_a, w1_b, w2_a, w2_b = parts.need("hada_w1_a", "hada_w1_b", "hada_w2_a", "hada_w2_b")
    t1, t2 = parts.get("hada_t1"), parts.get("hada_t2")
    if (t1 is None) != (t2 is None):
        raise parts.refuse("one of the two Tucker cores is missing")
    for a, b, core in ((w1_a, w1_b, t1), (w2_a, w2_b, t2)):
        if core is None:
            agree = a.shape[1] == b.shape[0]
        else:
            agree = core.shape[:2] == (a.shape[0], b.shape[0])
        if a.dim() != 2 or b.dim() != 2 or not agree:
            raise parts.refuse("the ranks do not agree")
    if (w1_a.shape, w1_b.shape[1]) != ((*w2_a.shape[:1], w1_a.shape[1]), w2_b.shape[1]):
        raise parts.refuse("the two halves make matrices of different shapes")
    return LoHa(w1_a, w1_b, w2_a, w2_b, parts.alpha, t1, t2, parts.consumed)


def _lokr(parts: ModuleParts) -> LoKr:
    for side in ("lokr_w1", "lokr_w2"):
        if side not in parts.tensors:
            up, down = parts.need(f"{side}_a", f"{side}_b")
            core = parts.get("lokr_t2") if side == "lokr_w2" else None
            inner = (up.shape[-1], down.shape[0])
            if core is not None:
                inner = (up.shape[0], core.shape[0]) if down.shape[0] == core.shape[1] else (0, 1)
            if inner[0] != inner[1]:
                raise parts.refuse(f"the ranks of {side} do not agree")
    get = parts.get
    return LoKr(
        get("lokr_w1"), get("lokr_w2"), parts.alpha, get("lokr_w1_a"), get("lokr_w1_b"),
        get("lokr_w2_a"), get("lokr_w2_b"), get("lokr_t2"), parts.consumed,
    )  # fmt: skip


def _glora(parts: ModuleParts) -> GLoRA:
    a1, a2, b1, b2 = parts.need("glora_a1", "glora_a2", "glora_b1", "glora_b2")
    adapter = oriented(GLoRA(a1, a2, b1, b2, parts.alpha, parts.get("glora_bm"), parts.consumed))
    if adapter is None:
        raise parts.refuse("the ranks of its four matrices do not agree")
    return adapter


def _rotation(parts: ModuleParts) -> Rotation:
    (blocks,) = parts.need("oft_blocks")
    if blocks.dim() not in (3, 4) or blocks.shape[-1] != blocks.shape[-2]:
        raise parts.refuse("rotations must be (blocks, size, size) or (stages, blocks, size, size)")
    adapter = Rotation(blocks, parts.get("rescale"), parts.alpha, parts.consumed)
    if adapter.rescale is not None and adapter.rescale.numel() != adapter.span[0]:
        raise parts.refuse("the rescaling does not have one number a row")
    return adapter


def _ia3(parts: ModuleParts) -> IA3:
    if (stored := parts.get("ia3_l")) is not None:
        # PEFT keeps the factor itself, (out, 1) on outputs and (1, in) on inputs.
        return IA3(
            stored.float().flatten() - 1, stored.dim() > 1 and stored.shape[0] == 1, parts.consumed
        )
    gain, on_input = parts.need("ia3 gain", "on_input")
    if on_input.numel() != 1:
        raise parts.refuse("on_input must be one switch")
    return IA3(gain.flatten(), bool(on_input.item()), parts.consumed)


# Family -> (its parts, what makes the adapter).
FAMILIES: dict[str, tuple[frozenset[str], Callable[[ModuleParts], Adapter]]] = {
    "LoRA": (frozenset({"up", "down", "mid", "reshape"}), _low_rank),
    "LoHa": (frozenset(f"hada_{p}" for p in ("w1_a", "w1_b", "w2_a", "w2_b", "t1", "t2")), _loha),
    "LoKr": (
        frozenset(f"lokr_{p}" for p in ("w1", "w2", "w1_a", "w1_b", "w2_a", "w2_b", "t2")),
        _lokr,
    ),
    "GLoRA": (frozenset(f"glora_{p}" for p in ("a1", "a2", "b1", "b2", "bm")), _glora),
    "OFT": (frozenset({"oft_blocks", "rescale"}), _rotation),
    "IA3": (frozenset({"ia3_l", "ia3 gain", "on_input"}), _ia3),
}


def adapter_of(parts: ModuleParts) -> Adapter:
    """The adapter that the parts of one module make. Raises LoraKeyError."""
    present = set(parts.tensors) - BESIDE
    families = [name for name, (own, _) in FAMILIES.items() if present & own]
    if len(families) > 1:
        raise parts.refuse(f"it mixes {' and '.join(families)}; one module has one family")
    if not families:
        raise parts.refuse("a magnitude without matrices")
    for part in present - _SWITCHES:
        tensor = parts.tensors[part]
        if tensor.numel() == 0 or (part in _MATRICES and tensor.dim() < 2):
            raise parts.refuse("it is not made of matrices with numbers in them")
    adapter = FAMILIES[families[0]][1](parts)
    return _with_magnitude(parts, adapter)


_SWITCHES = {"on_input"}
_MATRICES = {part for name, (own, _) in FAMILIES.items() if name != "IA3" for part in own} - {
    "rescale",
    "reshape",
}


def _with_magnitude(parts: ModuleParts, adapter: Adapter) -> Adapter:
    """The adapter inside a DoRA where the module has a magnitude.

    `dora_scale` says its axis by its shape: (out, 1, ...) or (1, in, ...). PEFT's vector is always one number a row.
    """
    rows, either = parts.get("row magnitude"), parts.get("magnitude")
    magnitude = rows if rows is not None else either
    if magnitude is None:
        return adapter
    if not isinstance(adapter, LowRank | LoHa | LoKr):
        raise parts.refuse(f"a magnitude beside {adapter.family} is not a known combination")
    by_output = rows is not None or magnitude.dim() < 2 or magnitude.shape[0] == adapter.span[0]
    return DoRA(adapter, magnitude.flatten(), by_output, adapter.keys)
