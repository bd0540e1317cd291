"""What a workflow needs, in words, and the hashes as other programs write them."""

from __future__ import annotations

import json
import re

import pytest

from lora_core.errors import StackError
from lora_core.files.identity import FileHashes
from lora_core.stack.interop import one_or_stack
from lora_core.stack.lock import Identified
from lora_core.stack.rows import StackRow
from lora_core.stack.sharing import Need, a1111_hashes, hash_list, needs_text

# As A1111 reads the last line of a picture's parameters: name, then a quoted text or all up to a comma.
PARAMETER = re.compile(r'\s*(\w[\w \-/]+):\s*("(?:\\.|[^\\"])+"|[^,]*)(?:,|$)')


def need(name: str, digit: str, model: float = 0.8, autov3: bool = True, **more) -> Need:
    row = StackRow(name, model)
    hashes = FileHashes(digit * 64, digit * 12 if autov3 else None)
    return Need(row, Identified(row, name, hashes, "SD1.5", 1234567), base="SD1.5", **more)


MADE = Need(StackRow("loom/made.safetensors"), None, base="SDXL")


def test_what_is_needed_is_named_with_size_hashes_base_and_words():
    text = needs_text([need("people\\leah.safetensors", "a", words="sks_leah"), MADE])
    assert text.splitlines() == [
        "This workflow needs 1 LoRA (1,234,567 bytes in all). 1 LoRA made in the graph itself.",
        "1. people/leah.safetensors",
        f"   sha256: {'a' * 64}",
        "   AutoV2: aaaaaaaaaa, AutoV3: aaaaaaaaaaaa",
        "   size: 1,234,567 bytes",
        "   base: SD1.5",
        "   strength: model 0.8, clip 1",
        "   trigger words: sks_leah",
        "2. loom/made.safetensors",
        "   made in this graph: no file is needed",
        "   base: SDXL",
        "   strength: model 1, clip 1",
    ]
    assert needs_text([]) == "This workflow needs no LoRA."


def test_the_hashes_are_read_by_a1111s_own_rule():
    text = a1111_hashes([need("dir/style.safetensors", "a"), need("leah.safetensors", "b"), MADE])
    quoted = dict(PARAMETER.findall(text))["Lora hashes"]
    assert json.loads(quoted) == "style: aaaaaaaaaaaa, leah: bbbbbbbbbbbb"
    listed = json.loads(text.partition(", Hashes: ")[2])
    assert listed == {"lora:style": "a" * 10, "lora:leah": "b" * 10}


def test_two_files_of_one_name_are_told_by_their_folders_and_one_file_stands_once():
    same = [
        need("a/x.safetensors", "a"),
        need("b/x.safetensors", "b"),
        need("b/x.safetensors", "b"),
    ]
    assert "a/x: aaaaaaaaaaaa, b/x: bbbbbbbbbbbb" in a1111_hashes(same)
    assert hash_list(same) == "a/x:aaaaaaaaaa:0.8, b/x:bbbbbbbbbb:0.8"


def test_names_in_any_script_and_with_quotes_stay_whole():
    name = 'Stil "\u0413\u044d" \u6c34\u58a8, v2.1'
    text = a1111_hashes([need(f"{name}.safetensors", "a", autov3=False)])
    quoted = dict(PARAMETER.findall(text))["Lora hashes"]
    assert json.loads(quoted) == f"{name}: aaaaaaaaaa"
    assert hash_list([need("a:b,c.safetensors", "a")]) == "a b c:aaaaaaaaaa:0.8"


def test_without_files_there_are_no_hashes():
    assert (a1111_hashes([MADE]), hash_list([])) == ("", "")


def test_a_connected_stack_goes_before_the_name_and_neither_is_refused():
    assert one_or_stack("x", [("y", 0.5, 0.5)]).rows == (StackRow("y", 0.5, 0.5),)
    assert one_or_stack("x", None).rows == (StackRow("x"),)
    assert one_or_stack(None, []).rows == ()
    with pytest.raises(StackError, match="No LORA_STACK is connected"):
        one_or_stack(None, None)
