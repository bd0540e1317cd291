"""The difference of two models as a LoRA: low-rank factors for matrices and convolutions, whole differences for the rest.

One weight at a time is in memory beside the result.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field, replace

import torch

from ..adapters import AdapterFile, Difference, Leftover, LowRank
from ..errors import MergeError
from .certificate import CERTIFICATE_FIELD, Certificate, LayerRecord
from .merge import Merge
from .plan import Progress
from .ranks import SIZE, RankRule
from .recompress import Fitted, fit_blocks
from .tensors import check_range, file_bytes, low_rank
from .weight import RowBlocks, generator, row_slices, weight_seed

# The rank that a rule may choose at the most, and what is said where the file would be larger than the weights.
MOST_RANK = 64


@dataclass(frozen=True)
class Parameter:
    """One parameter of both models. name: of its module as a LoRA file says it; kind: "weight" or "bias".

    read: -> (tuned, base), of one shape, any floating dtype; called once. Read when its turn comes, not before.
    """

    name: str
    kind: str
    shape: tuple[int, ...]
    read: Callable[[], tuple[torch.Tensor, torch.Tensor]]


@dataclass(frozen=True)
class ExtractOrder:
    """rule: how ranks are chosen. most: the largest rank that it may choose. dtype: None for that of the tuned weights.

    Raises MergeError.
    """

    rule: RankRule = field(default_factory=lambda: RankRule("energy", 0.95))
    most: int = MOST_RANK
    dtype: torch.dtype | None = None

    def __post_init__(self) -> None:
        if self.rule.kind == SIZE:
            raise MergeError(
                "An extraction cannot be held to a file size: it sees each layer once. Choose energy or rank, and give "
                "the result to Loom Resize."
            )
        if self.most < 1:
            raise MergeError(f"The largest rank is {self.most}; it must be 1 or more.")


@dataclass(frozen=True)
class _Done:
    """What became of one parameter: nothing where both models have the same."""

    record: LayerRecord | None = None
    adapter: LowRank | None = None
    whole: Difference | None = None
    reason: str | None = None


def extract(
    parameters: Sequence[Parameter],
    order: ExtractOrder,
    label: str,
    lost: Iterable[Leftover] = (),
    metadata: dict[str, str] | None = None,
    progress: Progress | None = None,
) -> Merge:
    """The LoRA that makes the tuned model of the base. lost: what of the models is not compared, and why.

    Raises MergeError where the models do not differ; then there is no result.
    """
    adapters: dict[str, LowRank] = {}
    wholes: dict[tuple[str, str], Difference] = {}
    records, dropped, same, read_bytes = [], list(lost), 0, 0
    for done, parameter in enumerate(parameters, 1):
        tuned, base = parameter.read()
        read_bytes += tuned.numel() * tuned.element_size()
        found = _extracted(parameter, tuned, base, order)
        same += found == _Done()
        if found.record is not None:
            records.append(found.record)
        if found.adapter is not None:
            adapters[parameter.name] = found.adapter
        if found.whole is not None:
            wholes[parameter.name, parameter.kind] = found.whole
        if found.reason is not None:
            dropped.append(Leftover(f"{parameter.name}.{parameter.kind}", found.reason))
        if progress is not None:
            progress(done, len(parameters))
    if not adapters and not wholes:
        raise MergeError(_nothing(parameters, same, dropped))
    file = AdapterFile(label, adapters, differences=wholes)
    certificate = Certificate(
        what="extract",
        method="difference of two models",
        limit=f"{order.rule.words}, at most rank {order.most}",
        dtype=_dtypes(file),
        rows=((label, 1.0, 1.0, "free"),),
        layers=tuple(records),
        bytes_in=read_bytes,
        bytes_out=file_bytes(file),
        plain=len(wholes),
        dropped=tuple(dropped),
        notes=(f"{same} of {len(parameters)} parameters are the same in both models",),
    )
    said = {**(metadata or {}), CERTIFICATE_FIELD: certificate.as_json()}
    return Merge(replace(file, metadata=said), certificate)


def _extracted(
    parameter: Parameter, tuned: torch.Tensor, base: torch.Tensor, order: ExtractOrder
) -> _Done:
    if torch.equal(tuned, base):
        return _Done()
    dtype = order.dtype or _dtype_of(tuned)
    difference = tuned.float() - base.float()
    if not bool(torch.isfinite(difference).all()):
        return _Done(reason="it has numbers that are not finite in one of the models")
    if not bool(difference.any()):
        return _Done()
    flat = difference.flatten(1) if difference.dim() > 1 else difference.reshape(-1, 1)
    if parameter.kind != "weight" or min(flat.shape) == 1:
        return _Done(whole=_whole(parameter, difference, dtype))
    fitted = _fitted(parameter, flat, order)
    rank = fitted.factors.rank
    if rank == 0:
        return _Done(reason="the rule leaves no rank of it")
    if rank * sum(flat.shape) >= flat.numel():
        return _Done(whole=_whole(parameter, difference, dtype))
    adapter = low_rank(parameter.name, fitted.factors, tuple(difference.shape[1:]), dtype)
    size, missed = _energies(flat, adapter)
    error = math.sqrt(missed / size)
    full = min(flat.shape)
    record = LayerRecord(parameter.name, (0,), (full,), adapter.rank, size, error, fitted.kept)
    return _Done(record, adapter)


def _fitted(parameter: Parameter, flat: torch.Tensor, order: ExtractOrder) -> Fitted:
    """The best low-rank approximation at the rule's rank, of at most `most`."""
    blocks = RowBlocks((flat.shape[0], flat.shape[1]), lambda rows: flat[rows])
    cap = order.most if order.rule.most is None else min(order.most, order.rule.most)
    draw = generator(weight_seed(0, parameter.name), b"sketch")
    return fit_blocks(blocks, order.rule.rank, cap, draw)


