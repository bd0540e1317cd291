"""Several LoRAs into one, and one LoRA at another rank."""

from __future__ import annotations

from typing import Any

from ..lora_core.host.merging import Answer, merge_stack, resize_one
from ..lora_core.host.paths import find_lora, lora_names
from ..lora_core.host.saving import NO_FILE
from ..lora_core.host.stacking import stack_stamp
from ..lora_core.merge.choice import EXAMPLE
from ..lora_core.merge.methods import METHODS
from ..lora_core.merge.plan import Plan
from ..lora_core.merge.ranks import RULE_NAMES, rule_of
from ..lora_core.merge.tensors import DTYPES
from ..lora_core.merge.weight import Parameters
from ..lora_core.stack.interop import read_lora_stack
from ..lora_core.stack.rows import LoraStack, StackRow
from . import _spec

_METHODS = "; ".join(f"{name}: {method.words}" for name, method in METHODS.items())
_OUTPUTS = (
    "The LoRA, for Loom Loader, Loom Stack, Loom Save and core's nodes. Apply it at strength 1.",
    "What became of every layer, in words.",
    "The same as a picture.",
    "The same as JSON, every layer in it.",
)


def _ranks() -> dict[str, Any]:
    """The widgets that say how much is kept."""
    return {
        "keep": (
            list(RULE_NAMES),
            {
                "default": "all",
                "tooltip": "How the rank of each layer is chosen. all: nothing is cut. rank: this many. energy: the "
                "fewest that keep this share of the squared norm. frobenius: of the norm. ratio: singular values "
                "above the largest divided by this. knee: where the values bend. size: the best sharing of this file "
                "size over all layers.",
            },
        ),
        "rank": (
            "INT",
            {"default": 32, "min": 1, "max": 4096, "tooltip": "The rank, where keep is 'rank'."},
        ),
        "energy": _spec.ENERGY_KEPT,
        "ratio": _spec.RATIO_KEPT,
        "size_mb": (
            "FLOAT",
            {
                "default": 100.0,
                "min": 0.01,
                "max": 100000.0,
                "step": 1.0,
                "tooltip": "Size of the file in MB (a million bytes), where keep is 'size'.",
            },
        ),
        "dtype": (
            list(DTYPES),
            {"default": "auto", "tooltip": "Numbers of the result. auto: those of the LoRAs."},
        ),
    }


def _share(default: float, low: float, tooltip: str) -> tuple[str, dict[str, Any]]:
    spec = {"default": default, "min": low, "max": 1.0, "step": 0.01}
    return ("FLOAT", spec | {"tooltip": tooltip, "advanced": True})


