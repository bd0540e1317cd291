"""Write the example workflows and their toy twins from the same graphs.

python -m tools.make_workflows
example_workflows/ is wired for published checkpoints; tests/workflows/ holds the same graphs on the bundled toy model.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tools.workflow_graph import Graph

ROOT = Path(__file__).resolve().parent.parent
EXAMPLES = ROOT / "example_workflows"
TWINS = ROOT / "tests" / "workflows"


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


PUBLISHED = Models(
    checkpoint="v1-5-pruned-emaonly-fp16.safetensors",
    checkpoint_source={
        "models": [
            {
                "name": "v1-5-pruned-emaonly-fp16.safetensors",
                "url": "https://huggingface.co/Comfy-Org/stable-diffusion-v1-5-archive/resolve/main/"
                "v1-5-pruned-emaonly-fp16.safetensors?download=true",
                "hash": "e9476a13728cd75d8279f6ec8bad753a66a1957ca375a1464dc63b37db6e3916",
                "hash_type": "SHA256",
                "directory": "checkpoints",
            }
        ]
    },
    style="MoXinV1.safetensors",
    character="blindbox_v1_mix.safetensors",
    style_prompt="shuimobysim, a fox under a pine tree, misty mountains",
    both_prompt="shuimobysim, full body, chibi, a girl with an umbrella on a rainy street",
    negative="low quality, blurry, text, watermark",
    size=512,
    where="The LoRAs are examples for SD1.5: MoXin (ink style) and Blindbox (chibi character). Choose your own.",
)

TOY = Models(
    checkpoint="loom_toy.safetensors",
    checkpoint_source={},
    style="loom_toy_style.safetensors",
    character="loom_toy_character.safetensors",
    style_prompt="ohwx red circle on a dark ground",
    both_prompt="ohwx zwx on a dark ground",
    negative="",
    size=256,
    where="The toy model and its LoRAs are bundled with the sources of LoRA Loom.",
)


def one_lora(models: Models) -> Graph:
    """One LoRA through LoomLoader, with what is in it beside."""
    graph = Graph()
    checkpoint = _checkpoint(graph, models)
    loader = graph.add(
        "LoomLoader",
        (420, 120),
        (320, 260),
        [("MODEL", "MODEL"), ("CLIP", "CLIP"), ("trigger words", "STRING"), ("report", "STRING")],
        [("model", "MODEL", (checkpoint, 0)), ("clip", "CLIP", (checkpoint, 1))],
        [models.style, 0.8, 0.8, "auto", ""],
    )
    graph.add(
        "LoomInspect",
        (420, 450),
        (320, 340),
        [("report", "STRING"), ("trigger words", "STRING")],
        [("model", "MODEL", (checkpoint, 0)), ("clip", "CLIP", (checkpoint, 1))],
        [models.style],
    )
    _picture(
        graph,
        models,
        (loader, 0),
        (loader, 1),
        (checkpoint, 2),
        models.style_prompt,
        "loom/one_lora",
    )
    graph.note((40, 280), (340, 160), f"## One LoRA\nLoom Loader says what matched. {models.where}")
    return graph


def style_and_character(models: Models) -> Graph:
    """A style and a character as two rows of one LoomStack."""
    graph = Graph()
    checkpoint = _checkpoint(graph, models)
    stack = _stack(graph, models, (checkpoint, 0), (checkpoint, 1))
    _picture(
        graph,
        models,
        (stack, 0),
        (stack, 1),
        (checkpoint, 2),
        models.both_prompt,
        "loom/style_and_character",
    )
    graph.note(
        (40, 280),
        (340, 160),
        f"## Style + character\nBoth LoRAs go on in one pass. Try the strengths in steps of 0.1. {models.where}",
    )
    return graph


def lora_stack(models: Models) -> Graph:
    """The same pair through LORA_STACK, the socket that other packs share."""
    graph = Graph()
    checkpoint = _checkpoint(graph, models)
    stack = _stack(graph, models, None, None)
    apply = graph.add(
        "LoomApply",
        (860, 120),
        (300, 220),
        [("MODEL", "MODEL"), ("CLIP", "CLIP"), ("report", "STRING")],
        [
            ("model", "MODEL", (checkpoint, 0)),
            ("lora_stack", "LORA_STACK", (stack, 2)),
            ("clip", "CLIP", (checkpoint, 1)),
        ],
        ["auto"],
    )
    _picture(
        graph,
        models,
        (apply, 0),
        (apply, 1),
        (checkpoint, 2),
        models.both_prompt,
        "loom/lora_stack",
        left=1200,
    )
    graph.note(
        (40, 280),
        (340, 160),
        f"## Through LORA_STACK\nAny pack's stacker can stand before Loom Apply Stack. {models.where}",
    )
    return graph


def block_strengths(models: Models) -> Graph:
    """The style held back in some blocks by LoomBlocks, with the chart of what is left."""
    graph = Graph()
    checkpoint = _checkpoint(graph, models)
    stack = _stack(graph, models, None, None)
    blocks = graph.add(
        "LoomBlocks",
        (860, 120),
        (400, 420),
        [("LORA_STACK", "LORA_STACK"), ("report", "STRING"), ("energy chart", "IMAGE")],
        [
            ("lora_stack", "LORA_STACK", (stack, 2)),
            ("model", "MODEL", (checkpoint, 0)),
            ("clip", "CLIP", (checkpoint, 1)),
        ],
        ["# the style without its first blocks\nIN*=0\nOUT*=0.9", 1, "auto", "none", 0],
    )
    graph.add("PreviewImage", (860, 610), (400, 260), [], [("images", "IMAGE", (blocks, 2))])
    apply = graph.add(
        "LoomApply",
        (1300, 120),
        (300, 220),
        [("MODEL", "MODEL"), ("CLIP", "CLIP"), ("report", "STRING")],
        [
            ("model", "MODEL", (checkpoint, 0)),
            ("lora_stack", "LORA_STACK", (blocks, 0)),
            ("clip", "CLIP", (checkpoint, 1)),
        ],
        ["auto"],
    )
    _picture(
        graph,
        models,
        (apply, 0),
        (apply, 1),
        (checkpoint, 2),
        models.both_prompt,
        "loom/block_strengths",
        left=1640,
    )
    graph.note(
        (40, 280),
        (340, 160),
        "## Strengths of blocks\nLoom Blocks turns single blocks of row 1, the style, down or off, and draws what is "
        f"left of each. {models.where}",
    )
    return graph


WORKFLOWS: dict[str, Callable[[Models], Graph]] = {
    "one_lora": one_lora,
    "style_and_character": style_and_character,
    "lora_stack": lora_stack,
    "block_strengths": block_strengths,
}


def _checkpoint(graph: Graph, models: Models) -> int:
    return graph.add(
        "CheckpointLoaderSimple",
        (40, 120),
        (340, 100),
        [("MODEL", "MODEL"), ("CLIP", "CLIP"), ("VAE", "VAE")],
        widgets=[models.checkpoint],
        properties=models.checkpoint_source,
    )


def _stack(
    graph: Graph, models: Models, model: tuple[int, int] | None, clip: tuple[int, int] | None
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
        [
            ("MODEL", "MODEL"),
            ("CLIP", "CLIP"),
            ("LORA_STACK", "LORA_STACK"),
            ("trigger words", "STRING"),
        ],
        [
            ("model", "MODEL", model),
            ("clip", "CLIP", clip),
            ("lora_stack", "LORA_STACK", None),
            ("lora_model", "LORA_MODEL", None),
        ],
        [f'{{"version": 1, "rows": [\n  {lines}\n]}}', 1.0, 1.0, "auto"],
    )


def _picture(
    graph: Graph,
    models: Models,
    model: tuple[int, int],
    clip: tuple[int, int],
    vae: tuple[int, int],
    prompt: str,
    prefix: str,
    left: int = 860,
) -> None:
    """Prompts, sampler, decoder and the saved picture, from `left` to the right."""
    conditioning = [("CONDITIONING", "CONDITIONING")]
    positive = graph.add(
        "CLIPTextEncode", (left, 120), (340, 120), conditioning, [("clip", "CLIP", clip)], [prompt]
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


def written(name: str, models: Models) -> str:
    """The file's text."""
    return json.dumps(WORKFLOWS[name](models).document(), indent=1) + "\n"


def main() -> None:
    for folder, models in ((EXAMPLES, PUBLISHED), (TWINS, TOY)):
        folder.mkdir(parents=True, exist_ok=True)
        for name in WORKFLOWS:
            (folder / f"{name}.json").write_text(written(name, models), encoding="utf-8")
            print(f"wrote {folder.name}/{name}.json")


if __name__ == "__main__":
    main()
