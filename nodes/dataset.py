"""Pictures and captions to train on."""

from __future__ import annotations

from typing import Any

from ..lora_core.host.datasets import check_folders, folders_stamp, make_dataset, typed_here
from ..lora_core.train.dataset import CROPS, MASKS, PLACEHOLDER, DatasetSettings
from . import _spec

_FOLDER = (
    "A folder inside ComfyUI's input folder, or an absolute path. Sub-folders are read too; 5_name means 5 repeats. "
    "Captions: a.txt or a.caption beside a.png, or metadata.jsonl."
)
_CAPTIONS = "With images: one caption a line, or one for all. With a folder: 'file name: caption' for each caption to change."


def _number(kind: str, default: float, low: float, high: float, step: float, tooltip: str) -> Any:
    return (
        kind,
        {"default": default, "min": low, "max": high, "step": step, "tooltip": tooltip},
    )


def _text(default: str, tooltip: str, multiline: bool = False) -> Any:
    # Without dynamicPrompts: the page would take {caption} for a choice of one.
    options = {"default": default, "multiline": multiline, "dynamicPrompts": False}
    return ("STRING", {**options, "tooltip": tooltip})


def _switch(tooltip: str) -> Any:
    return ("BOOLEAN", {"default": False, "tooltip": tooltip})


def _expert(declared: Any) -> Any:
    return (declared[0], {**declared[1], "advanced": True})


_REQUIRED = {
    "folder": _text("", _FOLDER),
    "trigger": _text("ohwx", "The word that calls what is learned; put in front of captions that lack it."),
    "template": _text(
        PLACEHOLDER, f"The text around each caption, for example: ohwx illustration of {PLACEHOLDER}"
    ),
    "resolution": _number(
        "INT", 512, 64, 4096, 64, "Side of the square whose area each picture fills at most: 512 for SD1.5, 1024 for SDXL."
    ),
}  # fmt: skip
_OPTIONAL = {
    "images": ("IMAGE", {"tooltip": "A batch of pictures, instead of a folder."}),
    "mask": (
        "MASK",
        {"tooltip": "For images: white is learned, black hardly. One for all, or one each."},
    ),
    "captions": _text("", _CAPTIONS, multiline=True),
    "repeats": _number("INT", 1, 1, 1000, 1, "How often each picture is shown in one epoch."),
    "flip": _switch("Mirror pictures at random. Not for faces, text or anything with a left and a right."),
    "shuffle": _switch("Change the order of comma-separated tags each time a picture is shown."),
    "dropout": _number("FLOAT", 0.05, 0.0, 1.0, 0.01, "Share of the showings without a caption."),
    "validation": _number(
        "FLOAT", 0.1, 0.0, 0.5, 0.01, "Share of the pictures held out to see when to stop; from 10 pictures on."
    ),
    "regularisation": _text(
        "", "Folder of pictures that show what must not change, with captions without the trigger."
    ),
    "kept_tags": _expert(_number("INT", 1, 0, 100, 1, "How many tags at the front are never shuffled.")),
    "crop": _expert((list(CROPS), {"default": CROPS[0], "tooltip": "Where pictures too long for their bucket are cut."})),
    "masks": _expert(
        (list(MASKS), {"default": MASKS[0], "tooltip": "Whether alpha, a_mask.png and MASK weigh the loss."})
    ),
    "outside": _expert(
        _number("FLOAT", 0.1, 0.0, 1.0, 0.01, "Weight of the loss where a mask is black; it is 1 where white.")
    ),
    "prior_weight": _expert(
        _number("FLOAT", 1.0, 0.0, 10.0, 0.01, "Weight of the loss of regularisation pictures.")
    ),
    "upscale": _expert(_switch("Blow small pictures up to the resolution. It adds no detail.")),
    "bucket_step": _expert(_number("INT", 64, 8, 256, 8, "Sides of buckets are multiples of this many pixels.")),
    "data_seed": _expert(
        _number("INT", 0, 0, 2**53 - 1, 1, "Decides split, order, shuffling, dropout, flips and crops.")
    ),
}  # fmt: skip


class LoomDataset:
    DESCRIPTION = (
        "Pictures with captions to train a LoRA on, from a folder or an IMAGE batch. Says in words and on a contact "
        "sheet what is doubtful about them, before any training."
    )
    CATEGORY = _spec.CATEGORY
    SEARCH_ALIASES = ["train lora", "dataset", "captions", "kohya", "training images", "loom"]
    RETURN_TYPES = ("LOOM_DATASET", "STRING", "IMAGE")
    RETURN_NAMES = ("dataset", "report", "contact sheet")
    OUTPUT_TOOLTIPS = (
        "Pictures, captions and buckets, for Loom Train.",
        "What will be learned from and what is doubtful, line by line.",
        "All pictures small, with caption, bucket, crop and findings.",
    )
    FUNCTION = "make"
    OUTPUT_NODE = True

    @classmethod
    def INPUT_TYPES(cls) -> dict[str, Any]:
        return {
            "required": dict(_REQUIRED),
            "optional": dict(_OPTIONAL),
            "hidden": {"prompt": "PROMPT", "unique_id": "UNIQUE_ID"},
        }

    @classmethod
    def VALIDATE_INPUTS(cls, folder: str | None, regularisation: str | None = None) -> Any:
        return _spec.verdict(lambda: check_folders(folder, regularisation))

    @classmethod
    def IS_CHANGED(
        cls, folder: str | None = None, regularisation: str | None = None, **_: Any
    ) -> str:
        return folders_stamp(folder, regularisation)

    def make(
        self,
        folder: str,
        trigger: str,
        template: str,
        resolution: int,
        images: Any = None,
        mask: Any = None,
        captions: str = "",
        repeats: int = 1,
        regularisation: str = "",
        bucket_step: int = 64,
        data_seed: int = 0,
        prompt: Any = None,
        unique_id: str | None = None,
        **others: Any,
    ) -> dict[str, Any]:
        settings = DatasetSettings(
            trigger, template, resolution, step=bucket_step, seed=data_seed, **others
        )
        typed = (
            typed_here(prompt, unique_id, "folder"),
            typed_here(prompt, unique_id, "regularisation"),
        )
        made = make_dataset(
            settings, folder, regularisation, captions, repeats, images, mask, typed
        )
        return _spec.shown(made.report, made.dataset, made.report, made.sheet)


NODE_CLASS_MAPPINGS = {"LoomDataset": LoomDataset}
NODE_DISPLAY_NAME_MAPPINGS = {"LoomDataset": "Loom Dataset"}
