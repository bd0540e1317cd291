"""The difference of two models as a LoRA."""

from __future__ import annotations

from typing import Any

from ..lora_core.host.extracting import (
    NO_MODEL_FILE,
    Pair,
    extract_difference,
    model_files,
    model_files_stamp,
)
from ..lora_core.merge.extract import MOST_RANK, ExtractOrder
from ..lora_core.merge.ranks import RANK_RULES, rule_of
from ..lora_core.merge.tensors import DTYPES
from . import _spec

_RULES = ("energy", *(name for name in RANK_RULES if name != "energy"))


class LoomExtract:
    DESCRIPTION = (
        "Makes a LoRA of the difference of two models: factors for matrices and convolutions, each layer with the rank "
        "it needs, whole differences for norms and biases. Layer by layer, so that large models fit. Says what was kept."
    )
    CATEGORY = _spec.CATEGORY
    SEARCH_ALIASES = ["extract lora", "model difference", "checkpoint to lora", "subtract", "loom"]
    RETURN_TYPES = ("LORA_MODEL", "STRING", "IMAGE", "STRING")
    RETURN_NAMES = ("LORA_MODEL", "report", "chart", "certificate")
    OUTPUT_TOOLTIPS = (
        "The LoRA: at strength 1 on the base model it gives the tuned one.",
        "What became of every layer, in words.",
        "The same as a picture.",
        "The same as JSON, every layer in it.",
    )
    FUNCTION = "extract"

    @classmethod
    def INPUT_TYPES(cls) -> dict[str, Any]:
        files = [NO_MODEL_FILE, *model_files()]
        keep = (
            "How the rank of each layer is chosen. energy: the fewest that keep this share of the squared norm. "
            "frobenius: of the norm. rank: this many. ratio: singular values above the largest divided by this. "
            "knee: where the values bend. all: the largest rank allowed."
        )
        return {
            "required": {
                "keep": _spec.choice(_RULES, keep),
                "rank": (
                    "INT",
                    {
                        "default": MOST_RANK,
                        "min": 1,
                        "max": 4096,
                        "tooltip": "The rank where keep is 'rank', else the largest that a layer may get.",
                    },
                ),
                "energy": _spec.ENERGY_KEPT,
                "ratio": _spec.RATIO_KEPT,
                "dtype": _spec.choice(
                    DTYPES, "Numbers of the result. auto: those of the tuned weights."
                ),
                "tuned_file": (files, {"tooltip": "The tuned model, where no MODEL is connected."}),
                "base_file": (files, {"tooltip": "What it was tuned from."}),
            },
            "optional": {
                "tuned_model": (
                    "MODEL",
                    {"tooltip": "The tuned model, LoRAs in its weights included."},
                ),
                "base_model": ("MODEL", {"tooltip": "What it was tuned from."}),
                "tuned_clip": ("CLIP", {"tooltip": "Its text encoder, where that is tuned too."}),
                "base_clip": ("CLIP", {"tooltip": "The text encoder it was tuned from."}),
            },
        }

    @classmethod
    def IS_CHANGED(
        cls, tuned_file: str | None = None, base_file: str | None = None, **_: Any
    ) -> str:
        return model_files_stamp(tuned_file, base_file)

    def extract(
        self,
        keep: str,
        rank: int,
        energy: float,
        ratio: float,
        dtype: str,
        tuned_file: str,
        base_file: str,
        tuned_model: Any = None,
        base_model: Any = None,
        tuned_clip: Any = None,
        base_clip: Any = None,
    ) -> dict[str, Any]:
        rule = rule_of(keep, rank, energy, ratio, 0.0)
        order = ExtractOrder(rule, rank, DTYPES[dtype])
        models, clips = Pair(tuned_model, base_model), Pair(tuned_clip, base_clip)
        answer = extract_difference(order, tuned_file, base_file, models, clips)
        report = answer.report
        return _spec.shown(report, answer.lora_model, report, answer.chart, answer.certificate)


NODE_CLASS_MAPPINGS = {"LoomExtract": LoomExtract}
NODE_DISPLAY_NAME_MAPPINGS = {"LoomExtract": "Loom Extract"}
