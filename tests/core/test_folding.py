"""A row's strengths in the file itself: by every family the same weights at strength 1, or a refusal with the reason."""

from __future__ import annotations

import pytest
import torch

from lora_core.algebra.steps import run
from lora_core.errors import SaveError
from lora_core.files.parse import parse_state_dict
from lora_core.folding import Folded, fold
from lora_core.resolve import resolve
from lora_core.rowblocks import row_blocks
from lora_core.stack.blocktable import block_table
from lora_core.stack.rows import StackRow
from lora_core.targets import TargetMap
from tests.core.lora_tensors import pair
from tests.core.model_names import CLIP_L, FLUX, SD15, WIDTH
from tools.family_tensors import CONVOLUTION_ONLY, MAKERS, Draw, named

QKV, QKV_SHAPE = "lora_unet_double_blocks_5_img_attn_qkv", (3 * WIDTH, WIDTH)
MLP, MLP_SHAPE = "lora_unet_double_blocks_5_img_mlp_0", (4 * WIDTH, WIDTH)
CONV, CONV_SHAPE = "lora_unet_input_blocks_4_0_in_layers_2", (WIDTH, WIDTH, 3, 3)
TE = "lora_te_text_model_encoder_layers_3_mlp_fc1"
WHOLE_ONLY = {
    "oft", "oft_constrained", "boft", "replacement", "dora_output", "dora_input", "dora_loha", "dora_peft",
}  # fmt: skip
LINEAR = sorted(set(MAKERS) - WHOLE_ONLY - CONVOLUTION_ONLY)


def folded(tensors, row: StackRow, model: TargetMap, clip: TargetMap | None = None) -> Folded:
    adapter = parse_state_dict(tensors, row.name)
    blocks = row_blocks(row, block_table(model, clip))
    return fold(tensors, adapter, row, blocks, model, clip)


def weights(tensors, row: StackRow, model: TargetMap, clip: TargetMap | None = None):
    """What the row makes of seeded weights, in float64, of all that it touches."""
    adapter = parse_state_dict(dict(tensors), row.name)
    resolved, _ = resolve([(row, adapter)], model, clip)
    found = {}
    for targets, patches in ((model, resolved.model), (clip, resolved.clip)):
        if targets is None:
            continue
        for target, steps in patches.steps.items():
            shape = targets.shapes[target.key]
            weight = found.setdefault(target.key, Draw(7)(*shape, spread=1.0).double())
            if target.offset is None:
                found[target.key] = run(weight, steps)
            else:
                axis, start, length = target.offset
                part = weight.narrow(axis, start, length)
                part.copy_(run(part.clone(), steps))
    return found


def assert_same_at_one(tensors, row: StackRow, model: TargetMap, clip=None) -> Folded:
    done = folded(tensors, row, model, clip)
    expected, found = (
        weights(tensors, row, model, clip),
        weights(done.tensors, StackRow(row.name), model, clip),
    )
    assert found.keys() == expected.keys()
    for key, weight in expected.items():
        plain = Draw(7)(*weight.shape, spread=1.0).double()
        assert not torch.equal(weight, plain)
        # The alpha is one number of float32.
        torch.testing.assert_close(found[key] - plain, weight - plain, rtol=1e-6, atol=1e-7)
    return done


@pytest.mark.parametrize("kind", LINEAR)
def test_a_matrix_of_every_linear_family_gives_the_same_at_strength_1(kind):
    tensors = named(QKV, MAKERS[kind](QKV_SHAPE, Draw(1)))
    assert_same_at_one(tensors, StackRow("a", 0.7, 0.2, blocks="D05=0.45"), FLUX)
    assert_same_at_one(tensors, StackRow("a", -1.3), FLUX)


@pytest.mark.parametrize("kind", sorted({*LINEAR, *CONVOLUTION_ONLY} - {"glora", "glora_old"}))
def test_a_convolution_of_every_linear_family_gives_the_same_at_strength_1(kind):
    tensors = named(CONV, MAKERS[kind](CONV_SHAPE, Draw(1)))
    assert_same_at_one(tensors, StackRow("a", 0.7, blocks="IN*=0.3"), SD15)


