"""Rows of LoRAs -> one LoRA and the certificate of what became of every layer, weight by weight."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import torch

from ..adapters import AdapterFile, Difference, Leftover
from ..errors import MergeError
from ..files.bases import base_of
from ..files.metadata import trigger_words
from ..rowblocks import row_blocks
from ..stack.blockpresets import BUILT_IN, Preset
from ..stack.blockstrengths import BlockStrengths
from ..stack.blocktable import block_table
from ..stack.rows import StackRow
from ..targets import TargetMap
from .certificate import CERTIFICATE_FIELD, Certificate
from .choice import parse_choices
from .layer import Layer, merge_layer, spectrum
from .onbase import NOT_CONNECTED, BaseModel, check_mergeable, dependents, on_base
from .pairing import Group, Pairing, pair, scaled_rows
from .plan import Plan, Progress, Rows, strength_of
from .ranks import SIZE, Cost, RankRule, shared_ranks
from .tensors import check_range, common_dtype, file_bytes, header_bytes

# What a file says of its base is kept where all rows say the same.
_SHARED_FIELDS = ("ss_base_model_version", "modelspec.architecture", "ss_v2")


@dataclass(frozen=True)
class Merge:
    """The merged LoRA, with the certificate in its metadata, and the certificate."""

    file: AdapterFile
    certificate: Certificate


def merge(
    rows: Rows,
    plan: Plan,
    model: TargetMap | None = None,
    clip: TargetMap | None = None,
    progress: Progress | None = None,
    base: BaseModel | None = NOT_CONNECTED,
    presets: Mapping[str, Preset] = BUILT_IN,
) -> Merge:
    """One LoRA that stands for the rows at their strengths; it is applied at strength 1.

    model, clip: where given, the host's key map decides which names mean the same weight. base: their weights, for rows
    that depend on them; None where none can be given. presets: what the names in the rows' block strengths mean. Beside
    the input and the result one weight at a time is in memory. Raises MergeError; then there is no result.
    """
    active = [(row, file) for row, file in rows if row.active]
    _check_rows(active)
    strengths = block_strengths_of(active, model, clip, presets)
    if base is not None:
        active = on_base(active, model, clip, base, presets=presets)
    check_mergeable(active, base)
    files = [file for _, file in active]
    pairing = pair(files, model, clip, strengths)
    dtype = plan.dtype or common_dtype(files)
    weights = [group for group in pairing.groups if not group.is_plain]
    budgeted = plan.rule.kind == SIZE and not plan.how.keeps_all
    steps = _Steps(progress, len(weights) * (2 if budgeted else 1))
    sums, dropped = _plain_sums(active, pairing, dtype)
    ranks = _budgeted_ranks(active, weights, plan, dtype, sums, steps) if budgeted else {}
    layers = {}
    for group in weights:
        layers[group.name] = merge_layer(active, group, plan, dtype, ranks.get(group.name))
        steps.done()
    adapters = {name: layer.adapter for name, layer in layers.items() if layer.adapter is not None}
    if not adapters and not sums:
        raise MergeError("The merge leaves nothing: " + _first_reason(layers))
    merged = AdapterFile(f"merged by {plan.method}", adapters, differences=sums)
    certificate = _certificate(active, plan, pairing, layers, merged, dtype, dropped)
    return Merge(replace(merged, metadata=_metadata(files, certificate)), certificate)


def resize(
    file: AdapterFile,
    rule: RankRule,
    dtype: torch.dtype | None = None,
    progress: Progress | None = None,
) -> Merge:
    """The same LoRA at other ranks: each layer the best approximation of itself. Raises MergeError."""
    plan = Plan("svd", rule, dtype=dtype)
    resized = merge([(StackRow(file.label), file)], plan, progress=progress, base=None)
    certificate = replace(resized.certificate, what="resize")
    metadata = {**file.metadata, CERTIFICATE_FIELD: certificate.as_json()}
    return Merge(replace(resized.file, label=file.label, metadata=metadata), certificate)


def with_choices(plan: Plan, text: str, rows: Rows) -> Plan:
    """The plan with block choices read from text, for the rows that are active. Raises MergeError."""
    roles = tuple(row.role for row, _ in rows if row.active)
    choices = parse_choices(text, roles)
    return replace(plan, parameters=replace(plan.parameters, choices=choices))


class _Steps:
    """Weights done, told to whoever wants to know."""

    def __init__(self, progress: Progress | None, of: int) -> None:
        self._progress, self._of, self._done = progress, of, 0

    def done(self) -> None:
        self._done += 1
        if self._progress is not None:
            self._progress(self._done, self._of)


def _check_rows(rows: Rows) -> None:
    if not rows:
        raise MergeError("Nothing to merge: no row is switched on with a strength other than 0.")
    known = [(row.name, base) for row, file in rows if (base := base_of(file)) is not None]
    other = next((row for row in known if row[1] != known[0][1]), None)
    if other is not None:
        raise MergeError(
            f"'{known[0][0]}' is for {known[0][1]}, '{other[0]}' for {other[1]}: LoRAs of different bases cannot be "
            "merged. Merge those of one base."
        )


def block_strengths_of(
    rows: Rows,
    model: TargetMap | None,
    clip: TargetMap | None,
    presets: Mapping[str, Preset] = BUILT_IN,
) -> list[BlockStrengths | None]:
    """Each row's block strengths as the connected model's blocks read them. Raises StackError and MergeError."""
    named = [row.name for row, _ in rows if row.blocks.strip()]
    if named and model is None:
        raise MergeError(
            f"'{named[0]}' has block strengths, and only a model tells which weights a block has. "
            "Connect MODEL (and CLIP) to the merge, or take the block strengths off the row."
        )
    table = block_table(model, clip) if named else None
    return [None if table is None else row_blocks(row, table, presets) for row, _ in rows]


def _plain_sums(
    rows: Rows, pairing: Pairing, dtype: torch.dtype
) -> tuple[dict[tuple[str, str], Difference], list[Leftover]]:
    """Norms, biases and whole differences: weighted sums, and what of them is switched off."""
    sums: dict[tuple[str, str], Difference] = {}
    dropped = []
    for group in pairing.groups:
        if not group.is_plain:
            continue
        ending = "diff" if group.kind == "weight" else "diff_b"
        total = _plain_sum(rows, group)
        if total is None:
            reason = "every row that has it acts on this part with strength 0"
            dropped.append(Leftover(f"{group.name}.{ending}", reason))
            continue
        tensor = total.to(dtype)
        check_range(group.name, tensor)
        key = f"{group.name}.{ending}"
        sums[group.name, group.kind] = Difference(tensor, group.kind, (key,))
    return sums, dropped


def _plain_sum(rows: Rows, group: Group) -> torch.Tensor | None:
    total: torch.Tensor | None = None
    for member in group.members:
        strength = strength_of(rows[member.row][0], member.name)
        if strength == 0:
            continue
        adapter = member.adapter
        assert isinstance(adapter, Difference)  # what is_plain says
        term = strength * adapter.scale * scaled_rows(adapter.tensor.float(), member.shares)
        if total is not None and term.shape != total.shape:
            raise MergeError(
                f"'{group.name}': '{rows[member.row][0].name}' has a difference of shape {tuple(term.shape)}, another "
                f"row one of {tuple(total.shape)}. They were made for different bases; merge LoRAs of one base."
            )
        total = term if total is None else total + term
    return total


def _budgeted_ranks(
    rows: Rows,
    weights: Sequence[Group],
    plan: Plan,
    dtype: torch.dtype,
    sums: Mapping[tuple[str, str], Difference],
    steps: _Steps,
) -> dict[str, int]:
    """The rank of every layer so that the file has at most the plan's size."""
    item = torch.empty(0, dtype=dtype).element_size()
    spectra, costs = {}, {}
    for group in weights:
        if (found := spectrum(rows, group, plan)) is not None:
            spectra[group.name], (out, inner) = found
            costs[group.name] = Cost((out + inner) * item, header_bytes(group.name))
        steps.done()
    fixed = file_bytes(AdapterFile("", {}, differences=sums))
    budget = plan.rule.value * 1e6 - fixed
    if budget < min((cost.rank + cost.once for cost in costs.values()), default=0):
        raise MergeError(
            f"{plan.rule.value:g} MB has no room for a single rank (norms, biases and whole differences take "
            f"{fixed / 1e6:.2f} MB). Allow a larger size."
        )
    return shared_ranks(spectra, costs, budget)


