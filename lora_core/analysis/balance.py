"""Strengths that make the rows of a stack sit well together, from the inner products of their updates alone.

merge-maths, sections 2 and 8. K[i, j] = <dW_i, dW_j> at strength 1, summed over the weights of a part or a block.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

import torch

from ..algebra.factorspace import products
from ..errors import MergeError
from ..files.naming import is_text_encoder
from ..merge.plan import Progress, Rows
from ..stack.blockpresets import BUILT_IN, Preset
from ..stack.blockrows import with_blocks
from ..stack.blockselect import in_runs
from ..stack.blockstrengths import BlockStrengths, block_strengths
from ..stack.rows import LoraStack, StackRow
from ..targets import TargetMap
from .grouped import Grouped, grouped
from .protection import PROTECTED

KEEP, OVERLAP, NORMS, BUDGET = "as they are", "overlap", "norms", "budget"
STRENGTHS = (KEEP, OVERLAP, NORMS, BUDGET)
# Near-duplicates would else get wild strengths: added to the diagonal, as a share of it.
_RIDGE = 1e-3
# A strength or block factor is changed by at most this factor.
_MOST = 4.0


@dataclass(frozen=True)
class Table:
    """Inner products of all active rows. parts: "model" and "clip" -> (N, N) float64; blocks: block -> the same."""

    parts: Mapping[str, torch.Tensor]
    blocks: Mapping[str, torch.Tensor]
    whole: Grouped


@dataclass(frozen=True)
class Balanced:
    """rows: all rows of the stack with their new strengths. said: what changed and why, a line each."""

    rows: tuple[StackRow, ...]
    said: tuple[str, ...] = field(default_factory=tuple)


def inner_products(
    rows: Rows,
    model: TargetMap | None = None,
    clip: TargetMap | None = None,
    progress: Progress | None = None,
    presets: Mapping[str, Preset] = BUILT_IN,
) -> Table:
    """K of the active rows, with their block strengths in it. Raises MergeError."""
    whole = grouped(rows, model, clip, presets)
    count = len(rows)
    parts: dict[str, torch.Tensor] = {}
    blocks: dict[str, torch.Tensor] = {}
    for done, (group, block, weight) in enumerate(whole.weights(), 1):
        if weight is not None:
            own = products(weight.terms)
            places = torch.tensor(weight.rows)
            found = torch.zeros(count, count, dtype=torch.float64)
            found[places[:, None], places] = own
            part = "clip" if is_text_encoder(group.name) else "model"
            for table, name in ((parts, part), (blocks, block)):
                table[name] = table.get(name, torch.zeros_like(found)) + found
        if progress is not None:
            progress(done, len(whole))
    order = whole.ordered(blocks)
    return Table(parts, {block: blocks[block] for block in order}, whole)


def balance(rows: Sequence[StackRow], table: Table, how: str, budget: float = 1.25) -> Balanced:
    """New strengths of the active rows, in the order of the table. how: one of STRENGTHS.

    budget: for BUDGET, the length of the sum over that of the character alone (of the longest row without one).
    Raises MergeError.
    """
    if how not in STRENGTHS:
        raise MergeError(f"No way '{how}' to set strengths; choose one of {', '.join(STRENGTHS)}.")
    if how == KEEP:
        return Balanced(tuple(rows))
    if how == NORMS:
        return _norm_matched(rows, table)
    return _by_part(rows, table, how, budget)


def _by_part(rows: Sequence[StackRow], table: Table, how: str, budget: float) -> Balanced:
    """One new strength for each row and part: of the model, of the text encoder."""
    new, said = list(rows), []
    for part, products_ in table.parts.items():
        strengths = [getattr(row, part) for row in rows]
        if how == OVERLAP:
            found, why = corrected(products_, strengths), "the rows add to each other there"
        else:
            roles = [row.role for row in rows]
            found = within(products_, strengths, roles, budget)
            why = f"the sum is held to {budget:g} of the length of one row"
        for number, (old, value) in enumerate(zip(strengths, found, strict=True)):
            value = round(value, 4)
            if abs(value - old) > 5e-4:
                new[number] = replace(new[number], **{part: value})
                said.append(f"{rows[number].name}: {part} strength {old:g} -> {value:g} ({why})")
    return Balanced(tuple(new), tuple(said))


def corrected(products_: torch.Tensor, strengths: Sequence[float]) -> list[float]:
    """Strengths w for which each row's own direction is met with its own strength s: diag(K)^-1 K w = s.

    Only overlaps of one direction count: what two rows do against each other is no reason to make both stronger. A
    strength is never raised, and lowered to a quarter at most.
    """
    wanted = torch.tensor(strengths, dtype=torch.float64)
    signs = torch.where(wanted < 0, -1.0, 1.0).double()
    own = products_.diagonal()
    there = [i for i, value in enumerate(own.tolist()) if value > 0 and strengths[i] != 0]
    if len(there) < 2:
        return list(strengths)
    turned = (products_ * torch.outer(signs, signs))[there][:, there].clamp(min=0)
    matrix = turned / own[there][:, None] + _RIDGE * torch.eye(len(there), dtype=torch.float64)
    sizes = wanted.abs()[there]
    solved = torch.linalg.solve(matrix, sizes * (1 + _RIDGE))
    solved = solved.clamp(sizes / _MOST, sizes)
    result = wanted.clone()
    result[there] = solved * signs[there]
    return result.tolist()


def within(
    products_: torch.Tensor, strengths: Sequence[float], roles: Sequence[str], budget: float
) -> list[float]:
    """Strengths for which |sum_i w_i dW_i| is at most `budget` times the character alone (else the longest row alone).

    Only rows that are no character are turned down, all by one factor; where there is no character, all rows.
    Raises MergeError where the budget is not positive.
    """
    if not budget > 0:
        raise MergeError(f"The budget is {budget:g}; it must be above 0, for example 1.25.")
    values = torch.tensor(strengths, dtype=torch.float64)
    held = torch.tensor([role == PROTECTED for role in roles])
    fixed = values * held
    free = values - fixed
    own = float(fixed @ products_ @ fixed)
    if own <= 0:
        fixed, free = torch.zeros_like(values), values
        own = float((values.square() * products_.diagonal()).max())
        start = 0.0
    else:
        start = own
    target = budget**2 * own
    square, mixed = float(free @ products_ @ free), float(fixed @ products_ @ free)
    if start + 2 * mixed + square <= target or square <= 0:
        return list(strengths)
    inside = mixed**2 - square * (start - target)
    factor = (-mixed + math.sqrt(inside)) / square if inside > 0 else 0.0
    return (fixed + max(0.0, min(1.0, factor)) * free).tolist()


def _norm_matched(rows: Sequence[StackRow], table: Table) -> Balanced:
    """In every block the rows get one length: the character's, or where there is none their geometric mean.

    Then all blocks of a row are scaled alike, so that its whole energy stays: what is matched is how it is spread.
    A factor is between 1/4 and 4.
    """
    blocks_table = table.whole.table
    if blocks_table is None or table.whole.model is None:
        raise MergeError(
            "Strengths by 'norms' are strengths of blocks, and only a model tells which blocks there are. "
            "Connect MODEL, or choose another way."
        )
    lengths = _lengths(rows, table)
    held = {i for i, row in enumerate(rows) if row.role == PROTECTED}
    factors: list[dict[str, float]] = [{} for _ in rows]
    for block, found in lengths.items():
        present = {i: length for i, length in enumerate(found) if length > 0}
        if len(present) < 2:
            continue
        model_rows = [i for i in present if i in held] or list(present)
        logs = [math.log(present[i]) for i in model_rows]
        reference = math.exp(sum(logs) / len(logs))
        for i in set(present) - (held if set(present) & held else set()):
            factors[i][block] = reference / present[i]
    new, said = [], []
    for number, row in enumerate(rows):
        scaled = _same_energy(factors[number], {b: found[number] for b, found in lengths.items()})
        changed, text, skipped = _with_factors(row, scaled, table)
        new.append(changed)
        if text:
            said.append(
                f"{row.name}: block strengths {text} (spread over the blocks like the others)"
            )
        said += [f"{row.name}: {b} keeps its strengths, which differ within it" for b in skipped]
    return Balanced(tuple(new), tuple(said))


def _lengths(rows: Sequence[StackRow], table: Table) -> dict[str, list[float]]:
    """Block -> the length of each row's update there at its strength."""
    found = {}
    for block, products_ in table.blocks.items():
        in_clip = block in (table.whole.table.groups.get("TE", ()) if table.whole.table else ())
        strengths = [row.clip if in_clip else row.model for row in rows]
        own = products_.diagonal().clamp(min=0).sqrt().tolist()
        found[block] = [abs(s) * length for s, length in zip(strengths, own, strict=True)]
    return found


