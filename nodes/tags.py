"""LoRAs named in a prompt."""

from __future__ import annotations

from typing import Any

from ..lora_core.host.stacking import outgoing, stack_stamp
from ..lora_core.stack.interop import read_lora_stack
from ..lora_core.stack.tag_parts import DIALECTS
from ..lora_core.stack.tags import UNKNOWN, read_tags
from . import _spec


class LoomTags:
    DESCRIPTION = (
        "Reads <lora:name:strength> tags out of a prompt: the LoRAs come out as a LORA_STACK for Loom Apply Stack, the "
        "prompt without the tags for a text encoder."
    )
    CATEGORY = _spec.CATEGORY
    SEARCH_ALIASES = ["lora tag", "lora in prompt", "a1111 lora", "lora syntax", "lbw", "loom"]
    RETURN_TYPES = ("LORA_STACK", "STRING", "STRING")
    RETURN_NAMES = ("LORA_STACK", "text", "report")
    OUTPUT_TOOLTIPS = (
        "The LoRAs of the tags in their order, after those that came in.",
        "The prompt without its tags.",
        "What each tag was read as, and what of it has no effect.",
    )
    FUNCTION = "read"

    @classmethod
    def INPUT_TYPES(cls) -> dict[str, Any]:
        text = {
            "multiline": True,
            "dynamicPrompts": True,
            "tooltip": "A prompt with tags such as <lora:style:0.8>. A name needs its folder only where two files share it.",
        }
        dialect = {
            "default": DIALECTS[0],
            "tooltip": "Which of two numbers comes first. comfyui: model, then text encoder. a1111 and loractl: text "
            "encoder, then model. lbw: as comfyui, but as a1111 in tags with lbw= start= stop= step=.",
        }
        unknown = {
            "default": UNKNOWN[0],
            "tooltip": "Names that no file has. error: stop and name the nearest. skip: leave them out and say so.",
        }
        return {
            "required": {"text": ("STRING", text), "dialect": (list(DIALECTS), dialect)},
            "optional": {
                "lora_stack": (
                    "LORA_STACK",
                    {"tooltip": "Rows from another node, put before those of the tags."},
                ),
                "unknown": (list(UNKNOWN), unknown),
            },
        }

    @classmethod
    def VALIDATE_INPUTS(
        cls, text: str | None, dialect: str | None = None, unknown: str | None = None
    ) -> Any:
        return text is None or _spec.verdict(
            lambda: cls._read(text, dialect or DIALECTS[0], unknown or UNKNOWN[0])
        )

    @classmethod
    def IS_CHANGED(
        cls,
        text: str | None = None,
        dialect: str | None = None,
        unknown: str | None = None,
        **_: Any,
    ) -> str:
        if text is None:
            return ""
        return stack_stamp(cls._read(text, dialect or DIALECTS[0], unknown or UNKNOWN[0]).stack)

    @staticmethod
    def _read(text: str, dialect: str, unknown: str) -> Any:
        return read_tags(text, _spec.listed_name, dialect, unknown)

    def read(
        self, text: str, dialect: str, lora_stack: Any = None, unknown: str = UNKNOWN[0]
    ) -> dict[str, Any]:
        tags = self._read(text, dialect, unknown)
        report = "\n".join(tags.report)
        whole = read_lora_stack(lora_stack) + tags.stack
        return _spec.shown(report, outgoing(whole), tags.text, report)


NODE_CLASS_MAPPINGS = {"LoomTags": LoomTags}
NODE_DISPLAY_NAME_MAPPINGS = {"LoomTags": "Loom Tags"}
