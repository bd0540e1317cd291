"""What the demo trains: the training examples on the toy, cut short or at their full 1,500 steps."""

from __future__ import annotations

import copy
from typing import Any

from tools.devkit.host_client import HostClient

# About a minute on two CPU cores: enough to see that something is learned, too few to learn it well.
SHORT_STEPS = 400
PAIR = {"style": "train_style", "character": "train_on_style"}
# Minutes each, so only where they are asked for.
LONG = ("train_style", "train_character", "train_on_style")
RUN_LIMIT = 3600.0  # seconds

Prompt = dict[str, Any]


def is_lesson(prompt: Prompt) -> bool:
    return any(node["class_type"] == "LoomTrain" for node in prompt.values())


def cut(prompt: Prompt, steps: int = SHORT_STEPS) -> Prompt:
    """The workflow with fewer steps of training and no pictures in between."""
    changed = copy.deepcopy(prompt)
    for node in changed.values():
        if node["class_type"] == "LoomTrainSettings":
            node["inputs"] |= {"steps": steps, "sample_every": -1}
    return changed


def trained_file(client: HostClient, prompt: Prompt) -> str:
    """Run a training example; the name under which the loras list shows its file."""
    (train,) = [key for key, node in prompt.items() if node["class_type"] == "LoomTrain"]
    told = {"class_type": "PreviewAny", "inputs": {"source": [train, 3]}}
    finished = client.run({**prompt, "told": told}, timeout=RUN_LIMIT)
    return finished.outputs["told"]["text"][0]
