"""Merges, balances and extractions that are refused or leave something out, and what they say of it."""

from __future__ import annotations

import pytest
import torch

from lora_core.adapters import AdapterFile, Difference
from lora_core.analysis.balance import (
    BUDGET,
    KEEP,
    NORMS,
    OVERLAP,
    balance,
    inner_products,
    within,
)
from lora_core.analysis.energy import energies_by_name
from lora_core.analysis.grouped import grouped
from lora_core.analysis.interference import interference
from lora_core.analysis.interference_words import report, sentence
from lora_core.analysis.protection import Protection, consumed, protect
from lora_core.errors import MergeError
from lora_core.files.identity import FileHashes
from lora_core.files.parse import parse_state_dict
from lora_core.fitting import clash
from lora_core.merge.extract import ExtractOrder, Parameter, extract
from lora_core.merge.families import dense_delta
from lora_core.merge.merge import merge
from lora_core.merge.plan import Plan
from lora_core.merge.ranks import RankRule
from lora_core.merge.tensors import low_rank, state_dict
from lora_core.report import inspect_report, page_rows
from lora_core.resolve import resolve
from lora_core.stack.lock import Identified
from lora_core.targets import Target, TargetMap
from tests.core.lora_tensors import pair
from tests.core.merge_rows import delta, exact, factors, row

SVD = Plan("svd", RankRule("rank", 4))
NAMES = ("lora_unet_input_blocks_4_1_proj_in", "lora_unet_output_blocks_3_1_proj_in")
KEYS = tuple(
    f"diffusion_model.{side}_blocks.{number}.1.proj_in.weight"
    for side, number in (("input", 4), ("output", 3))
)
MODEL = TargetMap(
    {name: Target(key) for name, key in zip(NAMES, KEYS, strict=True)},
    dict.fromkeys(KEYS, (24, 20)),
    "SD1.5",
)


def lora(generator, *names, scale=1.0, rank=4):
    """A LoRA on these weights of 24 x 20."""
    tensors = {}
    for name in names:
        made = pair(name, generator, out=24, inner=20, rank=rank, alpha=float(rank))
        tensors |= {key: t if t.dim() == 0 else scale * t for key, t in made.items()}
    return tensors


# Wishes that make no sense


def test_a_wish_that_is_not_on_the_list_is_refused_with_the_list(generator):
    rows = [row("a", lora(generator, *NAMES)), row("b", lora(generator, *NAMES))]
    table = inner_products(rows)
    with pytest.raises(MergeError, match="No way 'best' to set strengths; choose one of as they"):
        balance([each for each, _ in rows], table, "best")
    with pytest.raises(MergeError, match="No side 'left' to protect; choose one of joint, input"):
        Protection(side="left")
    with pytest.raises(MergeError, match="The protection is 150 %; it must be 0 to 100 %"):
        Protection(much=1.5)
    with pytest.raises(MergeError, match="The directions is -5 %; it must be 0 to 100 %"):
        Protection(directions=-0.05)
    with pytest.raises(MergeError, match="The largest rank is 0; it must be 1 or more"):
        ExtractOrder(most=0)


def test_only_low_rank_adapters_are_written_as_a_merge(generator):
    names = [f"m.hada_w{side}_{part}" for side in "12" for part in "ab"]
    shapes = [(6, 2), (2, 5)] * 2
    loha = {
        name: torch.randn(shape, generator=generator)
        for name, shape in zip(names, shapes, strict=True)
    }
    file = parse_state_dict(loha, "loha")
    with pytest.raises(MergeError, match="'m' is no low-rank adapter and cannot be written as one"):
        state_dict(file)
    left, right = (
        loha["m.hada_w1_a"] @ loha["m.hada_w1_b"],
        loha["m.hada_w2_a"] @ loha["m.hada_w2_b"],
    )
    dense = dense_delta(file.modules["m"])  # pyright: ignore[reportArgumentType]
    assert torch.allclose(dense, left * right, atol=1e-5)


def test_biases_of_other_lengths_are_not_summed():
    rows = [row(name, {"m.diff_b": torch.ones(size)}) for name, size in (("a", 4), ("b", 5))]
    with pytest.raises(
        MergeError, match=r"'m': 'b' has a difference of shape \(5,\), another row one of"
    ):
        merge(rows, SVD)


def test_a_bias_of_a_row_that_does_not_act_on_its_part_is_dropped_with_the_reason(generator):
    tensors = pair("lora_unet_m", generator) | {"lora_te_m.diff_b": torch.ones(4)}
    done = merge([row("a", tensors, model=1.0, clip=0.0)], SVD)
    assert not done.file.differences
    (dropped,) = done.certificate.dropped
    assert dropped.key == "lora_te_m.diff_b"
    assert dropped.reason == "every row that has it acts on this part with strength 0"


def test_names_that_the_model_lacks_are_paired_by_spelling_and_said(generator):
    rows = [row(name, lora(generator, *NAMES, "lora_unet_elsewhere")) for name in ("a", "b")]
    done = merge(rows, SVD, MODEL)
    assert any(
        "not in the connected model and were paired by spelling, first 'lora_unet_elsewhere'"
        in note
        for note in done.certificate.notes
    )
    assert "lora_unet_elsewhere" in done.file.modules


