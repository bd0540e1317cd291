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


def single(client: HostClient, rows: list[dict]) -> np.ndarray:
    return pixels(client, with_rows(twin(client, "style_and_character"), rows))


@pytest.mark.parametrize("mode", ["auto", "live"])
def test_every_point_is_the_picture_of_a_single_run_at_its_strengths(client, mode):
    found = pictures(client, swept(client, mode=mode))
    assert len(found) == 3
    for strength, picture in zip((0.0, 0.5, 1.0), found, strict=True):
        rows = [ROWS[0] | {"model": strength, "clip": strength}, ROWS[1]]
        expected = with_rows(twin(client, "style_and_character"), rows)
        only(expected, "LoomStack")["inputs"]["mode"] = mode
        assert np.array_equal(picture, pixels(client, expected)), strength
