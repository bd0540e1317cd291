"""LoRA tags in prompts: what each dialect says, and the prompt that is left."""

from __future__ import annotations

import contextlib
import re
from random import Random

import pytest

from lora_core.errors import LoraError, LoraFileError, StackError
from lora_core.files.finding import listed_name
from lora_core.stack.rows import LoraStack, StackRow
from lora_core.stack.tag_parts import DIALECTS, parse_tag
from lora_core.stack.tags import has_tags, read_tags, without_tags

LISTED = [
    "style.safetensors",
    "people\\leah.safetensors",
    "people/twin.safetensors",
    "old/twin.safetensors",
    "my style, (v2.1).safetensors",
    "style.v2.safetensors",
    "both.safetensors",
    "both.pt",
]


def find(name: str) -> str:
    return listed_name(name, LISTED)


def only_row(tag: str, dialect: str) -> StackRow:
    (row,) = read_tags(tag, find, dialect).stack.rows
    return row


# tag, dialect -> (model, clip, blocks, schedule)
TAGS = [
    ("<lora:style>", "comfyui", (1, 1, "", "")),
    ("<lora:style:0.8>", "comfyui", (0.8, 0.8, "", "")),
    ("<lora:style:0.8:0.5>", "comfyui", (0.8, 0.5, "", "")),
    ("<lora:style:0.8:>", "comfyui", (0.8, 0.8, "", "")),
    ("<lora:style::0.5>", "comfyui", (1, 0.5, "", "")),
    ("<lora:style:-0.8:+.5>", "comfyui", (-0.8, 0.5, "", "")),
    ("<lora:style: 1. : 1e-1 >", "comfyui", (1, 0.1, "", "")),
    ("<lora:style:0>", "comfyui", (0, 0, "", "")),
    ("<LoRA:style:0.8>", "comfyui", (0.8, 0.8, "", "")),
    ("<lyco:style:0.8>", "comfyui", (0.8, 0.8, "", "")),
    ("<lora: style :0.8>", "comfyui", (0.8, 0.8, "", "")),
    ("<lora:style.safetensors:0.8>", "comfyui", (0.8, 0.8, "", "")),
    ("<lora:style:0.8:te=0.5>", "comfyui", (0.8, 0.5, "", "")),
    ("<lora:style:0.8:unet=0.5>", "comfyui", (0.5, 0.8, "", "")),
    ("<lora:style:0@0,1@0.5>", "comfyui", (1, 1, "", "0@0,1@0.5")),
    ("<lora:style:0.8:LBW=SD-MIDD;>", "comfyui", (0.8, 0.8, "SD-MIDD", "")),
    ("<lora:style:0.5>", "a1111", (0.5, 0.5, "", "")),
    ("<lora:style:0.5:0.8>", "a1111", (0.8, 0.5, "", "")),
    ("<lora:style:te=0.5:unet=0.8>", "a1111", (0.8, 0.5, "", "")),
    ("<lora:style:te=0.5>", "a1111", (0.5, 0.5, "", "")),
    ("<lora:style:unet=0.8>", "a1111", (0.8, 1, "", "")),
    ("<lora:style:0.5:unet=-0.8>", "a1111", (-0.8, 0.5, "", "")),
    ("<lora:style:0.5:0.8:te=0.1>", "a1111", (0.8, 0.1, "", "")),
    ("<lora:style:0.5:IN02>", "a1111", (0.5, 0.5, "IN02", "")),
    ("<lora:style:0.5:0.8:lbw=MIDD>", "a1111", (0.8, 0.5, "MIDD", "")),
    ("<lora:style:1:0.5:LBW=SD-MIDD;>", "lbw", (1, 0.5, "SD-MIDD", "")),
    ("<lora:style:1:0.5:LBW=B11:0,0,1;>", "lbw", (1, 0.5, "0,0,1", "")),
    ("<lora:style:1:1:LBW=B11:0,A,B;A=0.5;B=0.2;>", "lbw", (1, 1, "0,A,B;A=0.5;B=0.2", "")),
    ("<lora:style:1:LBW=1,0,-0.5,R,U>", "lbw", (1, 1, "1,0,-0.5,R,U", "")),
    ("<lora:style:LBW=SD-MIDD:0.8>", "lbw", (0.8, 0.8, "SD-MIDD", "")),
    ("<lora:style:1:0.5>", "lbw", (1, 0.5, "", "")),
    ("<lora:style:1:0.5:lbw=MIDD>", "lbw", (0.5, 1, "MIDD", "")),
    ("<lora:style:1:lbw=1,0,0:start=5:stop=10>", "lbw", (1, 1, "1,0,0", "start=5:stop=10")),
    ("<lora:style:0.7:0.9:step=5-10>", "lbw", (0.9, 0.7, "", "step=5-10")),
    ("<lora:style:1:lbw=ALL:lbwe=IN05-OUT05:attn:0>", "lbw", (1, 1, "ALL;IN05-OUT05:attn:0", "")),
    ("<lora:style:1:IN02>", "lbw", (1, 1, "IN02", "")),
    ("<lora:style:1:1,0,0,0>", "lbw", (1, 1, "1,0,0,0", "")),
    ("<lora:style:0@0,1@0.5>", "loractl", (1, 1, "", "0@0,1@0.5")),
    ("<lora:style:0.5:0@0, -1@0.5>", "loractl", (-1, 0.5, "", "0@0, -1@0.5")),
    ("<lora:style:te=0.5:unet=0@0,1@0.5>", "loractl", (1, 0.5, "", "0@0,1@0.5")),
    ("<lora:style:1@0,0@20:start=2>", "loractl", (1, 1, "", "1@0,0@20:start=2")),
]


