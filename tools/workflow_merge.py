"""Example workflows that make one LoRA of others, or a smaller one, and write it."""

from __future__ import annotations

from tools import workflow_parts as parts
from tools.workflow_graph import Graph
from tools.workflow_parts import Models

# Coarse blocks decide what is seen, fine ones how it is drawn; blocks that are not named take both rows.
_OWNERS = """middle_block: character
output_blocks_0: character
output_blocks_1: character
output_blocks_2: character
output_blocks_3: character
input_blocks_1: style
input_blocks_2: style"""


def merge_and_save(models: Models) -> Graph:
    """The pair merged into one LoRA, made smaller, saved, and used."""
    graph = Graph()
    checkpoint = parts.checkpoint(graph, models)
    stack = parts.stack(graph, models, None, None)
    merged = _merge_node(graph, checkpoint, (stack, 2), "svd")
    graph.add("PreviewImage", (860, 640), (360, 300), [], [("images", "IMAGE", (merged, 2))])
    saved = _save_node(graph, (_resize_node(graph, (merged, 0)), 0))
    used = parts.in_memory(graph, checkpoint, (saved, 2), 1660)
    return parts.ending(
        graph,
        models,
        (used, checkpoint),
        models.both_prompt,
        "loom/merge_and_save",
        "## Merge and save\nThe certificate says what every layer kept.",
        left=2040,
    )


def merge_by_block(models: Models) -> Graph:
    """The pair as one LoRA in which some blocks are the style's alone and some the character's."""
    graph = Graph()
    checkpoint = parts.checkpoint(graph, models)
    stack = parts.stack(graph, models, None, None)
    merged = _merge_node(graph, checkpoint, (stack, 2), "blockwise", _OWNERS)
    graph.add("PreviewImage", (860, 640), (360, 300), [], [("images", "IMAGE", (merged, 2))])
    used = parts.in_memory(graph, checkpoint, (merged, 0), 1260)
    return parts.ending(
        graph,
        models,
        (used, checkpoint),
        models.both_prompt,
        "loom/merge_by_block",
        "## Merge by block\nEach block of the model belongs to the row that you name.",
        left=1640,
    )


def resize(models: Models) -> Graph:
    """A LoRA at the rank that it needs: what is lost as a chart, the smaller file, and its picture."""
    graph = Graph()
    checkpoint = parts.checkpoint(graph, models)
    resized = _resize_node(graph, None, models.style, 420)
    graph.add("PreviewImage", (840, 640), (360, 300), [], [("images", "IMAGE", (resized, 2))])
    saved = _save_node(graph, (resized, 0), "loom/smaller", "Smaller", 420)
    used = parts.in_memory(graph, checkpoint, (saved, 2), 840)
    return parts.ending(
        graph,
        models,
        (used, checkpoint),
        models.style_prompt,
        "loom/resize",
        "## Resize\nThe fewest ranks that keep 99 % of each layer's energy. The report says how much smaller.",
        left=1240,
    )


def _merge_node(
    graph: Graph, checkpoint: int, stack: tuple[int, int], method: str, blocks: str = ""
) -> int:
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
            method, "energy", 32, 0.999, 20.0, 100.0, "auto", 1.0, 1.0, blocks, 0.5, 0.1, 0.01, 1.0, False, 0,
        ],
    )  # fmt: skip


def _resize_node(
    graph: Graph,
    lora: tuple[int, int] | None,
    file: str = "[the LORA_MODEL input]",
    left: int = 1260,
) -> int:
    """A LoRA in memory, or a file, at the rank that it needs."""
    return graph.add(
        "LoomResize",
        (left, 120),
        (360, 300),
        [
            ("LORA_MODEL", "LORA_MODEL"),
            ("report", "STRING"),
            ("chart", "IMAGE"),
            ("certificate", "STRING"),
        ],
        [("lora_model", "LORA_MODEL", lora)],
        [file, "energy", 32, 0.99, 20.0, 100.0, "auto"],
    )


def _save_node(
    graph: Graph,
    lora: tuple[int, int],
    name: str = "loom/style_and_character",
    title: str = "Style and character",
    left: int = 1260,
) -> int:
    """Written in kohya's naming."""
    return graph.add(
        "LoomSave",
        (left, 480),
        (360, 420),
        [("lora_name", "STRING"), ("report", "STRING"), ("LORA_MODEL", "LORA_MODEL")],
        [
            ("lora_model", "LORA_MODEL", lora),
            ("model", "MODEL", None),
            ("clip", "CLIP", None),
            ("lora_stack", "LORA_STACK", None),
        ],
        [
            name, "kohya", "fp16", "overwrite", "[the LORA_MODEL input]", title, "", "", "output/loras", 1,
        ],
    )  # fmt: skip
