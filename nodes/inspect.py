"""What is in a LoRA, and what of it fits a model."""

from __future__ import annotations

from typing import Any

from ..lora_core.host.paths import lora_names
from ..lora_core.host.stacking import account_for, facts_of, identify, open_row
from ..lora_core.report import inspect_report
from ..lora_core.stack.rows import StackRow
from ..lora_core.stack.words import joined_words
from . import _spec


class LoomInspect:
    DESCRIPTION = (
        "Says what is in a LoRA: base model, ranks, trigger words, keys that were not read. "
        "With a MODEL or CLIP connected also which of its keys fit."
    )
    CATEGORY = _spec.CATEGORY
    SEARCH_ALIASES = ["lora info", "lora metadata", "trigger words", "loom"]
    RETURN_TYPES = ("STRING", "STRING")
    RETURN_NAMES = ("report", "trigger words")
    OUTPUT_TOOLTIPS = ("All that was read, as text.", _spec.WORDS_OUT)
    FUNCTION = "inspect"
    OUTPUT_NODE = True

    @classmethod
    def INPUT_TYPES(cls) -> dict[str, Any]:
        return {
            "required": {"lora_name": (lora_names(), {"tooltip": "A file of the loras folder."})},
            "optional": {
                "model": ("MODEL", {"tooltip": "Connect to see which keys fit this model."}),
                "clip": ("CLIP", {"tooltip": "Connect to see which text-encoder keys fit."}),
            },
        }

    @classmethod
    def VALIDATE_INPUTS(cls, lora_name: str | None = None) -> Any:
        return _spec.one_lora_verdict(lora_name)

    @classmethod
    def IS_CHANGED(cls, lora_name: str | None = None, **_: Any) -> str:
        return _spec.one_lora_stamp(lora_name)

    def inspect(self, lora_name: str, model: Any = None, clip: Any = None) -> dict[str, Any]:
        opened = open_row(StackRow(lora_name))
        (identity,) = identify([opened])
        facts = facts_of(opened)
        account = account_for(opened.adapter, model, clip)
        text = inspect_report(opened.adapter, account, identity.hashes, facts)
        report = "\n".join((*opened.notes, text))
        return _spec.shown(report, report, joined_words([(opened.row, facts)]))


NODE_CLASS_MAPPINGS = {"LoomInspect": LoomInspect}
NODE_DISPLAY_NAME_MAPPINGS = {"LoomInspect": "Loom Inspect"}
