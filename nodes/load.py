"""One LoRA onto a model."""

from __future__ import annotations

from typing import Any

from ..lora_core.host.paths import find_lora, lora_names
from ..lora_core.host.stacking import apply_stack, stack_stamp
from ..lora_core.stack.rows import LoraStack, StackRow
from . import _spec


class LoomLoader:
    DESCRIPTION = (
        "Puts one LoRA onto a model and its text encoder, says exactly what matched, and hands out the trigger words. "
        "For several LoRAs use Loom Stack: it patches the model once."
    )
    CATEGORY = _spec.CATEGORY
    SEARCH_ALIASES = ["lora", "load lora", "lora loader", "loom"]
    RETURN_TYPES = ("MODEL", "CLIP", "STRING", "STRING")
    RETURN_NAMES = ("MODEL", "CLIP", "trigger words", "report")
    OUTPUT_TOOLTIPS = (_spec.MODEL_OUT, _spec.CLIP_OUT, _spec.WORDS_OUT, _spec.REPORT_OUT)
    FUNCTION = "load"

    @classmethod
    def INPUT_TYPES(cls) -> dict[str, Any]:
        return {
            "required": {
                "model": _spec.MODEL_INPUT,
                "lora_name": (
                    lora_names(),
                    {"tooltip": "A file of the loras folder. Press R after adding one."},
                ),
                "strength_model": _spec.strength(1.0, "the diffusion model"),
                "strength_clip": _spec.strength(1.0, "the text encoder"),
            },
            "optional": {"clip": _spec.CLIP_INPUT, "matching": _spec.matching()},
        }

    @classmethod
    def VALIDATE_INPUTS(cls, lora_name: str | None) -> Any:
        return lora_name is None or _spec.verdict(lambda: find_lora(lora_name))

    @classmethod
    def IS_CHANGED(cls, lora_name: str | None = None, **_: Any) -> str:
        return "" if lora_name is None else stack_stamp(LoraStack((StackRow(lora_name),)))

    def load(
        self,
        model: Any,
        lora_name: str,
        strength_model: float,
        strength_clip: float,
        clip: Any = None,
        matching: str = "auto",
    ) -> dict[str, Any]:
        stack = LoraStack((StackRow(lora_name, strength_model, strength_clip),))
        applied = apply_stack(stack, model, clip, matching)
        report = _spec.report(applied.account)
        clip_out = _spec.connected(applied.clip, "CLIP", "Loom Loader")
        return _spec.shown(report, applied.model, clip_out, applied.trigger_words, report)


NODE_CLASS_MAPPINGS = {"LoomLoader": LoomLoader}
NODE_DISPLAY_NAME_MAPPINGS = {"LoomLoader": "Loom Loader"}
