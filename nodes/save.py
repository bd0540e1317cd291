"""A LoRA into a file."""

from __future__ import annotations

from typing import Any

from ..lora_core.files.dtypes import DTYPES
from ..lora_core.files.schemes import SCHEMES
from ..lora_core.host.paths import lora_names
from ..lora_core.host.saving import (
    FOLDERS,
    IF_EXISTS,
    NO_FILE,
    SaveOrder,
    check_order,
    row_to_save,
    save_lora,
)
from ..lora_core.host.stacking import stack_stamp
from ..lora_core.stack.rows import LoraStack, StackRow
from . import _spec


def _text(tooltip: str, default: str = "", multiline: bool = False) -> tuple[str, dict[str, Any]]:
    return "STRING", {"default": default, "multiline": multiline, "tooltip": tooltip}


class LoomSave:
    DESCRIPTION = (
        "Writes a LoRA from memory, or one of your files again, in the naming and dtype that another program wants, "
        "with its metadata kept or edited. Never half-written, never over another file unless told."
    )
    CATEGORY = _spec.CATEGORY
    SEARCH_ALIASES = ["save lora", "convert lora", "lora to kohya", "lora metadata", "loom"]
    RETURN_TYPES = ("STRING", "STRING", "LORA_MODEL")
    RETURN_NAMES = ("lora_name", "report", "LORA_MODEL")
    OUTPUT_TOOLTIPS = (
        "The new file's name as the LoRA list shows it.",
        "What was written: naming, dtype, rounding, hash.",
        "The LoRA that was given, unchanged.",
    )
    FUNCTION = "save"
    OUTPUT_NODE = True

    @classmethod
    def INPUT_TYPES(cls) -> dict[str, Any]:
        return {
            "required": {
                "filename": _text(
                    "Name of the new file, without extension; / makes subfolders.", "loom/my_lora"
                ),
                "naming": _spec.choice(
                    SCHEMES,
                    "keep: as it is. kohya: A1111, Forge, sd-scripts. diffusers / PEFT: Python. ComfyUI: its own.",
                ),
                "dtype": _spec.choice(
                    DTYPES,
                    "keep: as it is. fp16 halves an fp32 file; a value that does not fit is an error.",
                ),
                "if_exists": _spec.choice(
                    IF_EXISTS, "What to do where a file of this name is there already."
                ),
            },
            "optional": {
                "lora_model": (
                    "LORA_MODEL",
                    {"tooltip": "A LoRA in memory, from a trainer or a merge."},
                ),
                "lora_name": _spec.choice(
                    [NO_FILE, *lora_names()], "Or a file of the loras folder, to convert it."
                ),
                "model": (
                    "MODEL",
                    {"tooltip": "The model that it is for: other namings are looked up there."},
                ),
                "clip": ("CLIP", {"tooltip": "The same for its text-encoder part."}),
                "title": _text("Title in the metadata. Empty: as it was."),
                "trigger_words": _text("Trigger words in the metadata. Empty: as they were."),
                "metadata": _text(
                    "Further metadata: key=value, one a line, or a JSON object. An empty value removes the field.",
                    multiline=True,
                ),
                "folder": _spec.choice(FOLDERS, "The loras folder to write to."),
                "lora_stack": (
                    "LORA_STACK",
                    {
                        "tooltip": "A row with its strengths and block strengths, written so that it gives the same at 1."
                    },
                ),
                "row": (
                    "INT",
                    {"default": 1, "min": 1, "max": 1000, "tooltip": "Which row of lora_stack."},
                ),
            },
        }

    @classmethod
    def VALIDATE_INPUTS(cls, filename: str | None, lora_name: str | None = None) -> Any:
        return _spec.verdict(lambda: check_order(filename, lora_name))

    @classmethod
    def IS_CHANGED(cls, lora_name: str | None = None, **_: Any) -> str:
        return (
            "" if lora_name in (None, NO_FILE) else stack_stamp(LoraStack((StackRow(lora_name),)))
        )

    def save(
        self,
        filename: str,
        naming: str,
        dtype: str,
        if_exists: str,
        lora_model: Any = None,
        lora_name: str = NO_FILE,
        model: Any = None,
        clip: Any = None,
        title: str = "",
        trigger_words: str = "",
        metadata: str = "",
        folder: str = FOLDERS[0],
        lora_stack: Any = None,
        row: int = 1,
    ) -> dict[str, Any]:
        order = SaveOrder(
            filename, naming, dtype, folder, if_exists, metadata, title, trigger_words
        )
        saved = save_lora(lora_model, lora_name, order, model, clip, row_to_save(lora_stack, row))
        return _spec.shown(saved.report, saved.name, saved.report, saved.tensors)


NODE_CLASS_MAPPINGS = {"LoomSave": LoomSave}
NODE_DISPLAY_NAME_MAPPINGS = {"LoomSave": "Loom Save"}
