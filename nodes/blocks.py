"""Strengths of single blocks of a LoRA."""

from __future__ import annotations

from typing import Any

from ..lora_core.host.blocking import block_stack
from ..lora_core.host.presets import editor_data, preset_names, preset_stamp
from ..lora_core.stack.blocks import DIALECTS
from . import _spec

_BLOCKS_TOOLTIP = (
    "One entry a line, or several between commas: IN04=0.5, IN*=0, IN01-IN05=0.3, OUT03.cross=1.2, *.attn=0.8. "
    "Or a vector of 12, 17, 20, 21, 26, 27, 58 or 61 values, or a preset's name. Later entries win; "
    "what is not named stays at 1."
)
_DIALECT_TOOLTIP = (
    "How a vector is read: as the Inspire Pack does (three middle blocks) or as sd-webui-lora-block-weight (hako) does. "
    "auto goes by its length; the report says how it was read."
)


class LoomBlocks:
    DESCRIPTION = (
        "Gives single blocks of a LoRA their own strength: by name, vector or preset, onto one row of a stack or all. "
        "With MODEL connected it says which blocks the LoRA has and draws what energy is left in each."
    )
    CATEGORY = _spec.CATEGORY
    SEARCH_ALIASES = ["lora block weight", "lbw", "block strength", "block vector", "loom"]
    RETURN_TYPES = ("LORA_STACK", "STRING", "IMAGE")
    RETURN_NAMES = ("LORA_STACK", "report", "energy chart")
    OUTPUT_TOOLTIPS = (
        "The rows with their block strengths. Loom nodes apply them; other packs see plain rows.",
        "Which blocks each LoRA has, which were changed, how the text was read, and the energy that is left.",
        "A chart a row: each block's share of the energy, and what is left of it.",
    )
    FUNCTION = "block"

    @classmethod
    def INPUT_TYPES(cls) -> dict[str, Any]:
        blocks = {"multiline": True, "default": "", "tooltip": _BLOCKS_TOOLTIP}
        blocks |= {"loom_blocks": editor_data()}
        row = {"default": 0, "min": 0, "max": 1000, "tooltip": "0 is all rows, 1 the first."}
        preset = {"default": "none", "tooltip": "Read before the text, which may then change it."}
        seed = {
            "default": 0,
            "min": 0,
            "max": 0xFFFFFFFFFFFFFFFF,
            "tooltip": "What the letters R and U of a vector are drawn from.",
        }
        return {
            "required": {
                "lora_stack": ("LORA_STACK", {"tooltip": "The rows to give block strengths to."}),
                "blocks": ("STRING", blocks),
                "row": ("INT", row),
                "dialect": (list(DIALECTS), {"default": "auto", "tooltip": _DIALECT_TOOLTIP}),
                "preset": (preset_names(), preset),
                # Not "seed": the page would draw a new one after every run, and patch the model again.
                "letter_seed": ("INT", seed),
            },
            "optional": {
                "model": (
                    "MODEL",
                    {
                        "tooltip": "Connect it to check the names and to see the energies. It is not changed."
                    },
                ),
                "clip": ("CLIP", {"tooltip": "Connect it to see the text encoder's blocks too."}),
            },
        }

    @classmethod
    def IS_CHANGED(cls, preset: str | None = None, blocks: str | None = None, **_: Any) -> str:
        return "" if preset is None and not blocks else preset_stamp(preset or "", blocks or "")

    def block(
        self,
        lora_stack: Any,
        blocks: str,
        row: int,
        dialect: str,
        preset: str,
        letter_seed: int,
        model: Any = None,
        clip: Any = None,
    ) -> dict[str, Any]:
        done = block_stack(lora_stack, blocks, row, dialect, preset, letter_seed, model, clip)
        return _spec.shown(done.report, done.stack, done.report, done.images, loom_blocks=done.page)


NODE_CLASS_MAPPINGS = {"LoomBlocks": LoomBlocks}
NODE_DISPLAY_NAME_MAPPINGS = {"LoomBlocks": "Loom Blocks"}
