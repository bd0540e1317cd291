"""Every vector length in both readings and every preset, against tables written out here; and the six known traps."""

from __future__ import annotations

import random

import pytest

from lora_core.adapters import AdapterFile
from lora_core.errors import StackError
from lora_core.files.parse import parse_state_dict
from lora_core.resolve import resolve
from lora_core.stack.blockpresets import BUILT_IN, STARTING_POINTS, parse_preset_file
from lora_core.stack.blockstrengths import BlockStrengths, block_strengths
from lora_core.stack.blocktable import BlockTable, block_table
from lora_core.stack.rows import StackRow
from tests.core.lora_tensors import pair
from tests.core.model_names import CLIP_L, FLUX, SD15, SDXL, WIDTH

TABLES = {"SD1.5": block_table(SD15, CLIP_L), "SDXL": block_table(SDXL), "Flux": block_table(FLUX)}


def spread(text: str) -> list[str]:
    """ "IN01-IN03 M00" -> its blocks, one by one."""
    names = []
    for item in text.split():
        first, _, last = item.partition("-")
        kind = first.rstrip("0123456789")
        if last:
            numbers = range(int(first[len(kind) :]), int(last[len(kind) :]) + 1)
            names += [f"{kind}{number:02}" for number in numbers]
        else:
            names.append(item)
    return names


def values(strengths: BlockStrengths) -> dict[str, float]:
    """Block -> its one strength."""
    found = {block: strengths.of_block(block) for block in strengths.table.blocks}
    assert all(low == high for low, high in found.values())
    return {block: low for block, (low, _) in found.items()}


def expected(table: BlockTable, written: str) -> dict[str, float]:
    """ "BASE IN04=0.5" -> these blocks at 1 or the value given, all others at 0; BASE takes all outside along."""
    found = dict.fromkeys(table.blocks, 0.0)
    for item in written.split():
        names, _, value = item.partition("=")
        for name in spread(names):
            for block in table.groups.get(name, (name,)):
                found[block] = float(value or 1)
    return found


# (model, reading, places in order), as the two packs publish them.
LAYOUTS = [
    ("SD1.5", "hako", "BASE IN01 IN02 IN04 IN05 IN07 IN08 M00 OUT03-OUT11"),
    ("SD1.5", "hako", "BASE IN00-IN11 M00 OUT00-OUT11"),
    ("SD1.5", "inspire", "BASE IN01 IN02 IN04 IN05 IN07 IN08 M00 OUT03-OUT11"),
    ("SD1.5", "inspire", "BASE IN01-IN11 M00.0 M00.1 M00.2 OUT00-OUT11"),
    ("SDXL", "hako", "BASE IN04 IN05 IN07 IN08 M00 OUT00-OUT05"),
    ("SDXL", "hako", "BASE IN00-IN08 M00 OUT00-OUT08"),
    ("SDXL", "inspire", "BASE IN04 IN05 IN07 IN08 M00 OUT00-OUT05"),
    ("SDXL", "inspire", "BASE IN01-IN08 M00.0 M00.1 M00.2 OUT00-OUT08"),
    ("Flux", "hako", "CLIP T5 IN D00-D18 S00-S37 OUT"),
    ("Flux", "inspire", "BASE D00-D18"),
    ("Flux", "inspire", "BASE D00-D18 S00-S37"),
]
LENGTHS = [17, 26, 17, 27, 12, 20, 12, 21, 61, 20, 58]


def test_the_written_layouts_have_the_published_lengths():
    assert [len(spread(names)) for _, _, names in LAYOUTS] == LENGTHS


@pytest.mark.parametrize(("model", "reading", "names"), LAYOUTS)
def test_every_length_sets_the_blocks_of_its_layout_and_no_others(model, reading, names):
    table, places = TABLES[model], spread(names)
    given = [round(0.01 * (number + 1), 2) for number in range(len(places))]
    strengths = block_strengths(f"dialect={reading}\n{','.join(map(str, given))}", table)
    for block in table.numbered():
        if block == "M00" and "M00.1" in places:
            continue
        assert strengths.of_block(block) == (
            (given[places.index(block)],) * 2 if block in places else (0, 0)
        )
    if "M00.1" in places:
        assert strengths.of_block("M00") == (
            given[places.index("M00.0")],
            given[places.index("M00.2")],
        )
    for name in {"BASE", "IN", "OUT"} & set(table.blocks) - set(table.numbered()):
        outer = name if name in places else "BASE"
        if outer in places:
            assert strengths.of_block(name) == (given[places.index(outer)],) * 2
    assert f"{len(places)} values in {reading}'s order (as asked)" in strengths.readings[0]


