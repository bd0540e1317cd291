"""One LoRA onto a model."""

from __future__ import annotations

from typing import Any

from ..lora_core.host.paths import lora_names
from ..lora_core.host.stacking import apply_stack
from ..lora_core.stack.lock import locked_row
from ..lora_core.stack.rows import LoraStack
from . import _spec

_LOCK_TOOLTIP = (
    "Which file is meant, by content: written after a run, so that a moved or renamed file is found and another file "
    "under this name is refused. Clear it to take the file as it is now."
)


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
            "optional": {
                "clip": _spec.CLIP_INPUT,
                "matching": _spec.matching(),
                "lora_lock": (
                    "STRING",
                    {"default": "", "advanced": True, "tooltip": _LOCK_TOOLTIP},
                ),
            },
        }

    @classmethod
    def VALIDATE_INPUTS(cls, lora_name: str | None = None, lora_lock: str | None = "") -> Any:
        # Naming lora_name switches the host's own check against the list off: a moved file is found by its hash.
        return _spec.one_lora_verdict(lora_name, lora_lock)

    @classmethod
    def IS_CHANGED(cls, lora_name: str | None = None, lora_lock: str | None = "", **_: Any) -> str:
        return _spec.one_lora_stamp(lora_name, lora_lock)

    def load(
        self,
        model: Any,
        lora_name: str,
        strength_model: float,
        strength_clip: float,
        clip: Any = None,
        matching: str = "auto",
        lora_lock: str = "",
    ) -> dict[str, Any]:
        stack = LoraStack((locked_row(lora_name, strength_model, strength_clip, lora_lock),))
        applied = apply_stack(stack, model, clip, matching)
        report = _spec.report(applied.account)
        clip_out = _spec.connected(applied.clip, "CLIP", "Loom Loader")
        return _spec.shown(
            report,
            applied.model,
            clip_out,
            applied.trigger_words,
            report,
            loom_lock=[identity.lock() for identity in applied.identities],
        )


NODE_CLASS_MAPPINGS = {"LoomLoader": LoomLoader}
NODE_DISPLAY_NAME_MAPPINGS = {"LoomLoader": "Loom Loader"}
