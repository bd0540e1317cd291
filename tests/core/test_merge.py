"""Files into one file: the sum is the stack's, odd rows are handled or refused, nothing goes missing in silence."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from lora_core.errors import MergeError
from lora_core.files.parse import parse_state_dict
from lora_core.merge.merge import merge, resize, with_choices
from lora_core.merge.methods import METHODS
from lora_core.merge.plan import Plan
from lora_core.merge.ranks import RankRule
from lora_core.merge.tensors import file_bytes, state_dict
from lora_core.merge.weight import Parameters
from lora_core.stack.blockpresets import Preset, known_presets
from lora_core.targets import Target, TargetMap
from tests.core.lora_tensors import pair
from tests.core.merge_rows import delta, low_rank, row, total
from tests.core.model_names import CONTEXT, SD15, WIDTH
from tools.family_formulas import expected as by_formula
from tools.family_tensors import CASES, MAKERS, SHAPES, Draw, named

LINEAR, CONV, TEXT = "lora_unet_a_to_q", "lora_unet_resnet_conv1", "lora_te_text_model_mlp_fc1"


@pytest.fixture
def style(generator):
    """Rank 4 with alpha 2: a matrix, a convolution and a text encoder's matrix."""
    return (
        pair(LINEAR, generator, out=20, inner=16, rank=4, alpha=2.0)
        | pair(CONV, generator, out=12, inner=8, rank=4, kernel=(3, 3), alpha=2.0)
        | pair(TEXT, generator, out=20, inner=16, rank=4, alpha=2.0)
    )


@pytest.fixture
def character(generator):
    """Rank 6 without alpha: the same matrix and convolution, and one of its own."""
    return (
        pair(LINEAR, generator, out=20, inner=16, rank=6)
        | pair(CONV, generator, out=12, inner=8, rank=6, kernel=(3, 3))
        | pair("lora_unet_b_to_k", generator, out=20, inner=16, rank=6)
    )


@pytest.fixture
def both(style, character):
    return [row("style", style, 0.8, 0.5, "style"), row("character", character, -0.6, 1.0)]


def summed(rows, name: str) -> torch.Tensor:
    """The exact weighted sum of a module over rows, float64."""
    return total(
        (stack_row.clip if name.startswith("lora_te") else stack_row.model)
        * delta(file.modules[name])
        for stack_row, file in rows
        if name in file.modules
    )


def reread(merged):
    """The result as a file gives it back."""
    return parse_state_dict(state_dict(merged.file), "merged")


@pytest.mark.parametrize("method", ["concat", "svd"])
def test_a_merge_is_the_stack_at_its_strengths(method, both):
    merged = merge(both, Plan(method))
    again = reread(merged)
    assert set(again.modules) == {LINEAR, CONV, TEXT, "lora_unet_b_to_k"}
    for name, module in again.modules.items():
        expected = summed(both, name)
        error = float((delta(module) - expected).norm() / expected.norm())
        assert error <= 2e-6
        assert module.alpha == module.rank
    assert again.modules[LINEAR].rank == 10
    assert low_rank(again.modules[CONV]).up.shape == (12, 10, 1, 1)
    assert low_rank(again.modules[CONV]).down.shape == (10, 8, 3, 3)
    assert merged.certificate.error <= 2e-6


def test_a_truncated_merge_is_the_best_of_its_rank(both):
    merged = merge(both, Plan("svd", RankRule("rank", 3)))
    for name, module in reread(merged).modules.items():
        expected = summed(both, name)
        error = float((delta(module) - expected).norm())
        best = float(torch.linalg.svdvals(expected)[3:].norm())
        assert error == pytest.approx(best, rel=1e-6)
        assert module.rank == 3


@pytest.mark.parametrize("method", METHODS)
def test_every_method_gives_a_file_that_reads_back_and_says_its_true_error(method, both):
    plan = with_choices(Plan(method, RankRule("rank", 5)), "a_to_q: style", both)
    merged = merge(both, plan)
    again = reread(merged)
    assert set(again.modules) == {LINEAR, CONV, TEXT, "lora_unet_b_to_k"}
    for record in merged.certificate.layers:
        expected = summed(both, record.name)
        written = delta(again.modules[record.name])
        error = float((written - expected).norm() / expected.norm())
        assert record.error == pytest.approx(error, rel=1e-4, abs=1e-7)
        assert record.rank_out == again.modules[record.name].rank
    limit = 10 if METHODS[method].keeps_all else 5
    assert max(low_rank(module).rank for module in again.modules.values()) <= limit


