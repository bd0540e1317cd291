"""Strengths that follow the steps."""

from __future__ import annotations

from typing import Any

from ..lora_core.host.scheduling import schedule_stack
from ..lora_core.stack.schedule import CURVES, PRESETS
from ..lora_core.stack.schedulerows import COMBINE
from . import _spec

_SCHEDULE_TOOLTIP = (
    "Keyframes strength@position: 0@0,1@0.5 rises from 0 to 1 over the first half. Positions are shares of the steps, or "
    "step numbers where one is above 1. 50% is half of the row's own strength. start=5:stop=10 keeps it off outside of "
    "these steps; curve=linear, step or cosine. Empty takes the row's schedule away."
)
_COMBINE_TOOLTIP = (
    "sum: all rows act at once. switch: the rows take turns, each for the given number of steps (LoRA Switch). composite: "
    "the model runs once a row and the predictions are averaged (LoRA Composite); as many times slower. Needs row 0."
)


class LoomSchedule:
    DESCRIPTION = (
        "Lets the strength of a LoRA follow the sampling: in late, out early, along keyframes, in turns with the other rows "
        "or averaged with them. It goes on top of block strengths and acts on MODEL; the LoRAs then run live, so that no "
        "step loads anything."
    )
    CATEGORY = _spec.CATEGORY
    SEARCH_ALIASES = [
        "lora schedule",
        "lora scheduling",
        "keyframes",
        "strength over steps",
        "loom",
    ]
    RETURN_TYPES = ("LORA_STACK", "STRING", "IMAGE")
    RETURN_NAMES = ("LORA_STACK", "report", "chart")
    OUTPUT_TOOLTIPS = (
        "The rows with their schedule. Loom nodes apply it; other packs see plain rows.",
        "Each scheduled row's strength in every step.",
        "The curves: strength over the steps, a line a row.",
    )
    FUNCTION = "schedule"

    @classmethod
    def INPUT_TYPES(cls) -> dict[str, Any]:
        schedule = {"default": "", "multiline": True, "tooltip": _SCHEDULE_TOOLTIP}
        schedule |= {"loom_schedule": {"presets": PRESETS, "curves": list(CURVES)}}
        row = {"default": 0, "min": 0, "max": 1000, "tooltip": "0 is all rows, 1 the first."}
        preset = {"default": "none", "tooltip": "A ready schedule; the text must then be empty."}
        steps = {
            "default": 20,
            "min": 1,
            "max": 1000,
            "tooltip": "For how many steps the report and the chart are made. The sampler's own count is what acts.",
        }
        turn = {
            "default": 1,
            "min": 1,
            "max": 1000,
            "tooltip": "For switch: how many steps a row acts before the next one does.",
        }
        return {
            "required": {
                "lora_stack": ("LORA_STACK", {"tooltip": "The rows to give a schedule to."}),
                "schedule": ("STRING", schedule),
                "row": ("INT", row),
                "preset_curve": (["none", *PRESETS], preset),
                "steps": ("INT", steps),
            },
            "optional": {
                "combine": _spec.choice(COMBINE, _COMBINE_TOOLTIP),
                "turn_steps": ("INT", turn),
            },
        }

    def schedule(
        self,
        lora_stack: Any,
        schedule: str,
        row: int,
        preset_curve: str,
        steps: int,
        combine: str = "sum",
        turn_steps: int = 1,
    ) -> dict[str, Any]:
        done = schedule_stack(lora_stack, schedule, row, preset_curve, steps, combine, turn_steps)
        return _spec.shown(done.report, done.stack, done.report, done.images)


NODE_CLASS_MAPPINGS = {"LoomSchedule": LoomSchedule}
NODE_DISPLAY_NAME_MAPPINGS = {"LoomSchedule": "Loom Schedule"}
