"""PEFT's own settings in a file's metadata: the alpha of files that have no alpha keys."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Mapping

from .lenient import json_of

# rank -> alpha, so that alpha / rank is the module's scale.
Alpha = Callable[[int], float]


def peft_alphas(metadata: Mapping[str, str]) -> Callable[[str], Alpha | None]:
    """module name -> its alpha by PEFT's own settings, which diffusers keeps as `lora_adapter_metadata`.

    Such files have no alpha keys; without this they would be applied at a scale of 1. A pattern in alpha_pattern is
    matched at the end of the name, as PEFT does. use_rslora means alpha / sqrt(rank). Broken metadata says nothing.
    """
    value = json_of(metadata.get("lora_adapter_metadata", ""))
    settings = value if isinstance(value, dict) else {}

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
