"""A LoRA in another naming scheme and dtype: the same delta under the names that another program reads.

Works on modules as (name, endings, tensors), so that every family goes through: low-rank parts take the endings of the
scheme, other families keep their own (LyCORIS') under the new module name.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field, replace

import torch

from ..adapters import AdapterFile, LowRank
from ..algebra.lowrank import factors
from ..errors import LoraKeyError
from ..targets import Target, TargetMap
from .naming import split_key
from .schemes import KEEP, PEFT, Names, Place

_SHOWN_KEYS = 20

_ENDINGS = {"up": ".lora_up.weight", "down": ".lora_down.weight", "mid": ".lora_mid.weight"}
_PEFT_ENDINGS = {"up": ".lora_B.weight", "down": ".lora_A.weight"}
_MAGNITUDES = (".lora_magnitude_vector.weight", ".lora_magnitude_vector", ".dora_scale")
_LOW_RANK_BIASES = (".lora_bias", ".lora_B.bias", ".lora_up.bias")
# Matrices that a conversion may compute anew.
_COMPUTED = {*_ENDINGS.values(), *_PEFT_ENDINGS.values(), ".lora_B.bias"}
# What a module may be made of so that rows of its delta can be taken or put together.
_BY_ROWS = {"up", "down", "mid", "alpha"}


@dataclass(frozen=True)
class Module:
    """One module on its way. parts: up, down, mid, alpha, or the key's own ending -> tensor.

    alpha: as the LoRA is applied, from the file or its metadata; None means a scale of 1.
    dtype: of its matrices in the file, None where it has other parts than a low-rank pair.
    """

    name: str
    parts: Mapping[str, torch.Tensor]
    alpha: float | None
    dtype: torch.dtype | None = None

    @property
    def rank(self) -> int:
        return int(self.parts["down"].shape[0])

    @property
    def scale(self) -> float:
        return 1.0 if self.alpha is None else self.alpha / self.rank

    @property
    def low_rank(self) -> bool:
        return "up" in self.parts and "down" in self.parts


@dataclass(frozen=True)
class Converted:
    """The new state dict, and in words what is not only a change of names.

    dtypes: of the tensors that were computed anew, in float32, the dtype that the file had.
    """

    tensors: Mapping[str, torch.Tensor]
    notes: tuple[str, ...] = ()
    dtypes: Mapping[str, torch.dtype] = field(default_factory=dict)


@dataclass
class _Tally:
    """What happened to how many modules, for the notes."""

    counts: dict[str, int] = field(default_factory=dict)

    def add(self, what: str) -> None:
        self.counts[what] = self.counts.get(what, 0) + 1

    @property
    def notes(self) -> tuple[str, ...]:
        return tuple(f"{what}: {count} modules" for what, count in self.counts.items())


def convert(
    tensors: Mapping[str, torch.Tensor],
    adapter: AdapterFile,
    scheme: str,
    model: TargetMap | None = None,
    clip: TargetMap | None = None,
) -> Converted:
    """The tensors of a LoRA under the names of a scheme (schemes.SCHEMES), with the same deltas; KEEP changes nothing.

    adapter: the same tensors as they were parsed; says the alphas. model, clip: whose names are asked for; None where
    nothing is connected. Nothing is dropped: raises LoraKeyError that lists what cannot be said.
    """
    if scheme == KEEP:
        return Converted(tensors)
    tally = _Tally()
    modules = _modules(tensors, adapter)
    names = Names.of(scheme, [module.name for module in modules], model, clip)
    moved = _moved(modules, names, adapter.label, tally)
    render = _peft if scheme == PEFT else _kohya
    result: dict[str, torch.Tensor] = {}
    dtypes: dict[str, torch.dtype] = {}
    for module in moved:
        for ending, tensor in render(module, adapter.label, tally).items():
            key = module.name + ending
            if key in result:
                raise LoraKeyError(
                    f"{adapter.label}: two of its modules would both be '{key}' in {scheme} naming. "
                    "Keep its own naming, or remove one of them."
                )
            result[key] = tensor
            if module.dtype is not None and ending in _COMPUTED:
                dtypes[key] = module.dtype
    if scheme == PEFT and any(key.startswith("diffusion_model.") for key in result):
        tally.add(
            "the model's own names with PEFT's endings, because the host knows no diffusers names for it"
        )
    return Converted(dict(sorted(result.items())), tally.notes, dtypes)


def _modules(tensors: Mapping[str, torch.Tensor], adapter: AdapterFile) -> list[Module]:
    """The state dict by modules. Raises LoraKeyError for keys of no known format."""
    grouped: dict[str, dict[str, torch.Tensor]] = {}
    unknown = []
    for key, tensor in tensors.items():
        split = split_key(key)
        stem = key.removesuffix(".weight")
        if split is not None:
            part = split.part if split.part in _BY_ROWS else key[len(split.module) :]
            grouped.setdefault(split.module, {})[part] = tensor
        elif f"{stem}.on_input" in tensors:  # IA3 as LyCORIS writes it
            grouped.setdefault(stem, {})[".weight"] = tensor
        else:
            unknown.append(key)
    if unknown:
        raise LoraKeyError(
            f"{adapter.label}: {_listed(unknown)} of no known LoRA format cannot be renamed. Keep its own naming."
        )
    return [
        Module(
            name, parts, _alpha(name, parts, adapter), parts["up"].dtype if "up" in parts else None
        )
        for name, parts in grouped.items()
    ]


def _alpha(name: str, parts: Mapping[str, torch.Tensor], adapter: AdapterFile) -> float | None:
    if "alpha" in parts and parts["alpha"].numel() == 1:
        return float(parts["alpha"].reshape(()))
    return adapter.modules[name].alpha if name in adapter.modules else None


def _moved(modules: list[Module], names: Names, label: str, tally: _Tally) -> list[Module]:
    """The modules under their new names; slices of a weight are put together or taken apart where names ask for it."""
    moved: list[Module] = []
    to_join: dict[str, list[tuple[Target, Module]]] = {}
    lost: list[str] = []
    for module in modules:
        target = names.target(module.name)
        places = names.places(module.name)
        whole = names.whole(target) if target is not None and not places else None
        if len(places) == 1 and places[0].rows is None and places[0].rearranged is None:
            moved.append(replace(module, name=places[0].name))
        elif places and _by_rows(module):
            moved += [_placed(module, place, tally) for place in places]
        elif whole is not None and target is not None and _joinable(target, module):
            to_join.setdefault(whole, []).append((target, module))
        else:
            lost.append(module.name)
    if lost:
        raise LoraKeyError(_cannot_say(lost, names, label))
    for whole, slices in to_join.items():
        moved.append(_joined(whole, slices, names))
        tally.add("q, k, v of one weight joined into one module of their ranks together")
    return moved


def _by_rows(module: Module) -> bool:
    return module.low_rank and set(module.parts) <= _BY_ROWS


def _joinable(target: Target, module: Module) -> bool:
    by_rows = target.offset is not None and target.offset[0] == 0 and target.function is None
    return by_rows and _by_rows(module) and "mid" not in module.parts


def _placed(module: Module, place: Place, tally: _Tally) -> Module:
    """The module with some rows of its delta, or with its rows in another order: both are rows of up."""
    up = module.parts["up"]
    if place.rows is not None:
        up = up.narrow(0, *place.rows)
        tally.add("one weight taken apart into its slices, each with the whole down matrix")
    if place.rearranged is not None and place.rearranged.function is not None:
        # The host's only rearrangement swaps two halves, which is its own inverse.
        up = place.rearranged.function(up)
        tally.add("rows put into the order of the other format")
    return replace(module, name=place.name, parts={**module.parts, "up": up.contiguous()})


def _joined(whole: str, slices: list[tuple[Target, Module]], names: Names) -> Module:
    """One module for several slices of a weight: up is block-diagonal, down stacked, the scales are within up."""
    target = slices[0][0]
    shape = next(s for t in (names.model, names.clip) if t and (s := t.shapes.get(target.key)))
    ranks = sum(module.rank for _, module in slices)
    first = slices[0][1].parts["up"]
    up = torch.zeros(shape[0], ranks, *first.shape[2:])
    column = 0
    for slot, module in slices:
        _, start, length = slot.offset or (0, 0, shape[0])
        block = module.parts["up"].float() * module.scale
        up[start : start + length, column : column + module.rank] = block
        column += module.rank
    down = torch.cat([module.parts["down"].float() for _, module in slices])
    return Module(whole, {"up": up, "down": down}, None, first.dtype)


def _kohya(module: Module, label: str, tally: _Tally) -> dict[str, torch.Tensor]:
    """Endings that kohya's scripts and ComfyUI share; the alpha as a key."""
    parts = dict(module.parts)
    result = {}
    if module.low_rank and module.alpha is not None:
        parts.setdefault("alpha", torch.tensor(module.alpha))
    for part, tensor in parts.items():
        if part in _MAGNITUDES and part != ".dora_scale":
            down = module.parts.get("down")
            ones = (1,) * (down.dim() - 1 if down is not None else 1)
            part, tensor = ".dora_scale", tensor.reshape(-1, *ones)
        result[".alpha" if part == "alpha" else _ENDINGS.get(part, part)] = tensor
    return result


