"""Long, deep and crafted texts: every parser ends, with an answer or a LoraError, far below what a person calls a hang."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from lora_core.errors import LoraError
from lora_core.files.facts import facts_text, gather
from lora_core.files.finding import listed_name
from lora_core.merge.choice import parse_choices
from lora_core.stack.blockpresets import parse_preset_file
from lora_core.stack.blocks import parse_blocks
from lora_core.stack.blockstrengths import block_strengths
from lora_core.stack.blocktable import block_table
from lora_core.stack.lock import locked_row
from lora_core.stack.rows_text import read_rows
from lora_core.stack.schedule import read_schedule
from lora_core.stack.tags import read_tags

ROOT = Path(__file__).resolve().parents[2]
# A parser of linear cost needs well under a second for each text; a quadratic one of this size needs hours.
SECONDS = 120
SIZE = 200_000

TEXTS = {
    "nothing but brackets": "[" * SIZE,
    "nothing but parentheses": "(" * SIZE + ")" * SIZE,
    "nested objects": '{"a":' * (SIZE // 5),
    "a tag that never ends": "<lora:" + "a" * SIZE,
    "tags that never end": "<lora:" * (SIZE // 6),
    "tags": "<lora:a:1>" * (SIZE // 400),
    "backslashes": "\\" * SIZE,
    "spaces and commas": " , " * (SIZE // 3),
    "keyframes": ",".join(f"1@{index}" for index in range(SIZE // 10)),
    "one long number": "9" * SIZE,
    "a number with an enormous exponent": "1e" + "9" * 1000,
    "assignments": "IN04=0.5\n" * (SIZE // 100),
    "one name, starred": "*" * SIZE + "=1",
    "ranges": "IN00-IN11=0.5," * (SIZE // 100),
    "a vector": ",".join(["0.5"] * (SIZE // 4)),
    "signs that count": ":=;@#%-." * (SIZE // 8),
    "lines": "\n" * SIZE,
    "a word": "x" * SIZE,
    "spaces before a sign": " " * SIZE + "=",
    "digits, dots and e": "1.e" * (SIZE // 3),
    "wide characters": "\U0001f3a8" * (SIZE // 2),
    "numbers of blocks that are too long": "%double" + "9" * 5000 + "=1",
    "a turn that is too long": "turn=1/2:every=" + "9" * 5000,
    "a list in a list in a list": "[" * 600 + "]" * 600,
    "objects in objects": '{"loras":' * 600 + "1" + "}" * 600,
    "JSON of a long row": json.dumps([{"lora": "x" * SIZE}]),
    "JSON of many rows": json.dumps([{"lora": "x", "model": 0.5}] * (SIZE // 100)),
}
TABLE_SHAPES = {
    f"diffusion_model.blocks.{i}.attn.{p}.weight": (4, 4) for i in range(30) for p in "qkv"
}


def find(name: str) -> str:
    return listed_name(name, ["x.safetensors", "a.safetensors"])


def blocks_on_table(text: str) -> None:
    from lora_core.targets import TargetMap

    block_strengths(text, block_table(TargetMap({}, TABLE_SHAPES)))


PARSERS = {
    "rows": lambda text: read_rows(text, find),
    "tags": lambda text: read_tags(text, find),
    "A1111 tags": lambda text: read_tags(text, find, "a1111", "skip"),
    "blocks": parse_blocks,
    "blocks on a model": blocks_on_table,
    "presets": lambda text: parse_preset_file(text, "file"),
    "schedule": read_schedule,
    "lock": lambda text: locked_row("x", 1.0, 1.0, text),
    "name": find,
    "merge choices": lambda text: parse_choices(text, ("style", "character")),
    "metadata": lambda text: facts_text(
        gather(
            dict.fromkeys(("ss_tag_frequency", "modelspec.trigger_phrase", "ss_bucket_info"), text)
        )
    ),
}


def parse_all(name: str) -> None:
    """Every text through one parser; any other exception than a LoraError comes through."""
    for text in TEXTS.values():
        try:
            PARSERS[name](text)
        except LoraError as error:
            said = str(error)
            # A message is for a person: it never holds a whole hostile text. Those of merge choices still quote the item.
            if len(said) > 25_000 and name != "merge choices":
                raise AssertionError(f"{name}: a message of {len(said)} characters") from error


@pytest.mark.parametrize("name", PARSERS)
def test_no_text_hangs_a_parser_or_breaks_it(name):
    code = f"from tests.core.test_parser_limits import parse_all; parse_all({name!r})"
    command = [sys.executable, "-c", code]
    done = subprocess.run(
        command, cwd=ROOT, capture_output=True, text=True, timeout=SECONDS, check=False
    )
    assert done.returncode == 0, done.stderr[-2000:]
