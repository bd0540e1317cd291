"""Examples for other bases than Stable Diffusion 1.5: SDXL block by block, and Flux in 8 bits."""

from __future__ import annotations

from tools import workflow_parts as parts
from tools.workflow_graph import Graph
from tools.workflow_parts import Models


def style_of_one_block(models: Models) -> Graph:
    """A style LoRA of which only the block that holds the style acts, so that the composition stays."""
    graph = Graph()
    checkpoint = parts.checkpoint(graph, models)
    stack = parts.style_stack(graph, models)
    apply = parts.blocked(graph, checkpoint, stack, f"*=0\n{models.style_blocks}", 1)
    return parts.ending(
        graph,
        models,
        (apply, checkpoint),
        models.style_prompt,
        "loom/style_of_one_block",
        "## The style without the composition\nIn SDXL the block OUT01 holds most of a style, OUT00 what is shown "
        "(B-LoRA, arXiv 2403.14572). All others are off here.",
        left=1700,
    )


def flux_style(models: Models) -> Graph:
    """A style on a model in 8 bits: it comes in over the first steps, beside weights that are never touched."""
    graph = Graph()
    checkpoint = parts.checkpoint(graph, models)
    stack = parts.style_stack(graph, models)
    widgets = ["0.4@0,0.8@0.3", 1, "none", 20, "sum", 1]
    apply = parts.scheduled(graph, checkpoint, (stack, 2), widgets, 300)
    return parts.ending(
        graph,
        models,
        (apply, checkpoint),
        models.style_prompt,
        "loom/flux_style",
        "## A style on Flux in 8 bits\nThe LoRA runs beside the packed weights (live mode), so nothing of it is rounded, "
        "and its strength may follow the steps.",
        left=1700,
    )
