"""Example workflows that train: a style, a character, the two stacked, and a LoRA from ten pictures."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

from tools import workflow_parts as parts
from tools.workflow_explore import swept
from tools.workflow_graph import Graph
from tools.workflow_parts import Lesson, Models

STEPS = 1500
STYLE_FILE, ON_STYLE_FILE = "loom/ohwx_illustration", "loom/sks_leah_drawn"


@dataclass(frozen=True)
class Course:
    """What a training example sets besides its lesson: the file's name, the steps, the text encoders' share of the rate."""

    file: str
    steps: int = STEPS
    text_rate: float = 0.0

    @property
    def widgets(self) -> list[Any]:
        """Of Loom Train Settings."""
        return [
            self.steps, 0.0, 16, 0.0, 1, "attention and convolutions", 0, "", "cosine", 0.05, 1, "auto", 0.0, 0.0, 1.0, 5.0,
            0.0, 0.99, 0.01, 1.0, 0, 0, 2, "LoRA", 8, "", "", self.text_rate, 0.0, 1.0, "auto", "square", 0.1, 1.0, "AdamW",
            1.0, 0.5, True, 0, False, False, 0, "", 20, 0.0,
        ]  # fmt: skip


STYLE, CHARACTER = Course(STYLE_FILE), Course("loom/sks_leah")
# Two manners are more to learn than one.
ON_STYLE = Course(ON_STYLE_FILE, 2500, 0.3)
FROM_TEN = Course("loom/from_ten_pictures")

# The widgets of Loom Dataset behind the four that a lesson sets, at their defaults.
_DATASET = (
    "", 1, False, False, 0.05, 0.1, "", 1, "centre", "alpha and mask files", 0.1, 1.0, False, 64, 0,
)  # fmt: skip


def train_style(models: Models) -> Graph:
    """A style from 25 drawings, 1,500 steps, used in the same run."""
    return _trained(
        models,
        models.style_lesson,
        STYLE,
        "loom/train_style",
        "## Train a style\n25 drawings, many subjects in one manner; each caption says what is to be seen.",
    )


def train_character(models: Models) -> Graph:
    """A character from 20 portraits, 1,500 steps, used in the same run."""
    return _trained(
        models,
        models.character_lesson,
        CHARACTER,
        "loom/train_character",
        "## Train a character\n20 portraits; captions name what may change, so that it stays free.",
    )


def train_on_style(models: Models) -> Graph:
    """A character learned where a style already acts, so that the two agree, and both in one picture."""
    graph = Graph()
    checkpoint = parts.checkpoint(graph, models)
    styled = parts.one_row(graph, checkpoint, models.trained_style, (40, 860))
    train = _training(graph, checkpoint, models.on_style_lesson, ON_STYLE, styled)
    both = parts.with_trained(graph, checkpoint, (train, 0), models.trained_style, 1840)
    return parts.ending(
        graph,
        models,
        (both, checkpoint),
        models.trained_prompt,
        "loom/train_on_style",
        "## Train on a style\nMODEL and CLIP carry the style while the character is learned from 15 portraits and 15 drawings in it.",
        left=2300,
    )


def train_from_ten(models: Models) -> Graph:
    """A first LoRA: ten pictures, the defaults."""
    return _trained(
        models,
        models.ten_lesson,
        FROM_TEN,
        "loom/train_from_ten",
        "## Train from ten pictures\nNothing is set but folder, trigger and size. Read both reports.",
    )


def train_then_stack(models: Models) -> Graph:
    """The LoRA from ten pictures as a row beside one that was there before, in the same run."""
    graph = Graph()
    checkpoint = parts.checkpoint(graph, models)
    train = _training(graph, checkpoint, models.ten_lesson, FROM_TEN)
    stack = parts.with_trained(graph, checkpoint, (train, 0), models.style, 1840)
    return parts.ending(
        graph,
        models,
        (stack, checkpoint),
        models.ten_and_style_prompt,
        "loom/train_then_stack",
        "## Train, then stack\nThe new LoRA at 0.9 beside a style of somebody else at 0.8.",
        left=2300,
    )


def trained_pair(models: Models) -> Graph:
    """The trained style and character stacked at 0.8 and 0.9, and in steps of 0.1 around that."""
    graph = Graph()
    checkpoint = parts.checkpoint(graph, models)
    pair = replace(models, style=models.trained_style, character=models.trained_character)
    stack = parts.stack(graph, pair, None, None)
    axes = ["strength", 1, 0.6, 1.0, 0.1, "", "strength", 2, 0.7, 1.0, 0.1, ""]
    return swept(
        graph,
        models,
        (stack, checkpoint),
        axes,
        models.trained_prompt,
        "loom/trained_pair",
        "## The trained pair\nStyle 0.6 to 1.0 across, character 0.7 to 1.0 down. Train both first.",
    )


def _trained(models: Models, lesson: Lesson, course: Course, prefix: str, note: str) -> Graph:
    """What is learned in a lesson, alone on the checkpoint."""
    graph = Graph()
    checkpoint = parts.checkpoint(graph, models)
    train = _training(graph, checkpoint, lesson, course)
    used = parts.in_memory(graph, checkpoint, (train, 0), 1840)
    return parts.ending(graph, models, (used, checkpoint), lesson.prompt, prefix, note, left=2220)


def _training(
    graph: Graph, checkpoint: int, lesson: Lesson, course: Course, carrier: int | None = None
) -> int:
    """Dataset, settings and training, with contact sheet, chart and sample pictures; the id of Loom Train.

    carrier: the node whose MODEL and CLIP are trained on where it is not the checkpoint.
    """
    trained = checkpoint if carrier is None else carrier
    dataset = graph.add(
        "LoomDataset",
        (420, 120),
        (400, 620),
        [("dataset", "LOOM_DATASET"), ("report", "STRING"), ("contact sheet", "IMAGE")],
        [("images", "IMAGE", None), ("mask", "MASK", None)],
        [lesson.folder, lesson.trigger, lesson.template, lesson.resolution, *_DATASET],
    )
    settings = graph.add(
        "LoomTrainSettings",
        (860, 120),
        (400, 300),
        [("settings", "LOOM_TRAIN_SETTINGS")],
        [],
        course.widgets,
    )
    train = graph.add(
        "LoomTrain",
        (1300, 120),
        (500, 560),
        [
            ("LORA_MODEL", "LORA_MODEL"),
            ("report", "STRING"),
            ("loss chart", "IMAGE"),
            ("lora_name", "STRING"),
            ("samples", "IMAGE"),
        ],
        [
            ("model", "MODEL", (trained, 0)),
            ("clip", "CLIP", (trained, 1)),
            ("vae", "VAE", (checkpoint, 2)),
            ("dataset", "LOOM_DATASET", (dataset, 0)),
            ("settings", "LOOM_TRAIN_SETTINGS", (settings, 0)),
        ],
        [course.file, "[a new LoRA]", True, False, "here", ""],
    )
    for source, at in (
        ((dataset, 2), (40, 480)),
        ((train, 2), (1840, 740)),
        ((train, 4), (1840, 1120)),
    ):
        graph.add("PreviewImage", at, (340, 320), [], [("images", "IMAGE", source)])
    return train
