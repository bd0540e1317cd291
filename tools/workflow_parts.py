"""Groups of nodes that several example workflows share."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any

from tools.workflow_graph import Graph


@dataclass(frozen=True)
class Lesson:
    """What a training example learns from: a folder of inputs with captions, and how the result is asked for."""

    folder: str
    trigger: str
    template: str
    resolution: int
    prompt: str


@dataclass(frozen=True)
class Models:
    """All in which an example and its twin may differ: names of models, the words they know, picture size, guidance,
    lessons, and which blocks hold a style and a face."""

    checkpoint: str
    checkpoint_source: dict[str, Any]
    style: str
    style_source: dict[str, Any]
    character: str
    style_prompt: str
    both_prompt: str
    negative: str
    size: int
    where: str
    style_lesson: Lesson
    character_lesson: Lesson
    on_style_lesson: Lesson
    ten_lesson: Lesson
    ten_and_style_prompt: str
    trained_style: str
    trained_character: str
    trained_prompt: str
    cfg: float = 4.0
    style_blocks: str = "OUT*=1"
    face_blocks: str = "OUT03-OUT05=1"


def checkpoint(graph: Graph, models: Models) -> int:
    return graph.add(
        "CheckpointLoaderSimple",
        (40, 120),
        (340, 100),
        [("MODEL", "MODEL"), ("CLIP", "CLIP"), ("VAE", "VAE")],
        widgets=[models.checkpoint],
        properties=models.checkpoint_source,
    )


def apply(graph: Graph, checkpoint: int, stack: tuple[int, int], left: int = 860) -> int:
    return graph.add(
        "LoomApply",
        (left, 120),
        (300, 220),
        [("MODEL", "MODEL"), ("CLIP", "CLIP"), ("report", "STRING")],
        [
            ("model", "MODEL", (checkpoint, 0)),
            ("lora_stack", "LORA_STACK", stack),
            ("clip", "CLIP", (checkpoint, 1)),
        ],
        ["auto", "auto"],
    )


STACK_OUTPUTS = [
    ("MODEL", "MODEL"),
    ("CLIP", "CLIP"),
    ("LORA_STACK", "LORA_STACK"),
    ("trigger words", "STRING"),
    ("facts", "STRING"),
]


INSPECT_OUTPUTS = [
    ("report", "STRING"),
    ("trigger words", "STRING"),
    ("chart", "IMAGE"),
    ("needs", "STRING"),
    ("A1111 hashes", "STRING"),
    ("hash list", "STRING"),
]


def stack(
    graph: Graph,
    models: Models,
    model: tuple[int, int] | None,
    clip: tuple[int, int] | None,
    mode: str = "auto",
) -> int:
    rows = [_row(models.style, 0.8, "style"), _row(models.character, 0.9, "character")]
    return _stack_of(graph, rows, model, clip, mode)


def style_stack(graph: Graph, models: Models) -> int:
    """The style alone, as a LORA_STACK."""
    return _stack_of(graph, [_row(models.style, 0.8, "style")], None, None, "auto")


def one_row(graph: Graph, checkpoint: int, style: str, at: tuple[int, int]) -> int:
    """A stack of nothing but a style at 0.8, on the checkpoint."""
    rows = [_row(style, 0.8, "style")]
    return _stack_of(graph, rows, (checkpoint, 0), (checkpoint, 1), "auto", at)


def _stack_of(
    graph: Graph,
    rows: list[dict[str, Any]],
    model: tuple[int, int] | None,
    clip: tuple[int, int] | None,
    mode: str,
    at: tuple[int, int] = (420, 120),
) -> int:
    return graph.add(
        "LoomStack",
        at,
        (420, 420),
        STACK_OUTPUTS,
        [
            ("model", "MODEL", model),
            ("clip", "CLIP", clip),
            ("lora_stack", "LORA_STACK", None),
            ("lora_model", "LORA_MODEL", None),
        ],
        [_rows(rows), 1.0, 1.0, "auto", mode],
    )


def _row(name: str, strength: float, role: str) -> dict[str, Any]:
    return {"lora": name, "model": strength, "clip": strength, "on": True, "role": role}


def _rows(rows: list[dict[str, Any]]) -> str:
    """The rows widget, one line a row."""
    lines = ",\n  ".join(json.dumps(row) for row in rows)
    return f'{{"version": 1, "rows": [\n  {lines}\n]}}'


def with_trained(
    graph: Graph, checkpoint: int, lora: tuple[int, int], style: str, left: int
) -> int:
    """A LORA_MODEL at 0.9 and a style file at 0.8, on the checkpoint."""
    return graph.add(
        "LoomStack",
        (left, 120),
        (400, 420),
        STACK_OUTPUTS,
        [
            ("model", "MODEL", (checkpoint, 0)),
            ("clip", "CLIP", (checkpoint, 1)),
            ("lora_stack", "LORA_STACK", None),
            ("lora_model", "LORA_MODEL", lora),
        ],
        [_rows([_row(style, 0.8, "style")]), 0.9, 0.9, "auto", "auto"],
    )


def in_memory(graph: Graph, checkpoint: int, lora: tuple[int, int], left: int) -> int:
    """A stack of nothing but a LORA_MODEL on the checkpoint."""
    return graph.add(
        "LoomStack",
        (left, 120),
        (340, 300),
        STACK_OUTPUTS,
        [
            ("model", "MODEL", (checkpoint, 0)),
            ("clip", "CLIP", (checkpoint, 1)),
            ("lora_stack", "LORA_STACK", None),
            ("lora_model", "LORA_MODEL", lora),
        ],
        ['{"version": 1, "rows": []}', 1.0, 1.0, "auto", "auto"],
    )


def scheduled(
    graph: Graph, checkpoint: int, stack: tuple[int, int], widgets: list[Any], height: int
) -> int:
    """A schedule of the stack, its chart, and the node that applies it."""
    schedule = graph.add(
        "LoomSchedule",
        (880, 120),
        (440, height),
        [("LORA_STACK", "LORA_STACK"), ("report", "STRING"), ("chart", "IMAGE")],
        [("lora_stack", "LORA_STACK", stack)],
        widgets,
    )
    graph.add("PreviewImage", (1360, 420), (300, 300), [], [("images", "IMAGE", (schedule, 2))])
    return apply(graph, checkpoint, (schedule, 0), left=1360)


def picture(
    graph: Graph,
    models: Models,
    model: tuple[int, int],
    clip: tuple[int, int],
    vae: tuple[int, int],
    prompt: str | tuple[int, int],
    prefix: str,
    left: int = 860,
) -> None:
    """Prompts, sampler, decoder and the saved picture, from `left` to the right."""
    _, decoded = sampled(graph, models, (model, clip, vae), prompt, left)
    saved(graph, decoded, prefix, left + 720)


def saved(graph: Graph, decoded: int, prefix: str, left: int) -> None:
    graph.add(
        "SaveImage", (left, 120), (340, 380), [], [("images", "IMAGE", (decoded, 0))], [prefix]
    )


def sampled(
    graph: Graph,
    models: Models,
    loaded: tuple[tuple[int, int], tuple[int, int], tuple[int, int]],
    prompt: str | tuple[int, int],
    left: int,
) -> tuple[int, int]:
    """Prompts, sampler and decoder, from `left` to the right; the ids of the last two.

    loaded: where MODEL, CLIP and VAE come from. prompt: the words, or the node and output that they come from.
    """
    linked = [] if isinstance(prompt, str) else [("text", "STRING", prompt)]
    positive = graph.add(
        "CLIPTextEncode",
        (left, 120),
        (340, 120),
        [("CONDITIONING", "CONDITIONING")],
        [("clip", "CLIP", loaded[1]), *linked],
        [prompt if isinstance(prompt, str) else ""],
    )
    return sampled_for(graph, models, loaded, (positive, 0), left)


def sampled_for(
    graph: Graph,
    models: Models,
    loaded: tuple[tuple[int, int], tuple[int, int], tuple[int, int]],
    positive: tuple[int, int],
    left: int,
) -> tuple[int, int]:
    """All of `sampled` behind its positive prompt."""
    model, clip, vae = loaded
    negative = graph.add(
        "CLIPTextEncode",
        (left, 290),
        (340, 120),
        [("CONDITIONING", "CONDITIONING")],
        [("clip", "CLIP", clip)],
        [models.negative],
    )
    latent = graph.add(
        "EmptyLatentImage",
        (left, 460),
        (340, 110),
        [("LATENT", "LATENT")],
        widgets=[models.size, models.size, 1],
    )
    sampler = graph.add(
        "KSampler",
        (left + 380, 120),
        (300, 260),
        [("LATENT", "LATENT")],
        [
            ("model", "MODEL", model),
            ("positive", "CONDITIONING", positive),
            ("negative", "CONDITIONING", (negative, 0)),
            ("latent_image", "LATENT", (latent, 0)),
        ],
        [1, "fixed", 20, models.cfg, "euler", "normal", 1.0],
    )
    decoded = graph.add(
        "VAEDecode",
        (left + 380, 430),
        (300, 60),
        [("IMAGE", "IMAGE")],
        [("samples", "LATENT", (sampler, 0)), ("vae", "VAE", vae)],
    )
    return sampler, decoded


def ending(
    graph: Graph,
    models: Models,
    loaded: tuple[int, int],
    prompt: str | tuple[int, int],
    prefix: str,
    note: str,
    left: int = 860,
) -> Graph:
    """The picture of a node with MODEL and CLIP as its first outputs, and the words that explain the graph.

    loaded: that node, and the checkpoint whose VAE is used.
    """
    node, checkpoint = loaded
    picture(graph, models, (node, 0), (node, 1), (checkpoint, 2), prompt, prefix, left)
    graph.note((40, 280), (340, 160), f"{note} {models.where}")
    return graph