def _peft(module: Module, label: str, tally: _Tally) -> dict[str, torch.Tensor]:
    """PEFT's endings. It has neither alpha keys nor a mid matrix: both go into the factors.

    Other families keep theirs, alpha included: PEFT has no names for them.
    """
    parts = dict(module.parts)
    if not module.low_rank:
        return {".alpha" if part == "alpha" else part: tensor for part, tensor in parts.items()}
    scale = module.scale
    parts.pop("alpha", None)
    if (mid := parts.pop("mid", None)) is not None:
        adapter = LowRank(parts["up"], parts["down"], None, mid)
        flat = factors(adapter)[1]
        parts["down"] = flat.reshape(module.rank, -1, *mid.shape[2:])
        tally.add("mid matrix multiplied into down")
    if scale != 1:
        parts["up"], parts["down"] = folded(parts["up"], parts["down"], scale)
        tally.add("alpha / rank multiplied into the matrices")
    result = {}
    for part, tensor in parts.items():
        if part in _MAGNITUDES:
            part, tensor = ".lora_magnitude_vector", _row_magnitude(module, tensor, label)
        elif part in _LOW_RANK_BIASES:
            part, tensor = ".lora_B.bias", tensor.float() * scale
        result[_PEFT_ENDINGS.get(part, part)] = tensor
    return result


