"""Example graphs of what only live mode does: rows that take turns, rows for one part of the picture."""

from __future__ import annotations

from tools import workflow_parts as parts
from tools.workflow_graph import Graph
from tools.workflow_parts import Models


def lora_switch(models: Models) -> Graph:
    """The pair taking turns, one step each, and the chart of it."""
    graph = Graph()
    checkpoint = parts.checkpoint(graph, models)
    stack = parts.stack(graph, models, None, None)
    widgets = ["", 0, "none", 20, "switch", 1]
    apply = parts.scheduled(graph, checkpoint, (stack, 2), widgets, 340)
    return parts.ending(
        graph,
        models,
        (apply, checkpoint),
        models.both_prompt,
        "loom/lora_switch",
        "## LoRA Switch\nStyle and character take turns, a step each, so that neither disturbs the other's weights.",
        left=1640,
    )


def _half(graph: Graph) -> int:
    """The left half as a mask; the host fits it to the picture."""
    mask = [("MASK", "MASK")]
    empty = graph.add("SolidMask", (420, 600), (260, 110), mask, widgets=[0.0, 64, 64])
    full = graph.add("SolidMask", (420, 760), (260, 110), mask, widgets=[1.0, 32, 64])
    return graph.add(
        "MaskComposite",
        (420, 920),
        (260, 130),
        mask,
        [("destination", "MASK", (empty, 0)), ("source", "MASK", (full, 0))],
        [0, 0, "add"],
    )


def character_on_the_left(models: Models) -> Graph:
    """The style everywhere, the character for the left half of the picture only."""
    graph = Graph()
    checkpoint = parts.checkpoint(graph, models)
    stack = parts.stack(graph, models, None, None)
    half = _half(graph)
    conditioning = [("CONDITIONING", "CONDITIONING")]

    def prompt(words: str, top: int) -> int:
        given: list[tuple[str, str, tuple[int, int] | None]] = [("clip", "CLIP", (checkpoint, 1))]
        return graph.add("CLIPTextEncode", (860, top), (340, 120), conditioning, given, [words])

    left, right = prompt(models.both_prompt, 120), prompt(models.style_prompt, 290)
    region = graph.add(
        "LoomRegion",
        (1240, 120),
        (340, 260),
        [
            ("LORA_STACK", "LORA_STACK"),
            ("positive", "CONDITIONING"),
            ("negative", "CONDITIONING"),
            ("report", "STRING"),
        ],
        [
            ("lora_stack", "LORA_STACK", (stack, 2)),
            ("positive", "CONDITIONING", (left, 0)),
            ("negative", "CONDITIONING", None),
            ("mask", "MASK", (half, 0)),
        ],
        [2, 1.0],
    )
    rest = graph.add(
        "InvertMask", (860, 460), (260, 40), [("MASK", "MASK")], [("mask", "MASK", (half, 0))]
    )
    other = graph.add(
        "ConditioningSetMask",
        (1240, 440),
        (340, 120),
        conditioning,
        [("conditioning", "CONDITIONING", (right, 0)), ("mask", "MASK", (rest, 0))],
        [1.0, "default"],
    )
    whole = graph.add(
        "ConditioningCombine",
        (1240, 620),
        (340, 60),
        conditioning,
        [
            ("conditioning_1", "CONDITIONING", (region, 1)),
            ("conditioning_2", "CONDITIONING", (other, 0)),
        ],
    )
    apply = graph.add(
        "LoomApply",
        (1620, 120),
        (300, 220),
        [("MODEL", "MODEL"), ("CLIP", "CLIP"), ("report", "STRING")],
        [
            ("model", "MODEL", (checkpoint, 0)),
            ("lora_stack", "LORA_STACK", (region, 0)),
            ("clip", "CLIP", None),
        ],
        ["auto", "auto"],
    )
    loaded = (apply, 0), (checkpoint, 1), (checkpoint, 2)
    _, decoded = parts.sampled_for(graph, models, loaded, (whole, 0), 1960)
    parts.saved(graph, decoded, "loom/character_on_the_left", 2680)
    graph.note(
        (40, 280),
        (340, 160),
        "## A region\nThe second row acts for the left half's prompt only. " + models.where,
    )
    return graph