@pytest.mark.parametrize(("tag", "dialect", "expected"), TAGS, ids=[f"{d} {t}" for t, d, _ in TAGS])
def test_a_tag_says_strengths_blocks_and_schedule(tag, dialect, expected):
    row = only_row(tag, dialect)
    assert row.name == "style.safetensors"
    assert (row.model, row.clip, row.blocks, row.schedule) == expected


@pytest.mark.parametrize(
    ("tag", "dialect", "message"),
    [
        ("<lora:>", "comfyui", "names no LoRA"),
        ("<lora: :1>", "comfyui", "names no LoRA"),
        ("<lora:style:much>", "comfyui", "'much' is no strength"),
        ("<lora:style:much>", "loractl", "'much' is no strength"),
        ("<lora:style:te=much>", "a1111", "'much' is no strength"),
        ("<lora:style:nan>", "comfyui", "'nan' is no strength"),
        ("<lora:style:0x1>", "comfyui", "'0x1' is no strength"),
        ("<lora:style:1e999>", "comfyui", "more than a number can hold"),
        ("<lora:style:1:2:3>", "comfyui", "3 numbers"),
        ("<lora:style:unt=1>", "a1111", "unknown part 'unt='"),
        ("<lora:style:te=1:te=0.5>", "a1111", "'te=' twice"),
        ("<lora:style:1:IN02:lbw=ALL>", "lbw", "block strengths twice"),
        ("<lora:style:1:LBW=;A=1;>", "lbw", "lbw= is empty"),
        ("<lora:style:0.8 and more", "comfyui", "has no end"),
        ("<lora:style:<lora:style:1>", "comfyui", "has no end"),
    ],
)
def test_a_tag_that_makes_no_sense_is_refused_and_shown(tag, dialect, message):
    with pytest.raises(StackError) as error:
        read_tags(f"rain {tag}", find, dialect)
    assert message in str(error.value)
    assert tag[:12] in str(error.value)


