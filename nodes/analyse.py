"""How the rows of a stack act on each other, and strengths that make them sit together."""

from __future__ import annotations

from typing import Any

from ..lora_core.analysis.balance import STRENGTHS
from ..lora_core.analysis.protection import SIDES, Protection
from ..lora_core.host.balancing import BalanceOrder, balance_stack
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
        "start_seed": (
            "INT",
            {
                "default": 0,
                "min": 0,
                "max": 2**53 - 1,
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
        start_seed: int = 0,
    ) -> dict[str, Any]:
        feeding = Feeding(positive, negative, latent, steps, start_seed)
        found = measure_stack(lora_stack, model, clip, feeding)
        return _spec.shown(
            found.report,
            found.report,
            found.heat_map,
            found.figures,
            loom_interference=[found.document],
        )


class LoomBalance:
    DESCRIPTION = (
        "Makes the LoRAs of a stack sit well together: proposes strengths, and keeps rows of role style or detail off "
        "the strongest directions of rows of role character. Says what it changed and why; at 0 % and with strengths "
        "as they are the stack goes through untouched."
    )
    CATEGORY = _spec.CATEGORY
    SEARCH_ALIASES = ["balance loras", "style and character", "lora strength", "orthogonal", "loom"]
    RETURN_TYPES = ("LORA_STACK", "STRING", "IMAGE")
    RETURN_NAMES = ("LORA_STACK", "report", "before and after")
    OUTPUT_TOOLTIPS = (
        "The balanced rows, to apply or to merge.",
        "What was changed and why.",
        "Two heat maps of what the rows take of each other.",
    )
    FUNCTION = "balance"

    @classmethod
    def INPUT_TYPES(cls) -> dict[str, Any]:
        percent = {"min": 0.0, "max": 100.0, "step": 1.0}
        protection = (
            "How much of a style's (and detail's) part in the character's directions is taken away, in percent. "
            "0 leaves every row as it is."
        )
        sides = (
            "Which part that is. joint: what reads the character's inputs and writes its outputs; input: all that reads "
            "its inputs; output: all that writes its outputs."
        )
        strengths = (
            "as they are; overlap: lowered where rows add to each other; norms: spread over the blocks like the character (needs MODEL); "
            "budget: rows that are no character turned down until the sum is within the budget."
        )
        return {
            "required": {
                "lora_stack": ("LORA_STACK", {"tooltip": "The rows, with roles from Loom Stack."}),
                "protection": ("FLOAT", {"default": 100.0, "tooltip": protection, **percent}),
                "side": _spec.choice(SIDES, sides),
                "directions": (
                    "FLOAT",
                    {
                        "default": 95.0,
                        "tooltip": "The character's strongest directions that hold this percentage of its energy.",
                        **percent,
                    },
                ),
                "strengths": _spec.choice(STRENGTHS, strengths),
                "budget": (
                    "FLOAT",
                    {
                        "default": 1.25,
                        "min": 0.1,
                        "max": 10.0,
                        "step": 0.05,
                        "tooltip": "budget: length of the whole sum over that of the character alone.",
                    },
                ),
            },
            "optional": {
                "model": (
                    "MODEL",
                    {"tooltip": "Names the blocks and pairs spellings. Not changed."},
                ),
                "clip": ("CLIP", {"tooltip": "The same for the text encoder."}),
            },
        }

    def balance(
        self,
        lora_stack: Any,
        protection: float,
        side: str,
        directions: float,
        strengths: str,
        budget: float,
        model: Any = None,
        clip: Any = None,
    ) -> dict[str, Any]:
        guard = Protection(protection / 100, side, directions / 100)
        order = BalanceOrder(strengths, budget, guard)
        done = balance_stack(lora_stack, order, model, clip)
        return _spec.shown(done.report, done.stack, done.report, done.images)


NODE_CLASS_MAPPINGS = {"LoomInterference": LoomInterference, "LoomBalance": LoomBalance}
NODE_DISPLAY_NAME_MAPPINGS = {
    "LoomInterference": "Loom Interference",
    "LoomBalance": "Loom Balance",
}
