"""A row's strengths and block strengths written into the LoRA itself: the same result at strength 1.

Exact by family: what is linear in its alpha takes the factor there, what has no alpha in one of its matrices, in float32.
What is made from the weight (DoRA, OFT, BOFT, a replaced weight) is itself or nothing: a fraction of it is no adapter of
its kind.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch

from .adapters import AdapterFile, Difference, LowRank
from .algebra.glora import GLoRA
from .algebra.ia3 import IA3
from .algebra.loha import LoHa
from .algebra.lokr import LoKr
from .errors import SaveError
from .files.naming import LOW_RANK_BIAS, is_text_encoder, split_key
from .resolve import matches_of
from .stack.blockselect import listed
from .stack.blockstrengths import BlockStrengths, Share
from .stack.rows import StackRow
from .targets import Target, TargetMap

Tensors = dict[str, torch.Tensor]
_WHOLE = (Share(0, None, 1.0),)
_SHOWN = 5


@dataclass(frozen=True)
class Folded:
    """tensors: of the new file. notes: what was done to how many modules, and what is not in it, in words."""

    tensors: Mapping[str, torch.Tensor]
    notes: tuple[str, ...]


def fold(
    tensors: Mapping[str, torch.Tensor],
    adapter: AdapterFile,
    row: StackRow,
    blocks: BlockStrengths | None,
    model: TargetMap | None,
    clip: TargetMap | None,
) -> Folded:
    """tensors: of the row's file; adapter: the same, parsed. blocks: the row's on that model, None where it has none.

    A module at 0 is left out. Raises SaveError: a kind that has no fraction, rows that cannot be parted, or nothing left.
    """
    targets = {id(match.adapter): match.target for match in matches_of(adapter, model, clip)}
    work = _Work(dict(tensors), adapter.label)
    alphas: dict[str, float] = {}
    for name, item in adapter.modules.items():
        shares = _shares(targets.get(id(item)), blocks)
        alphas[name] = work.module(name, item, _strength(row, name), shares)
    for (name, _), item in adapter.differences.items():
        shares = _shares(targets.get(id(item)), blocks)
        # A low-rank bias is read at its module's scale, in which the module's own factor is already.
        of_module = alphas.get(name, 1.0) if _is_low_rank_bias(item) else 1.0
        work.difference(item, _strength(row, name), shares, of_module)
    work.check(row)
    return Folded(work.tensors, tuple(_notes(work, adapter, row, blocks, targets)))


def _is_low_rank_bias(item: Difference) -> bool:
    parts = split_key(item.keys[0])
    return parts is not None and parts.part == LOW_RANK_BIAS


def _strength(row: StackRow, name: str) -> float:
    return row.clip if is_text_encoder(name) else row.model


def _shares(target: Target | None, blocks: BlockStrengths | None) -> tuple[Share, ...]:
    """A module that finds no weight in the model has no block: it keeps the row's own strength."""
    return _WHOLE if target is None or blocks is None else blocks.shares(target)


class _Work:
    """The tensors while modules are gone through, and what became of them."""

    def __init__(self, tensors: Tensors, label: str) -> None:
        self.tensors, self.label = tensors, label
        self.scaled, self.parted, self.left_out = 0, 0, 0
        self.refused: dict[str, list[str]] = {}

    def module(self, name: str, item: Any, strength: float, shares: Sequence[Share]) -> float:
        """Write the factors in; the one that went into the alpha, 0 where the module is left out."""
        if strength == 0 or all(share.factor == 0 for share in shares):
            self._drop(item.keys)
            return 0.0
        if len(shares) > 1:
            if type(item) not in _ROWS:
                self._refuse(item, name, "its rows cannot be given strengths of their own")
                return 1.0
            self.tensors |= _ROWS[type(item)](item, self.tensors, shares)
            self.parted += 1
        factor = strength * (shares[0].factor if len(shares) == 1 else 1.0)
        if factor == 1:
            return 1.0
        if type(item) not in _SCALED:
            self._refuse(item, name, f"a fraction ({factor:g}) of it is no {item.family}")
            return 1.0
        self.tensors |= _SCALED[type(item)](name, item, self.tensors, factor)
        self.scaled += len(shares) == 1
        return factor

    def difference(
        self, item: Difference, strength: float, shares: Sequence[Share], of_module: float
    ) -> None:
        factors = [strength * share.factor for share in shares]
        if not any(factors):
            self._drop(item.keys)
            return
        if item.replaces and set(factors) != {1.0}:
            self._refuse(item, item.keys[0], "a fraction of a replaced weight is none")
            return
        if of_module == 0:
            self._refuse(item, item.keys[0], "it is the bias of a module that is at 0")
            return
        if set(factors) == {of_module}:
            return
        (key,) = item.keys
        by_row = [Share(s.start, s.length, s.factor * strength / of_module) for s in shares]
        self.tensors[key] = _by_rows(self.tensors[key], by_row)
        self.scaled += 1

    def check(self, row: StackRow) -> None:
        """Raises SaveError."""
        if self.refused:
            said = "; ".join(
                f"{len(names)} modules: {reason} (first '{names[0]}')"
                for reason, names in list(self.refused.items())[:_SHOWN]
            )
            raise SaveError(
                f"{self.label}: these strengths cannot be written into the file. {said}. Give its blocks 0 or 1 and the "
                "row a strength of 1, or keep the LoRA as it is and its strengths in the stack."
            )
        if not self.tensors or not any(not key.endswith(".alpha") for key in self.tensors):
            raise SaveError(
                f"{self.label}: every module is at strength 0, so the file would be empty. Raise a strength of "
                f"'{row.name}'."
            )

    def _drop(self, keys: Sequence[str]) -> None:
        for key in keys:
            del self.tensors[key]
        self.left_out += 1

    def _refuse(self, item: Any, name: str, reason: str) -> None:
        self.refused.setdefault(f"{item.family}, {reason}", []).append(name)


