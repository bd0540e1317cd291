"""Loom Blocks in a running host: between a stack and its application, with the toy model."""

from __future__ import annotations

import io
import os
from pathlib import Path

import numpy as np
import pytest
from graphs import CHARACTER, STYLE, Prompt, only, pixels, twin, with_rows
from PIL import Image

from tools.devkit.host_client import HostClient, PromptFailed

ROWS = [{"lora": STYLE, "model": 0.8}, {"lora": CHARACTER, "model": 0.9}]


def with_blocks(client: HostClient, **widgets: object) -> Prompt:
    """Loom Stack -> Loom Blocks -> Loom Apply in place of the stack that applies itself; the chart is saved."""
    prompt = with_rows(twin(client, "style_and_character"), ROWS)
    (stack,) = [key for key, node in prompt.items() if node["class_type"] == "LoomStack"]
    inputs = only(prompt, "LoomStack")["inputs"]
    model, clip = inputs.pop("model"), inputs.pop("clip")
    for node in prompt.values():
        for name, value in node["inputs"].items():
            if isinstance(value, list) and value[0] == stack:
                node["inputs"][name] = ["apply", value[1]]
    given = {
        "blocks": "",
        "row": 0,
        "dialect": "auto",
        "preset": "none",
        "letter_seed": 0,
    } | widgets
    prompt["blocks"] = {
        "class_type": "LoomBlocks",
        "inputs": {"lora_stack": [stack, 2], "model": model, "clip": clip, **given},
    }
    prompt["apply"] = {
        "class_type": "LoomApply",
        "inputs": {"model": model, "clip": clip, "lora_stack": ["blocks", 0], "matching": "auto"},
    }
    prompt["chart"] = {
        "class_type": "SaveImage",
        "inputs": {"images": ["blocks", 2], "filename_prefix": "chart"},
    }
    return prompt


def picture(client: HostClient, prompt: Prompt) -> np.ndarray:
    """The generated picture alone: of the images of a run, the one that is not the chart."""
    del prompt["chart"]
    return pixels(client, prompt)


def test_no_block_strengths_give_the_picture_of_the_stack_and_zeros_the_base(client):
    plain = pixels(client, with_rows(twin(client, "style_and_character"), ROWS))
    base = pixels(client, with_rows(twin(client, "style_and_character"), []))
    assert np.array_equal(picture(client, with_blocks(client)), plain)
    assert np.array_equal(picture(client, with_blocks(client, blocks="*=1")), plain)
    assert np.array_equal(picture(client, with_blocks(client, blocks="*=0")), base)


def test_block_strengths_on_one_row_change_that_row_alone(client):
    without_style = pixels(client, with_rows(twin(client, "style_and_character"), ROWS[1:]))
    found = picture(client, with_blocks(client, blocks="*=0", row=1))
    assert np.array_equal(found, without_style)
    some = picture(client, with_blocks(client, blocks="IN*=0; M00=0.5", row=1))
    assert not np.array_equal(some, without_style)


def test_the_chart_has_a_picture_for_every_row(client):
    prompt = with_blocks(client, blocks="IN*=0\nOUT00-OUT01=0.5\n*.cross=1.2")
    finished = client.run(prompt)
    charts = [client.fetch_image(view) for view in finished.images("chart")]
    assert len(charts) == 2
    if folder := os.environ.get("LOOM_KEEP_CHARTS"):
        for number, chart in enumerate(charts):
            (Path(folder) / f"chart{number}.png").write_bytes(chart)
    assert Image.open(io.BytesIO(charts[0])).width == 768


@pytest.mark.parametrize(
    ("widgets", "message"),
    [
        ({"blocks": "IN04=0.5,\nIN77=1"}, "line 2, column 1: this model has no block 'IN77'"),
        ({"blocks": "IN04=nan"}, "line 1, column 1: 'nan' is not a finite number"),
        ({"preset": "SD-MIDD"}, "17 values, but this model has no vector layout"),
        ({"preset": "SDXL keep style (B-LoRA)"}, "is for models with the blocks of SDXL"),
        ({"blocks": "IN01=1", "row": 3}, "Row 3 is not there: the stack has 2 rows"),
    ],
    ids=["no such block", "nan", "vector", "other family", "no such row"],
)
def test_bad_input_fails_on_that_node_with_token_and_column(client, widgets, message):
    with pytest.raises(PromptFailed) as failure:
        client.run(with_blocks(client, **widgets))
    assert failure.value.node_type == "LoomBlocks"
    assert message in str(failure.value)
