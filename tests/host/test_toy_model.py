"""The committed toy model and its LoRAs keep what their card says, on a sample of prompts and seeds."""

from __future__ import annotations

import copy
import io
import json
import math
import os
from typing import Any

import pytest
from graphs import TWINS, only
from PIL import Image

from tools import toy_card
from tools.demo import CONDITIONS, stacking_works
from tools.demo import see as seen_in
from tools.toy_measure import every_prompt, prompts_of
from tools.toy_reader import Reading, read
from tools.workflow_graph import api_prompt

# With --full every eighth of all prompts (each colour, shape and ground is among them), else half of these.
SAMPLE = every_prompt()[:: 8 if os.environ.get("LOOM_FULL") else 16]


def workflow(client) -> dict[str, Any]:
    """The style and character twin as the demo runs it."""
    text = (TWINS / "style_and_character.json").read_text("utf-8")
    return api_prompt(json.loads(text), client.object_info())


def reading(client, prompt: dict[str, Any]) -> Reading:
    view = client.run(prompt).images()[0]
    return read(Image.open(io.BytesIO(client.fetch_image(view))))


def test_the_files_are_those_that_the_card_speaks_of():
    card = toy_card.read()
    folder = toy_card.CARD.parent
    assert toy_card.sha256(folder / card["base"]["file"]) == card["base"]["sha256"]
    assert (folder / card["base"]["file"]).stat().st_size <= 24_000_000


def test_the_base_obeys_its_prompt(client):
    base = workflow(client)
    only(base, "LoomStack")["inputs"]["rows"] = "[]"
    positive = only(base, "KSampler")["inputs"]["positive"][0]
    right = {"colour": 0, "shape": 0, "ground": 0}
    for seed, (wanted, text) in enumerate(zip(SAMPLE, prompts_of(SAMPLE), strict=True)):
        prompt = copy.deepcopy(base)
        prompt[positive]["inputs"]["text"] = text
        only(prompt, "KSampler")["inputs"]["seed"] = seed
        found = reading(client, prompt)
        for index, name in enumerate(right):
            right[name] += getattr(found, name) == wanted[index]
    measured = toy_card.read()["base"]["measured"]
    for name, count in right.items():
        assert count >= fewest(len(SAMPLE), measured[name]), (name, right, measured)


def fewest(count: int, rate: float) -> int:
    """How many of `count` must be right where `rate` are in general: three standard deviations below."""
    return math.floor(count * rate - 3 * math.sqrt(count * rate * (1 - rate)))


@pytest.mark.parametrize("seeds", [4])
def test_style_and_character_are_seen_alone_and_stacked(client, seeds):
    rows = [seen_in(client, workflow(client), condition, seeds) for condition in CONDITIONS]
    assert stacking_works(rows), [(row.style_rate, row.character_rate) for row in rows]
