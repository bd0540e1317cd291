"""Example workflows that explore and measure: sweeps, what gets in whose way, the difference of two models."""

from __future__ import annotations

from typing import Any

from lora_core.merge.methods import METHODS
from tools import workflow_parts as parts
from tools.workflow_graph import Graph
from tools.workflow_parts import Models


def strength_sweep(models: Models) -> Graph:
    """The style in steps of 0.1 against the character, on one sheet."""
    graph = Graph()
    checkpoint = parts.checkpoint(graph, models)
    stack = parts.stack(graph, models, None, None)
    axes = ["strength", 1, 0.0, 1.0, 0.1, "", "strength", 2, 0.0, 1.0, 0.1, "0.5, 0.9"]
    return swept(
        graph,
        models,
        (stack, checkpoint),
        axes,
        models.both_prompt,
        "loom/strength_sweep",
        "## Strength sweep\nStyle from 0 to 1 across, character down: 22 pictures on one sheet.",
    )


def merge_methods(models: Models) -> Graph:
    """The pair as it is, and merged into one LoRA by each method that needs nothing but the rows."""
    graph = Graph()
    checkpoint = parts.checkpoint(graph, models)
    stack = parts.stack(graph, models, None, None)
    names = ", ".join(name for name in METHODS if name != "blockwise")
    axes = ["merge method", 1, 0.0, 1.0, 0.1, names, "none", 2, 0.0, 1.0, 0.1, ""]
    return swept(
        graph,
        models,
        (stack, checkpoint),
        axes,
        models.both_prompt,
        "loom/merge_methods",
        "## Merge methods\nThe stack, and one LoRA of it by each method, same prompt and seed.",
    )


def swept(
    graph: Graph,
    models: Models,
    source: tuple[int, int],
    axes: list[Any],
    prompt: str,
    prefix: str,
    note: str,
) -> Graph:
    """A sweep of a stack, its pictures on one sheet, and the words that explain the graph.

    source: the LoomStack and the checkpoint. axes: the widgets of x and y, six each.
    """
    stack, checkpoint = source
    sweep = _sweep_node(graph, checkpoint, (stack, 2), axes)
    loaded = (sweep, 0), (sweep, 1), (checkpoint, 2)
    _, decoded = parts.sampled(graph, models, loaded, prompt, 1240)
    _sweep_grid_node(graph, decoded, sweep, 192, prefix, 1960)
    graph.note((40, 280), (340, 160), f"{note} {models.where}")
    return graph


def block_effect_map(models: Models) -> Graph:
    """The character without each of its blocks: a sheet, and the chart that says which of them matter."""
    graph = Graph()
    checkpoint = parts.checkpoint(graph, models)
    stack = parts.stack(graph, models, None, None)
    axes = ["blocks: leave one out", 2, 0.0, 1.0, 0.1, "", "none", 2, 0.0, 1.0, 0.1, ""]
    sweep = _sweep_node(graph, checkpoint, (stack, 2), axes)
    loaded = (sweep, 0), (sweep, 1), (checkpoint, 2)
    sampler, decoded = parts.sampled(graph, models, loaded, models.both_prompt, 1240)
    _sweep_grid_node(graph, decoded, sweep, 192, "loom/block_effect", 2160)
    chart = graph.add(
        "LoomBlockMap",
        (1240, 620),
        (420, 300),
        [("chart", "IMAGE"), ("report", "STRING"), ("json", "STRING")],
        [
            ("sweep", "LOOM_SWEEP", (sweep, 2)),
            ("images", "IMAGE", (decoded, 0)),
            ("latents", "LATENT", (sampler, 0)),
        ],
    )
    graph.add(
        "SaveImage",
        (1700, 620),
        (420, 400),
        [],
        [("images", "IMAGE", (chart, 0))],
        ["loom/block_map"],
    )
    note = (
        "## Which blocks matter\nOne picture without each block of row 2, against the whole stack."
    )
    graph.note((40, 280), (340, 160), f"{note} {models.where}")
    return graph


def balance(models: Models) -> Graph:
    """The pair with what gets in whose way, the style kept off the character, and both applied."""
    graph = Graph()
    checkpoint = parts.checkpoint(graph, models)
    stack = parts.stack(graph, models, None, None)
    seen = _interference_node(graph, checkpoint, (stack, 2))
    graph.add("PreviewImage", (1360, 1060), (360, 300), [], [("images", "IMAGE", (seen, 1))])
    balanced = _balance_node(graph, checkpoint, (stack, 2))
    graph.add("PreviewImage", (1360, 720), (360, 300), [], [("images", "IMAGE", (balanced, 2))])
    apply = parts.apply(graph, checkpoint, (balanced, 0), left=1760)
    return parts.ending(
        graph,
        models,
        (apply, checkpoint),
        models.both_prompt,
        "loom/balance",
        "## Style and character in balance\nThe heat maps say who writes into whose directions, before and after.",
        left=2100,
    )