@pytest.mark.parametrize("method", METHODS)
def test_the_same_rows_give_the_same_bytes_and_the_seed_counts(method, both):
    def tensors(seed: int):
        return state_dict(merge(both, Plan(method, RankRule("rank", 5), seed=seed)).file)

    first, again, other = tensors(1), tensors(1), tensors(2)
    assert all(torch.equal(first[key], again[key]) for key in first)
    changed = not all(torch.equal(first[key], other[key]) for key in first)
    assert changed == (method in ("dare_linear", "dare_ties", "della"))


def test_a_weight_of_one_row_is_its_scaled_self_whatever_the_method(both):
    for method in set(METHODS) - {"blockwise"}:
        merged = merge(both, Plan(method, parameters=Parameters(density=0.1, epsilon=0.05)))
        written = delta(reread(merged).modules["lora_unet_b_to_k"])
        torch.testing.assert_close(written, summed(both, "lora_unet_b_to_k"), rtol=0, atol=1e-5)


def test_a_block_given_to_a_row_that_has_nothing_for_it_is_dropped_and_said(both):
    merged = merge(both, with_choices(Plan("blockwise"), "b_to_k: style", both))
    assert "lora_unet_b_to_k" not in merged.file.modules
    (gone,) = merged.certificate.dropped
    assert (gone.key, gone.reason) == ("lora_unet_b_to_k", "the method leaves nothing of it")
    (record,) = [r for r in merged.certificate.layers if r.name == "lora_unet_b_to_k"]
    assert (record.rank_out, record.error) == (0, 1.0)


def test_a_row_minus_itself_leaves_nothing_and_says_so(style):
    rows = [row("a", style, 1.0, 1.0), row("b", style, -1.0, 0.5)]
    merged = merge(rows, Plan("svd"))
    assert set(merged.file.modules) == {TEXT}
    reasons = {item.key: item.reason for item in merged.certificate.dropped}
    assert reasons == dict.fromkeys((LINEAR, CONV), "the rows cancel each other")
    with pytest.raises(MergeError, match="leaves nothing: 'lora_unet_a_to_q': the rows cancel"):
        merge([row("a", style, 1.0, 1.0), row("b", style, -1.0, -1.0)], Plan("concat"))


def test_a_strength_of_nothing_takes_that_part_out(style, character):
    merged = merge([row("style", style, 0.8, 0.0), row("character", character)], Plan("concat"))
    assert TEXT not in merged.file.modules
    assert merged.certificate.dropped[0].reason.endswith("with strength 0")
    with pytest.raises(MergeError, match="no row is switched on"):
        merge([row("style", style, 0.0, 0.0)], Plan("concat"))


def test_norms_and_biases_are_weighted_sums(style, character):
    style |= {"lora_unet_n.w_norm": torch.ones(5), "lora_unet_a_to_q.diff_b": torch.ones(20)}
    character |= {"lora_unet_n.diff": torch.full((5,), 2.0)}
    rows = [row("style", style, 0.5), row("character", character, 2.0)]
    merged = merge(rows, Plan("ties", RankRule("rank", 4)))
    again = reread(merged).differences
    assert again["lora_unet_n", "weight"].tensor.tolist() == [4.5] * 5
    assert again["lora_unet_a_to_q", "bias"].tensor.tolist() == [0.5] * 20
    assert merged.certificate.plain == 2


def test_a_whole_difference_of_a_matrix_meets_low_rank_factors(style, generator):
    whole = torch.randn(20, 16, generator=generator)
    merged = merge(
        [row("style", style), row("full", {f"{LINEAR}.diff": whole}, 0.5)], Plan("concat")
    )
    written = delta(reread(merged).modules[LINEAR])
    expected = delta(row("", style)[1].modules[LINEAR]) + 0.5 * whole.double()
    torch.testing.assert_close(written, expected, rtol=0, atol=1e-4)
    assert not merged.file.differences


