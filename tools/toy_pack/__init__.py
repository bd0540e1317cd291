"""Teaches a ComfyUI to load the toy model: one more row in its table of known models.

Developers, tests and the demo put this folder (or a symlink to it) into `custom_nodes`; it is no
part of the shipped pack. The toy is an SD1.5 at small widths. The host recognises a checkpoint by a
few sizes, so a subclass of its own SD15 entry with the toy's sizes is appended, and the text encoder
is the host's own CLIP class with a smaller configuration. Nothing of the host is replaced, and no
file that it recognised before is recognised differently, because the appended entry comes last.
"""

from __future__ import annotations

from typing import Any

import comfy.model_base
import comfy.sd1_clip
import comfy.supported_models
import comfy.supported_models_base

MODEL_CHANNELS = 64
TEXT_WIDTH = 64
ATTENTION_HEADS = 4
TEXT_CONFIG = {
    "hidden_size": TEXT_WIDTH,
    "intermediate_size": 2 * TEXT_WIDTH,
    "num_attention_heads": 4,
    "num_hidden_layers": 2,
}


class ToyTextEncoder(comfy.sd1_clip.SD1ClipModel):
    """The host's SD1.5 text encoder, two layers deep and 64 wide."""

    def __init__(
        self,
        device: Any = "cpu",
        dtype: Any = None,
        model_options: dict[str, Any] | None = None,
    ) -> None:
        options = {**(model_options or {}), "clip_l_model_config": TEXT_CONFIG}
        super().__init__(device=device, dtype=dtype, model_options=options)


class ToySD15(comfy.supported_models.SD15):
    """SD1.5 with 64 instead of 320 channels and a text width of 64 instead of 768."""

    unet_config = {
        **comfy.supported_models.SD15.unet_config,
        "context_dim": TEXT_WIDTH,
        "model_channels": MODEL_CHANNELS,
    }
    unet_extra_config = {
        **comfy.supported_models.SD15.unet_extra_config,
        "num_heads": ATTENTION_HEADS,
    }

    def model_type(self, state_dict: dict[str, Any], prefix: str = "") -> Any:
        """Return the prediction type: the toy predicts velocity, as SD2.1 does."""
        return comfy.model_base.ModelType.V_PREDICTION

    def clip_target(self, state_dict: dict[str, Any] | None = None) -> Any:
        """Return the host's SD1.5 tokenizer with the small text encoder."""
        return comfy.supported_models_base.ClipTarget(comfy.sd1_clip.SD1Tokenizer, ToyTextEncoder)


def _register() -> None:
    known = comfy.supported_models.models
    if not any(entry.__name__ == ToySD15.__name__ for entry in known):
        known.append(ToySD15)


_register()

NODE_CLASS_MAPPINGS: dict[str, type] = {}
