"""Small prompts on the toy model for the tests over HTTP."""

from __future__ import annotations

import io
import json
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from tools.devkit.host_client import HostClient
from tools.workflow_graph import api_prompt

TWINS = Path(__file__).resolve().parents[1] / "workflows"
STYLE, CHARACTER = "loom_toy_style.safetensors", "loom_toy_character.safetensors"

Prompt = dict[str, Any]


def whole_twin(client: HostClient, name: str) -> Prompt:
    """A toy workflow as the page would send it."""
    workflow = json.loads((TWINS / f"{name}.json").read_text("utf-8"))
    return api_prompt(workflow, client.object_info())


def twin(client: HostClient, name: str, steps: int = 4, size: int = 128) -> Prompt:
    """The same made quick: fewer steps, smaller pictures; a training too has a few steps instead of its 1,500."""
    prompt = whole_twin(client, name)
    for node in prompt.values():
        if node["class_type"] == "LoomTrainSettings":
            node["inputs"] |= {"steps": steps, "sample_every": -1}
        if node["class_type"] == "LoomDataset":
            node["inputs"]["resolution"] = size
        if node["class_type"] == "KSampler":
            node["inputs"]["steps"] = steps
        if node["class_type"] == "EmptyLatentImage":
            node["inputs"] |= {"width": size, "height": size}
    return prompt


def only(prompt: Prompt, kind: str) -> Prompt:
    """The one node of a kind."""
    (node,) = [node for node in prompt.values() if node["class_type"] == kind]
    return node


def with_rows(prompt: Prompt, rows: list[dict[str, Any]] | str) -> Prompt:
    """Set the rows of the prompt's LoomStack; returns the prompt."""
    only(prompt, "LoomStack")["inputs"]["rows"] = (
        rows if isinstance(rows, str) else json.dumps(rows)
    )
    return prompt


def pixels(client: HostClient, prompt: Prompt) -> np.ndarray:
    """Run and return the first picture as (height, width, 3) bytes."""
    finished = client.run(prompt)
    return np.asarray(
        Image.open(io.BytesIO(client.fetch_image(finished.images()[0]))).convert("RGB")
    )