def test_split_projections_take_their_place_in_a_fused_weight(generator):
    fused = pair("lora_unet_qkv", generator, out=18, inner=5, rank=2)
    split = {
        key: tensor
        for part in "qv"
        for key, tensor in pair(f"transformer.to_{part}", generator, out=6, rank=3).items()
    }
    targets = TargetMap(
        {"lora_unet_qkv": Target("qkv.weight")}
        | {f"transformer.to_{p}": Target("qkv.weight", (0, 6 * i, 6)) for i, p in enumerate("qkv")},
        {"qkv.weight": (18, 5)},
    )
    rows = [row("fused", fused), row("split", split, 0.7)]
    merged = merge(rows, Plan("concat"), model=targets)
    expected = delta(rows[0][1].modules["lora_unet_qkv"])
    expected[:6] += 0.7 * delta(rows[1][1].modules["transformer.to_q"])
    expected[12:] += 0.7 * delta(rows[1][1].modules["transformer.to_v"])
    written = delta(reread(merged).modules["lora_unet_qkv"])
    torch.testing.assert_close(written, expected, rtol=0, atol=1e-5)


def test_rows_of_other_shapes_or_bases_are_refused_by_name(style, generator):
    wide = pair(LINEAR, generator, out=20, inner=18)
    said = "'lora_unet_a_to_q': 'style' makes 20 x 16, 'wide' 20 x 18"
    with pytest.raises(MergeError, match=said):
        merge([row("style", style), row("wide", wide)], Plan("svd"))
    names = {"ss_base_model_version": "sdxl_base_v1-0"}, {"ss_base_model_version": "sd_v1"}
    rows = [row(f"lora{i}", style, metadata=said) for i, said in enumerate(names)]
    with pytest.raises(MergeError, match="'lora0' is for SDXL, 'lora1' for SD1.5"):
        merge(rows, Plan("svd"))


def test_many_rows_fold_into_what_the_matrix_holds(generator):
    rows = [
        row(f"lora{i}", pair("lora_unet_x", generator, out=10, inner=8, rank=4), 0.1)
        for i in range(60)
    ]
    merged = merge(rows, Plan("concat"))
    assert merged.file.modules["lora_unet_x"].rank == 8
    assert merged.certificate.error <= 1e-5


def test_half_precision_keeps_weak_and_lopsided_layers(generator):
    """A layer of 1e-5, with up far smaller than down: halves must not underflow."""
    tensors = pair(LINEAR, generator, out=20, inner=16, rank=4)
    tensors[f"{LINEAR}.lora_up.weight"] *= 1e-7
    tensors[f"{LINEAR}.lora_down.weight"] *= 1e2
    merged = merge([row("weak", tensors)], Plan("concat", dtype=torch.float16))
    assert merged.certificate.error <= 1e-3
    strong = {key: tensor * 1e5 for key, tensor in tensors.items()} | {
        f"{LINEAR}.lora_up.weight": torch.full((20, 4), 1e7)
    }
    with pytest.raises(MergeError, match="too large for float16 after the merge. Choose fp32"):
        merge([row("strong", strong)], Plan("concat", dtype=torch.float16))


def test_a_power_of_two_scale_loses_nothing_in_half_precision(style):
    halves = {key: tensor.half() for key, tensor in style.items()}
    merged = merge([row("half", halves)], Plan("concat"))
    assert low_rank(merged.file.modules[LINEAR]).up.dtype == torch.float16
    assert merged.certificate.error <= 1e-7


def test_resizing_to_a_size_stays_within_it(both):
    tensors = state_dict(merge(both, Plan("concat")).file)
    file = row("merged", tensors)[1]
    for megabytes in (0.002, 0.004, 0.008):
        small = resize(file, RankRule("size", megabytes))
        assert file_bytes(small.file) <= megabytes * 1e6
        assert small.certificate.what == "resize"
    with pytest.raises(MergeError, match="has no room for a single rank"):
        resize(file, RankRule("size", 0.0001))


def test_resizing_to_a_rank_that_is_not_less_changes_no_number(style):
    file = row("style", style)[1]
    same = resize(file, RankRule("rank", 9))
    assert same.certificate.error <= 1e-7
    assert same.file.modules[LINEAR].rank == 4


def test_progress_counts_every_weight_and_may_end_the_merge(both):
    seen = []
    merge(both, Plan("svd"), progress=lambda done, of: seen.append((done, of)))
    assert seen == [(i, 4) for i in range(1, 5)]

    def interrupt(done: int, of: int) -> None:
        raise InterruptedError

    with pytest.raises(InterruptedError):
        merge(both, Plan("svd"), progress=interrupt)


