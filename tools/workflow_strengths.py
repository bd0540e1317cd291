"""Examples of strengths that differ: from block to block, and from step to step."""

from __future__ import annotations

from tools import workflow_parts as parts
from tools.workflow_graph import Graph
from tools.workflow_parts import Models


def block_strengths(models: Models) -> Graph:
    """The pair with strengths of single blocks, and the chart of what they leave."""
    return _with_blocks(
        models,
        "IN*=0\nOUT*=1.2",
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


def style_of_one_block(models: Models) -> Graph:
    """A style LoRA of which only the block that holds the style acts, so that the composition stays."""
    return _with_blocks(
        models,
        f"*=0\n{models.style_blocks}",
        1,
        "loom/style_of_one_block",
        "## The style without the composition\nIn SDXL the block OUT01 holds most of a style, OUT00 what is shown "
        "(B-LoRA, arXiv 2403.14572). All others are off here.",
        style_alone=True,
    )


def scheduled_style(models: Models) -> Graph:
    """The pair with the style coming in over the first steps, and the chart of it."""
    return _coming_in(
        models,
        "loom/scheduled_style",
        "## Strength over the steps\nThe style grows to 0.8 in the first third.",
    )


def flux_style(models: Models) -> Graph:
    """A style on a model in 8 bits: it comes in over the first steps, beside weights that are never touched."""
    return _coming_in(
        models,
        "loom/flux_style",
        "## A style on Flux in 8 bits\nThe LoRA runs beside the packed weights (live mode), so nothing of it is rounded, "
        "and its strength may follow the steps.",
        style_alone=True,
    )


def _with_blocks(
    models: Models, text: str, row: int, prefix: str, note: str, style_alone: bool = False
) -> Graph:
    """Block strengths on a row of the stack (counted from 1), and the chart of what they leave."""
    graph = Graph()
    checkpoint = parts.checkpoint(graph, models)
    stack, prompt = _stacked(graph, models, style_alone)
    blocks = graph.add(
        "LoomBlocks",
        (860, 120),
        (460, 420),
        [("LORA_STACK", "LORA_STACK"), ("report", "STRING"), ("energy chart", "IMAGE")],
        [
            ("lora_stack", "LORA_STACK", (stack, 2)),
            ("model", "MODEL", (checkpoint, 0)),
            ("clip", "CLIP", (checkpoint, 1)),
        ],
        [text, row, "auto", "none", 0],
    )
    graph.add("PreviewImage", (1360, 420), (300, 300), [], [("images", "IMAGE", (blocks, 2))])
    apply = parts.apply(graph, checkpoint, (blocks, 0), left=1360)
    return parts.ending(graph, models, (apply, checkpoint), prompt, prefix, note, left=1700)


def _coming_in(models: Models, prefix: str, note: str, style_alone: bool = False) -> Graph:
    """The stack with its first row coming in over the first steps, and the chart of it."""
    graph = Graph()
    checkpoint = parts.checkpoint(graph, models)
    stack, prompt = _stacked(graph, models, style_alone)
    widgets = ["0.4@0,0.8@0.3", 1, "none", 20, "sum", 1]
    apply = parts.scheduled(graph, checkpoint, (stack, 2), widgets, 300)
    return parts.ending(graph, models, (apply, checkpoint), prompt, prefix, note, left=1700)


def _stacked(graph: Graph, models: Models, style_alone: bool) -> tuple[int, str]:
    """The id of a LoomStack of the pair, or of its style alone, and the prompt for it."""
    if style_alone:
        return parts.style_stack(graph, models), models.style_prompt
    return parts.stack(graph, models, None, None), models.both_prompt