def test_factors_whose_inner_shape_is_not_known_are_written_as_a_matrix(generator):
    made = factors(generator, 6, 12, 2)
    adapter = low_rank("m", made, (3, 3, 3), torch.float32)
    assert adapter.down.shape == (2, 12)
    assert torch.allclose(delta(adapter), exact(made), atol=1e-5)
    kernel = low_rank("m", made, (3, 2, 2), torch.float32)
    assert (kernel.down.shape, kernel.up.shape) == ((2, 3, 2, 2), (6, 2, 1, 1))


def test_the_middle_of_a_tucker_lora_is_written_too(generator):
    tensors = {
        "m.lora_up.weight": torch.randn(6, 2, 1, 1, generator=generator),
        "m.lora_down.weight": torch.randn(2, 5, 1, 1, generator=generator),
        "m.lora_mid.weight": torch.randn(2, 2, 3, 3, generator=generator),
    }
    written = state_dict(parse_state_dict(tensors, "tucker"))
    assert {key: t.shape for key, t in written.items()} == {
        key: t.shape for key, t in tensors.items()
    }


# Extraction


def parameter(tuned, base, name="diffusion_model.x", kind="weight"):
    return Parameter(name, kind, tuple(tuned.shape), lambda: (tuned, base))


def test_a_difference_that_the_rule_leaves_nothing_of_is_said(generator):
    base = torch.randn(8, 8, generator=generator)
    nothing = parameter(base + 1e-30, base)  # below one step of float32: the sums are the same
    with pytest.raises(
        MergeError, match="the same in all 1 parameters: there is nothing to extract"
    ):
        extract([nothing], ExtractOrder(), "t")
    wild = parameter(torch.full((8, 8), float("nan")), base)
    with pytest.raises(
        MergeError, match=r"Nothing is left of the difference: '.*x\.weight': it has"
    ):
        extract([wild], ExtractOrder(), "t")


def test_what_float32_cannot_tell_apart_counts_as_the_same(generator):
    base = torch.randn(8, 8, generator=generator).double()
    fine = parameter(base * (1 + 1e-15), base)
    changed = parameter(base.float() + 1, base.float(), "diffusion_model.y")
    done = extract([fine, changed], ExtractOrder(RankRule("rank", 1), 4), "t")
    assert set(done.file.modules) == {"diffusion_model.y"}
    assert done.certificate.notes == ("1 of 2 parameters are the same in both models",)


# Balance


def test_strengths_are_kept_turned_down_or_evened_out(generator):
    tensors = lora(generator, *NAMES)
    rows = [
        row("style", tensors, model=0.8, role="style"),
        row("copy", {key: t.clone() for key, t in tensors.items()}, model=0.8, role="character"),
    ]
    table = inner_products(rows, MODEL)
    before = [each for each, _ in rows]
    assert balance(before, table, KEEP).rows == tuple(before)
    # Two rows that are the same: each is met with twice its strength, so both go to half.
    halved = balance(before, table, OVERLAP)
    assert [each.model for each in halved.rows] == pytest.approx([0.4, 0.4], abs=2e-3)
    assert halved.said[0].endswith("(the rows add to each other there)")
    held = balance(before, table, BUDGET, 1.25)
    assert held.rows[1].model == 0.8
    assert held.rows[0].model == pytest.approx(0.2, abs=1e-3)
    assert held.said == ("style: model strength 0.8 -> 0.2 (the sum is held to 1.25 of the length of one row)",)  # fmt: skip
    assert balance(before, table, BUDGET, 2.0).rows == tuple(before)


def test_norms_need_to_know_the_blocks_and_even_a_row_out_over_them(generator):
    style = {
        **lora(generator, NAMES[0], scale=1.2),
        **lora(generator, NAMES[1], scale=0.8),
    }
    rows = [row("style", style, role="style"), row("character", lora(generator, *NAMES), role="character")]  # fmt: skip
    bare = [each for each, _ in rows]
    with pytest.raises(MergeError, match="Connect MODEL, or choose another way"):
        balance(bare, inner_products(rows), NORMS)
    done = balance(bare, inner_products(rows, MODEL), NORMS)
    assert done.rows[1] == bare[1]
    assert "IN04=" in done.rows[0].blocks
    assert done.said[0].startswith("style: block strengths ")
    table = inner_products([(done.rows[0], rows[0][1]), rows[1]], MODEL)
    lengths = {block: found.diagonal().sqrt() for block, found in table.blocks.items()}
    ratios = [float(found[0] / found[1]) for found in lengths.values()]
    assert ratios[0] == pytest.approx(ratios[1], rel=0.02)


def test_a_budget_above_zero_holds_rows_without_a_character_too():
    products = torch.tensor([[4.0, 4.0], [4.0, 4.0]], dtype=torch.float64)
    with pytest.raises(MergeError, match="The budget is 0; it must be above 0, for example 1.25"):
        within(products, [1.0, 1.0], ["free", "free"], 0)
    found = within(products, [1.0, 1.0], ["free", "free"], 1.0)
    assert found == pytest.approx([0.5, 0.5])


