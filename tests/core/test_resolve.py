"""Which factors go onto which weight; what does not fit is refused or listed, never dropped."""

from __future__ import annotations

import gc
import weakref

import pytest
import torch

from lora_core.adapters import AdapterFile
from lora_core.algebra.lowrank import delta
from lora_core.errors import MatchError
from lora_core.files.parse import parse_state_dict
from lora_core.matching import MATCHING
from lora_core.resolve import resolve
from lora_core.stack.rows import StackRow
from lora_core.targets import Target, TargetMap
from tests.core.lora_tensors import as_delta, low_rank, pair

MODEL = TargetMap(
    names={
        "lora_unet_a": Target("a.weight"),
        "lora_unet_conv": Target("conv.weight"),
        "transformer.to_k": Target("qkv.weight", (0, 6, 6)),
        "lora_unet_gone": Target("gone.weight"),
        "alias_of_a": Target("a.weight"),
    },
    shapes={"a.weight": (6, 5), "conv.weight": (6, 5, 3, 3), "qkv.weight": (18, 5)},
    base="SD1.5",
)
CLIP = TargetMap(names={"lora_te_x": Target("x.weight")}, shapes={"x.weight": (6, 5)})


def lora(generator: torch.Generator, *modules: str, **options) -> AdapterFile:
    tensors = {}
    for module in modules:
        tensors |= pair(module, generator, **options)
    return parse_state_dict(tensors, "lora.safetensors")


def ranks(steps) -> list[int]:
    """The rank of every term of the one product that the steps are."""
    ((kind, (ups, _), _),) = steps
    assert kind == "low_rank"
    return [up.shape[1] for up in ups]


def test_a_stack_becomes_one_sum_per_weight(generator):
    first, second = (
        lora(generator, "lora_unet_a", alpha=1.5),
        lora(generator, "lora_unet_a", rank=2),
    )
    rows = [(StackRow("1", 0.8, 0.0), first), (StackRow("2", -0.3, 0.0), second)]
    resolved, account = resolve(rows, MODEL, None)
    exact = 0.8 * delta(low_rank(first, "lora_unet_a"), torch.float64)
    exact -= 0.3 * delta(low_rank(second, "lora_unet_a"), torch.float64)
    assert list(resolved.model.steps) == [Target("a.weight")]
    torch.testing.assert_close(as_delta(resolved.model.steps[Target("a.weight")], 6, 5), exact)
    assert [row.model.matched for row in account.rows] == [1, 1]
    assert not account.warnings


def test_model_and_text_encoder_take_their_own_strength(generator):
    both = lora(generator, "lora_unet_a", "lora_te_x", alpha=3.0)
    resolved, account = resolve([(StackRow("1", 0.5, 0.25), both)], MODEL, CLIP)
    ((_, _, on_model),) = resolved.model.steps[Target("a.weight")]
    ((_, _, on_clip),) = resolved.clip.steps[Target("x.weight")]
    assert (on_model, on_clip) == ((0.5,), (0.25,))
    assert account.rows[0].line().startswith("1 of 1 model keys, 1 of 1 text-encoder keys")


def test_a_strength_of_zero_patches_nothing_but_is_accounted_for(generator):
    both = lora(generator, "lora_unet_a", "lora_te_x")
    resolved, account = resolve([(StackRow("1", 0.0, 1.0), both)], MODEL, CLIP)
    assert not resolved.model.steps
    assert list(resolved.clip.steps) == [Target("x.weight")]
    assert account.rows[0].model.matched == 1


def test_a_slice_of_a_fused_weight_is_matched_by_its_own_shape(generator):
    resolved, _ = resolve([(StackRow("1"), lora(generator, "transformer.to_k"))], MODEL, None)
    assert list(resolved.model.steps) == [Target("qkv.weight", (0, 6, 6))]


def test_a_convolution_matches_by_its_kernel(generator):
    resolved, _ = resolve(
        [(StackRow("1"), lora(generator, "lora_unet_conv", kernel=(3, 3)))], MODEL, None
    )
    ((step,),) = resolved.model.steps.values()
    _, (_, downs), _ = step
    assert downs[0].shape == (3, 45)


def test_text_encoder_keys_without_a_clip_are_reported_and_never_an_error(generator):
    both = lora(generator, "lora_unet_a", "lora_te_x")
    for matching in MATCHING:
        resolved, account = resolve([(StackRow("1"), both)], MODEL, None, matching)
        assert not resolved.clip.steps
        assert account.warnings == ("1: no CLIP connected: its 1 keys were left aside",)


def test_a_text_encoder_lora_without_a_clip_is_no_error(generator):
    _, account = resolve([(StackRow("1"), lora(generator, "lora_te_x"))], MODEL, None)
    assert account.rows[0].not_connected == ("CLIP",)