def _same_energy(factors: Mapping[str, float], lengths: Mapping[str, float]) -> dict[str, float]:
    """The factors times one number, so that the blocks they touch hold the energy that they held; 1/4 to 4 each."""
    before = sum(lengths[block] ** 2 for block in factors)
    after = sum((lengths[block] * factor) ** 2 for block, factor in factors.items())
    scale = math.sqrt(before / after) if after > 0 else 1.0
    return {block: max(1 / _MOST, min(_MOST, factor * scale)) for block, factor in factors.items()}


def _with_factors(
    row: StackRow, factors: Mapping[str, float], table: Table
) -> tuple[StackRow, str, list[str]]:
    """(the row with these factors on its block strengths, the text that was added, blocks left as they were)."""
    blocks_table = table.whole.table
    assert blocks_table is not None  # what _norm_matched made sure of
    own: BlockStrengths | None = None
    if row.blocks.strip():
        own = block_strengths(row.blocks, blocks_table, table.whole.presets)
    named, skipped = [], []
    for block, factor in factors.items():
        low, high = (1.0, 1.0) if own is None else own.of_block(block)
        if low != high:
            skipped.append(block)
        elif abs(factor - 1) > 5e-3:
            named.append((block, round(low * factor, 3)))
    if not named:
        return row, "", skipped
    text = in_runs(named)
    (changed,) = with_blocks(LoraStack((row,)), text).rows
    return changed, text, skipped
