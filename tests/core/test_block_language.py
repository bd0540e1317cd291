"""The block language: what entries touch, that later ones win, and that bad input names token and column."""

from __future__ import annotations

import pytest

from lora_core.errors import StackError
from lora_core.stack.blockpresets import BUILT_IN, Preset
from lora_core.stack.blockrows import NO_PRESET, widgets_text, with_blocks
from lora_core.stack.blocks import parse_blocks
from lora_core.stack.blockstrengths import Share, block_strengths
from lora_core.stack.blocktable import block_table
from lora_core.stack.rows import LoraStack, StackRow
from lora_core.targets import Target
from tests.core.model_names import CLIP_L, FLUX, SD15

UNET, DIT = block_table(SD15), block_table(FLUX)
WITH_CLIP = block_table(SD15, CLIP_L)
MODEL = "diffusion_model."


def changed(text: str, table=UNET) -> dict[str, tuple[float, float]]:
    """Block -> (least, greatest) strength of the blocks that are not wholly at 1."""
    strengths = block_strengths(text, table)
    found = {block: strengths.of_block(block) for block in table.blocks}
    return {block: span for block, span in found.items() if span != (1.0, 1.0)}


def at(value: float, *blocks: str) -> dict[str, tuple[float, float]]:
    return {block: (value, value) for block in blocks}


CASES = {
    "": {},
    "  \n # a remark\n": {},
    "IN04=0.5": at(0.5, "IN04"),
    "in4=0.5": at(0.5, "IN04"),
    "IN04 = .5": at(0.5, "IN04"),
    "IN04=-1e-1": at(-0.1, "IN04"),
    "IN01-IN03=0.3": at(0.3, "IN01", "IN02", "IN03"),
    "IN01-03=0.3": at(0.3, "IN01", "IN02", "IN03"),
    "IN11-OUT00=0": at(0, "IN11", "M00", "OUT00"),
    "IN0*=0, IN04=1": at(0, *(f"IN{i:02}" for i in (0, 1, 2, 3, 5, 6, 7, 8, 9))),
    "IN04=1; IN0*=0": at(0, *(f"IN{i:02}" for i in range(10))),
    "IN04=0.5 # half\nIN05=0.2": at(0.5, "IN04") | at(0.2, "IN05"),
    "IN04=0.5,\nIN05=0.2,": at(0.5, "IN04") | at(0.2, "IN05"),
    "OUT03.cross=1.2": {"OUT03": (1.0, 1.2)},
    "M00.1=0": {"M00": (0.0, 1.0)},
    "IN99?=0": {},
    "OUT00.cross?=0": {},
    "*=1": {},
    '{"IN04": 0.5, "M00": "0"}': at(0.5, "IN04") | at(0, "M00"),
    "SD-ALL\n*=1\nIN04=0": at(0, "IN04"),
}


@pytest.mark.parametrize("text", CASES, ids=[repr(text) for text in CASES])
def test_an_entry_touches_what_it_names(text):
    assert changed(text) == CASES[text]


def test_a_part_reaches_its_weights_and_no_others():
    strengths = block_strengths("*.attn=0.8; OUT03.cross.k=0", UNET)
    path = f"{MODEL}output_blocks.3.1.transformer_blocks.0."
    assert strengths.factor_of(Target(path + "attn2.to_k.weight")) == 0
    assert strengths.factor_of(Target(path + "attn2.to_v.weight")) == 0.8
    assert strengths.factor_of(Target(path + "attn1.to_k.weight")) == 0.8
    assert strengths.factor_of(Target(path + "ff.net.2.weight")) == 1


def test_q_of_a_fused_weight_is_its_rows_and_its_slice():
    strengths = block_strengths("D05.attn.q=0", DIT)
    key = f"{MODEL}double_blocks.5.img_attn.qkv.weight"
    assert strengths.shares(Target(key)) == (Share(0, 4, 0.0), Share(4, 8, 1.0))
    assert strengths.shares(Target(key, (0, 0, 4))) == (Share(0, None, 0.0),)
    assert strengths.shares(Target(key, (0, 4, 4))) == (Share(0, None, 1.0),)
    assert strengths.shares(Target(f"{MODEL}double_blocks.4.img_attn.qkv.weight")) == (
        Share(0, None, 1.0),
    )
    with pytest.raises(StackError, match="rows of .* differ"):
        strengths.factor_of(Target(key))