def _first_reason(layers: Mapping[str, Layer]) -> str:
    said = [f"'{name}': {layer.reason}" for name, layer in layers.items() if layer.reason]
    more = f" (and {len(said) - 1} more)" if len(said) > 1 else ""
    return f"{said[0]}{more}." if said else "the rows hold no weights."


def _certificate(
    rows: Rows,
    plan: Plan,
    pairing: Pairing,
    layers: Mapping[str, Layer],
    merged: AdapterFile,
    dtype: torch.dtype,
    dropped: list[Leftover],
) -> Certificate:
    gone = [Leftover(name, layer.reason) for name, layer in layers.items() if layer.reason]
    return Certificate(
        what="merge",
        method=plan.method,
        limit="all ranks" if plan.how.keeps_all else plan.rule.words,
        dtype=str(dtype).removeprefix("torch."),
        rows=tuple((row.name, row.model, row.clip, row.role) for row, _ in rows),
        layers=tuple(layer.record for layer in layers.values() if layer.record is not None),
        bytes_in=sum(file.nbytes for _, file in rows),
        bytes_out=file_bytes(merged),
        plain=len(merged.differences),
        dropped=(*pairing.lost, *dropped, *gone),
        notes=tuple(_notes(rows, plan, pairing)),
        settings=plan.settings,
    )


