"""How the rows of a stack act on each other, and strengths that make them sit together."""

from __future__ import annotations

from typing import Any

from ..lora_core.host.interfering import Feeding, measure_stack
from . import _spec


def feeding_inputs() -> dict[str, Any]:
    """The optional inputs with which updates are measured on what the model's layers are fed with."""
    return {
        "model": (
            "MODEL",
            {
                "tooltip": "Names the blocks, and with positive it is run to see what its layers are fed with."
            },
        ),
        "clip": ("CLIP", {"tooltip": "Names the text encoder's blocks."}),
        "positive": (
            "CONDITIONING",
            {
                "tooltip": "With MODEL: measure on what the layers really get with this conditioning."
            },
        ),
        "negative": ("CONDITIONING", {"tooltip": "The other half of those sampling steps."}),
        "latent": ("LATENT", {"tooltip": "Its size is sampled for that; else 512 x 512."}),
        "steps": (
            "INT",
            {
                "default": 2,
                "min": 1,
                "max": 4,
                "tooltip": "Sampling steps that are run for that.",
                "advanced": True,
            },
        ),
        "seed": (
            "INT",
            {
                "default": 0,
                "min": 0,
                "max": 2**53 - 1,
                "control_after_generate": False,
                "tooltip": "Seed of the noise that those steps start from.",
                "advanced": True,
            },
        ),
    }


class LoomInterference:
    DESCRIPTION = (
        "Says how the LoRAs of a stack get in each other's way, block by block, with one sentence on what to try, "
        "a table and a heat map. With a conditioning it measures on what the model really feeds its layers."
    )
    CATEGORY = _spec.CATEGORY
    SEARCH_ALIASES = ["lora conflict", "compare loras", "lora overlap", "lora similarity", "loom"]
    RETURN_TYPES = ("STRING", "IMAGE", "STRING")
    RETURN_NAMES = ("report", "heat map", "figures")
    OUTPUT_TOOLTIPS = (
        "The sentence and the table.",
        "What each row takes of each other, block by block.",
        "The same as JSON.",
    )
    FUNCTION = "measure"
    OUTPUT_NODE = True

    @classmethod
    def INPUT_TYPES(cls) -> dict[str, Any]:
        tooltip = "The rows to compare, two to sixteen, at their strengths."
        return {
            "required": {"lora_stack": ("LORA_STACK", {"tooltip": tooltip})},
            "optional": feeding_inputs(),
        }

    def measure(
        self,
        lora_stack: Any,
        model: Any = None,
        clip: Any = None,
        positive: Any = None,
        negative: Any = None,
        latent: Any = None,
        steps: int = 2,
        seed: int = 0,
    ) -> dict[str, Any]:
        feeding = Feeding(positive, negative, latent, steps, seed)
        found = measure_stack(lora_stack, model, clip, feeding)
        return _spec.shown(
            found.report,
            found.report,
            found.heat_map,
            found.figures,
            loom_interference=[found.document],
        )


NODE_CLASS_MAPPINGS = {"LoomInterference": LoomInterference}
NODE_DISPLAY_NAME_MAPPINGS = {"LoomInterference": "Loom Interference"}
