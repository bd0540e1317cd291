"""Loom Sweep through the host's own lists and sampler: every point is the picture of a single run at its strengths."""

from __future__ import annotations

import io
import json

import numpy as np
import pytest
from graphs import CHARACTER, STYLE, Prompt, only, pixels, twin, with_rows
from PIL import Image

from tools.devkit.host_client import HostClient, PromptFailed

ROWS = [{"lora": STYLE, "model": 0.8}, {"lora": CHARACTER, "model": 0.9}]
X = {"x": "strength", "x_row": 1, "x_from": 0.0, "x_to": 1.0, "x_step": 0.5, "x_values": ""}
Y = {"y": "none", "y_row": 2, "y_from": 0.0, "y_to": 1.0, "y_step": 0.5, "y_values": ""}


def swept(client: HostClient, **widgets: object) -> Prompt:
    """The strength sweep on small pictures with other widgets; each picture is saved too, in the order of the points."""
    prompt = with_rows(twin(client, "strength_sweep"), ROWS)
    only(prompt, "LoomSweep")["inputs"] |= X | Y | {"mode": "auto"} | widgets
    only(prompt, "LoomSweepGrid")["inputs"]["cell"] = 0
    decoded = next(key for key, node in prompt.items() if node["class_type"] == "VAEDecode")
    prompt["saved"] = {
        "class_type": "SaveImage",
        "inputs": {"images": [decoded, 0], "filename_prefix": "sweep_point"},
    }
    return prompt


def pictures(client: HostClient, prompt: Prompt) -> list[np.ndarray]:
    """Run; the picture of each point."""
    return [picture_at(client, view) for view in client.run(prompt).images("saved")]


def picture_at(client: HostClient, view: dict[str, str]) -> np.ndarray:
    return np.asarray(Image.open(io.BytesIO(client.fetch_image(view))).convert("RGB"))


@pytest.mark.parametrize("mode", ["auto", "live"])
def test_every_point_is_the_picture_of_a_single_run_at_its_strengths(client, mode):
    found = pictures(client, swept(client, mode=mode))
    assert len(found) == 3
    for strength, picture in zip((0.0, 0.5, 1.0), found, strict=True):
        rows = [ROWS[0] | {"model": strength, "clip": strength}, ROWS[1]]
        expected = with_rows(twin(client, "style_and_character"), rows)
        only(expected, "LoomStack")["inputs"]["mode"] = mode
        assert np.array_equal(picture, pixels(client, expected)), strength


def test_a_block_map_leaves_blocks_out_and_tells_the_page_and_the_disk_what_it_shows(client):
    prompt = with_rows(twin(client, "block_effect_map"), ROWS)
    only(prompt, "LoomSweep")["inputs"]["x_values"] = "OUT00, TE"
    only(prompt, "LoomSweepGrid")["inputs"]["cell"] = 0
    ids = {node["class_type"]: key for key, node in prompt.items()}
    outputs = client.run(prompt).outputs
    grid = outputs[ids["LoomSweepGrid"]]
    cells, (sweep,) = grid["loom_grid"], grid["loom_sweep"]
    assert [(cell["col"], cell["row"], cell["x"], cell["reference"]) for cell in cells] == [
        (0, 0, "all", True), (1, 0, "no OUT00", False), (2, 0, "no TE", False),
    ]  # fmt: skip
    assert (sweep["seed"], sweep["x"]["labels"]) == (1, ["all", "no OUT00", "no TE"])
    sheet, record = (
        picture_at(client, grid["images"][0]),
        json.loads(client.fetch_image(sweep["json"][0])),
    )
    assert record["picture"] == grid["images"][0]["filename"]
    for blocks, cell, point in zip(("", "OUT00=0", "TE=0"), cells, record["points"], strict=True):
        picture = picture_at(client, cell["file"])
        left, top, right, bottom = point["box"]
        assert np.array_equal(sheet[top:bottom, left:right], picture)
        rows = [ROWS[0], ROWS[1] | {"blocks": blocks}]
        expected = pixels(client, with_rows(twin(client, "style_and_character"), rows))
        assert np.array_equal(picture, expected), blocks
        assert point["loras"][1]["blocks"] == blocks
        assert len(point["loras"][1]["sha256"]) == 64
    (report,) = outputs[ids["LoomBlockMap"]]["text"]
    assert "no OUT00" in report
    assert "loom_toy_character: blocks: leave one out; against 'all'" in report


@pytest.mark.parametrize(
    ("widgets", "message"),
    [
        ({"x_from": 1.0, "x_to": 0.0}, "The range of x is empty"),
        ({"x_step": 0.0001, "x_to": 1.0}, "10001 points; at most 1000"),
        ({"x": "blocks: only one", "x_values": "IN01, IN77"}, "x_values, line 1, column 7"),
        ({"x_row": 3}, "Row 3 is not there"),
    ],
    ids=["empty range", "huge list", "no such block", "no such row"],
)
def test_bad_input_fails_on_the_sweep_with_what_is_wrong(client, widgets, message):
    with pytest.raises(PromptFailed) as failure:
        client.run(swept(client, **widgets))
    assert failure.value.node_type == "LoomSweep"
    assert message in str(failure.value)