def _notes(rows: Rows, plan: Plan, pairing: Pairing) -> list[str]:
    notes = []
    if pairing.by_name:
        notes.append(
            f"{len(pairing.by_name)} names are not in the connected model and were paired by spelling, "
            f"first '{pairing.by_name[0]}'"
        )
    for said, what in (("schedule", "schedules"), ("regions", "regions")):
        if named := [row.name for row, _ in rows if getattr(row, said)]:
            notes.append(
                f"{what} are not in the result, which acts in every step and everywhere: {', '.join(named)}"
            )
    alone = [group for group in pairing.groups if len(group.rows) == 1]
    if len(rows) > 1 and len(alone) == len(pairing.groups):
        notes.append("no two rows have a weight in common: each weight is taken from its own row")
    if alone and len({_is_flat(file) for _, file in rows}) > 1:
        notes.append(
            f"the rows spell names in different ways: among the {len(alone)} weights that only one row has may be "
            "some that are the same. Connect MODEL and CLIP to be sure"
        )
    if count := dependents(rows):
        notes.append(
            f"{count} modules depend on the base model's weight: merged is what they do to the connected model, which the "
            "result is for; their change has no small rank, so choose one (energy kept says what it holds)"
        )
    if plan.how.element_wise:
        notes.append(
            f"{plan.method} gives full matrices; the ranks hold a part of them (energy kept)"
        )
    return notes


def _is_flat(file: AdapterFile) -> bool:
    """Whether a file's names are kohya's, with underscores."""
    return next((name.startswith("lora_") for name in file.modules), True)


def _metadata(files: Sequence[AdapterFile], certificate: Certificate) -> dict[str, str]:
    """What all rows say alike, their trigger words together, and the certificate."""
    metadata = {CERTIFICATE_FIELD: certificate.as_json()}
    words = dict.fromkeys(word for file in files for word in trigger_words(file.metadata))
    if words:
        metadata["modelspec.trigger_phrase"] = ", ".join(words)
    for field in _SHARED_FIELDS:
        said = {file.metadata.get(field) for file in files}
        if len(said) == 1 and (value := said.pop()) is not None:
            metadata[field] = value
    return metadata
