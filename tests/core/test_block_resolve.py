"""Block strengths on patches, their account, the energy that is left, and its picture."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from lora_core.adapters import AdapterFile
from lora_core.algebra.lowrank import delta
from lora_core.algebra.steps import run
from lora_core.analysis.draw import WIDTH as CHART_WIDTH
from lora_core.analysis.draw import as_images, energy_chart, message
from lora_core.analysis.energy import BlockEnergy, Energies, energies
from lora_core.errors import StackError
from lora_core.files.parse import parse_state_dict
from lora_core.resolve import matches_of, resolve
from lora_core.stack.blockstrengths import block_strengths
from lora_core.stack.blocktable import block_table
from lora_core.stack.rows import StackRow
from lora_core.stack.rows_json import parse_rows
from lora_core.targets import Target, TargetMap
from tests.core.lora_tensors import as_delta, low_rank, pair
from tests.core.model_names import CLIP_L, CONTEXT, FLUX, SD15, WIDTH
from tools.family_formulas import expected
from tools.family_tensors import MAKERS, Draw, named

TO_K = "lora_unet_{}_1_transformer_blocks_0_attn2_to_k"
KEY = "diffusion_model.{}.1.transformer_blocks.0.attn2.to_k.weight"
QKV = "diffusion_model.double_blocks.5.img_attn.qkv"


@pytest.fixture
def small(generator: torch.Generator) -> AdapterFile:
    """IN04's and OUT05's cross attention k, and one text-encoder matrix."""
    tensors = {}
    for block in ("input_blocks_4", "output_blocks_5"):
        tensors |= pair(TO_K.format(block), generator, out=WIDTH, inner=CONTEXT, rank=2, alpha=1.0)
    tensors |= pair(
        "lora_te_text_model_encoder_layers_3_mlp_fc1", generator, out=WIDTH, inner=WIDTH
    )
    return parse_state_dict(tensors, "small.safetensors")


def scales(resolved) -> dict[str, float]:
    parts = (*resolved.model.steps.items(), *resolved.clip.steps.items())
    return {target.key: sum(numbers) for target, ((_, _, numbers),) in parts}


def test_a_block_factor_multiplies_the_strength_of_its_weights(small):
    plain, _ = resolve([(StackRow("a", 0.8, 0.5), small)], SD15, CLIP_L)
    row = StackRow("a", 0.8, 0.5, blocks="IN04=0.25; CLIPL03=2")
    found, _ = resolve([(row, small)], SD15, CLIP_L)
    before, after = scales(plain), scales(found)
    factors = {KEY.format("input_blocks.4"): 0.25, KEY.format("output_blocks.5"): 1.0}
    for key, scale in before.items():
        assert after[key] == pytest.approx(scale * factors.get(key, 2.0))


def test_a_factor_of_zero_removes_the_patch_and_still_counts_as_matched(small):
    found, account = resolve([(StackRow("a", blocks="IN04=0"), small)], SD15, CLIP_L, "strict")
    assert KEY.format("input_blocks.4") not in scales(found)
    assert account.rows[0].model.matched == account.rows[0].model.total == 2
    assert not account.warnings


def test_ones_give_the_very_same_patches_as_no_block_strengths(small):
    plain, _ = resolve([(StackRow("a"), small)], SD15, CLIP_L)
    ones, _ = resolve([(StackRow("a", blocks="*=1"), small)], SD15, CLIP_L)
    assert scales(plain) == scales(ones)
    assert list(plain.model.steps) == list(ones.model.steps)


def fused_file(generator: torch.Generator) -> AdapterFile:
    tensors = pair("lora_unet_double_blocks_5_img_attn_qkv", generator, out=3 * WIDTH, inner=WIDTH)
    tensors["lora_unet_double_blocks_5_img_attn_qkv.diff_b"] = torch.arange(3.0 * WIDTH)
    return parse_state_dict(tensors, "fused.safetensors")


def test_q_of_a_fused_low_rank_delta_is_cut_out_of_it_exactly(generator):
    file = fused_file(generator)
    found, account = resolve([(StackRow("a", 0.5, blocks="D05.attn.q=0"), file)], FLUX, None)
    weight, bias = (Target(f"{QKV}.{end}", (0, WIDTH, 2 * WIDTH)) for end in ("weight", "bias"))
    assert set(found.model.steps) == {weight, bias}
    whole = 0.5 * delta(low_rank(file, "lora_unet_double_blocks_5_img_attn_qkv"), torch.float64)
    torch.testing.assert_close(as_delta(found.model.steps[weight], 2 * WIDTH, WIDTH), whole[WIDTH:])
    half = [0.5 * number for number in range(WIDTH, 3 * WIDTH)]
    assert as_delta(found.model.steps[bias], 2 * WIDTH).tolist() == half
    assert "in part: D05" in account.rows[0].blocks[0]


@pytest.mark.parametrize(
    "kind", ["lora", "loha", "glora", "dora_output", "ia3_output", "ia3_input", "whole"]
)
def test_q_is_cut_out_of_every_family_whose_rows_stand_alone(kind):
    shape = (3 * WIDTH, WIDTH)
    bare = MAKERS[kind](shape, Draw(1))
    file = parse_state_dict(named("lora_unet_double_blocks_5_img_attn_qkv", bare), "x")
    target = Target(f"{QKV}.weight")
    whole, _ = resolve([(StackRow("a"), file)], FLUX, None)
    found, _ = resolve([(StackRow("a", blocks="D05.attn.q=0"), file)], FLUX, None)
    weight = Draw(2)(*shape, spread=1.0).double()
    changed = run(weight.clone(), whole.model.steps[target])
    kept = run(weight[WIDTH:].clone(), found.model.steps[Target(target.key, (0, WIDTH, 2 * WIDTH))])
    torch.testing.assert_close(kept, changed[WIDTH:])


@pytest.mark.parametrize("kind", ["lokr_whole", "oft", "dora_input"])
def test_a_family_whose_rows_depend_on_one_another_is_not_cut(kind):
    bare = MAKERS[kind]((3 * WIDTH, WIDTH), Draw(1))
    file = parse_state_dict(named("lora_unet_double_blocks_5_img_attn_qkv", bare), "x")
    with pytest.raises(StackError, match="cannot be cut"):
        resolve([(StackRow("a", blocks="D05.attn.q=0"), file)], FLUX, None)


@pytest.mark.parametrize("kind", ["loha", "lokr_second", "lokr_whole"])
def test_the_energy_of_every_delta_is_its_squared_norm(kind):
    shape = (3 * WIDTH, WIDTH)
    bare = MAKERS[kind](shape, Draw(1))
    file = parse_state_dict(named("lora_unet_double_blocks_5_img_attn_qkv", bare), "x")
    found = energies(
        [(m.target, m.adapter) for m in matches_of(file, FLUX, None)], block_table(FLUX)
    )
    exact = expected(kind, torch.zeros(shape), bare).square().sum()
    assert found.total == pytest.approx(float(exact), rel=1e-5)


def test_a_lora_on_slices_gets_the_factor_of_each_slice(generator):
    tensors = {}
    for role in "qkv":
        name = f"transformer.transformer_blocks.5.attn.to_{role}"
        tensors |= pair(name, generator, out=WIDTH, inner=WIDTH)
    file = parse_state_dict(tensors, "slices.safetensors")
    found, _ = resolve([(StackRow("a", blocks="D05.q=0; D05.k=0.5"), file)], FLUX, None)
    given = {target.offset: n[0] for target, ((_, _, n),) in found.model.steps.items()}
    assert given == {(0, WIDTH, WIDTH): 0.5, (0, 2 * WIDTH, WIDTH): 1.0}


def test_the_account_says_which_blocks_there_are_which_changed_and_what_is_left(small):
    row = StackRow("a", blocks="IN04=0.5; OUT07=0")
    _, account = resolve([(row, small)], SD15, CLIP_L)
    line, *readings = account.rows[0].blocks
    assert "blocks: the LoRA has IN04, OUT05, CLIPL03; changed: IN04=0.5;" in line
    assert "% of its energy is left" in line
    assert "named but not in the LoRA: OUT07" in line
    assert readings == ["block strengths: IN04=0.5", "block strengths: OUT07=0"]
    assert line in account.report()
    assert not account.warnings


def test_a_row_whose_blocks_do_not_fit_the_model_is_named(small):
    with pytest.raises(
        StackError, match="'a': Block strengths, line 1, column 1: this model has no block 'D05'"
    ):
        resolve([(StackRow("a", blocks="D05=0"), small)], SD15, None)


def test_rows_json_carries_blocks():
    rows = parse_rows('[{"lora": "a", "blocks": "IN04=0.5"}, {"lora": "b"}]').rows
    assert [row.blocks for row in rows] == ["IN04=0.5", ""]
    with pytest.raises(StackError, match="Row 1: 'a': blocks must be text"):
        parse_rows('[{"lora": "a", "blocks": {"IN04": 1}}]')


# --- energies ---


def test_energy_is_the_squared_norm_of_the_delta_without_making_it(small):
    table = block_table(SD15, CLIP_L)
    found = energies([(m.target, m.adapter) for m in matches_of(small, SD15, CLIP_L)], table)
    for each, name in zip(found.blocks, small.modules, strict=True):
        exact = float(delta(low_rank(small, name), torch.float64).square().sum())
        assert each.energy == pytest.approx(exact, rel=1e-12)
    assert [each.block for each in found.blocks] == ["IN04", "OUT05", "CLIPL03"]
    assert found.share_left == 1


def test_energy_of_convolutions_and_tucker_cores_is_exact(generator):
    module = "lora_unet_input_blocks_1_0_in_layers_2"
    tensors = pair(module, generator, out=WIDTH, inner=WIDTH, rank=3, kernel=(1, 1), alpha=2.0)
    tensors[f"{module}.lora_mid.weight"] = torch.randn(3, 3, 3, 3, generator=generator)
    file = parse_state_dict(tensors, "conv.safetensors")
    found = energies(
        [(m.target, m.adapter) for m in matches_of(file, SD15, None)], block_table(SD15)
    )
    assert found.total == pytest.approx(
        float(delta(low_rank(file, module), torch.float64).square().sum())
    )


def test_what_is_left_goes_with_the_square_of_the_strength_and_by_rows(generator):
    file = fused_file(generator)
    table = block_table(FLUX)
    strengths = block_strengths("D05.q=0; D05.k=0.5; D05.v=2", table)
    found = energies(
        [(m.target, m.adapter) for m in matches_of(file, FLUX, None)], table, strengths
    )
    dense = delta(low_rank(file, "lora_unet_double_blocks_5_img_attn_qkv"), torch.float64)
    rows = dense.square().sum(1).view(3, WIDTH).sum(1)
    bias = torch.arange(3.0 * WIDTH).double().square().view(3, WIDTH).sum(1)
    exact = float(((rows + bias) * torch.tensor([0.0, 0.25, 4.0])).sum())
    assert found.left == pytest.approx(exact, rel=1e-12)


def test_a_kind_of_adapter_without_a_measure_is_named():
    file = parse_state_dict(named("w", MAKERS["oft"]((8, 4), Draw(1))), "x")
    found = energies([(Target("x.weight"), file.modules["w"])], block_table(TargetMap()))
    assert found.unmeasured == ("OFT",)


# --- the picture ---


def chart_of(count: int, left: float = 1.0) -> Energies:
    return Energies(
        tuple(BlockEnergy(f"S{i:02}", 1.0 + i, (1.0 + i) * left, 1) for i in range(count))
    )


@pytest.mark.parametrize("count", [0, 1, 17, 57, 120])
def test_a_chart_has_one_width_and_grows_by_panels(count):
    image = energy_chart(chart_of(count), "x" * 200)
    assert image.width == CHART_WIDTH
    panels = max(1, -(-count // 30))
    assert 150 * panels < image.height < 300 * panels + 120


def test_what_is_left_is_drawn_in_its_own_colour():
    def amount(left: float, colour: tuple[int, int, int]) -> int:
        pixels = np.asarray(energy_chart(chart_of(17, left), "t"))[90:]
        return int((pixels == colour).all(-1).sum())

    green, grey, amber = (64, 196, 170), (96, 110, 140), (250, 184, 60)
    assert amount(0.0, green) == 0 < amount(0.0, grey)
    assert amount(1.0, grey) == amount(1.0, amber) == 0 < amount(1.0, green)
    assert amount(0.5, green) < amount(1.0, green)
    assert amount(2.0, amber) > 0


def test_labels_stay_inside_the_picture():
    names = Energies(tuple(BlockEnergy(f"QWEN257B_{i:02}", 1.0, 1.0, 1) for i in range(30)))
    pixels = np.asarray(energy_chart(names, "t"))
    ground = pixels[0, 0]
    for edge in (pixels[-1], pixels[:, 0], pixels[:, -1]):
        assert (edge == ground).all()


def test_pictures_become_one_batch():
    batch = as_images([energy_chart(chart_of(17), "a"), message("nothing\nto see")])
    assert batch.shape[0] == 2
    assert batch.shape[2:] == (CHART_WIDTH, 3)
    assert batch.dtype == torch.float32
    assert 0 <= float(batch.min()) <= float(batch.max()) <= 1


def test_preset_files_that_are_no_text_are_named(tmp_path: Path):
    from lora_core.stack.blockpresets import read_preset_files

    (tmp_path / "lbwpresets.txt").write_bytes(b"\xff\xfe\x00bad")
    with pytest.raises(StackError, match="lbwpresets.txt cannot be read"):
        read_preset_files([tmp_path / "lbwpresets.txt"])