def test_protection_tells_its_progress_and_which_tensors_it_took(generator):
    rows = [row(name, lora(generator, *NAMES), role=name) for name in ("style", "character")]
    told = []
    (changed,) = protect(
        rows, Protection(), MODEL, progress=lambda done, of: told.append((done, of))
    )
    assert told == [(1, 2), (2, 2)]
    taken = consumed(rows[0][1], changed.replaced)
    assert taken == set(lora(generator, *NAMES))
    whole = AdapterFile("w", {}, differences={("m", "weight"): Difference(torch.ones(2, 2), "weight", ("m.diff",))})  # fmt: skip
    assert consumed(whole, ["m", "elsewhere"]) == {"m.diff"}


# Interference


def test_what_has_no_update_of_its_own_is_listed_as_not_measured(generator):
    extra = {f"m{n}.set_weight": torch.ones(3, 3) for n in range(30)}
    wide = {"lora_unet_wide.diff": torch.randn(24, 20, generator=generator)}
    rows = [
        row("a", lora(generator, NAMES[0]) | wide | extra),
        row("b", lora(generator, NAMES[0]) | {k: 2 * t for k, t in wide.items()}),
    ]
    found = interference(rows)
    lines = report(found).splitlines()
    assert f"not measured: {len(found.not_measured)}" in lines
    assert len(found.not_measured) == 30
    assert lines[-1].strip().startswith("and ")
    assert lines[-1].endswith(" more")
    (one,) = found.pairs
    # The whole matrices are the same up to a factor.
    assert max(cell.cosine for cell in one.cells.values()) == pytest.approx(1.0, abs=1e-5)


def test_rows_without_a_common_weight_cannot_interfere(generator):
    rows = [row(name, lora(generator, on)) for name, on in zip("ab", NAMES, strict=True)]
    found = interference(rows)
    assert sentence(found).startswith("The rows have no weight in common")
    assert "a and b: no weight in common" in report(found)
    assert len(grouped(rows, None, None)) == 2


# Adapters that do not fit, and what is said of a file


@pytest.mark.parametrize(
    ("tensors", "shape", "said"),
    [
        (
            {"m.lora_up.weight": (6, 2), "m.lora_down.weight": (2, 5), "m.dora_scale": (1, 4)},
            (6, 5),
            "the magnitude has 4 numbers, the model's weight has 5 of that axis",
        ),
        (
            {"m.a1.weight": (4, 2), "m.a2.weight": (2, 4), "m.b1.weight": (6, 2), "m.b2.weight": (2, 5)},
            (6, 5),
            "the LoRA mixes 4 inputs, the model's weight has 5",
        ),
    ],
    ids=["DoRA", "GLoRA"],
)  # fmt: skip
def test_inner_parts_that_do_not_fit_a_weight_are_said(tensors, shape, said):
    file = parse_state_dict({key: torch.ones(size) for key, size in tensors.items()}, "odd")
    words = clash(file.modules["m"], shape)
    assert words is not None
    assert said in words


def test_a_lora_that_grows_a_weight_must_reach_its_new_shape(generator):
    tensors = pair("m", generator, out=6, inner=8) | {"m.reshape_weight": torch.tensor([6, 8])}
    (adapter,) = parse_state_dict(tensors, "grown").modules.values()
    assert clash(adapter, (6, 5)) is None
    assert clash(adapter, (6, 9)) == "the LoRA grows the weight to 6 x 8 and makes 6 x 8, the model's weight is 6 x 9"  # fmt: skip


def test_the_report_of_a_file_tells_differences_facts_and_how_it_fits(generator):
    tensors = lora(generator, *NAMES) | {"lora_unet_m.diff_b": torch.ones(3)}
    file = parse_state_dict(tensors, "style", {"modelspec.author": "Ada"})
    stacked, _ = row("style", tensors)
    _, account = resolve([(stacked, file)], MODEL, None)
    text = inspect_report(file, account)
    assert "whole differences: 1 of weights and biases" in text
    assert "what is said about it:" in text
    assert "Ada" in text
    assert "on the connected model:" in text
    (told,) = account.rows
    item = Identified(told.row, "style", FileHashes("0" * 64, None), "SD1.5")
    (listed,) = page_rows([item], account)
    assert (listed["base"], listed["model_base"]) == ("SD1.5", told.model_base)
    assert listed["warnings"]
    (unknown,) = page_rows([item], None)
    assert (unknown["model_base"], unknown["warnings"]) == (None, [])


def test_energy_by_name_and_dense_delta_agree(generator):
    file = parse_state_dict(lora(generator, NAMES[0]), "one")
    (adapter,) = file.modules.values()
    dense = dense_delta(adapter)  # pyright: ignore[reportArgumentType]
    (found,) = energies_by_name(file).blocks
    assert found.energy == pytest.approx(float(dense.double().square().sum()), rel=1e-5)
