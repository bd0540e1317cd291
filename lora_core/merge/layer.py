"""One weight of a merge: what the rows say, the method's result at the rule's rank, and the record of it."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import torch

from ..adapters import LowRank
from ..algebra.factorspace import Factors, bounded, concat, decompose, energy, product, widened
from ..errors import MergeError
from .certificate import LayerRecord
from .families import inner_shape, row_factors, said_rank
from .pairing import Group, Member, scaled_rows
from .plan import Plan, Rows, strength_of
from .ranks import RankRule
from .recompress import Fitted, fit_blocks, fit_factors
from .tensors import low_rank
from .weight import RowBlocks, Weight, blocks_of, generator, weight_seed

# A delta below this share of what went into it is rounding.
_NOTHING = 1e-6


@dataclass(frozen=True)
class Layer:
    """record, adapter: None where nothing is written. reason: why it is not in the result, None where it is."""

    record: LayerRecord | None
    adapter: LowRank | None
    reason: str | None = None


def merge_layer(
    rows: Rows, group: Group, plan: Plan, dtype: torch.dtype, rank: int | None = None
) -> Layer:
    """Merge one weight. rank: what a budget over all layers gave it, instead of the plan's rule. Raises MergeError."""
    weight = weight_of(rows, group, plan.seed)
    if weight is None:
        return Layer(None, None, "every row that has it acts on this part with strength 0")
    exact = widened(bounded(concat(weight.terms, weight.strengths)))
    size, bound = energy(exact), _bound(weight)
    ranks = tuple(_rank_in(group, row) for row in weight.rows)
    record = LayerRecord(group.name, weight.rows, ranks, 0, size, 1.0, 0.0)
    if size <= (_NOTHING * bound) ** 2:
        reason = "the rows cancel each other" if bound > 0 else "it is all zero"
        return Layer(replace(record, energy=0.0, error=0.0, kept=1.0), None, reason)
    fitted = _fitted(weight, plan, rank)
    left = "the budget has no room for it" if rank == 0 else "the method leaves nothing of it"
    if fitted.factors.rank == 0:
        return Layer(record, None, left)
    adapter = low_rank(group.name, fitted.factors, _inner_shape(group), dtype)
    written = widened(row_factors(adapter))
    written_size = energy(written)
    if written_size <= (_NOTHING * bound) ** 2:
        return Layer(record, None, left)
    missed = size - 2 * product(exact, written) + written_size
    error = math.sqrt(max(0.0, missed) / size)
    return Layer(replace(record, rank_out=adapter.rank, error=error, kept=fitted.kept), adapter)


def spectrum(rows: Rows, group: Group, plan: Plan) -> tuple[torch.Tensor, tuple[int, int]] | None:
    """(singular values, shape) by which a budget is shared: of the method's result, or of the exact sum where the
    method's own is not low-rank. None where no row acts on this weight.
    """
    weight = weight_of(rows, group, plan.seed)
    if weight is None:
        return None
    exact = concat(weight.terms, weight.strengths)
    merged = exact if plan.how.element_wise else _merged(weight, plan)
    assert isinstance(merged, Factors)
    s = decompose(bounded(merged)).s
    return s[s > _NOTHING * _bound(weight)], weight.shape


def weight_of(rows: Rows, group: Group, seed: int) -> Weight | None:
    """What the rows with a strength say about a weight; None where none has one. Raises MergeError."""
    terms, strengths, numbers = [], [], []
    for number in group.rows:
        members = [member for member in group.members if member.row == number]
        strength = strength_of(rows[number][0], members[0].name)
        if strength == 0:
            continue
        parts = [_factors(member, group.whole) for member in members]
        terms.append(parts[0] if len(parts) == 1 else concat(parts, [1.0] * len(parts)))
        strengths.append(strength)
        numbers.append(number)
    if not terms:
        return None
    _check_shapes(rows, group.name, terms, numbers)
    roles = tuple(row.role for row, _ in rows)
    own_seed = weight_seed(seed, group.name)
    return Weight(group.name, tuple(terms), tuple(strengths), tuple(numbers), roles, own_seed)


def _factors(member: Member, whole: tuple[int, ...] | None) -> Factors:
    """The member's delta, put into its place where it feeds a slice of a fused weight: zeros elsewhere."""
    own = row_factors(member.adapter)
    factors = Factors(scaled_rows(own.up, member.shares), own.down)
    if member.slice is None or whole is None:
        return factors
    dim, start, length = member.slice
    before, after = start, whole[dim] - start - length
    if dim == 0:
        up = torch.nn.functional.pad(factors.up, (0, 0, before, after))
        return Factors(up, factors.down)
    columns = math.prod(whole[2:])
    down = torch.nn.functional.pad(factors.down, (before * columns, after * columns))
    return Factors(factors.up, down)


def _check_shapes(rows: Rows, name: str, terms: list[Factors], numbers: list[int]) -> None:
    shapes = [term.shape for term in terms]
    odd = next((i for i, shape in enumerate(shapes) if shape != shapes[0]), None)
    if odd is None:
        return
    said = [f"{shape[0]} x {shape[1]}" for shape in (shapes[0], shapes[odd])]
    first, other = rows[numbers[0]][0].name, rows[numbers[odd]][0].name
    raise MergeError(
        f"'{name}': '{first}' makes {said[0]}, '{other}' {said[1]}. "
        "They were made for different bases; merge LoRAs of one base."
    )


def _merged(weight: Weight, plan: Plan) -> Factors | RowBlocks:
    """The method's own result, not cut to a rank yet. A row alone is itself, except where a method chooses rows."""
    if len(weight.terms) == 1 and not plan.how.alone:
        return concat(weight.terms, weight.strengths)
    return plan.how.run(weight, plan.parameters)


def _fitted(weight: Weight, plan: Plan, rank: int | None) -> Fitted:
    merged = _merged(weight, plan)
    if plan.how.keeps_all and isinstance(merged, Factors):
        return Fitted(bounded(merged), 1.0)
    if rank == 0:
        out, inner = weight.shape
        return Fitted(Factors(torch.zeros(out, 0), torch.zeros(0, inner)), 0.0)
    rule = plan.rule if rank is None else RankRule("rank", rank)
    if isinstance(merged, Factors):
        if rule.most is None or not _is_dense(weight):
            return fit_factors(merged, rule.rank, rule.most)
        merged = blocks_of(bounded(merged))
    cap = weight.joint_rank if rule.most is None else rule.most
    return fit_blocks(merged, rule.rank, cap, generator(weight.seed, b"sketch"))


def _is_dense(weight: Weight) -> bool:
    """Whether a row's update is no product of smaller factors: then few ranks of it are found by passes over the matrix."""
    return any(term.rank >= min(term.shape) for term in weight.terms)


def _bound(weight: Weight) -> float:
    """At least the summed norms of the weighted terms, without forming them: ||up|| * ||down||."""
    return sum(
        abs(strength) * float(term.up.norm() * term.down.norm())
        for strength, term in zip(weight.strengths, weight.terms, strict=True)
    )


def _rank_in(group: Group, row: int) -> int:
    return sum(said_rank(member.adapter) for member in group.members if member.row == row)


def _inner_shape(group: Group) -> tuple[int, ...]:
    """(in, *kernel) as the row that says most of it spells it."""
    if group.whole is not None:
        return group.whole[1:]
    return max((inner_shape(member.adapter) for member in group.members), key=len)
