"""The toy's style and character as Loom Train makes them: the training examples, queued on a real host as they are.

Each result is merged alone once more, at the strength that the demo's rows are to mean, into a file that is small enough
to be kept with the sources, and saved with title, words and licence.
"""

from __future__ import annotations

import json
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from safetensors import safe_open

from tools.demo_lessons import PAIR, trained_file
from tools.devkit.base_directory import TOY_MODEL, TOY_WORKFLOWS, standard_base
from tools.devkit.environment import located
from tools.devkit.host_client import HostClient
from tools.devkit.host_process import running_host
from tools.toy_rates import CHARACTER, STRENGTHS, STYLE
from tools.workflow_graph import api_prompt

LORAS = TOY_MODEL / "loras"
# What the small file says of the training as the trained one did, and of that what no longer holds.
_TOLD = ("ss_", "modelspec.architecture", "modelspec.resolution")
_CHANGED = ("ss_network_alpha", "ss_network_dim")


@dataclass(frozen=True)
class Made:
    """A LoRA of the toy: the training example that it comes from, and what its file says of it.

    megabytes: the file's size at most, shared over the layers by what they need.
    """

    name: str
    workflow: str
    title: str
    words: str
    megabytes: float

    @property
    def file(self) -> Path:
        return LORAS / f"{self.name}.safetensors"

    @property
    def gain(self) -> float:
        """What the trained LoRA is multiplied by, so that at the demo's strength it is what was trained."""
        return 1 / STRENGTHS[self.name]


# In the order in which they are made: the second is trained on the first.
TRAINED = (
    Made(
        STYLE,
        PAIR["style"],
        "Toy style: a frame around the picture",
        "ohwx",
        0.7,
    ),
    Made(
        CHARACTER,
        PAIR["character"],
        "Toy character: the purple ring",
        "zwx",
        0.8,
    ),
)


def lesson_of(made: Made) -> dict[str, Any]:
    """The example's own settings, for the card: the widgets of its dataset and of its training."""
    workflow = json.loads((TOY_WORKFLOWS / f"{made.workflow}.json").read_text("utf-8"))
    kinds = ("LoomDataset", "LoomTrainSettings")
    return {n["type"]: n["widgets_values"] for n in workflow["nodes"] if n["type"] in kinds}


def make(made: Made, work: Path) -> None:
    """Train one and write its file. work: where the host keeps states, so that a run that was killed goes on."""
    base = standard_base(work / "host")
    with running_host(located(), base) as host:
        client = HostClient(host.url)
        workflow = json.loads((TOY_WORKFLOWS / f"{made.workflow}.json").read_text("utf-8"))
        listed = trained_file(client, api_prompt(workflow, client.object_info()))
        loras = base / "output" / "loras"
        with safe_open(loras / listed, "pt") as file:
            told = file.metadata()
        shutil.copyfile(loras / _small(client, listed, told, made), made.file)
    print(f"{made.name}: {made.file.stat().st_size} bytes", flush=True)


def _small(client: HostClient, listed: str, trained: dict[str, str], made: Made) -> str:
    """The trained file at its gain and size, in half precision, with its metadata; its name below output/loras."""
    row = {"lora": listed, "model": made.gain, "clip": made.gain, "on": True, "role": "free"}
    metadata = {key: value for key, value in trained.items() if key.startswith(_TOLD)}
    metadata = {key: value for key, value in metadata.items() if key not in _CHANGED} | {
        "ss_output_name": made.name,
        "ss_sd_model_name": "loom_toy.safetensors",
        "modelspec.prediction_type": "v",
        "modelspec.license": "MIT",
    }
    prompt = {
        "stack": {
            "class_type": "LoomStack",
            "inputs": {"rows": json.dumps({"version": 1, "rows": [row]})},
        },
        "merge": {
            "class_type": "LoomMerge",
            "inputs": {
                "lora_stack": ["stack", 2], "method": "svd", "keep": "size", "size_mb": made.megabytes, "rank": 32,
                "energy": 0.95, "ratio": 10.0, "dtype": "fp16",
            },
        },
        "save": {
            "class_type": "LoomSave",
            "inputs": {
                "lora_model": ["merge", 0], "filename": f"small/{made.name}", "naming": "kohya", "dtype": "fp16",
                "if_exists": "overwrite", "title": made.title, "trigger_words": made.words,
                "metadata": "\n".join(f"{key}={value}" for key, value in metadata.items()),
                "folder": "output/loras",
            },
        },
        "merged": {"class_type": "PreviewAny", "inputs": {"source": ["merge", 1]}},
        "told": {"class_type": "PreviewAny", "inputs": {"source": ["save", 0]}},
    }  # fmt: skip
    finished = client.run(prompt)
    print(finished.outputs["merged"]["text"][0], flush=True)
    return finished.outputs["told"]["text"][0]
