"""What is in LoRAs, what of them fits a model, and what a workflow with them needs."""

from __future__ import annotations

from typing import Any

from ..lora_core.host.indexing import index_loras, index_stamp
from ..lora_core.host.inspecting import STACK_INPUT, inspect_stack
from ..lora_core.host.paths import lora_names
from ..lora_core.stack.interop import one_or_stack
from . import _spec

_HASHES_OUT = "The LoRAs' hashes as A1111 writes them into a picture (Lora hashes, Hashes), for a save node that takes such text."
_LIST_OUT = (
    "name:hash:strength of each LoRA, joined by commas, for a save node with additional hashes."
)


class LoomInspect:
    DESCRIPTION = (
        "Says what is in a LoRA, or in each of a stack: base model, ranks, words, hashes, training, energy of each block, "
        "keys not read; with a MODEL or CLIP connected also which keys fit. Lists what a workflow needs to run elsewhere."
    )
    CATEGORY = _spec.CATEGORY
    SEARCH_ALIASES = ["lora info", "lora metadata", "trigger words", "share workflow", "loom"]
    RETURN_TYPES = ("STRING", "STRING", "IMAGE", "STRING", "STRING", "STRING")
    RETURN_NAMES = ("report", "trigger words", "chart", "needs", "A1111 hashes", "hash list")
    OUTPUT_TOOLTIPS = (
        "All that was read, as text.",
        _spec.WORDS_OUT,
        "How much the LoRA changes each block: by the model's own blocks where MODEL is connected.",
        "What a workflow with these LoRAs needs: name, size, hashes, base and words of each.",
        _HASHES_OUT,
        _LIST_OUT,
    )
    FUNCTION = "inspect"
    OUTPUT_NODE = True

    @classmethod
    def INPUT_TYPES(cls) -> dict[str, Any]:
        name = f"A file of the loras folder; {STACK_INPUT} to inspect the stack that is connected."
        return {
            "required": {"lora_name": ([*lora_names(), STACK_INPUT], {"tooltip": name})},
            "optional": {
                "model": ("MODEL", {"tooltip": "Connect to see which keys fit this model."}),
                "clip": ("CLIP", {"tooltip": "Connect to see which text-encoder keys fit."}),
                "lora_stack": (
                    "LORA_STACK",
                    {"tooltip": "Every LoRA of this stack is inspected, in place of lora_name."},
                ),
            },
        }

    @classmethod
    def VALIDATE_INPUTS(cls, lora_name: str | None = None) -> Any:
        return lora_name == STACK_INPUT or _spec.one_lora_verdict(lora_name)

    @classmethod
    def IS_CHANGED(cls, lora_name: str | None = None, **_: Any) -> str:
        return _spec.one_lora_stamp(None if lora_name == STACK_INPUT else lora_name)

    def inspect(
        self, lora_name: str, model: Any = None, clip: Any = None, lora_stack: Any = None
    ) -> dict[str, Any]:
        name = None if lora_name == STACK_INPUT else lora_name
        said = inspect_stack(one_or_stack(name, lora_stack), model, clip)
        return _spec.shown(
            said.report,
            said.report,
            said.words,
            said.chart,
            said.needs,
            said.hashes,
            said.hash_list,
        )


class LoomIndex:
    DESCRIPTION = (
        "Hashes every LoRA of the loras folders that was not hashed yet, with a progress bar, so that workflows find moved "
        "and renamed files at once. Can be interrupted at any time; what was done is kept."
    )
    CATEGORY = _spec.CATEGORY
    SEARCH_ALIASES = ["lora hash", "lora index", "find duplicates", "loom"]
    RETURN_TYPES = ("STRING",)
    RETURN_NAMES = ("report",)
    OUTPUT_TOOLTIPS = ("How many files were hashed, which could not be read, which are the same.",)
    FUNCTION = "index"
    OUTPUT_NODE = True

    @classmethod
    def INPUT_TYPES(cls) -> dict[str, Any]:
        tooltip = "Only this folder inside the loras folders, for example people; empty: all."
        return {"required": {"folder": ("STRING", {"default": "", "tooltip": tooltip})}}

    @classmethod
    def VALIDATE_INPUTS(cls, folder: str | None = None) -> Any:
        return folder is None or _spec.verdict(lambda: index_stamp(folder))

    @classmethod
    def IS_CHANGED(cls, folder: str | None = None) -> str:
        return "" if folder is None else index_stamp(folder)

    def index(self, folder: str) -> dict[str, Any]:
        report = index_loras(folder)
        return _spec.shown(report, report)


NODE_CLASS_MAPPINGS = {"LoomInspect": LoomInspect, "LoomIndex": LoomIndex}
NODE_DISPLAY_NAME_MAPPINGS = {"LoomInspect": "Loom Inspect", "LoomIndex": "Loom Index"}
