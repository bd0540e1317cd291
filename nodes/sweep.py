"""One thing changed at a time, as lists through any sampler; and the pictures on a sheet or as a chart."""

from __future__ import annotations

from typing import Any

from ..lora_core.host.contact import save_sheets, show_effects
from ..lora_core.host.sweeping import sweep_stack
from ..lora_core.sweep.axes import NO_AXIS
from ..lora_core.sweep.points import AXES
from ..lora_core.sweep.values import AxisOrder
from . import _spec

_WORDS = "; ".join(f"{name}: {axis.words}" for name, axis in AXES.items())
_VALUES = (
    "Instead of the range: values between commas (0, 0.3, 1.2); for blocks IN*, M00, OUT03.cross, each OUT* (every block of "
    "it on its own); for merge methods their names. Empty: the range, or all blocks that the LoRA has, or all methods."
)


def _axis(name: str, kinds: list[str], row: int) -> dict[str, Any]:
    """The widgets of one axis."""

    def number(default: float, tooltip: str, low: float = -100.0) -> Any:
        spec = {"default": default, "min": low, "max": 100.0, "step": 0.01, "round": 0.0001}
        return ("FLOAT", spec | {"tooltip": tooltip})

    row_spec = {"default": row, "min": 0, "max": 1000}
    return {
        name: (kinds, {"default": kinds[0], "tooltip": _WORDS}),
        f"{name}_row": (
            "INT",
            row_spec
            | {"tooltip": "Which row: 1 is the first, 0 all of them, each in its own proportion."},
        ),
        f"{name}_from": number(0.0, "The first strength."),
        f"{name}_to": number(1.0, "The last strength."),
        f"{name}_step": number(0.1, "From one strength to the next.", 0.0001),
        f"{name}_values": (
            "STRING",
            {"default": "", "multiline": False, "dynamicPrompts": False, "tooltip": _VALUES},
        ),
    }


class LoomSweep:
    DESCRIPTION = (
        "Changes one thing of a stack at a time: a strength in steps of 0.1, two rows against each other, blocks or rows one "
        "by one, merge methods. The outputs are lists: everything behind runs once for each point."
    )
    CATEGORY = _spec.CATEGORY
    SEARCH_ALIASES = ["xy plot", "xyz plot", "lora strength test", "block analyser", "grid", "loom"]
    RETURN_TYPES = ("MODEL", "CLIP", "LOOM_SWEEP", "STRING", "INT", "STRING")
    RETURN_NAMES = ("MODEL", "CLIP", "sweep", "labels", "count", "report")
    OUTPUT_IS_LIST = (True, True, False, True, False, False)
    OUTPUT_TOOLTIPS = (
        "A list: the model at each point, line by line. They share the weights.",
        "A list: the text encoder at each point.",
        "The axes and points, for Loom Sweep Grid and Loom Block Map.",
        "A list: each point in words, for file names.",
        "How many points there are.",
        "What is swept, and what matched.",
    )
    FUNCTION = "sweep"

    @classmethod
    def INPUT_TYPES(cls) -> dict[str, Any]:
        return {
            "required": {
                "model": _spec.MODEL_INPUT,
                "lora_stack": ("LORA_STACK", {"tooltip": "The rows to sweep over."}),
                **_axis("x", list(AXES), 1),
                **_axis("y", [NO_AXIS, *AXES], 2),
            },
            "optional": {
                "clip": _spec.CLIP_INPUT,
                "matching": _spec.matching(),
                "mode": _spec.mode(),
            },
        }

    def sweep(
        self,
        model: Any,
        lora_stack: Any,
        x: str,
        x_row: int,
        x_from: float,
        x_to: float,
        x_step: float,
        x_values: str,
        y: str,
        y_row: int,
        y_from: float,
        y_to: float,
        y_step: float,
        y_values: str,
        clip: Any = None,
        matching: str = "auto",
        mode: str = "auto",
    ) -> dict[str, Any]:
        across = AxisOrder("x", x, x_row, x_from, x_to, x_step, x_values)
        down = AxisOrder("y", y, y_row, y_from, y_to, y_step, y_values)
        swept = sweep_stack(model, clip, lora_stack, across, down, matching, mode)
        clips = swept.clips or [_spec.connected(None, "CLIP", "Loom Sweep")]
        labels = [point.label for point in swept.sweep.points]
        return _spec.shown(
            swept.report, swept.models, clips, swept.sweep, labels, len(labels), swept.report
        )