def test_a_slice_over_several_parts_is_cut_where_they_meet():
    strengths = block_strengths("S03.q=0.5; S03.ff=2", DIT)
    key = f"{MODEL}single_blocks.3.linear1.weight"
    assert strengths.shares(Target(key, (0, 2, 14))) == (
        Share(0, 2, 0.5),
        Share(2, 8, 1.0),
        Share(10, 4, 2.0),
    )


def test_parts_that_are_set_alike_are_one_share_again():
    strengths = block_strengths("D05.attn=0; D05.q=0", DIT)
    assert strengths.shares(Target(f"{MODEL}double_blocks.5.txt_attn.qkv.weight")) == (
        Share(0, None, 0.0),
    )


def test_text_encoders_are_touched_by_base_te_their_name_or_a_layer():
    layers = {f"CLIPL{i:02}" for i in range(12)} | {"CLIPL_BASE"}
    assert set(changed("TE=0", WITH_CLIP)) == layers
    assert set(changed("CLIPL=0", WITH_CLIP)) == layers
    assert set(changed("BASE=0", WITH_CLIP)) == layers | {"BASE"}
    assert changed("CLIPL03=0.5", WITH_CLIP) == at(0.5, "CLIPL03")


@pytest.mark.parametrize("text", ["TE=0", "CLIPL03=0", "T5XXL*=0", "CLIP=0.5"])
def test_a_text_encoder_entry_is_no_error_while_no_clip_is_connected(text):
    strengths = block_strengths(text, UNET)
    assert not strengths.touched
    assert "touches nothing here" in strengths.readings[0]


def test_model_entries_are_not_judged_while_no_model_is_connected():
    table = block_table(None, CLIP_L)
    text = "IN04=0.5; IN01-IN05=0; SD-MIDD; CLIPL00=0; IN05-OUT05:attn:1"
    assert block_strengths(text, table).touched == ("CLIPL00",)


def test_elemental_lines_choose_blocks_and_what_occurs_in_names():
    path = f"{MODEL}input_blocks.5.1.transformer_blocks.0."
    strengths = block_strengths("IN05-OUT05:attn:0.25, NOT IN05 M00:ff:0.5, :proj:0", UNET)
    assert strengths.factor_of(Target(path + "attn1.to_q.weight")) == 0.25
    assert strengths.factor_of(Target(path + "ff.net.2.weight")) == 1
    assert strengths.factor_of(Target(path.replace("5", "7") + "ff.net.2.weight")) == 0.5
    assert strengths.factor_of(Target(f"{MODEL}input_blocks.1.1.proj_in.weight")) == 0
    without = block_strengths("IN05:NOT attn:0", UNET)
    assert without.factor_of(Target(path + "attn1.to_q.weight")) == 1
    assert without.factor_of(Target(path + "ff.net.2.weight")) == 0


BAD = {
    "IN99=0.5": "line 1, column 1: this model has no block 'IN99'. Nearest: IN09",
    "IN04=0.5,  IN0=x": "line 1, column 12: 'x' is not a finite number",
    "IN04=nan": "line 1, column 1: 'nan' is not a finite number",
    "IN04=1e999": "column 1: '1e999' is not a finite number",
    "IN04=": "column 1: '' is not a finite number",
    "=0.5": "column 1: '=0.5' names no block",
    "\n  IN05-IN01=1": "line 2, column 3: the range IN05-IN01 is empty; write IN01-IN05",
    "IN01-IN77=1": "column 1: this model has no block 'IN77'",
    "X*=1": "column 1: this model has no block 'X*'",
    "IN04.txt=0": "'IN04.txt' touches nothing: no weight of IN04 is of the part 'txt'; there are attn, self, cross, q",
    "1,0,nan,1": "column 5: 'nan' is not a finite number",
    "1,,0": "column 3: there is nothing between two commas",
    "0.5": "column 1: the value '0.5' names no block",
    "IN04=0.5, 0.3": "column 11: the value '0.3' names no block",
    "IN04=0.5; SD-MIDDLE": "column 11: 'SD-MIDDLE' is neither a preset nor an entry",
    "1,0.5 0.3,1": "column 3: '0.5 0.3' are several values for one block",
    "dialect=french": "no dialect 'french'; choose one of auto, inspire, hako",
    "seed=-1": "the seed must be a whole number",
    "A=inf": "'inf' is not a finite number",
    "IN05-OUT05:attn:often": "'often' is not a finite number",
    "IN05-OUT05:gizmo:1": "'IN05-OUT05:gizmo:1' touches no weight",
    "%double=1,three": "'three' is no entry of a %-line",
    "%in2-3=1": "'in2' counts the blocks that the file happens to have",
    '{"IN04": [1]}': "'IN04': [1] is not a number",
    '{"IN04": 1': "not JSON",
    "IN04=1," * 2500: "more than 2000 entries",
    "IN04=1;" * 2500: "more than 2000 entries",
    "# " + "x" * 30_000: "the text has 30002 characters",
}