@pytest.mark.parametrize(
    ("tag", "note"),
    [
        ("<lora:style:1:1:8>", "'dyn=8' has no effect"),
        ("<lora:style:dyn=8>", "'dyn=8' has no effect"),
        ("<lora:style:x=IN02>", "'x=IN02' has no effect"),
        ("<lora:style:LBW=ALL;LOADER=other>", "'LOADER=other' has no effect"),
        ("<lora:style:0@0,1@1:1>", "keyframes '0@0,1@1' of the text encoder have no effect"),
        ("[<lora:style:1>::0.5]", "stands inside [..:..]"),
        ("[rain (<lora:style:1>:1.1):<lora:style:1>:0.2]", "stands inside [..:..]"),
    ],
)
def test_what_a_tag_asks_for_and_does_not_get_is_said(tag, note):
    assert any(note in line for line in read_tags(tag, find, "a1111").report)


@pytest.mark.parametrize(
    "text",
    ["[red <lora:style:1> coat]", r"\[<lora:style:1>::0.5\]", "[a:b:0.5] <lora:style:1> [c:d:1]"],
)
def test_a_tag_outside_prompt_scheduling_is_said_plainly(text):
    assert read_tags(text, find).report == ("<lora:style:1>: style.safetensors, model 1, clip 1",)


@pytest.mark.parametrize(
    ("name", "listed"),
    [
        ("leah", "people\\leah.safetensors"),
        ("people/leah", "people\\leah.safetensors"),
        ("people\\leah.safetensors", "people\\leah.safetensors"),
        ("old/twin", "old/twin.safetensors"),
        ("style.v2", "style.v2.safetensors"),
        ("my style, (v2.1)", "my style, (v2.1).safetensors"),
        (r"my style, \(v2.1\)", "my style, (v2.1).safetensors"),
        ("both", "both.safetensors"),
    ],
)
def test_names_are_understood_without_folder_extension_or_escapes(name, listed):
    assert only_row(f"<lora:{name}:1>", "comfyui").name == listed


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("twin", "may be old/twin.safetensors or people/twin.safetensors"),
        ("stile", "The nearest names: style.safetensors"),
        ("sty", "not found"),
        ("../style", "points outside the loras folders"),
        ("other/twin", "not found"),
    ],
)
def test_a_name_is_never_guessed(name, message):
    with pytest.raises(LoraFileError) as error:
        read_tags(f"<lora:style:1> <lora:{name}:1>", find)
    assert message in str(error.value)
    assert f"<lora:{name}:1>" in str(error.value)


def test_every_unknown_name_is_reported_at_once():
    with pytest.raises(LoraFileError, match="(?s)one.*two"):
        read_tags("<lora:one:1> <lora:two:1>", find)


def test_unknown_names_can_be_left_out_and_are_said():
    read = read_tags("a <lora:gone:1>, <lora:style:0.5>", find, unknown="skip")
    assert read.stack == LoraStack((StackRow("style.safetensors", 0.5, 0.5),))
    assert read.text == "a"
    assert read.report[-1].startswith("left out: <lora:gone:1>: LoRA 'gone' not found")


@pytest.mark.parametrize(("dialect", "unknown"), [("a111", "error"), ("comfyui", "ignore")])
def test_a_choice_that_is_none_is_refused(dialect, unknown):
    with pytest.raises(StackError, match="choice|dialect"):
        read_tags("", find, dialect, unknown)


def test_rows_come_in_the_order_of_the_tags_and_repeat_as_they_do():
    rows = read_tags("<lora:leah:1> b <lora:style:1>, <lora:leah:0.5>", find).stack.rows
    assert [row.name for row in rows] == [LISTED[1], LISTED[0], LISTED[1]]


