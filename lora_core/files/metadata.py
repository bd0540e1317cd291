"""What a LoRA file says about itself in its safetensors metadata. All values are strings; any may be broken."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Callable, Mapping

from ..adapters import AdapterFile

_TRIGGER_FIELDS = ("modelspec.trigger_phrase", "ss_trigger_words", "trained_words", "trigger_words")
_NOTHING = {"", "none", "null", "n/a"}


def trigger_words(metadata: Mapping[str, str]) -> tuple[str, ...]:
    """The words the author says to use, in order, without repeats. Empty where the file names none."""
    words: dict[str, None] = {}
    for field in _TRIGGER_FIELDS:
        for word in _words_of(metadata.get(field, "")):
            if word.lower() not in _NOTHING:
                words.setdefault(word)
    return tuple(words)


def _words_of(value: str) -> list[str]:
    """A comma-separated phrase, or a JSON list of strings."""
    if value.lstrip().startswith("["):
        try:
            listed = json.loads(value)
        except (ValueError, RecursionError):
            listed = None
        if isinstance(listed, list):
            return [item.strip() for item in listed if isinstance(item, str)]
    return [part.strip() for part in value.split(",")]


def joined_words(adapters: tuple[AdapterFile, ...]) -> str:
    """The trigger words of several LoRAs as one prompt text, in stack order, each once."""
    return ", ".join(
        dict.fromkeys(word for adapter in adapters for word in trigger_words(adapter.metadata))
    )


def title(adapter: AdapterFile) -> str:
    """The author's title, or the name of the file."""
    for field in ("modelspec.title", "ss_output_name"):
        value = adapter.metadata.get(field, "").strip()
        if value.lower() not in _NOTHING:
            return value
    return adapter.label


# rank -> alpha, so that alpha / rank is the module's scale.
Alpha = Callable[[int], float]


def peft_alphas(metadata: Mapping[str, str]) -> Callable[[str], Alpha | None]:
    """module name -> its alpha by PEFT's own settings, which diffusers keeps as `lora_adapter_metadata`.

    Such files have no alpha keys; without this they would be applied at a scale of 1. A pattern in alpha_pattern is
    matched at the end of the name, as PEFT does. use_rslora means alpha / sqrt(rank). Broken metadata says nothing.
    """
    settings = _json_object(metadata.get("lora_adapter_metadata", ""))

    def of(module: str) -> Alpha | None:
        if not settings:
            return None
        part = module.partition(".")[0]
        alpha = settings.get(f"{part}.lora_alpha")
        patterns = settings.get(f"{part}.alpha_pattern")
        for pattern, special in patterns.items() if isinstance(patterns, dict) else ():
            if re.search(rf"(?:^|\.){re.escape(pattern)}$", module):
                alpha = special
        if (
            isinstance(alpha, bool)
            or not isinstance(alpha, int | float)
            or not math.isfinite(alpha)
        ):
            return None
        value, stabilised = float(alpha), settings.get(f"{part}.use_rslora") is True
        return lambda rank: value * math.sqrt(rank) if stabilised else value

    return of


def _json_object(text: str) -> dict[str, object]:
    try:
        value = json.loads(text)
    except (ValueError, RecursionError):
        return {}
    return value if isinstance(value, dict) else {}