def test_three_middle_values_reach_the_three_middle_modules():
    vector = ",".join(["0"] * 12 + ["0.1", "0.2", "0.3"] + ["0"] * 12)
    strengths = block_strengths(vector, TABLES["SD1.5"])
    for index, value in enumerate((0.1, 0.2, 0.3)):
        keys = [k for k in SD15.shapes if k.startswith(f"diffusion_model.middle_block.{index}.")]
        assert {factor for key in keys for factor in strengths.factors[key]} == {value}


@pytest.mark.parametrize(
    ("model", "length", "reading"),
    [("SD1.5", 17, "inspire"), ("SD1.5", 26, "hako"), ("SD1.5", 27, "inspire"), ("SDXL", 12, "inspire"),
     ("SDXL", 20, "hako"), ("SDXL", 21, "inspire"), ("Flux", 20, "inspire"), ("Flux", 58, "inspire"),
     ("Flux", 61, "hako")],
)  # fmt: skip
def test_the_reading_is_detected_by_length_and_model_and_said(model, length, reading):
    strengths = block_strengths(",".join(["1"] * length), TABLES[model])
    assert f"{reading}'s order (detected)" in strengths.readings[0]


@pytest.mark.parametrize("model", TABLES)
@pytest.mark.parametrize("length", [2, 11, 13, 16, 18, 19, 22, 25, 28, 57, 59, 60, 62, 300])
def test_a_wrong_length_is_an_error_that_says_which_fit(model, length):
    fits = {"SD1.5": "17 or 27 values (inspire), 17 or 26 values (hako)",
            "SDXL": "12 or 21 values (inspire), 12 or 20 values (hako)",
            "Flux": "20 or 58 values (inspire), 61 values (hako)"}  # fmt: skip
    with pytest.raises(StackError) as error:
        block_strengths("IN*?=1\n  " + ",".join(["1"] * length), TABLES[model])
    assert f"line 2, column 3: {length} values" in str(error.value)
    assert fits[model] in str(error.value)


@pytest.mark.parametrize(("model", "length", "reading"), [("SD1.5", 26, "inspire"), ("SD1.5", 27, "hako"),
                                                          ("SDXL", 21, "hako"), ("Flux", 61, "inspire")])  # fmt: skip
def test_a_length_of_the_other_reading_is_refused_when_a_reading_is_chosen(model, length, reading):
    with pytest.raises(StackError, match=f"{length} values read as {reading}'s do not fit"):
        block_strengths(f"dialect={reading};" + ",".join(["1"] * length), TABLES[model])


def test_a_model_without_a_layout_names_the_way_out():
    from lora_core.targets import TargetMap

    names = ("self_attn.q", "ffn.0.x")
    table = block_table(TargetMap({}, {f"diffusion_model.blocks.{i}.{n}.weight": (4, 4) for i in range(3) for n in names}))  # fmt: skip
    with pytest.raises(StackError, match="no vector layout.*Name the blocks"):
        block_strengths(",".join(["1"] * 17), table)