class LoomMerge:
    DESCRIPTION = (
        "Makes one LoRA of a whole stack, by the method of your choice, and says for every layer what was kept and "
        "how far it is from the exact sum. Strengths, negative ones too, and roles of the rows are respected."
    )
    CATEGORY = _spec.CATEGORY
    SEARCH_ALIASES = ["merge lora", "lora merge", "combine lora", "ties", "dare", "svd", "loom"]
    RETURN_TYPES = ("LORA_MODEL", "STRING", "IMAGE", "STRING")
    RETURN_NAMES = ("LORA_MODEL", "report", "chart", "certificate")
    OUTPUT_TOOLTIPS = _OUTPUTS
    FUNCTION = "merge"

    @classmethod
    def INPUT_TYPES(cls) -> dict[str, Any]:
        method = (list(METHODS), {"default": "svd", "tooltip": _METHODS})
        advanced = {
            "density": _share(0.5, 0.01, "Share of entries kept, for the methods that drop some."),
            "epsilon": _share(0.1, 0.0, "della: how far the chance to keep spreads around it."),
            "outliers": _share(0.01, 0.0, "breadcrumbs: share of the largest entries dropped."),
            "protection": _share(1.0, 0.0, "orthogonal: how much is kept off the protected row."),
            "normalise": (
                "BOOLEAN",
                {
                    "default": False,
                    "tooltip": "ties, dare_ties, della, knots_ties: divide by the agreeing rows' strengths.",
                    "advanced": True,
                },
            ),
            "mask_seed": (
                "INT",
                {
                    "default": 0,
                    "min": 0,
                    "max": 2**53 - 1,
                    "tooltip": "dare and della: which entries are dropped. The same seed gives the same file.",
                    "advanced": True,
                },
            ),
        }
        return {
            "required": {"method": method, **_ranks()},
            "optional": {
                "lora_stack": ("LORA_STACK", {"tooltip": "The rows to merge."}),
                "lora_model_1": ("LORA_MODEL", {"tooltip": "A LoRA in memory, one more row."}),
                "strength_1": _spec.strength(1.0, "both parts (for lora_model_1)"),
                "lora_model_2": ("LORA_MODEL", {"tooltip": "A LoRA in memory, one more row."}),
                "strength_2": _spec.strength(1.0, "both parts (for lora_model_2)"),
                "model": (
                    "MODEL",
                    {
                        "tooltip": "Tells which names mean the same weight; DoRA, OFT, GLoRA and IA3 are merged on its "
                        "weights. It is not changed."
                    },
                ),
                "clip": ("CLIP", {"tooltip": "The same for the text encoder."}),
                "blocks": (
                    "STRING",
                    {
                        "default": "",
                        "multiline": True,
                        "tooltip": f"blockwise: which row owns which block, by number, role or all: {EXAMPLE}",
                    },
                ),
                **advanced,
            },
        }

    def merge(
        self,
        method: str,
        keep: str,
        rank: int,
        energy: float,
        ratio: float,
        size_mb: float,
        dtype: str,
        lora_stack: Any = None,
        lora_model_1: Any = None,
        strength_1: float = 1.0,
        lora_model_2: Any = None,
        strength_2: float = 1.0,
        model: Any = None,
        clip: Any = None,
        blocks: str = "",
        density: float = 0.5,
        epsilon: float = 0.1,
        outliers: float = 0.01,
        protection: float = 1.0,
        normalise: bool = False,
        mask_seed: int = 0,
    ) -> dict[str, Any]:
        settings = Parameters(density, epsilon, outliers, normalise, protection)
        rule = rule_of(keep, rank, energy, ratio, size_mb)
        plan = Plan(method, rule, settings, seed=mask_seed)
        in_memory = ((lora_model_1, strength_1), (lora_model_2, strength_2))
        stack = read_lora_stack(lora_stack)
        return _shown(merge_stack(stack, in_memory, plan, dtype, blocks, model, clip))


class LoomResize:
    DESCRIPTION = (
        "Gives a LoRA another rank: by number, by the energy it keeps, by a ratio, or by file size, each layer the "
        "best approximation of itself. Says what every layer lost."
    )
    CATEGORY = _spec.CATEGORY
    SEARCH_ALIASES = ["resize lora", "lora rank", "shrink lora", "compress lora", "loom"]
    RETURN_TYPES = ("LORA_MODEL", "STRING", "IMAGE", "STRING")
    RETURN_NAMES = ("LORA_MODEL", "report", "chart", "certificate")
    OUTPUT_TOOLTIPS = _OUTPUTS
    FUNCTION = "resize"

    @classmethod
    def INPUT_TYPES(cls) -> dict[str, Any]:
        tooltip = "A file of the loras folder; not read where lora_model is connected."
        return {
            "required": {
                "lora_name": ([NO_FILE, *lora_names()], {"tooltip": tooltip}),
                **_ranks(),
            },
            "optional": {
                "lora_model": ("LORA_MODEL", {"tooltip": "A LoRA in memory, instead of a file."})
            },
        }

    @classmethod
    def VALIDATE_INPUTS(cls, lora_name: str | None) -> Any:
        if lora_name in (None, NO_FILE):
            return True
        return _spec.verdict(lambda: find_lora(lora_name))

    @classmethod
    def IS_CHANGED(cls, lora_name: str | None = None, **_: Any) -> str:
        if lora_name in (None, NO_FILE):
            return ""
        return stack_stamp(LoraStack((StackRow(lora_name),)))

    def resize(
        self,
        lora_name: str,
        keep: str,
        rank: int,
        energy: float,
        ratio: float,
        size_mb: float,
        dtype: str,
        lora_model: Any = None,
    ) -> dict[str, Any]:
        name = None if lora_name == NO_FILE else lora_name
        rule = rule_of(keep, rank, energy, ratio, size_mb)
        return _shown(resize_one(name, lora_model, rule, dtype))


def _shown(answer: Answer) -> dict[str, Any]:
    report = answer.report
    return _spec.shown(report, answer.lora_model, report, answer.chart, answer.certificate)


NODE_CLASS_MAPPINGS = {"LoomMerge": LoomMerge, "LoomResize": LoomResize}
NODE_DISPLAY_NAME_MAPPINGS = {"LoomMerge": "Loom Merge", "LoomResize": "Loom Resize"}
