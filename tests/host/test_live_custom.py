"""Schedules under the host's custom sampling nodes: guiders, sampler nodes, split, shifted and step-distilled noise levels."""

from __future__ import annotations

import math

import comfy_extras.nodes_custom_sampler as custom
import comfy_extras.nodes_model_advanced as advanced
import pytest
import torch
from sampling import LATENTS, conditioning
from small_models import small_model
from test_live_schedule import TWO_HALVES, on, switching

pytestmark = pytest.mark.usefixtures("as_in_the_host")

GUIDERS = {
    "basic": lambda model: custom.BasicGuider.execute(model, conditioning("SD1.5", 1)),
    "cfg": lambda model: custom.CFGGuider.execute(
        model, conditioning("SD1.5", 1), conditioning("SD1.5", 2), 3.0
    ),
    "dual": lambda model: custom.DualCFGGuider.execute(
        model, *(conditioning("SD1.5", seed) for seed in (1, 2, 3)), 3.0, 2.0, "regular"
    ),
}
SAMPLERS = {
    "euler": lambda: custom.KSamplerSelect.execute("euler"),
    "lcm": lambda: custom.KSamplerSelect.execute("lcm"),
    "ancestral": lambda: custom.SamplerEulerAncestral.execute(1.0, 1.0),
    "dpmpp sde": lambda: custom.SamplerDPMPP_SDE.execute(1.0, 1.0, 0.5, "cpu"),
    "dpmpp 2m sde": lambda: custom.SamplerDPMPP_2M_SDE.execute("midpoint", 1.0, 1.0, "cpu"),
    "lms": lambda: custom.SamplerLMS.execute(4),
}
SCHEDULERS = {
    "turbo, 4 steps": lambda model: custom.SDTurboScheduler.execute(model, 4, 1.0),
    "turbo, 1 step": lambda model: custom.SDTurboScheduler.execute(model, 1, 1.0),
    "beta, 5 steps": lambda model: custom.BetaSamplingScheduler.execute(model, 5, 0.6, 0.6),
    "half denoised": lambda model: custom.BasicScheduler.execute(model, "karras", 4, 0.5),
    "polyexponential": lambda model: custom.PolyexponentialScheduler.execute(6, 14.6, 0.03, 1.0),
    "tail of a split": lambda model: custom.SplitSigmas.execute(
        custom.BasicScheduler.execute(model, "normal", 8, 1.0)[0], 4
    )[1:],
}


@pytest.fixture(scope="module")
def model():
    return small_model("SD1.5", torch.float32)


def sampled(model, sigmas, sampler: str = "euler", guider: str = "cfg") -> torch.Tensor:
    """The latent that SamplerCustomAdvanced gives."""
    latent = {"samples": torch.zeros(1, *LATENTS["SD1.5"])}
    noise = custom.RandomNoise.execute(7)[0]
    found = custom.SamplerCustomAdvanced.execute(
        noise, GUIDERS[guider](model)[0], SAMPLERS[sampler]()[0], sigmas, latent
    )
    return found[0]["samples"]


def assert_switches_at_half(model, sigmas, sampler: str = "euler", guider: str = "cfg") -> None:
    """The schedule against two fixed-strength models, switched at the first step of the second half."""
    steps = len(sigmas) - 1
    first, second = on(model, 0.2).model, on(model, 0.9).model
    second_half = float(sigmas[math.ceil(steps / 2)])
    expected = sampled(switching(model, first, second, second_half), sigmas, sampler, guider)
    found = sampled(on(model, schedule=TWO_HALVES).model, sigmas, sampler, guider)
    assert torch.equal(found, expected)
    alone = [torch.equal(found, sampled(each, sigmas, sampler, guider)) for each in (first, second)]
    assert alone == [steps == 1, False]


@pytest.mark.parametrize("guider", GUIDERS)
def test_under_every_guider(model, guider):
    sigmas = custom.BasicScheduler.execute(model, "normal", 4, 1.0)[0]
    assert_switches_at_half(model, sigmas, guider=guider)


@pytest.mark.parametrize("sampler", SAMPLERS)
def test_under_every_sampler_node(model, sampler):
    sigmas = custom.BasicScheduler.execute(model, "normal", 4, 1.0)[0]
    assert_switches_at_half(model, sigmas, sampler)


@pytest.mark.parametrize("schedule", SCHEDULERS)
def test_on_every_kind_of_noise_levels(model, schedule):
    assert_switches_at_half(model, SCHEDULERS[schedule](model)[0], "ancestral")


@pytest.mark.parametrize("steps", [1, 2, 4])
def test_with_the_sampling_of_a_step_distilled_model(model, steps):
    distilled = advanced.ModelSamplingDiscrete().patch(model, "lcm", False)[0]
    sigmas = custom.BasicScheduler.execute(distilled, "sgm_uniform", steps, 1.0)[0]
    assert_switches_at_half(distilled, sigmas, "lcm")


def test_the_two_parts_of_a_split_each_run_the_whole_schedule(model):
    """Each sampler node has its own noise levels, and a schedule goes over those: a split needs a schedule a part."""
    whole = custom.BasicScheduler.execute(model, "normal", 8, 1.0)[0]
    for part in custom.SplitSigmas.execute(whole, 4).args:
        assert_switches_at_half(model, part)
