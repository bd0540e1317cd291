"""Stacks, schedules, blocks and sweeps that make no sense, in the words that a person gets; and the words of those that do."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from lora_core.errors import StackError, SweepError
from lora_core.files.parse import parse_state_dict
from lora_core.stack.blockpresets import known_presets, read_preset_files
from lora_core.stack.blockstrengths import block_strengths
from lora_core.stack.blocktable import block_table
from lora_core.stack.foreign import read_foreign
from lora_core.stack.rows import LoraStack, StackRow
from lora_core.stack.schedulerows import NO_PRESET, schedule_text
from lora_core.sweep.axes import Scene
from lora_core.sweep.energy import energy_meter
from lora_core.sweep.points import plan_sweep
from lora_core.sweep.values import AxisOrder
from lora_core.targets import Target
from tests.core.lora_tensors import pair
from tests.core.model_names import CLIP_L, FLUX, SD15, WIDTH

NONE = AxisOrder("y", "none")
QKV = "diffusion_model.double_blocks.5.img_attn.qkv.weight"
CROSS = "lora_unet_input_blocks_4_1_transformer_blocks_0_attn1_to_q"


def scene_of(generator, *names: str, **fields: Any) -> Scene:
    """One row with a matrix of these names."""
    tensors = {}
    for name in names:
        tensors |= pair(name, generator, out=WIDTH, inner=WIDTH, rank=2, alpha=2.0)
    row = StackRow("dir/style.safetensors", adapter=parse_state_dict(tensors, "style"), **fields)
    return Scene(LoraStack((row,)), SD15)


def test_rows_that_are_switched_off_cannot_be_left_out(generator):
    off = scene_of(generator, CROSS, model=0.0, clip=0.0)
    for axis in ("rows: leave one out", "rows: only one"):
        with pytest.raises(SweepError, match="no rows to leave out: no row has a strength other"):
            plan_sweep(AxisOrder("x", axis), NONE, off)


def test_a_lora_without_a_block_of_the_model_has_no_blocks_to_sweep(generator):
    foreign = scene_of(generator, "lora_unet_nowhere_to_be_found")
    with pytest.raises(SweepError, match="The LoRA of row 1 has no block of this model"):
        plan_sweep(AxisOrder("x", "blocks: leave one out", 1), NONE, foreign)


def test_the_text_encoder_is_swept_only_where_clip_is_connected(generator):
    scene = scene_of(generator, CROSS)
    order = AxisOrder("x", "blocks: leave one out", 1, values="IN04, TE")
    with pytest.raises(SweepError, match="'TE' touches nothing: connect CLIP to sweep the text"):
        plan_sweep(order, NONE, scene)
    across, _, _ = plan_sweep(order, NONE, replace(scene, clip=CLIP_L))
    assert across.labels == ("all", "no IN04", "no TE")


def test_a_block_whose_parts_differ_cannot_stand_alone_at_one_strength(generator):
    scene = scene_of(generator, CROSS, blocks="IN04.self=0.5")
    with pytest.raises(SweepError, match="gives the parts of IN04 different strengths"):
        plan_sweep(AxisOrder("x", "blocks: only one", 1), NONE, scene)


def test_energy_is_left_unsaid_where_a_weight_cannot_be_measured(generator):
    scene = scene_of(generator, CROSS)
    known = energy_meter(scene, 1)(scene.stack)
    assert known is not None
    assert known > 0
    bare = LoraStack((replace(scene.stack.rows[0], adapter=None),))
    assert energy_meter(replace(scene, stack=bare), 1)(bare) is None


def test_rows_of_a_weight_that_the_host_rearranges_cannot_differ():
    strengths = block_strengths("D05.img.qkv.q=0.5", block_table(FLUX))
    shares = [share.factor for share in strengths.shares(Target(QKV))]
    assert shares == [0.5, 1.0]
    with pytest.raises(StackError, match="is rearranged as a whole; its parts cannot differ"):
        strengths.shares(Target(QKV, function=lambda tensor: tensor))
    with pytest.raises(StackError, match=r"the rows of '.*qkv\.weight' differ"):
        strengths.factor_of(Target(QKV))


def test_a_text_without_loras_is_no_rows():
    with pytest.raises(StackError, match="No LoRA rows in this text. Paste a workflow, a node"):
        read_foreign({"answer": 42}, lambda name: name)


def test_the_rows_of_a_stack_that_come_by_a_link_are_said_not_to_be_read():
    node = {"class_type": "LoomStack", "inputs": {"rows": ["7", 0]}}
    read = read_foreign({"3": node}, lambda name: name)
    assert not read.stack.rows
    assert any("its rows come from another node and are not read" in said for said in read.unread)


def test_the_schedule_widgets_are_one_text():
    assert schedule_text("  0@0, 1@0.5  ", NO_PRESET) == "0@0, 1@0.5"
    assert schedule_text("", NO_PRESET) == ""
    with pytest.raises(StackError, match="No schedule preset 'later'; choose of "):
        schedule_text("", "later")


def test_the_reading_of_a_preset_file_is_known_by_its_name_and_later_files_win(tmp_path):
    texts = {
        "lbw-preset.txt": "MINE:1,0,1" + ",0" * 14 + "\n",
        "lbwpresets.txt": "MINE:0,0,0" + ",1" * 14 + "\nOTHER:1,1" + ",0" * 15 + "\n",
        "elempresets.txt": "FACE:IN04-IN05:attn2:0.5\n",
        "own.txt": "PLAIN:1,0.5" + ",1" * 15 + "\n",
    }
    for name, text in texts.items():
        (tmp_path / name).write_text(text, "utf-8")
    found = read_preset_files(tmp_path / name for name in texts)
    assert {name: preset.dialect for name, preset in found.items()} == {
        "MINE": "hako",
        "OTHER": "hako",
        "FACE": "hako",
        "PLAIN": "auto",
    }
    assert found["MINE"].text == "0,0,0" + ",1" * 14
    first = read_preset_files([tmp_path / "lbw-preset.txt"])
    assert first["MINE"].dialect == "inspire"
    assert known_presets(found)["MINE"] is found["MINE"]
    assert known_presets().keys() < known_presets(found).keys()


def test_letters_of_a_vector_are_read_with_a_word_on_hakos_other_range():
    table = block_table(SD15)
    drawn = block_strengths("1,R" + ",1" * 15, table)
    assert any("hako draws R and U from other ranges" in line for line in drawn.readings)
    plain = block_strengths("1,0" + ",1" * 15, table)
    assert not any("hako" in line for line in plain.readings)