ALL_17 = "BASE IN01 IN02 IN04 IN05 IN07 IN08 M00 OUT03-OUT11"
HAKO_17 = {
    "NONE": "",
    "ALL": ALL_17,
    "INS": "BASE IN01 IN02 IN04",
    "IND": "BASE IN05 IN07 IN08",
    "INALL": "BASE IN01 IN02 IN04 IN05 IN07 IN08",
    "MIDD": "BASE IN05 IN07 IN08 M00 OUT03-OUT06",
    "OUTD": "BASE OUT03-OUT06",
    "OUTS": "BASE OUT07-OUT11",
    "OUTALL": "BASE OUT03-OUT11",
    "ALL0.5": "BASE=0.5 IN01=0.5 IN02=0.5 IN04=0.5 IN05=0.5 IN07=0.5 IN08=0.5 M00=0.5 OUT03-OUT11=0.5",
}
SD = {
    **{f"SD-{name}": written for name, written in HAKO_17.items()},
    "SD-MIDD0.2": "BASE IN08=0.2 M00=0.4 OUT03=0.4 OUT04=0.2",
    "SD-MIDD0.8": "BASE IN07=0.5 IN08=0.8 M00=0.8 OUT03=0.4",
    "SD-MOUT": "BASE IN08 M00 OUT03-OUT08 OUT09=0.5",
    "SD-AOUT": "BASE=4 IN01 IN02 IN04 IN05 IN07 IN08 M00 OUT03-OUT06 OUT07-OUT11=4",
    "SD-AB": "BASE=4 IN01 IN02 IN04 IN05 IN07 IN08 M00 OUT03-OUT06 OUT07-OUT11=4",
    "SD-LyC-NONE": "",
    "SD-LyC-ALL": "BASE IN01-IN11 M00 OUT00-OUT11",
    "SD-LyC-INALL": "BASE IN01-IN11",
    "SD-LyC-MIDALL": "BASE M00",
    "SD-LyC-OUTALL": "BASE OUT00-OUT11",
    "SD-BODY": "BASE IN01 IN02 IN04 IN05 IN07 IN08 M00 OUT06-OUT11",
    "SD-BODY0.5": "BASE IN01 IN02 IN04 IN05 IN07 IN08=0.2 M00 OUT03=0.2 OUT06=0.8 OUT07-OUT11",
    "SD-FACE": "BASE OUT03-OUT05",
    "SD-FACE0.5": "BASE OUT03=0.8 OUT04 OUT05 OUT06=0.2",
    "SD-FACE0.2": "BASE OUT03=0.2 OUT04=0.6 OUT05=0.8 OUT06=0.2",
    "SD-HAND": "BASE IN02 IN04 IN05=0.2",
    "SD-CLOTHING": "BASE IN01 IN02 IN04 IN05 IN08=0.2 OUT03=0.8 OUT04 OUT05 OUT06=0.2",
    "SD-POSE": "BASE IN08=0.2 M00 OUT03 OUT04",
    "SD-PALETTE": "BASE OUT06=0.8 OUT07-OUT11",
    "SD-KEEPCHAR": "BASE IN01 IN02 IN04 IN05 OUT03-OUT09",
    "SD-KEEPBG": "BASE IN01 IN02 IN04 IN05 IN07 IN08=0.2 M00 OUT03=0.2 OUT06=0.8 OUT07-OUT09",
    "SD-REDUCEFIT": "BASE OUT03-OUT11",
    "SD-LyCOBODY": "BASE IN00-IN11 OUT04-OUT11",
    "SD-LyCOFACE": "BASE OUT00-OUT06",
    "SD-LyCOFACE0.5": "BASE OUT00=0.2 OUT01=0.5 OUT02=0.8 OUT03-OUT05 OUT06=0.2",
    "SD-LyCOCLOTH": "BASE IN00-IN06 IN08-IN10=0.2 OUT02=0.5 OUT03=0.8 OUT04 OUT05 OUT06=0.2",
    "SD-LyCOPOSE": "BASE IN08=0.2 IN09-IN11 M00 OUT00-OUT04",
    "SD-LyCOKEEPBG": "BASE IN00-IN07 IN08=0.2 IN09=0.4 IN10=0.8 IN11 M00 OUT00=0.8 OUT01=0.4 OUT02=0.2 OUT03=0.2 "
    "OUT06=0.8 OUT07-OUT09",
    "SD-LyCOPALETTE": "BASE OUT06=0.8 OUT07-OUT11",
    **HAKO_17,
}  # fmt: skip
XL = {
    "SDXL-NONE": "",
    "SDXL-ALL": "BASE IN04 IN05 IN07 IN08 M00 OUT00-OUT05",
    "SDXL-INALL": "BASE IN04 IN05 IN07 IN08",
    "SDXL-MIDALL": "BASE M00",
    "SDXL-OUTALL": "BASE OUT00-OUT05",
    "SDXL-LyC-NONE": "",
    "SDXL-LyC-ALL": "BASE IN01-IN08 M00 OUT00-OUT08",
    "SDXL-LyC-INALL": "BASE IN01-IN08",
    "SDXL-LyC-MIDALL": "BASE M00",
    "SDXL-LyC-OUTALL": "BASE OUT00-OUT08",
}
DIT = {
    "FLUX-DBL-ALL": "BASE D00-D18",
    "FLUX-DBL-FRONT7": "BASE D00-D06",
    "FLUX-DBL-MID6": "BASE D07-D12",
    "FLUX-DBL-TAIL6": "BASE D13-D18",
    "FLUX-SINGLE-ALL": "BASE S00-S37",
    "FLUX-SINGLE-1to10": "BASE S00-S09",
    "FLUX-SINGLE-11to20": "BASE S10-S19",
    "FLUX-SINGLE-21to30": "BASE S20-S29",
    "FLUX-SINGLE-31to37": "BASE S30-S37",
    "FLUX-ALL": "BASE D00-D18 S00-S37",
    "FLUXALL": "BASE D00-D18 S00-S37",
}
WRITTEN = [(model, name, text) for model, table in (("SD1.5", SD), ("SDXL", XL), ("Flux", DIT)) for name, text in table.items()]  # fmt: skip


