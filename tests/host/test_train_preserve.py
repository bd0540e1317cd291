"""Prompts without the trigger stay what they were, as far as a short training can show it."""

from __future__ import annotations

from dataclasses import replace

import comfy.model_management
import comfy.sd
import torch
from test_train import (
    SETTINGS,
    own_user_folder,  # noqa: F401 - a fixture of every test
    rings,  # noqa: F401 - a fixture
    same_bytes,
    toy,  # noqa: F401 - a fixture
    trained,
)

from lora_core.host.training_data import encoded_text
from lora_core.host.training_model import ready

OTHERS = ("", "red star on a dark ground", "blue heart")
LONGER = replace(SETTINGS, steps=40)


def answers(model, clip, texts) -> torch.Tensor:
    """What the model answers to each text on the same noise."""
    with torch.inference_mode():
        comfy.model_management.load_models_gpu([model])
    said = [{"cross_attn": encoded_text(clip, text)["cond"].clone()} for text in texts]
    noise = torch.randn(1, 4, 8, 8, generator=torch.Generator().manual_seed(3))
    with ready(model) as predict, torch.no_grad():
        return predict(noise.repeat(len(texts), 1, 1, 1), torch.full((len(texts),), 5.0), said)


def test_prompts_without_the_trigger_move_less_where_they_are_preserved(toy, rings):  # noqa: F811
    model, clip, _ = toy
    before = answers(model, clip, OTHERS)

    def moved(preserve: float) -> torch.Tensor:
        settings = replace(LONGER, preserve=preserve)
        made = trained(toy, rings, f"toy/keeps{preserve}", settings, retrain=True)
        with torch.inference_mode():
            patched, _ = comfy.sd.load_lora_for_models(model, clip, made.tensors, 1.0, 1.0)
        return (answers(patched, clip, OTHERS) - before).flatten(1).norm(dim=1)

    with_it, without = moved(0.5), moved(0.0)
    assert bool((with_it < 0.8 * without).all()), (with_it, without)


def test_without_a_trigger_it_is_the_training_that_preserves_nothing(toy, rings):  # noqa: F811
    unnamed = rings.with_settings(trigger="")
    asked = trained(toy, unnamed, "toy/asked", replace(SETTINGS, preserve=0.5))
    plain = trained(toy, unnamed, "toy/plain", SETTINGS, retrain=True)
    assert same_bytes(asked.tensors, plain.tensors)
    assert "none of the showings to preserve other prompts" in asked.report