@pytest.mark.parametrize("text", BAD, ids=[repr(text[:24]) for text in BAD])
def test_bad_input_is_one_error_that_names_token_and_column(text):
    with pytest.raises(StackError) as error:
        block_strengths(text, UNET)
    assert BAD[text] in str(error.value)


def test_the_form_is_judged_without_any_model():
    assert len(parse_blocks("IN04=0.5; 1,0,1; SD-MIDD").statements) == 3
    with pytest.raises(StackError, match="not a finite number"):
        parse_blocks("IN04=high")


def test_how_a_text_was_read_is_said():
    readings = block_strengths("SD-MIDD\nIN04=R", UNET).readings
    assert readings[0].startswith("'SD-MIDD', 17 values in inspire's order")
    assert "IN00, IN03, IN06, IN09-IN11, OUT00-OUT02" in readings[0]
    assert readings[1].endswith("(R)")


# --- from a node's widgets onto rows ---

STACK = LoraStack((StackRow("a"), StackRow("b", blocks="IN04=0")))


def test_widgets_become_one_text_in_which_the_text_comes_after_the_preset():
    text = widgets_text("IN04=1", "auto", "SD-NONE", 7, BUILT_IN)
    strengths = block_strengths(text, UNET)
    assert strengths.of_block("IN04") == (1, 1)
    assert strengths.of_block("OUT03") == (0, 0)
    assert widgets_text("  ", "hako", NO_PRESET, 3, BUILT_IN) == ""


def test_a_preset_of_ones_own_is_written_out_so_that_it_travels():
    own = {"MINE": Preset("IN04=0.25", "auto", "mine.txt")}
    text = widgets_text("", "auto", "MINE", 0, BUILT_IN | own)
    assert block_strengths(text, UNET).of_block("IN04") == (0.25, 0.25)


def test_the_dialect_widget_is_for_the_text_and_a_preset_keeps_its_own():
    text = widgets_text(",".join("1" * 26), "hako", "SD-LyC-MIDALL", 0, BUILT_IN)
    readings = block_strengths(text, UNET).readings
    assert "27 values in inspire's order" in readings[0]
    assert "26 values in hako's order" in readings[1]


def test_one_row_or_all_rows_are_given_the_text_after_what_they_have():
    assert [row.blocks for row in with_blocks(STACK, "M00=0").rows] == [
        "M00=0",
        "IN04=0\ndialect=auto\nM00=0",
    ]
    assert [row.blocks for row in with_blocks(STACK, "M00=0", 1).rows] == ["M00=0", "IN04=0"]
    assert with_blocks(STACK, "") is STACK


def test_a_row_that_is_not_there_and_json_that_cannot_be_joined_are_refused():
    with pytest.raises(StackError, match="Row 3 is not there: the stack has 2 rows"):
        with_blocks(STACK, "M00=0", 3)
    with pytest.raises(StackError, match="'b' already has block strengths"):
        with_blocks(STACK, '{"M00": 0}', 2)
    with pytest.raises(StackError, match="JSON stand alone"):
        widgets_text('{"M00": 0}', "auto", "SD-ALL", 0, BUILT_IN)
    with pytest.raises(StackError, match="No block preset 'GONE'"):
        widgets_text("", "auto", "GONE", 0, BUILT_IN)