def test_a_method_that_is_not_there_is_refused():
    with pytest.raises(MergeError, match="No merge method 'mean'; choose one of svd, concat"):
        Plan("mean")


REFUSED = {"glora", "glora_old", "oft", "oft_constrained", "boft", "ia3_output", "ia3_input"}
REFUSED |= {"ia3_peft", "replacement", "dora_output", "dora_input", "dora_loha", "dora_peft"}


@pytest.mark.parametrize(("kind", "layer"), CASES)
def test_every_family_that_adds_a_delta_is_merged_and_the_others_are_refused(kind, layer):
    shape, draw = SHAPES[layer], Draw(3)
    tensors = MAKERS[kind](shape, draw)
    other = MAKERS["lora"](shape, draw)
    rows = [
        row("odd", named("lora_unet_w", tensors), 0.7),
        row("plain", named("lora_unet_w", other), -0.4),
    ]
    if kind in REFUSED:
        with pytest.raises(
            MergeError, match="'odd': 'lora_unet_w' cannot be merged: .* Connect the MODEL"
        ):
            merge(rows, Plan("svd"))
        return
    merged = merge(rows, Plan("concat"))
    none = torch.zeros(shape)
    expected = 0.7 * by_formula(kind, none, tensors) - 0.4 * by_formula("lora", none, other)
    written = delta(reread(merged).modules["lora_unet_w"])
    assert float((written - expected.reshape(written.shape)).norm() / expected.norm()) <= 2e-6


def test_block_strengths_act_in_the_merge_and_need_the_model(generator):
    name = "lora_unet_{}_1_transformer_blocks_0_attn2_to_k"
    tensors = pair(name.format("input_blocks_4"), generator, out=WIDTH, inner=CONTEXT)
    tensors |= pair(name.format("output_blocks_5"), generator, out=WIDTH, inner=CONTEXT)
    plain = row("lora", tensors)
    rows = [(replace(plain[0], blocks="IN04=0.5"), plain[1])]
    merged = merge(rows, Plan("concat"), model=SD15)
    for block, factor in (("input_blocks_4", 0.5), ("output_blocks_5", 1.0)):
        written = delta(reread(merged).modules[name.format(block)])
        expected = factor * delta(plain[1].modules[name.format(block)])
        torch.testing.assert_close(written, expected, rtol=0, atol=1e-5)
    with pytest.raises(MergeError, match="'lora' has block strengths.* Connect MODEL"):
        merge(rows, Plan("concat"))


@pytest.mark.parametrize("odd", ["dora_scale", "set_weight"])
def test_a_bias_of_the_same_name_hides_no_module_that_cannot_be_merged(odd, generator):
    tensors = {f"{LINEAR}.{odd}": torch.ones(20, 16 if odd == "set_weight" else 1)}
    if odd == "dora_scale":
        tensors |= pair(LINEAR, generator, out=20, inner=16)
    tensors[f"{LINEAR}.diff_b"] = torch.ones(20)
    with pytest.raises(MergeError, match="cannot be merged"):
        merge([row("odd", tensors)], Plan())


def test_a_preset_of_ones_own_means_the_same_in_the_merge_as_where_the_row_is_applied(generator):
    name = "lora_unet_input_blocks_4_1_transformer_blocks_0_attn2_to_k"
    label, file = row("lora", pair(name, generator, out=WIDTH, inner=CONTEXT))
    own = known_presets({"mine": Preset("IN04=0.25"), "SD-ALL": Preset("*=0.5")})
    for said, factor in (("mine", 0.25), ("SD-ALL", 0.5)):
        rows = [(replace(label, blocks=said), file)]
        merged = merge(rows, Plan("concat"), model=SD15, presets=own)
        written = delta(reread(merged).modules[name])
        torch.testing.assert_close(written, factor * delta(file.modules[name]), rtol=0, atol=1e-5)


def test_what_a_file_cannot_hold_of_a_row_is_said(generator):
    label, file = row("lora", pair(LINEAR, generator, out=20, inner=16))
    rows = [(replace(label, schedule="0@0,1@1", regions=("here",)), file)]
    notes = merge(rows, Plan()).certificate.notes
    assert [note.split(" are not")[0] for note in notes] == ["schedules", "regions"]