def extract(models: Models) -> Graph:
    """The difference of the model with the pair in its weights and the model itself, as one LoRA."""
    graph = Graph()
    checkpoint = parts.checkpoint(graph, models)
    stack = parts.stack(graph, models, (checkpoint, 0), (checkpoint, 1), "baked")
    extracted = _extract_node(graph, (stack, 0), (checkpoint, 0), (stack, 1), (checkpoint, 1))
    graph.add("PreviewImage", (860, 560), (360, 300), [], [("images", "IMAGE", (extracted, 2))])
    used = parts.in_memory(graph, checkpoint, (extracted, 0), 1260)
    return parts.ending(
        graph,
        models,
        (used, checkpoint),
        models.both_prompt,
        "loom/extract",
        "## Extract\nA tuned model minus what it was tuned from. Here the tuned one has two LoRAs in its weights.",
        left=1640,
    )


def _sweep_node(graph: Graph, checkpoint: int, stack: tuple[int, int], axes: list[Any]) -> int:
    """axes: the widgets of x and y, six each."""
    return graph.add(
        "LoomSweep",
        (860, 120),
        (340, 480),
        [
            ("MODEL", "MODEL"),
            ("CLIP", "CLIP"),
            ("sweep", "LOOM_SWEEP"),
            ("labels", "STRING"),
            ("count", "INT"),
            ("report", "STRING"),
        ],
        [
            ("model", "MODEL", (checkpoint, 0)),
            ("lora_stack", "LORA_STACK", stack),
            ("clip", "CLIP", (checkpoint, 1)),
        ],
        [*axes, "auto", "auto"],
    )


def _sweep_grid_node(
    graph: Graph, decoded: int, sweep: int, cell: int, prefix: str, left: int
) -> int:
    return graph.add(
        "LoomSweepGrid",
        (left, 120),
        (420, 460),
        [("sheet", "IMAGE"), ("json", "STRING")],
        [("images", "IMAGE", (decoded, 0)), ("sweep", "LOOM_SWEEP", (sweep, 2))],
        [prefix, cell, ""],
    )


def _interference_node(graph: Graph, checkpoint: int, stack: tuple[int, int]) -> int:
    return graph.add(
        "LoomInterference",
        (860, 120),
        (460, 400),
        [("report", "STRING"), ("heat map", "IMAGE"), ("figures", "STRING")],
        [
            ("lora_stack", "LORA_STACK", stack),
            ("model", "MODEL", (checkpoint, 0)),
            ("clip", "CLIP", (checkpoint, 1)),
            ("positive", "CONDITIONING", None),
            ("negative", "CONDITIONING", None),
            ("latent", "LATENT", None),
        ],
        [2, 0],
    )


def _balance_node(graph: Graph, checkpoint: int, stack: tuple[int, int]) -> int:
    return graph.add(
        "LoomBalance",
        (1360, 120),
        (360, 400),
        [("LORA_STACK", "LORA_STACK"), ("report", "STRING"), ("before and after", "IMAGE")],
        [
            ("lora_stack", "LORA_STACK", stack),
            ("model", "MODEL", (checkpoint, 0)),
            ("clip", "CLIP", (checkpoint, 1)),
        ],
        [100.0, "joint", 95.0, "as they are", 1.25],
    )


def _extract_node(
    graph: Graph,
    tuned: tuple[int, int],
    base: tuple[int, int],
    tuned_clip: tuple[int, int],
    base_clip: tuple[int, int],
) -> int:
    none = "[the MODEL inputs]"
    return graph.add(
        "LoomExtract",
        (860, 120),
        (360, 400),
        [
            ("LORA_MODEL", "LORA_MODEL"),
            ("report", "STRING"),
            ("chart", "IMAGE"),
            ("certificate", "STRING"),
        ],
        [
            ("tuned_model", "MODEL", tuned),
            ("base_model", "MODEL", base),
            ("tuned_clip", "CLIP", tuned_clip),
            ("base_clip", "CLIP", base_clip),
        ],
        ["energy", 64, 0.999, 20.0, "auto", none, none],
    )