def _row_magnitude(module: Module, magnitude: torch.Tensor, label: str) -> torch.Tensor:
    rows = module.parts["up"].shape[0]
    if magnitude.numel() != rows or (magnitude.dim() > 1 and magnitude.shape[0] != rows):
        raise LoraKeyError(
            f"{label}: '{module.name}' is a DoRA with a magnitude for each input {tuple(magnitude.shape)}; "
            f"PEFT only knows one for each of the {rows} outputs. Save it in kohya or ComfyUI naming."
        )
    return magnitude.flatten()


def folded(up: torch.Tensor, down: torch.Tensor, scale: float) -> tuple[torch.Tensor, torch.Tensor]:
    """up' and down' with up' @ down' = scale * up @ down, of about the same magnitude, in float32.

    up takes a power of two, which is exact; down the rest. All of a small scale on one side would push 16-bit
    numbers below their smallest normal one.
    """
    sizes = [float(factor.float().abs().max()) for factor in (up, down)]
    if not (sizes[0] and sizes[1] and scale):
        return up.float(), down.float() * scale
    power = 2.0 ** round(math.log2(abs(scale) * sizes[1] / sizes[0]) / 2)
    return up.float() * power, down.float() * (scale / power)


def _cannot_say(lost: list[str], names: Names, label: str) -> str:
    sockets = [s for s, t in (("MODEL", names.model), ("CLIP", names.clip)) if t is None]
    way = (
        f"Connect the {' and '.join(sockets)} that it is for: the names are looked up there."
        if sockets
        else "The connected model has no such name for them; is it the one that the LoRA is for?"
    )
    return f"{label}: in {names.scheme} naming there is no name for {_listed(lost)}. {way}"


def _listed(names: list[str]) -> str:
    more = f" and {len(names) - _SHOWN_KEYS} more" if len(names) > _SHOWN_KEYS else ""
    return f"{len(names)} of its modules ({', '.join(names[:_SHOWN_KEYS])}{more})"
