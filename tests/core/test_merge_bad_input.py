"""Rows that are too large, empty, damaged or many, under every method: a right result or an error that names the layer."""

from __future__ import annotations

import pytest
import torch

from lora_core.analysis.interference import interference
from lora_core.errors import LoraFileError, MergeError
from lora_core.merge.merge import merge, resize
from lora_core.merge.methods import METHODS
from lora_core.merge.plan import Plan
from lora_core.merge.ranks import RankRule
from tests.core.lora_tensors import pair
from tests.core.merge_rows import delta, low_rank, row, total

NAME = "lora_unet_x"
PAIRS = {"slerp"}  # blends two rows and says so for more
SUMS = ("svd", "concat")


def of_rank(generator, rank: int) -> dict[str, torch.Tensor]:
    return pair(NAME, generator, out=10, inner=8, rank=rank, alpha=float(rank))


def damaged(generator, value: float) -> dict[str, torch.Tensor]:
    tensors = of_rank(generator, 4)
    tensors[f"{NAME}.lora_up.weight"][0, 0] = value
    return tensors


def empty(generator) -> dict[str, torch.Tensor]:
    tensors = of_rank(generator, 4)
    tensors[f"{NAME}.lora_up.weight"] *= 0
    return tensors


@pytest.mark.parametrize("method", METHODS)
def test_ranks_larger_than_the_matrix_fold_into_it(method, generator):
    rows = [row("wide", of_rank(generator, 40), 0.6), row("other", of_rank(generator, 12), -0.3)]
    merged = merge(rows, Plan(method))
    written = merged.file.modules[NAME]
    assert low_rank(written).rank <= 8
    if method in SUMS:
        exact = total([r.model * delta(file.modules[NAME]) for r, file in rows])
        assert float((delta(written) - exact).norm() / exact.norm()) <= 1e-5
    assert merged.certificate.layers[0].ranks_in == (40, 12)
    large = resize(rows[0][1], RankRule("rank", 4096))
    assert low_rank(large.file.modules[NAME]).rank == 8


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_a_damaged_row_is_refused_with_file_and_key_before_anything_is_merged(
    value, method, generator
):
    with pytest.raises(
        LoraFileError, match=rf"bad: '{NAME}.lora_up.weight' holds 1 values that are"
    ):
        merge([row("bad", damaged(generator, value))], Plan(method))


@pytest.mark.parametrize("method", METHODS)
def test_a_row_of_zeros_adds_nothing_and_zeros_alone_leave_nothing(method, generator):
    sound = row("sound", of_rank(generator, 4), 0.7)
    merged = merge([sound, row("zero", empty(generator))], Plan(method))
    assert bool(torch.isfinite(delta(merged.file.modules[NAME])).all())
    if method in SUMS:
        exact = 0.7 * delta(sound[1].modules[NAME])
        torch.testing.assert_close(delta(merged.file.modules[NAME]), exact, rtol=0, atol=1e-5)
    rows = [row(name, empty(generator)) for name in ("a", "b")]
    with pytest.raises(MergeError, match=f"The merge leaves nothing: '{NAME}': it is all zero.$"):
        merge(rows, Plan(method))
    with pytest.raises(MergeError, match="it is all zero"):
        resize(rows[0][1], RankRule("rank", 2))


@pytest.mark.parametrize("method", sorted(set(METHODS) - PAIRS))
def test_hundreds_of_rows_are_one(method, generator):
    rows = [row(f"lora {i}", of_rank(generator, 4), 0.02) for i in range(300)]
    merged = merge(rows, Plan(method))
    written = merged.file.modules[NAME]
    assert low_rank(written).rank <= 8
    if method in SUMS:
        exact = total([0.02 * delta(file.modules[NAME]) for _, file in rows])
        assert float((delta(written) - exact).norm() / exact.norm()) <= 1e-5
    assert len(merged.certificate.rows) == 300
    assert len(merged.certificate.text()) < 40_000


def test_hundreds_of_rows_are_too_many_to_compare_in_pairs(generator):
    rows = [row(f"lora {i}", of_rank(generator, 2)) for i in range(300)]
    with pytest.raises(MergeError, match="300 are switched on; it needs 2 to 16"):
        interference(rows)