def test_a_few_leftovers_warn_with_every_key_and_its_reason(generator):
    some = lora(generator, "lora_unet_a", "transformer.to_k", "lora_unet_b", "lora_unet_gone")
    resolved, account = resolve([(StackRow("1"), some)], MODEL, None)
    assert list(resolved.model.steps) == [Target("a.weight"), Target("qkv.weight", (0, 6, 6))]
    assert [left.key for left in account.rows[0].unmatched] == ["lora_unet_b", "lora_unet_gone"]
    assert all(left.key in account.report() for left in account.rows[0].unmatched)


def test_strict_refuses_what_auto_warns_about(generator):
    some = lora(generator, "lora_unet_a", "lora_unet_b")
    with pytest.raises(
        MatchError, match=r"style: 1 of its keys are left over, first 'lora_unet_b'"
    ):
        resolve([(StackRow("style"), some)], MODEL, None, "strict")


def test_a_clash_of_shapes_is_refused_with_both_shapes(generator):
    with pytest.raises(
        MatchError, match=r"'lora_unet_a': the LoRA makes 7 x 5, the model's weight is 6 x 5"
    ):
        resolve([(StackRow("1"), lora(generator, "lora_unet_a", out=7))], MODEL, None)


def test_partial_applies_what_fits_and_lists_the_rest(generator):
    mixed = lora(generator, "lora_unet_a")
    tensors = (
        pair("lora_unet_a", generator)
        | pair("lora_unet_conv", generator, out=9)
        | pair("nowhere", generator)
    )
    wide = parse_state_dict(tensors, "x")
    resolved, account = resolve(
        [(StackRow("1"), mixed), (StackRow("2"), wide)], MODEL, None, "partial"
    )
    assert ranks(resolved.model.steps[Target("a.weight")]) == [3, 3]
    assert [item.key for item in account.rows[1].clashes] == ["lora_unet_conv"]
    assert [item.key for item in account.rows[1].unmatched] == ["nowhere"]


def test_most_of_a_file_left_over_is_refused_and_says_how_much(generator):
    mostly = lora(generator, "lora_unet_a", "nowhere.1", "nowhere.2")
    with pytest.raises(MatchError, match=r"most of its keys do not fit .*1 of 3 model keys"):
        resolve([(StackRow("1"), mostly)], MODEL, None)


def test_modules_of_a_family_that_is_not_read_count_as_keys_of_the_file(generator):
    tensors = pair("lora_unet_a", generator)
    for name in ("lora_unet_x", "lora_unet_y"):
        tensors |= pair(name, generator) | {f"{name}.vera_lambda_b": torch.ones(6)}
    mixed = parse_state_dict(tensors, "x")
    with pytest.raises(MatchError, match=r"1 of 3 model keys"):
        resolve([(StackRow("1"), mixed)], MODEL, None)


def test_text_encoder_keys_that_match_do_not_hide_a_model_half_that_does_not(generator):
    both = lora(generator, "nowhere", "lora_te_x")
    for clip in (CLIP, None):
        with pytest.raises(MatchError, match="0 of 1 model keys"):
            resolve([(StackRow("1"), both)], MODEL, clip)


def test_a_stray_key_in_a_text_encoder_lora_without_clip_is_no_error(generator):
    stray = parse_state_dict(pair("lora_te_x", generator) | {"stray": torch.ones(1)}, "x")
    _, account = resolve([(StackRow("1", 1.0, 0.0), stray)], MODEL, None)
    assert account.rows[0].not_connected == ("CLIP",)


def test_a_file_of_unknown_keys_alone_is_refused(generator):
    strange = parse_state_dict({"stray": torch.ones(1)}, "x")
    with pytest.raises(MatchError, match="first 'stray': not a name that any LoRA format uses"):
        resolve([(StackRow("1"), strange)], MODEL, None)


def test_whole_differences_go_onto_their_weight_and_bias(generator):
    """Core's trainer writes diff_b beside every low-rank layer that has a bias, and diff for norms."""
    targets = TargetMap(
        names={**MODEL.names, "lora_unet_norm": Target("norm.weight")},
        shapes={**MODEL.shapes, "a.bias": (6,), "norm.weight": (5,), "qkv.bias": (18,)},
    )
    tensors = pair("lora_unet_a", generator) | pair("transformer.to_k", generator)
    tensors |= {
        "lora_unet_a.diff_b": torch.full((6,), 2.0),
        "lora_unet_norm.diff": torch.full((5,), 3.0),
        "transformer.to_k.diff_b": torch.full((6,), 4.0),
    }
    file = parse_state_dict(tensors, "x")
    resolved, account = resolve(
        [(StackRow("1", 0.5), file), (StackRow("2", 1.0), file)], targets, None, "strict"
    )
    assert account.rows[0].line().startswith("2 of 2 model keys")
    differences = {
        target: as_delta(steps, *(targets.shape_of(target) or ())).tolist()
        for target, steps in resolved.model.steps.items()
        if steps[0][0] == "difference"
    }
    assert differences == {
        Target("a.bias"): [3.0] * 6,
        Target("norm.weight"): [4.5] * 5,
        Target("qkv.bias", (0, 6, 6)): [6.0] * 6,
    }


