"""Groups of nodes that several example workflows share."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any

from tools.workflow_graph import Graph


@dataclass(frozen=True)
class Models:
    """All in which an example and its twin may differ: names of models, the words they know, picture size."""

    checkpoint: str
    checkpoint_source: dict[str, Any]
    style: str
    character: str
    style_prompt: str
    both_prompt: str
    negative: str
    size: int
    where: str


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


def stack(
    graph: Graph,
    models: Models,
    model: tuple[int, int] | None,
    clip: tuple[int, int] | None,
    mode: str = "auto",
) -> int:
    rows = [
        {"lora": models.style, "model": 0.8, "clip": 0.8, "on": True, "role": "style"},
        {"lora": models.character, "model": 0.9, "clip": 0.9, "on": True, "role": "character"},
    ]
    lines = ",\n  ".join(json.dumps(row) for row in rows)
    return graph.add(
        "LoomStack",
        (420, 120),
        (400, 420),
        STACK_OUTPUTS,
        [
            ("model", "MODEL", model),
            ("clip", "CLIP", clip),
            ("lora_stack", "LORA_STACK", None),
            ("lora_model", "LORA_MODEL", None),
        ],
        [f'{{"version": 1, "rows": [\n  {lines}\n]}}', 1.0, 1.0, "auto", mode],
    )


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
    """Prompts, sampler, decoder and the saved picture, from `left` to the right.

    prompt: the words, or the node and output that they come from.
    """
    conditioning = [("CONDITIONING", "CONDITIONING")]
    linked = [] if isinstance(prompt, str) else [("text", "STRING", prompt)]
    positive = graph.add(
        "CLIPTextEncode",
        (left, 120),
        (340, 120),
        conditioning,
        [("clip", "CLIP", clip), *linked],
        [prompt if isinstance(prompt, str) else ""],
    )
    negative = graph.add(
        "CLIPTextEncode",
        (left, 290),
        (340, 120),
        conditioning,
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
            ("positive", "CONDITIONING", (positive, 0)),
            ("negative", "CONDITIONING", (negative, 0)),
            ("latent_image", "LATENT", (latent, 0)),
        ],
        [1, "fixed", 20, 4.0, "euler", "normal", 1.0],
    )
    decoded = graph.add(
        "VAEDecode",
        (left + 380, 430),
        (300, 60),
        [("IMAGE", "IMAGE")],
        [("samples", "LATENT", (sampler, 0)), ("vae", "VAE", vae)],
    )
    graph.add(
        "SaveImage",
        (left + 720, 120),
        (340, 380),
        [],
        [("images", "IMAGE", (decoded, 0))],
        [prefix],
    )


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


def merge(graph: Graph, checkpoint: int, stack: tuple[int, int]) -> int:
    return graph.add(
        "LoomMerge",
        (860, 120),
        (360, 480),
        [
            ("LORA_MODEL", "LORA_MODEL"),
            ("report", "STRING"),
            ("chart", "IMAGE"),
            ("certificate", "STRING"),
        ],
        [
            ("lora_stack", "LORA_STACK", stack),
            ("lora_model_1", "LORA_MODEL", None),
            ("lora_model_2", "LORA_MODEL", None),
            ("model", "MODEL", (checkpoint, 0)),
            ("clip", "CLIP", (checkpoint, 1)),
        ],
        [
            "svd",
            "energy",
            32,
            0.999,
            20.0,
            100.0,
            "auto",
            1.0,
            1.0,
            "",
            0.5,
            0.1,
            0.01,
            1.0,
            False,
            0,
        ],
    )


def resize_and_save(graph: Graph, lora: tuple[int, int]) -> int:
    """The LoRA at a smaller rank, written in kohya's naming."""
    resized = graph.add(
        "LoomResize",
        (1260, 120),
        (360, 300),
        [
            ("LORA_MODEL", "LORA_MODEL"),
            ("report", "STRING"),
            ("chart", "IMAGE"),
            ("certificate", "STRING"),
        ],
        [("lora_model", "LORA_MODEL", lora)],
        ["[the LORA_MODEL input]", "energy", 32, 0.99, 20.0, 100.0, "auto"],
    )
    return graph.add(
        "LoomSave",
        (1260, 480),
        (360, 420),
        [("lora_name", "STRING"), ("report", "STRING"), ("LORA_MODEL", "LORA_MODEL")],
        [
            ("lora_model", "LORA_MODEL", (resized, 0)),
            ("model", "MODEL", None),
            ("clip", "CLIP", None),
        ],
        [
            "loom/style_and_character", "kohya", "fp16", "overwrite", "[the LORA_MODEL input]",
            "Style and character", "", "", "output/loras",
        ],
    )  # fmt: skip


def interference(graph: Graph, checkpoint: int, stack: tuple[int, int]) -> int:
    return graph.add(
        "LoomInterference",
        (860, 120),
        (360, 400),
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


def balance(graph: Graph, checkpoint: int, stack: tuple[int, int]) -> int:
    return graph.add(
        "LoomBalance",
        (1260, 120),
        (360, 400),
        [("LORA_STACK", "LORA_STACK"), ("report", "STRING"), ("before and after", "IMAGE")],
        [
            ("lora_stack", "LORA_STACK", stack),
            ("model", "MODEL", (checkpoint, 0)),
            ("clip", "CLIP", (checkpoint, 1)),
        ],
        [100.0, "joint", 95.0, "as they are", 1.25],
    )


def extract(
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
