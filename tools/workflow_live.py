"""Example graphs of what only live mode does: rows that take turns, rows for one part of the picture."""

from __future__ import annotations

from tools import workflow_parts as parts
from tools.workflow_graph import Graph
from tools.workflow_parts import Models

_CONDITIONING = [("CONDITIONING", "CONDITIONING")]


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
        left=1700,
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
    left = _prompt(graph, checkpoint, models.both_prompt, 120)
    right = _prompt(graph, checkpoint, models.style_prompt, 290)
    region = _region(graph, stack, left, half)
    whole = _with_the_rest(graph, region, right, half)
    apply = _applied(graph, checkpoint, region)
    loaded = (apply, 0), (checkpoint, 1), (checkpoint, 2)
    _, decoded = parts.sampled_for(graph, models, loaded, (whole, 0), 1960)
    parts.saved(graph, decoded, "loom/character_on_the_left", 2680)
    graph.note(
        (40, 280),
        (340, 160),
        "## A region\nThe second row acts for the left half's prompt only. " + models.where,
    )
    return graph


def _prompt(graph: Graph, checkpoint: int, words: str, top: int) -> int:
    given: list[tuple[str, str, tuple[int, int] | None]] = [("clip", "CLIP", (checkpoint, 1))]
    return graph.add("CLIPTextEncode", (860, top), (340, 120), _CONDITIONING, given, [words])


def _region(graph: Graph, stack: int, prompt: int, mask: int) -> int:
    """The stack's second row kept to a prompt and a mask."""
    return graph.add(
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
            ("positive", "CONDITIONING", (prompt, 0)),
            ("negative", "CONDITIONING", None),
            ("mask", "MASK", (mask, 0)),
        ],
        [2, 1.0],
    )


def _with_the_rest(graph: Graph, region: int, prompt: int, mask: int) -> int:
    """The region's conditioning and, where the mask is not, the other prompt's."""
    rest = graph.add(
        "InvertMask", (860, 460), (260, 40), [("MASK", "MASK")], [("mask", "MASK", (mask, 0))]
    )
    other = graph.add(
        "ConditioningSetMask",
        (1240, 440),
        (340, 120),
        _CONDITIONING,
        [("conditioning", "CONDITIONING", (prompt, 0)), ("mask", "MASK", (rest, 0))],
        [1.0, "default"],
    )
    return graph.add(
        "ConditioningCombine",
        (1240, 620),
        (340, 60),
        _CONDITIONING,
        [
            ("conditioning_1", "CONDITIONING", (region, 1)),
            ("conditioning_2", "CONDITIONING", (other, 0)),
        ],
    )


def _applied(graph: Graph, checkpoint: int, region: int) -> int:
    return graph.add(
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