def test_a_difference_of_another_shape_is_a_clash(generator):
    file = parse_state_dict(
        pair("lora_unet_a", generator) | {"lora_unet_a.diff": torch.ones(5, 6)}, "x"
    )
    with pytest.raises(MatchError, match="makes 5 x 6, the model's weight is 6 x 5"):
        resolve([(StackRow("1"), file)], MODEL, None)


def test_a_bias_that_the_model_lacks_is_left_over(generator):
    file = parse_state_dict(
        pair("lora_unet_a", generator) | {"lora_unet_a.diff_b": torch.ones(6)}, "x"
    )
    _, account = resolve([(StackRow("1"), file)], MODEL, None)
    assert account.warnings == (
        "1: not applied: lora_unet_a.diff_b: the model has no bias of this name",
    )


def test_nothing_that_matches_is_refused_and_says_what_the_lora_is(generator):
    with pytest.raises(
        MatchError, match=r"none of its keys fits this model, first 'nowhere'.*rank 3"
    ):
        resolve([(StackRow("1"), lora(generator, "nowhere"))], MODEL, None)


def test_a_lora_for_another_base_is_refused_with_both_names(generator):
    name = "lora_unet_input_blocks_4_1_transformer_blocks_0_attn2_to_k"
    with pytest.raises(MatchError, match=r"this LoRA is for SDXL; the model is SD1\.5"):
        resolve([(StackRow("1"), lora(generator, name, inner=2048))], MODEL, None)


def test_a_lora_that_mostly_matches_is_never_refused_for_its_guessed_base(generator):
    """Flux LoRAs on a model pruned from Flux, SD3 LoRAs with a third text encoder: the weights decide."""
    tensors = pair("lora_unet_a", generator) | pair("lora_unet_gone", generator)
    said = parse_state_dict(tensors, "x", {"ss_base_model_version": "sdxl_base_v1-0"})
    resolved, account = resolve([(StackRow("1"), said)], MODEL, None)
    assert resolved.model.steps
    assert account.rows[0].lora_base == "SDXL"


def test_a_lora_that_matches_wholly_is_never_refused_for_what_its_metadata_says(generator):
    tensors = pair("lora_unet_a", generator)
    said = parse_state_dict(tensors, "x", {"ss_base_model_version": "sdxl_base_v1-0"})
    resolved, _ = resolve([(StackRow("1"), said)], MODEL, None)
    assert resolved.model.steps


def test_two_modules_of_one_file_for_one_weight_are_not_both_applied(generator):
    twins = lora(generator, "lora_unet_a", "alias_of_a")
    resolved, account = resolve([(StackRow("1"), twins)], MODEL, None)
    assert ranks(resolved.model.steps[Target("a.weight")]) == [3]
    assert "already feeds this weight" in account.rows[0].unmatched[0].reason


def test_a_near_miss_names_the_nearest_name(generator):
    near = lora(generator, "lora_unet_a", "lora_unet_convv")
    _, account = resolve([(StackRow("1"), near)], MODEL, None)
    assert "the nearest name is 'lora_unet_conv'" in account.rows[0].unmatched[0].reason


def test_an_unknown_matching_mode_is_refused(generator):
    with pytest.raises(MatchError, match="No matching mode 'loose'"):
        resolve([(StackRow("1"), lora(generator, "lora_unet_a"))], MODEL, None, "loose")


def test_an_empty_stack_resolves_to_nothing_and_says_so():
    resolved, account = resolve([], MODEL, CLIP)
    assert not resolved.model.steps
    assert not resolved.clip.steps
    assert "No LoRA is switched on" in account.report()


def test_a_lora_made_in_the_graph_is_let_go_after_its_run(generator):
    """Files are kept, so that a new strength matches no names again; what every run makes anew is not."""
    targets = TargetMap({"lora_unet_a": Target("a.weight")}, {"a.weight": (6, 5)})
    adapter = parse_state_dict(pair("lora_unet_a", generator), "made")
    gone = weakref.ref(adapter)
    resolve([(StackRow("made", adapter=adapter), adapter)], targets, None)
    del adapter
    gc.collect()
    assert gone() is None