def _energies(flat: torch.Tensor, adapter: LowRank) -> tuple[float, float]:
    """(energy of the difference, energy of what the written factors miss), a block of rows at a time."""
    up, down = adapter.up.float().flatten(1), adapter.down.float().flatten(1)
    size = missed = 0.0
    for rows in row_slices(flat.shape[0]):
        block = flat[rows]
        size += float(block.double().square().sum())
        missed += float((block - up[rows] @ down).double().square().sum())
    return size, missed


def _whole(parameter: Parameter, difference: torch.Tensor, dtype: torch.dtype) -> Difference:
    tensor = difference.to(dtype)
    check_range(parameter.name, tensor)
    ending = "diff" if parameter.kind == "weight" else "diff_b"
    return Difference(tensor, parameter.kind, (f"{parameter.name}.{ending}",))


def _dtype_of(tuned: torch.Tensor) -> torch.dtype:
    """fp32 for fp32 weights, bf16 for bf16, fp16 for the rest."""
    kept = {torch.float32, torch.float64, torch.bfloat16}
    found = tuned.dtype if tuned.dtype in kept else torch.float16
    return torch.float32 if found == torch.float64 else found


def _dtypes(file: AdapterFile) -> str:
    adapters = (*file.modules.values(), *file.differences.values())
    found = {str(t.dtype).removeprefix("torch.") for each in adapters for t in each.tensors}
    return ", ".join(sorted(found))


def _nothing(parameters: Sequence[Parameter], same: int, dropped: Sequence[Leftover]) -> str:
    if not parameters:
        first = f" First: {dropped[0].key}: {dropped[0].reason}." if dropped else ""
        return f"The two models have no parameter in common.{first} Choose a model and what it was tuned from."
    if same == len(parameters):
        return (
            f"The two models are the same in all {same} parameters: there is nothing to extract. "
            "Was the LoRA that should be in one of them applied live? It is then not in its weights."
        )
    return f"Nothing is left of the difference: '{dropped[0].key}': {dropped[0].reason}."
