"""Rows that act for one prompt or part of the picture."""

from __future__ import annotations

from typing import Any

from ..lora_core.host.regioning import region_stack
from . import _spec


class LoomRegion:
    DESCRIPTION = (
        "Lets rows of a stack act for one conditioning only, and with a mask only inside of it: one character on the left, "
        "another on the right. Combine the conditionings and apply the stack as usual; the LoRAs then run live."
    )
    CATEGORY = _spec.CATEGORY
    SEARCH_ALIASES = ["lora region", "regional lora", "lora mask", "two characters", "loom"]
    RETURN_TYPES = ("LORA_STACK", "CONDITIONING", "CONDITIONING", "STRING")
    RETURN_NAMES = ("LORA_STACK", "positive", "negative", "report")
    OUTPUT_TOOLTIPS = (
        "The rows, tied to the conditionings of this node. Loom nodes keep to it; other packs see plain rows.",
        "The positive conditioning with the rows on it. Combine it with the others.",
        "The negative conditioning with the rows on it. Combine it with the others.",
        "Which rows act where.",
    )
    FUNCTION = "region"

    @classmethod
    def INPUT_TYPES(cls) -> dict[str, Any]:
        row = {"default": 0, "min": 0, "max": 1000, "tooltip": "0 is all rows, 1 the first."}
        strength = {
            "default": 1.0,
            "min": 0.0,
            "max": 10.0,
            "step": 0.01,
            "tooltip": "How much the masked conditioning weighs beside others at the same place.",
        }
        return {
            "required": {
                "lora_stack": ("LORA_STACK", {"tooltip": "The rows to tie to a conditioning."}),
                "positive": ("CONDITIONING", {"tooltip": "The prompt for which the rows act."}),
                "row": ("INT", row),
            },
            "optional": {
                "negative": (
                    "CONDITIONING",
                    {
                        "tooltip": "The negative prompt for which they act too. Without it the guidance multiplies the LoRA."
                    },
                ),
                "mask": ("MASK", {"tooltip": "The part of the picture; none is the whole of it."}),
                "mask_strength": ("FLOAT", strength),
            },
        }

    def region(
        self,
        lora_stack: Any,
        positive: Any,
        row: int,
        negative: Any = None,
        mask: Any = None,
        mask_strength: float = 1.0,
    ) -> dict[str, Any]:
        done = region_stack(lora_stack, positive, row, negative, mask, mask_strength)
        other = _spec.connected(done.negative, "negative", "Loom Region")
        return _spec.shown(done.report, done.stack, done.positive, other, done.report)


NODE_CLASS_MAPPINGS = {"LoomRegion": LoomRegion}
NODE_DISPLAY_NAME_MAPPINGS = {"LoomRegion": "Loom Region"}
