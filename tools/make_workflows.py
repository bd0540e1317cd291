"""Write the example workflows and their toy twins from the same graphs.

python -m tools.make_workflows
example_workflows/ is wired for published checkpoints; tests/workflows/ holds the same graphs on the bundled toy model.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

from tools import (
    workflow_explore,
    workflow_live,
    workflow_merge,
    workflow_strengths,
    workflow_train,
)
from tools import workflow_parts as parts
from tools.workflow_graph import Graph
from tools.workflow_models import FLUX, SD15, SDXL, TOY
from tools.workflow_parts import Models

ROOT = Path(__file__).resolve().parent.parent
EXAMPLES = ROOT / "example_workflows"
TWINS = ROOT / "tests" / "workflows"


def one_lora(models: Models) -> Graph:
    """One LoRA through LoomLoader, with what is in it beside."""
    graph = Graph()
    checkpoint = parts.checkpoint(graph, models)
    loader = graph.add(
        "LoomLoader",
        (420, 120),
        (320, 260),
        [("MODEL", "MODEL"), ("CLIP", "CLIP"), ("trigger words", "STRING"), ("report", "STRING")],
        [("model", "MODEL", (checkpoint, 0)), ("clip", "CLIP", (checkpoint, 1))],
        [models.style, 0.8, 0.8, "auto", ""],
        properties=models.style_source,
    )
    inspect = graph.add(
        "LoomInspect",
        (420, 450),
        (320, 340),
        parts.INSPECT_OUTPUTS,
        [
            ("model", "MODEL", (checkpoint, 0)),
            ("clip", "CLIP", (checkpoint, 1)),
            ("lora_stack", "LORA_STACK", None),
        ],
        [models.style],
    )
    graph.add("PreviewImage", (420, 830), (320, 260), [], [("images", "IMAGE", (inspect, 2))])
    return parts.ending(
        graph,
        models,
        (loader, checkpoint),
        models.style_prompt,
        "loom/one_lora",
        "## One LoRA\nLoom Loader says what matched.",
    )


def style_and_character(models: Models) -> Graph:
    """A style and a character as two rows of one LoomStack."""
    graph = Graph()
    checkpoint = parts.checkpoint(graph, models)
    stack = parts.stack(graph, models, (checkpoint, 0), (checkpoint, 1))
    return parts.ending(
        graph,
        models,
        (stack, checkpoint),
        models.both_prompt,
        "loom/style_and_character",
        "## Style + character\nBoth LoRAs go on in one pass. Try the strengths in steps of 0.1.",
    )


def lora_stack(models: Models) -> Graph:
    """The same pair through LORA_STACK, the socket that other packs share."""
    graph = Graph()
    checkpoint = parts.checkpoint(graph, models)
    stack = parts.stack(graph, models, None, None)
    apply = parts.apply(graph, checkpoint, (stack, 2))
    return parts.ending(
        graph,
        models,
        (apply, checkpoint),
        models.both_prompt,
        "loom/lora_stack",
        "## Through LORA_STACK\nAny pack's stacker can stand before Loom Apply Stack.",
        left=1200,
    )


def prompt_tags(models: Models) -> Graph:
    """The same pair named in the prompt, through LoomTags."""
    graph = Graph()
    checkpoint = parts.checkpoint(graph, models)
    style, character = (
        name.removesuffix(".safetensors") for name in (models.style, models.character)
    )
    tags = graph.add(
        "LoomTags",
        (420, 120),
        (400, 300),
        [("LORA_STACK", "LORA_STACK"), ("text", "STRING"), ("report", "STRING")],
        [("lora_stack", "LORA_STACK", None)],
        [f"{models.both_prompt} <lora:{style}:0.8> <lora:{character}:0.9>", "comfyui", "error"],
    )
    apply = parts.apply(graph, checkpoint, (tags, 0))
    return parts.ending(
        graph,
        models,
        (apply, checkpoint),
        (tags, 1),
        "loom/prompt_tags",
        "## LoRAs in the prompt\nLoom Tags takes the tags out of the text.",
        left=1200,
    )


def share_a_workflow(models: Models) -> Graph:
    """The pair, what a friend needs to run it, and the index by which renamed files are found."""
    graph = Graph()
    checkpoint = parts.checkpoint(graph, models)
    stack = parts.stack(graph, models, (checkpoint, 0), (checkpoint, 1))
    graph.add(
        "LoomInspect",
        (420, 600),
        (400, 420),
        parts.INSPECT_OUTPUTS,
        [
            ("model", "MODEL", (checkpoint, 0)),
            ("clip", "CLIP", (checkpoint, 1)),
            ("lora_stack", "LORA_STACK", (stack, 2)),
        ],
        ["[the LORA_STACK input]"],
    )
    graph.add("LoomIndex", (860, 640), (340, 160), [("report", "STRING")], [], [""])
    return parts.ending(
        graph,
        models,
        (stack, checkpoint),
        models.both_prompt,
        "loom/share_a_workflow",
        "## Share a workflow\nLoom Inspect lists what a friend needs; Loom Index lets renamed files be found.",
    )


WORKFLOWS: dict[str, Callable[[Models], Graph]] = {
    "one_lora": one_lora,
    "style_and_character": style_and_character,
    "lora_stack": lora_stack,
    "prompt_tags": prompt_tags,
    "block_strengths": workflow_strengths.block_strengths,
    "keep_face": workflow_strengths.keep_face,
    "scheduled_style": workflow_strengths.scheduled_style,
    "lora_switch": workflow_live.lora_switch,
    "character_on_the_left": workflow_live.character_on_the_left,
    "merge_and_save": workflow_merge.merge_and_save,
    "merge_by_block": workflow_merge.merge_by_block,
    "merge_methods": workflow_explore.merge_methods,
    "resize": workflow_merge.resize,
    "share_a_workflow": share_a_workflow,
    "strength_sweep": workflow_explore.strength_sweep,
    "block_effect_map": workflow_explore.block_effect_map,
    "balance": workflow_explore.balance,
    "extract": workflow_explore.extract,
    "train_from_ten": workflow_train.train_from_ten,
    "train_then_stack": workflow_train.train_then_stack,
    "train_style": workflow_train.train_style,
    "train_character": workflow_train.train_character,
    "train_on_style": workflow_train.train_on_style,
    "trained_pair": workflow_train.trained_pair,
    "style_of_one_block": workflow_strengths.style_of_one_block,
    "flux_style": workflow_strengths.flux_style,
}
# What an example is wired for where that is not Stable Diffusion 1.5.
_OTHER_BASES = {"style_of_one_block": SDXL, "flux_style": FLUX}


def published(name: str) -> Models:
    """The published models that an example is wired for."""
    return _OTHER_BASES.get(name, SD15)


def written(name: str, models: Models) -> str:
    """The file's text."""
    return json.dumps(WORKFLOWS[name](models).document(), indent=1) + "\n"


def main() -> None:
    for folder, models_of in ((EXAMPLES, published), (TWINS, lambda name: TOY)):
        folder.mkdir(parents=True, exist_ok=True)
        for name in WORKFLOWS:
            (folder / f"{name}.json").write_text(written(name, models_of(name)), encoding="utf-8")
            print(f"wrote {folder.name}/{name}.json")


if __name__ == "__main__":
    main()