CLEAN = [
    ("", ""),
    ("a  b,, c \n", "a  b,, c \n"),
    ("<lora:x:1>", ""),
    ("a <lora:x:1> b", "a b"),
    ("a, <lora:x:1>, b", "a, b"),
    ("a, <lora:x:1> b", "a, b"),
    ("a <lora:x:1>, b", "a, b"),
    ("a,<lora:x:1>,b", "a,b"),
    ("a, <lora:x:1>", "a"),
    ("<lora:x:1>, a", "a"),
    ("<lora:x:1> <lora:y:1>,a", "a"),
    ("a, <lora:x:1>, <lora:y:1>,<lora:z:1> , b", "a, b"),
    ("a  <lora:x:1>  b", "a b"),
    ("a<lora:x:1>b", "ab"),
    ("a <lora:x:1>b", "a b"),
    ("a,, <lora:x:1>, b", "a,, b"),
    ("a  b, <lora:x:1> c  d", "a  b, c  d"),
    ("(a, <lora:x:1>:1.2), b", "(a:1.2), b"),
    ("(<lora:x:1>, a)", "(a)"),
    ("(a <lora:x:1>)", "(a)"),
    ("{a <lora:x:1>|<lora:y:1> b}", "{a|b}"),
    ("[a:<lora:x:1> b:0.5]", "[a:b:0.5]"),
    ("a <lora:x:1>. B", "a. B"),
    ("a <lora:x:1> :)", "a :)"),
    ("a\n<lora:x:1>\nb", "a\nb"),
    ("a\r\n<lora:x:1>, <lora:y:1>\r\nb", "a\r\nb"),
    ("a\n  <lora:x:1> \n\tb", "a\n\tb"),
    ("a\n\n<lora:x:1>", "a\n"),
    ("a <lora:x:1>\nb", "a\nb"),
    ("a,\n<lora:x:1> b", "a,\nb"),
    ("  <lora:x:1> a", "  a"),
    ("<lora:x:1>\n<lora:y:1>\na", "a"),
    ("a BREAK <lora:x:1> b AND c", "a BREAK b AND c"),
    (r"\<lora:x:1> \(a\) <lora:x:1>", r"\<lora:x:1> \(a\)"),
    ("embedding:x, <lora:y:LBW=1,0,1;> wildcard __a__", "embedding:x, wildcard __a__"),
    ("<hypernet:x:1> <loras:y> a < b > c", "<hypernet:x:1> <loras:y> a < b > c"),
]


@pytest.mark.parametrize(("text", "clean"), CLEAN)
def test_tags_leave_no_gap_and_all_else_stays_as_it_was(text, clean):
    assert without_tags(text) == clean


PIECES = (
    "a",
    "red coat",
    "(b:1.2)",
    "\n",
    ", ",
    " ",
    ",",
    "[c:d:0.5]",
    "<lora:x:1>",
    "<lora:y:0.5:1>",
)


@pytest.mark.parametrize("seed", range(300))
def test_whatever_the_prompt_words_stay_and_separators_do_not_pile_up(seed):
    random = Random(seed)
    text = "".join(random.choice(PIECES) for _ in range(random.randrange(1, 20)))
    clean = without_tags(text)
    assert not has_tags(clean)

    def kept(prompt: str) -> str:
        return "".join(prompt.replace(",", "").split())

    assert kept(clean) == kept(text.replace("<lora:x:1>", "").replace("<lora:y:0.5:1>", ""))
    for piled in ("[ \\t]{2,}", ",[ \\t]*(?=,)"):
        assert len(re.findall(piled, clean)) <= len(re.findall(piled, text))
    assert without_tags(clean) == clean


@pytest.mark.parametrize("seed", range(300))
def test_any_text_is_read_or_refused_in_words(seed):
    random = Random(seed)
    signs = [
        "<lora:",
        "style",
        ":",
        ">",
        "=",
        "lbw",
        "LBW=",
        "te=",
        "1",
        "0.5",
        "@",
        ",",
        ";",
        "A",
        "\\",
        "[",
        "\ud800",
    ]
    text = "".join(random.choice(signs) for _ in range(random.randrange(1, 25)))
    for dialect in DIALECTS:
        with contextlib.suppress(LoraError):
            assert not has_tags(read_tags(text, find, dialect, "skip").text)


def test_a_megabyte_of_prompt_is_read_in_one_go():
    text = "word, " * 150_000 + "<lora:style:1>" + " " * 200_000 + "<lora:style:0.5>"
    assert len(read_tags(text, find).stack.rows) == 2


def test_parts_of_a_tag_are_told_without_a_list_of_files():
    parts = parse_tag("<lora:some name:0.5>")
    assert (parts.name, parts.model, parts.clip) == ("some name", 0.5, 0.5)
