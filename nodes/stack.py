"""Several LoRAs: as rows of one node, and as a LORA_STACK shared with other packs."""

from __future__ import annotations

from typing import Any

from ..lora_core.host.stacking import apply_stack, check_names, in_memory_row, outgoing, stack_stamp
from ..lora_core.report import page_rows
from ..lora_core.stack.interop import read_lora_stack
from ..lora_core.stack.rows import LoraStack
from ..lora_core.stack.rows_text import read_rows
from . import _spec

_ROWS_TOOLTIP = (
    'The stack as JSON, one row a LoRA: {"version": 1, "rows": [{"lora": "style.safetensors", "model": 0.8, '
    '"clip": 0.8, "on": true, "role": "style", "blocks": "IN04=0.5"}]}. clip follows model when left out. "sha256" and '
    '"autov3" in a row say which file is meant, wherever it lies; "accept": true takes another file under this name. '
    '"words" picks the trigger words. <lora:...> tags, and rows of other packs pasted from a workflow, are read too.'
)


class LoomStack:
    DESCRIPTION = (
        "Stacks LoRAs with a strength each. With MODEL (and CLIP) connected it applies them all in one pass over the "
        "weights; without, it hands the stack on as LORA_STACK."
    )
    CATEGORY = _spec.CATEGORY
    SEARCH_ALIASES = ["lora stack", "power lora loader", "multi lora", "style character", "loom"]
    RETURN_TYPES = ("MODEL", "CLIP", "LORA_STACK", "STRING", "STRING")
    RETURN_NAMES = ("MODEL", "CLIP", "LORA_STACK", "trigger words", "facts")
    OUTPUT_TOOLTIPS = (
        _spec.MODEL_OUT,
        _spec.CLIP_OUT,
        "All rows as (name, model strength, clip strength), for any pack. Where MODEL is connected they are already on.",
        _spec.WORDS_OUT,
        _spec.FACTS_OUT,
    )
    FUNCTION = "stack"

    @classmethod
    def INPUT_TYPES(cls) -> dict[str, Any]:
        rows = {
            "multiline": True,
            "default": '{"version": 1, "rows": []}',
            "tooltip": _ROWS_TOOLTIP,
        }
        return {
            "required": {"rows": ("STRING", rows)},
            "optional": {
                "model": _spec.MODEL_INPUT,
                "clip": _spec.CLIP_INPUT,
                "lora_stack": (
                    "LORA_STACK",
                    {"tooltip": "Rows from another node, put before the rows of this one."},
                ),
                "lora_model": (
                    "LORA_MODEL",
                    {"tooltip": "A LoRA in memory, from a trainer or a merge; the last row."},
                ),
                "lora_model_strength": _spec.strength(
                    1.0, "the diffusion model (for the LORA_MODEL input)"
                ),
                "lora_clip_strength": _spec.strength(
                    1.0, "the text encoder (for the LORA_MODEL input)"
                ),
                "matching": _spec.matching(),
                "mode": _spec.mode(),
            },
        }

    @classmethod
    def VALIDATE_INPUTS(cls, rows: str | None) -> Any:
        return rows is None or _spec.verdict(
            lambda: check_names(read_rows(rows, _spec.listed_name).stack)
        )

    @classmethod
    def IS_CHANGED(cls, rows: str | None = None, **_: Any) -> str:
        return "" if rows is None else stack_stamp(read_rows(rows, _spec.listed_name).stack)

    def stack(
        self,
        rows: str,
        model: Any = None,
        clip: Any = None,
        lora_stack: Any = None,
        lora_model: Any = None,
        lora_model_strength: float = 1.0,
        lora_clip_strength: float = 1.0,
        matching: str = "auto",
        mode: str = "auto",
    ) -> dict[str, Any]:
        own = read_rows(rows, _spec.listed_name)
        whole = read_lora_stack(lora_stack) + own.stack
        if lora_model is not None:
            whole += LoraStack(
                (in_memory_row(lora_model, lora_model_strength, lora_clip_strength),)
            )
        applied = apply_stack(whole, model, clip, matching, mode)
        model_out = _spec.connected(applied.model, "MODEL", "Loom Stack")
        clip_out = _spec.connected(applied.clip, "CLIP", "Loom Stack")
        return _spec.shown(
            "\n".join(filter(None, [_spec.report(applied.account, applied.notes), *own.unread])),
            model_out,
            clip_out,
            outgoing(whole, applied.opened),
            applied.trigger_words,
            applied.facts,
            loom_rows=page_rows(
                [item for item in applied.identities if item.row in own.stack.rows],
                applied.account,
            ),
        )


class LoomApply:
    DESCRIPTION = "Puts a LORA_STACK, from Loom Stack or any other pack, onto a model in one pass over the weights."
    CATEGORY = _spec.CATEGORY
    SEARCH_ALIASES = ["apply lora stack", "lora stack", "loom"]
    RETURN_TYPES = ("MODEL", "CLIP", "STRING")
    RETURN_NAMES = ("MODEL", "CLIP", "report")
    OUTPUT_TOOLTIPS = (_spec.MODEL_OUT, _spec.CLIP_OUT, _spec.REPORT_OUT)
    FUNCTION = "apply"

    @classmethod
    def INPUT_TYPES(cls) -> dict[str, Any]:
        return {
            "required": {
                "model": _spec.MODEL_INPUT,
                "lora_stack": (
                    "LORA_STACK",
                    {"tooltip": "Rows of (name, model strength, clip strength)."},
                ),
            },
            "optional": {
                "clip": _spec.CLIP_INPUT,
                "matching": _spec.matching(),
                "mode": _spec.mode(),
            },
        }

    def apply(
        self,
        model: Any,
        lora_stack: Any,
        clip: Any = None,
        matching: str = "auto",
        mode: str = "auto",
    ) -> dict[str, Any]:
        applied = apply_stack(read_lora_stack(lora_stack), model, clip, matching, mode)
        report = _spec.report(applied.account)
        return _spec.shown(
            report, applied.model, _spec.connected(applied.clip, "CLIP", "Loom Apply Stack"), report
        )


NODE_CLASS_MAPPINGS = {"LoomStack": LoomStack, "LoomApply": LoomApply}
NODE_DISPLAY_NAME_MAPPINGS = {"LoomStack": "Loom Stack", "LoomApply": "Loom Apply Stack"}
