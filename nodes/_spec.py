"""Inputs and answers that several nodes share."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Sequence
from typing import Any, Literal

from ..lora_core.account import Account
from ..lora_core.errors import LoraError
from ..lora_core.files import finding
from ..lora_core.host.messages import stop_with
from ..lora_core.host.paths import lora_names
from ..lora_core.host.stacking import check_names, stack_stamp
from ..lora_core.live.mode import MODES
from ..lora_core.matching import MATCHING
from ..lora_core.stack.lock import locked_row
from ..lora_core.stack.rows import LoraStack

log = logging.getLogger(__name__)

CATEGORY = "LoRA Loom"

MODEL_INPUT = (
    "MODEL",
    {"tooltip": "The diffusion model. It is not changed; a patched clone comes out."},
)
CLIP_INPUT = (
    "CLIP",
    {
        "tooltip": "The text encoder. Without it the LoRA's text-encoder keys are left aside, and reported."
    },
)
MODEL_OUT = "The model with the LoRAs on it."
CLIP_OUT = "The text encoder with the LoRAs on it."
WORDS_OUT = "The trigger words of the LoRAs, as chosen or as the files name them, joined by commas for a prompt."
FACTS_OUT = "What files and sidecars say of each LoRA: title, author, licence, base, words, training, and where from."
REPORT_OUT = "What matched, what did not, and why, line by line."


def strength(default: float, what: str) -> tuple[str, dict[str, Any]]:
    """A strength widget with core's range and step."""
    return (
        "FLOAT",
        {
            "default": default,
            "min": -100.0,
            "max": 100.0,
            "step": 0.01,
            "tooltip": f"How strongly the LoRA acts on {what}. 1 is as trained, 0 is off, negative inverts.",
        },
    )


def choice(
    values: Iterable[str], tooltip: str, advanced: bool = False
) -> tuple[list[str], dict[str, Any]]:
    """A widget to choose one of these; the first is the default."""
    listed = list(values)
    options = {"default": listed[0], "tooltip": tooltip}
    return listed, options | ({"advanced": True} if advanced else {})


def matching() -> tuple[list[str], dict[str, Any]]:
    """The widget that says what happens when a LoRA does not fit cleanly."""
    tooltip = (
        "auto: a LoRA for another base is an error, a few leftover keys are a warning. "
        "strict: any leftover is an error. partial: whatever fits is applied."
    )
    return (list(MATCHING), {"default": "auto", "advanced": True, "tooltip": tooltip})


def mode() -> tuple[list[str], dict[str, Any]]:
    """The widget that says whether the LoRAs go into the MODEL's weights or beside them."""
    tooltip = (
        "baked: into the weights, no cost per step. live: beside them, a strength change loads nothing anew, strengths "
        "may follow the steps. auto: live with a schedule, on quantised weights or dynamic memory; else baked."
    )
    return (list(MODES), {"default": "auto", "advanced": True, "tooltip": tooltip})


def listed_name(name: str) -> str:
    """A LoRA's name as people write it, in a tag for example, as the host lists it. Raises LoraFileError."""
    return finding.listed_name(name, lora_names())


def verdict(check: Callable[[], object]) -> Literal[True] | str:
    """True, or the message of the LoraError that `check` raises: the form the host wants from VALIDATE_INPUTS."""
    try:
        check()
    except LoraError as error:
        return str(error)
    return True


def one_lora_verdict(lora_name: str | None, lora_lock: str | None = "") -> Literal[True] | str:
    """VALIDATE_INPUTS of a node with one lora_name; None is a value that comes by a link. Nothing is hashed here."""
    if lora_name is None or lora_lock is None:
        return True
    return verdict(lambda: check_names(_one(lora_name, lora_lock)))


def one_lora_stamp(lora_name: str | None, lora_lock: str | None = "") -> str:
    """IS_CHANGED of the same node: follows the file that is meant."""
    return "" if lora_name is None else stack_stamp(_one(lora_name, lora_lock or ""))


def _one(lora_name: str, lora_lock: str) -> LoraStack:
    return LoraStack((locked_row(lora_name, 1.0, 1.0, lora_lock),))


def report(account: Account | None, notes: Sequence[str] = ()) -> str:
    """The account as text, where nothing was matched only the notes; warnings go into the log."""
    warnings = notes if account is None else account.warnings
    if warnings:
        log.warning("LoRA Loom: %s", "\n".join(warnings))
    return "\n".join(notes) if account is None else account.report()


def shown(text: str, *outputs: Any, **ui: list[Any]) -> dict[str, Any]:
    """The answer of a node that shows a text under itself; `ui` is what else the page is told."""
    return {"ui": {"text": [text] if text else [], **ui}, "result": outputs}


def connected(value: Any, socket: str, node: str) -> Any:
    """The value, or where nothing is connected a stop for whatever reads this output, in plain words."""
    if value is not None:
        return value
    return stop_with(
        f"{node} has no {socket} connected, so it has none to give. Connect {socket} to {node}."
    )


# How much of a layer's singular values is kept, wherever a rank is chosen by them.
ENERGY_KEPT = (
    "FLOAT",
    {
        "default": 0.95,
        "min": 0.01,
        "max": 1.0,
        "step": 0.005,
        "tooltip": "The share to keep, where keep is 'energy' or 'frobenius'.",
    },
)
RATIO_KEPT = (
    "FLOAT",
    {
        "default": 20.0,
        "min": 1.01,
        "max": 100000.0,
        "step": 0.5,
        "tooltip": "Largest singular value over the smallest kept, where keep is 'ratio'.",
    },
)