def _alpha(name: str, item: Any, tensors: Tensors, factor: float) -> Tensors:
    """The factor in the alpha, which is written where the file has none. In float32, as alphas are."""
    key = next((key for key in item.keys if key.endswith("alpha")), f"{name}.alpha")
    alpha = torch.tensor(item.scale * item.rank * factor, dtype=torch.float32)
    return {key: alpha.reshape(tensors[key].shape) if key in tensors else alpha}


def _lokr(name: str, item: LoKr, tensors: Tensors, factor: float) -> Tensors:
    """With both sides whole nobody reads its alpha."""
    if item.rank is not None:
        return _alpha(name, item, tensors, factor)
    key = _key_of(item, "lokr_w1")
    return {key: tensors[key].float() * factor}


def _ia3(name: str, item: IA3, tensors: Tensors, factor: float) -> Tensors:
    """PEFT keeps the whole multiplier, LyCORIS what it is above 1."""
    key = next(key for key in item.keys if not key.endswith("on_input"))
    stored = tensors[key].float()
    return {key: 1 + factor * (stored - 1) if "ia3_l" in key else factor * stored}


# Kind of adapter -> the tensors in which a factor goes.
_SCALED: dict[type, Callable[[str, Any, Tensors, float], Tensors]] = {
    LowRank: _alpha,
    LoHa: _alpha,
    GLoRA: _alpha,
    LoKr: _lokr,
    IA3: _ia3,
}


def _low_rank_rows(item: LowRank, tensors: Tensors, shares: Sequence[Share]) -> Tensors:
    key = next(key for key in item.keys if tensors[key] is item.up)
    return {key: _by_rows(item.up, shares)}


def _loha_rows(item: LoHa, tensors: Tensors, shares: Sequence[Share]) -> Tensors:
    key = _key_of(item, "hada_w1_a")
    if item.t1 is None:
        return {key: _by_rows(item.w1_a, shares)}
    return {key: _by_rows(item.w1_a.T, shares).T.contiguous()}


# Kind of adapter -> the tensors in which factors of single rows of the weight go.
_ROWS: dict[type, Callable[[Any, Tensors, Sequence[Share]], Tensors]] = {
    LowRank: _low_rank_rows,
    LoHa: _loha_rows,
}


def _by_rows(tensor: torch.Tensor, shares: Sequence[Share]) -> torch.Tensor:
    """The rows times their factors, in float32: another dtype would round what is to stay exact."""
    wide = tensor.float().clone()
    for share in shares:
        end = None if share.length is None else share.start + share.length
        wide[share.start : end] *= share.factor
    return wide


def _key_of(item: Any, part: str) -> str:
    return next(key for key in item.keys if key.endswith(part))


def _notes(
    work: _Work,
    adapter: AdapterFile,
    row: StackRow,
    blocks: BlockStrengths | None,
    targets: Mapping[int, Target],
) -> list[str]:
    said = f"strengths of the row are in the file (model {row.model:g}, clip {row.clip:g}): use it at strength 1"
    notes = [said]
    if blocks is not None:
        notes.append(
            f"block strengths are in the file; touched: {listed(blocks.touched) or 'none'}"
        )
        homeless = sum(id(item) not in targets for item in adapter.modules.values())
        if homeless:
            notes.append(f"{homeless} modules find no weight here and have only the row's strength")
    notes.append(
        f"{work.scaled} modules scaled, {work.left_out} at 0 left out, {work.parted} scaled by rows"
    )
    if adapter.leftovers:
        keys = ", ".join(item.key for item in adapter.leftovers[:_SHOWN])
        notes.append(
            f"{len(adapter.leftovers)} keys that are not read are kept as they were: {keys}"
        )
    return notes