class LoomSweepGrid:
    DESCRIPTION = (
        "The pictures of a Loom Sweep on one labelled contact sheet with axes, prompt and seed, saved with a JSON beside it "
        "that says what it shows."
    )
    CATEGORY = _spec.CATEGORY
    SEARCH_ALIASES = ["xy plot", "contact sheet", "image grid", "loom"]
    INPUT_IS_LIST = True
    RETURN_TYPES = ("IMAGE", "STRING")
    RETURN_NAMES = ("sheet", "json")
    OUTPUT_TOOLTIPS = ("The sheet; one for each picture of a batch.", "What it shows, as JSON.")
    FUNCTION = "grid"
    OUTPUT_NODE = True

    @classmethod
    def INPUT_TYPES(cls) -> dict[str, Any]:
        cell = {
            "default": 512,
            "min": 0,
            "max": 8192,
            "tooltip": "The longer side of a picture on the sheet, in pixels. 0 keeps the pictures as they are.",
        }
        heading = {
            "default": "",
            "multiline": True,
            "tooltip": "What the head of the sheet says. Empty: prompt and seed of the graph.",
        }
        return {
            "required": {
                "images": ("IMAGE", {"tooltip": "The pictures, one for each point."}),
                "sweep": ("LOOM_SWEEP", {"tooltip": "From Loom Sweep."}),
                "filename_prefix": (
                    "STRING",
                    {"default": "loom/sweep", "tooltip": "Where in the output folder."},
                ),
                "cell": ("INT", cell),
            },
            "optional": {"heading": ("STRING", heading)},
            "hidden": {
                "prompt": "PROMPT",
                "extra_pnginfo": "EXTRA_PNGINFO",
                "unique_id": "UNIQUE_ID",
            },
        }

    def grid(
        self,
        images: list[Any],
        sweep: list[Any],
        filename_prefix: list[str],
        cell: list[int],
        heading: list[str] | None = None,
        prompt: list[Any] | None = None,
        extra_pnginfo: list[Any] | None = None,
        unique_id: list[str] | None = None,
    ) -> dict[str, Any]:
        graph = tuple((each or [None])[0] for each in (prompt, unique_id, extra_pnginfo))
        words = (heading or [""])[0]
        made = save_sheets(images, sweep[0], filename_prefix[0], cell[0], words, *graph)
        return {"ui": made.ui, "result": (made.sheets, made.record)}


class LoomBlockMap:
    DESCRIPTION = (
        "Which blocks matter: how much the picture and the latent change without each block (or row) of a Loom Sweep, beside "
        "the energy that it holds, in one chart."
    )
    CATEGORY = _spec.CATEGORY
    SEARCH_ALIASES = ["block effect", "block analyser", "lbw", "ablation", "loom"]
    INPUT_IS_LIST = True
    RETURN_TYPES = ("IMAGE", "STRING", "STRING")
    RETURN_NAMES = ("chart", "report", "json")
    OUTPUT_TOOLTIPS = (
        "A line for each block: picture, latent, energy.",
        "The same in figures.",
        "The same as JSON.",
    )
    FUNCTION = "map"
    OUTPUT_NODE = True

    @classmethod
    def INPUT_TYPES(cls) -> dict[str, Any]:
        return {
            "required": {
                "sweep": (
                    "LOOM_SWEEP",
                    {"tooltip": "From Loom Sweep: blocks or rows left out, or one at a time."},
                ),
                "images": ("IMAGE", {"tooltip": "The pictures, one for each point."}),
            },
            "optional": {"latents": ("LATENT", {"tooltip": "The sampler's latents, the same."})},
        }

    def map(
        self, sweep: list[Any], images: list[Any], latents: list[Any] | None = None
    ) -> dict[str, Any]:
        found = show_effects(sweep[0], images, latents)
        return _spec.shown(found.report, found.chart, found.report, found.record)


NODE_CLASS_MAPPINGS = {
    "LoomSweep": LoomSweep,
    "LoomSweepGrid": LoomSweepGrid,
    "LoomBlockMap": LoomBlockMap,
}
NODE_DISPLAY_NAME_MAPPINGS = {
    "LoomSweep": "Loom Sweep",
    "LoomSweepGrid": "Loom Sweep Grid",
    "LoomBlockMap": "Loom Block Map",
}