@pytest.mark.parametrize(
    ("model", "name", "written"), WRITTEN, ids=[name for _, name, _ in WRITTEN]
)
def test_every_preset_gives_the_strengths_of_a_written_out_table(model, name, written):
    table = TABLES[model]
    assert values(block_strengths(name, table)) == expected(table, written)


def test_every_built_in_preset_is_in_the_tables_or_draws_or_is_elemental():
    others = {"SD-ROUT", "ATTNDEEPON", "ATTNDEEPOFF", "PROJDEEPOFF", *STARTING_POINTS}
    assert set(BUILT_IN) == {name for _, name, _ in WRITTEN} | others


def test_a_preset_is_found_whatever_the_case_of_its_name():
    assert (
        block_strengths("sd-midd", TABLES["SD1.5"]).factors
        == block_strengths("SD-MIDD", TABLES["SD1.5"]).factors
    )


STARTS = {
    "SDXL keep content (B-LoRA)": ("SDXL", "TE OUT00"),
    "SDXL keep style (B-LoRA)": ("SDXL", "TE OUT01"),
    "SDXL keep composition (InstantStyle)": ("SDXL", "TE IN08"),
    "SD1.5 keep shape (P+)": ("SD1.5", "TE IN07 IN08 M00 OUT03-OUT05"),
    "SD1.5 keep style (P+)": ("SD1.5", "BASE IN00-IN06 IN09-IN11 OUT00-OUT02 OUT06-OUT11"),
    "SD1.5 keep face (Inspire example)": ("SD1.5", "BASE OUT03-OUT05"),
    "Flux keep likeness (single 7 12 16 20)": ("Flux", "TE S07 S12 S16 S20"),
}


@pytest.mark.parametrize("name", STARTS)
def test_starting_points_keep_the_published_blocks_name_a_source_and_refuse_other_models(name):
    model, written = STARTS[name]
    assert values(block_strengths(name, TABLES[model])) == expected(TABLES[model], written)
    assert BUILT_IN[name].source
    for other in set(TABLES) - {model}:
        with pytest.raises(StackError, match=f"is for models with the blocks of {model}"):
            block_strengths(name, TABLES[other])


def test_all_starting_points_are_tested():
    assert set(STARTS) == set(STARTING_POINTS)


# --- the six traps, each a real user's bug in another pack ---


def singles_lora(count: int) -> AdapterFile:
    """A Flux LoRA that has only the first single blocks."""
    generator = torch_generator()
    tensors = {}
    for index in range(count):
        name = f"lora_unet_single_blocks_{index}_linear2"
        tensors |= pair(name, generator, out=WIDTH, inner=5 * WIDTH, rank=2)
    return parse_state_dict(tensors, "singles.safetensors")


def torch_generator():
    import torch

    return torch.Generator().manual_seed(3)


def test_trap_1_a_vector_means_the_same_blocks_whatever_the_file_contains():
    """Singles 0 to 18 asked for by name: all 19 are applied, where counting the file's blocks applies none."""
    vector = ",".join(["1"] + ["0"] * 19 + ["1"] * 19 + ["0"] * 19)
    row = StackRow("singles", blocks=vector)
    resolved, account = resolve([(row, singles_lora(19))], FLUX, None)
    assert len(resolved.model.steps) == 19
    wrong = StackRow("singles", blocks=",".join(["1"] * 20 + ["0"] * 38))
    nothing, account = resolve([(wrong, singles_lora(19))], FLUX, None)
    assert not nothing.model.steps
    assert account.rows[0].model.matched == 19


def test_trap_2_the_middle_block_is_counted_as_its_pack_counts_it():
    inspire = ",".join(["0"] * 12 + ["1"] * 3 + ["0"] * 12)
    hako = ",".join(["0"] * 13 + ["1"] + ["0"] * 12)
    table = TABLES["SD1.5"]
    only_middle = expected(table, "M00")
    assert values(block_strengths(inspire, table)) == only_middle
    assert values(block_strengths(hako, table)) == only_middle


def test_trap_3_a_short_vector_does_not_run_on_over_the_remaining_blocks():
    strengths = block_strengths("FLUX-DBL-ALL", TABLES["Flux"])
    assert all(strengths.of_block(f"S{index:02}") == (0, 0) for index in range(38))
    assert "not in the vector, so 0: S00-S37" in strengths.readings[0]