@pytest.mark.parametrize("kind", ["lora", "loha", "whole"])
def test_q_k_and_v_of_one_weight_take_strengths_of_their_own(kind):
    tensors = named(QKV, MAKERS[kind](QKV_SHAPE, Draw(1)))
    done = assert_same_at_one(
        tensors, StackRow("a", 0.7, blocks="D05.attn.q=0; D05.attn.k=0.3"), FLUX
    )
    assert set(done.tensors) == set(tensors)


@pytest.mark.parametrize("kind", ["glora", "lokr_whole", "ia3_output"])
def test_a_family_whose_rows_cannot_be_given_strengths_is_refused(kind):
    tensors = named(QKV, MAKERS[kind](QKV_SHAPE, Draw(1)))
    with pytest.raises(SaveError, match="its rows cannot be given strengths of their own"):
        folded(tensors, StackRow("a", blocks="D05.attn.q=0.5"), FLUX)


@pytest.mark.parametrize("kind", sorted(WHOLE_ONLY))
def test_what_is_made_from_the_weight_is_kept_whole_left_out_or_refused(kind):
    tensors = named(MLP, MAKERS[kind](MLP_SHAPE, Draw(1)))
    other = pair("lora_unet_double_blocks_6_img_attn_qkv", Draw(2).generator, out=12, inner=4)
    both = tensors | other
    kept = folded(both, StackRow("a", blocks="D06=0.5"), FLUX)
    assert all(kept.tensors[key] is tensor for key, tensor in tensors.items())
    assert set(folded(both, StackRow("a", blocks="D05=0"), FLUX).tensors) == set(other)
    with pytest.raises(SaveError, match="these strengths cannot be written") as failure:
        folded(both, StackRow("a", blocks="D05=0.5"), FLUX)
    assert MLP in str(failure.value)
    assert "Give its blocks 0 or 1" in str(failure.value)


def test_model_and_text_encoder_take_their_own_strengths_and_alphas_are_written_where_there_are_none(
    generator,
):
    tensors = pair(CONV, generator, out=WIDTH, inner=WIDTH, kernel=(3, 3))
    tensors |= pair(TE, generator, out=WIDTH, inner=WIDTH, alpha=2.0)
    row = StackRow("a", 0.6, 0.25, blocks="IN04=0.5; CLIPL03=2")
    done = assert_same_at_one(tensors, row, SD15, CLIP_L)
    assert float(done.tensors[f"{CONV}.alpha"]) == pytest.approx(3 * 0.6 * 0.5)
    assert float(done.tensors[f"{TE}.alpha"]) == pytest.approx(2.0 * 0.25 * 2)
    matrices = [key for key in tensors if not key.endswith("alpha")]
    assert all(done.tensors[key] is tensors[key] for key in matrices)


def test_a_module_at_zero_is_left_out_and_a_file_of_nothing_is_refused(generator):
    tensors = pair(CONV, generator, out=WIDTH, inner=WIDTH, kernel=(3, 3), alpha=1.0)
    tensors |= pair(TE, generator, out=WIDTH, inner=WIDTH, alpha=2.0)
    done = folded(tensors, StackRow("a", blocks="IN04=0"), SD15, CLIP_L)
    assert {key.split(".")[0] for key in done.tensors} == {TE}
    with pytest.raises(SaveError, match="every module is at strength 0"):
        folded(tensors, StackRow("a", 1.0, 0.0, blocks="*=0"), SD15, CLIP_L)


def test_a_low_rank_bias_follows_its_module(generator):
    tensors = pair(QKV, generator, out=12, inner=4, rank=2, alpha=3.0)
    tensors[f"{QKV}.lora_up.bias"] = torch.arange(12.0)
    assert_same_at_one(tensors, StackRow("a", 0.6, blocks="D05=0.5"), FLUX)


def test_no_strengths_leave_the_very_tensors(generator):
    tensors = pair(CONV, generator, out=WIDTH, inner=WIDTH, kernel=(3, 3), alpha=1.0)
    done = folded(tensors, StackRow("a"), SD15)
    assert all(done.tensors[key] is tensors[key] for key in tensors)
    assert set(done.tensors) == set(tensors)


@pytest.mark.parametrize("alpha", [2.0, None])
def test_a_low_rank_bias_follows_a_module_of_scale_1_too(generator, alpha):
    tensors = pair(QKV, generator, out=12, inner=4, rank=2, alpha=alpha)
    tensors[f"{QKV}.lora_up.bias"] = torch.arange(12.0)
    assert_same_at_one(tensors, StackRow("a", 0.6, blocks="D05=0.5"), FLUX)
