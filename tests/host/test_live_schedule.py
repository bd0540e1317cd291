"""Schedules while the host samples: every model call at the strength of the step that it belongs to."""

from __future__ import annotations

import pytest
import torch
from sampling import sampled, sigmas_of
from small_models import kohya_lora, small_model

from lora_core.files.parse import parse_state_dict
from lora_core.host.stacking import apply_stack
from lora_core.host.targets import model_targets
from lora_core.stack.rows import LoraStack, StackRow

pytestmark = pytest.mark.usefixtures("as_in_the_host")

STEPS = 4
TWO_HALVES = "0.2@0,0.9@0.5:curve=step"


@pytest.fixture
def model():
    return small_model("SD1.5", torch.float32)


def on(model, strength: float = 0.8, schedule: str = "", mode: str = "live"):
    """The model with one LoRA."""
    shapes = dict(model_targets(model).shapes)
    tensors = kohya_lora(shapes, rank=4, alpha=2.0, seed=1, scale=0.1)
    adapter = parse_state_dict(tensors, "style")
    row = StackRow("style", strength, 0.0, adapter=adapter, schedule=schedule)
    return apply_stack(LoraStack((row,)), model, None, "auto", mode)


def switching(model, first, second, from_sigma: float):
    """A model whose every call goes to one of two fixed-strength models, by the noise level of the call.

    The two stand for the same inner model; each call puts one on and takes it off again.
    """
    clone = model.clone()

    def call(apply_model, named):
        chosen = second if float(named["timestep"][0]) <= from_sigma * (1 + 1e-5) else first
        chosen.inject_model()
        try:
            return apply_model(named["input"], named["timestep"], **named["c"])
        finally:
            chosen.eject_model()

    clone.set_model_unet_function_wrapper(call)
    return clone


def test_with_euler_two_keyframes_are_two_samplers_run_half_each(model):
    sigmas = sigmas_of(model, STEPS)
    half = sampled(on(model, 0.2).model, "SD1.5", sigmas=sigmas[: STEPS // 2 + 1])
    expected = sampled(on(model, 0.9).model, "SD1.5", sigmas=sigmas[STEPS // 2 :], latent=half)
    found = sampled(on(model, schedule=TWO_HALVES).model, "SD1.5", sigmas=sigmas)
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-4)
    constant = sampled(on(model, 0.9).model, "SD1.5", sigmas=sigmas)
    assert not torch.allclose(found, constant, rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize("sampler", ["dpmpp_2m", "uni_pc", "heun", "dpm_2", "dpmpp_2s_ancestral"])
def test_any_sampler_gives_what_switching_between_two_fixed_models_gives(model, sampler):
    sigmas = sigmas_of(model, STEPS)
    first, second = on(model, 0.2).model, on(model, 0.9).model
    switched = switching(model, first, second, float(sigmas[STEPS // 2]))
    expected = sampled(switched, "SD1.5", sigmas=sigmas, sampler=sampler)
    scheduled = on(model, schedule=TWO_HALVES).model
    found = sampled(scheduled, "SD1.5", sigmas=sigmas, sampler=sampler)
    assert torch.equal(found, expected)
    assert not torch.equal(sampled(first, "SD1.5", sigmas=sigmas, sampler=sampler), expected)


def test_the_same_schedule_twice_is_the_same_picture_and_constant_ones_are_constant(model):
    scheduled = on(model, schedule=TWO_HALVES).model
    assert torch.equal(sampled(scheduled, "SD1.5"), sampled(scheduled, "SD1.5"))
    constant = sampled(on(model, 0.8, schedule="0.8@0").model, "SD1.5")
    assert torch.equal(constant, sampled(on(model, 0.8).model, "SD1.5"))


def test_each_row_of_two_nodes_follows_its_own_schedule(model):
    one = on(
        on(model, schedule="1@0,0@0.5:curve=step").model, schedule="0@0,1@0.5:curve=step"
    ).model
    torch.testing.assert_close(
        sampled(one, "SD1.5"), sampled(on(model, 1.0).model, "SD1.5"), rtol=1e-4, atol=1e-4
    )


def test_auto_goes_live_for_a_schedule_and_baked_says_that_it_has_no_effect(model):
    live, baked = (
        on(model, schedule=TWO_HALVES, mode="auto"),
        on(model, schedule="0@0", mode="baked"),
    )
    assert live.account is not None
    assert "style: strengths that follow the steps" in live.account.report()
    assert not live.account.warnings
    assert baked.account is not None
    assert baked.account.warnings == ("style: its schedule has no effect, the mode is baked",)


def test_what_is_baked_beside_a_schedule_is_named(model):
    shapes = dict(model_targets(model).shapes)
    tensors = kohya_lora(shapes, rank=4, alpha=2.0, seed=1)
    tensors["diffusion_model.out.2.diff_b"] = torch.ones(4)
    row = StackRow("style", 0.8, 0.0, adapter=parse_state_dict(tensors, "style"), schedule="0@0")
    applied = apply_stack(LoraStack((row,)), model, None)
    assert applied.account is not None
    assert applied.account.warnings == (
        "style: 1 of its weights cannot follow the schedule and stay at 0.8",
    )
