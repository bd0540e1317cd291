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
    workflow_other_bases,
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


def block_strengths(models: Models) -> Graph:
    """The pair with strengths of single blocks, and the chart of what they leave."""
    return _with_blocks(
        models,
        "IN*=0\nOUT*=0.9",
        1,
        "loom/block_strengths",
        "## Block strengths\nOne line a block or range. The chart shows what is left of each.",
    )


def keep_face(models: Models) -> Graph:
    """The pair with the character by the blocks alone that are said to hold a face, so that the style has the rest."""
    return _with_blocks(
        models,
        f"*=0\nBASE=1\n{models.face_blocks}",
        2,
        "loom/keep_face",
        "## Keep the face\nOf the second row, the character, only some blocks act; the rest is left to the style. For SD1.5: "
        "BASE and OUT03 to OUT05, SD-FACE of the Inspire Pack's examples, from practice.",
    )


def _with_blocks(models: Models, text: str, row: int, prefix: str, note: str) -> Graph:
    """The pair, block strengths on one of its rows (counted from 1), and the chart of what they leave."""
    graph = Graph()
    checkpoint = parts.checkpoint(graph, models)
    stack = parts.stack(graph, models, None, None)
    apply = parts.blocked(graph, checkpoint, stack, text, row)
    return parts.ending(
        graph, models, (apply, checkpoint), models.both_prompt, prefix, note, left=1700
    )


def scheduled_style(models: Models) -> Graph:
    """The pair with the style coming in over the first steps, and the chart of it."""
    graph = Graph()
    checkpoint = parts.checkpoint(graph, models)
    stack = parts.stack(graph, models, None, None)
    widgets = ["0.4@0,0.8@0.3", 1, "none", 20, "sum", 1]
    apply = parts.scheduled(graph, checkpoint, (stack, 2), widgets, 300)
    return parts.ending(
        graph,
        models,
        (apply, checkpoint),
        models.both_prompt,
        "loom/scheduled_style",
        "## Strength over the steps\nThe style grows to 0.8 in the first third.",
        left=1700,
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
    "block_strengths": block_strengths,
    "keep_face": keep_face,
    "scheduled_style": scheduled_style,
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
    "trained_pair": workflow_train.trained_pair,
    "style_of_one_block": workflow_other_bases.style_of_one_block,
    "flux_style": workflow_other_bases.flux_style,
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