@pytest.mark.parametrize(
    ("dialect", "letter", "low", "high"),
    [
        ("hako", "R", 0, 1),
        ("inspire", "R", 0, 3),
        ("hako", "U", -0.5, 1.5),
        ("inspire", "U", -1.5, 1.5),
    ],
)
def test_trap_4_letters_draw_from_the_range_of_the_reading(dialect, letter, low, high):
    text = f"dialect={dialect}\n" + ",".join([letter] * 17)
    drawn = [
        value
        for seed in range(40)
        for block, value in values(block_strengths(text, TABLES["SD1.5"], generator=random.Random(seed))).items()
        if block in spread("IN01 IN02 IN04 IN05 IN07 IN08 M00 OUT03-OUT11")
    ]  # fmt: skip
    assert low <= min(drawn) < low + 0.05 * (high - low)
    assert high - 0.05 * (high - low) < max(drawn) <= high


def test_trap_5_percent_lines_count_from_one():
    strengths = block_strengths("%default=0,base=1,double1-5=0.8,single=0.5", TABLES["Flux"])
    assert values(strengths) == expected(TABLES["Flux"], "BASE D00-D04=0.8 S00-S37=0.5")
    with pytest.raises(StackError, match="count from 1"):
        block_strengths("%double0-5=1", TABLES["Flux"])
    with pytest.raises(StackError, match="counts the blocks that the file happens to have"):
        block_strengths("%in3=0.5", TABLES["SD1.5"])


@pytest.mark.parametrize("name", ["SD-MIDD", "MIDD", ",".join(["1"] * 17)])
def test_trap_6_seventeen_values_on_sdxl_are_refused_and_not_padded(name):
    with pytest.raises(StackError, match="17 values.*blocks of SDXL and takes 12 or 21"):
        block_strengths(name, TABLES["SDXL"])


# --- letters and preset files ---


def test_letters_are_drawn_from_the_seed_and_from_nothing_else():
    table = TABLES["SD1.5"]
    first, again = (block_strengths("seed=5;SD-ROUT", table).factors for _ in range(2))
    assert first == again
    assert first != block_strengths("seed=6;SD-ROUT", table).factors
    assert block_strengths("SD-ROUT", table, generator=random.Random(5)).factors == first


def test_a_and_b_are_set_in_the_text_and_small_letters_are_half_of_them():
    text = "LBW=B11:A,a,B,b,1,1,1,1,1,1,1,1,1,1,1,1,1;A=0.6;B=0.2;"
    found = values(block_strengths(text, TABLES["SD1.5"]))
    assert [found[block] for block in ("BASE", "IN01", "IN02", "IN04")] == [0.6, 0.3, 0.2, 0.1]
    with pytest.raises(StackError, match="hako's vectors have only R and U"):
        block_strengths(f"dialect=hako\n{text}", TABLES["SD1.5"])


def test_preset_files_of_both_packs_are_read():
    text = (
        "# mine\nMINE:1,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0\n@SD-FULL-TEST:17,12,1\njust a remark\n"
        "SHORT:1,1,1,1,1,1\n\nDEEP:IN05-OUT05:attn:0\nOUT06:ff:0.5\n\n"
    )
    found = parse_preset_file(text, "lbwpresets.txt", "hako")
    assert set(found) == {"MINE", "SHORT", "DEEP"}
    table = TABLES["SD1.5"]
    assert values(block_strengths("MINE", table, BUILT_IN | found)) == expected(table, "BASE")
    deep = block_strengths("DEEP", table, BUILT_IN | found)
    assert deep.of_block("OUT06") == (0.5, 1.0)
    assert deep.of_block("IN05") == (0.0, 1.0)
    with pytest.raises(StackError, match=r"line 1, column 1 \(in preset 'SHORT'\): 6 values"):
        block_strengths("SHORT", table, BUILT_IN | found)


def test_the_example_preset_with_a_value_missing_is_told_apart():
    """Inspire's own SD-LyCOBODY0.5 has 25 values."""
    line = "SD-LyCOBODY0.5:1,1,1,1,1,1,1,1,1,0.2,0.2,0.5,1,1,0,0,0,0.2,0,0,0.8,1,1,1,1"
    found = parse_preset_file(line, "lbw-preset.custom.txt", "inspire")
    with pytest.raises(StackError, match="25 values read as inspire's do not fit"):
        block_strengths("SD-LyCOBODY0.5", TABLES["SD1.5"], found)
