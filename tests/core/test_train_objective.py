"""Targets and losses equal their closed form; noise and timesteps are functions of counters."""

from __future__ import annotations

import math

import pytest
import torch

from lora_core.errors import TrainError
from lora_core.train.objective import (
    NoiseLevels,
    Objective,
    level_weights,
    losses,
    noise_of,
    noised,
    position_of,
    shifted,
    target_of,
)

SIGMAS = torch.linspace(0.03, 14.6, 1000)


def drawn(seed=0):
    generator = torch.Generator().manual_seed(seed)
    x0, noise = (torch.randn(3, 4, 5, 6, generator=generator).double() for _ in range(2))
    return x0, noise, torch.tensor([0.1, 0.5, 0.9]).double()


@pytest.mark.parametrize("kind", ["eps", "v", "flow"])
def test_a_network_that_answers_the_target_gives_the_picture_back_by_the_hosts_formula(kind):
    """The host's calculate_denoised of EPS, V_PREDICTION (sigma_data 1) and CONST, written out."""
    x0, noise, sigma = drawn()
    x, out = noised(kind, x0, noise, sigma), target_of(kind, x0, noise, sigma)
    s = sigma.view(-1, 1, 1, 1)
    formulas = {"v": x / (s**2 + 1) - out * s / (s**2 + 1) ** 0.5}
    denoised = formulas.get(kind, x - out * s)
    assert torch.allclose(denoised, x0, atol=1e-12)


def test_noisy_v_latents_are_velocities_of_unit_angle():
    """With alpha = cos, sigma = sin of one angle: v = alpha * noise - sigma * x0 (Salimans & Ho, appendix D)."""
    x0, noise, _ = drawn()
    angle = torch.tensor([0.2, 0.7, 1.4]).double()
    cos, sin = angle.cos().view(-1, 1, 1, 1), angle.sin().view(-1, 1, 1, 1)
    assert torch.allclose(target_of("v", x0, noise, angle.tan()), cos * noise - sin * x0)


def test_the_loss_is_the_weighed_mean_square():
    x0, noise, _ = drawn()
    weights = torch.tensor([1.0, 0.5, 2.0])
    expected = ((x0 - noise) ** 2).mean(dim=(1, 2, 3)) * weights
    assert torch.allclose(losses(x0, noise, weights).double(), expected, rtol=1e-5)


def test_a_mask_takes_places_out_and_the_mean_stays_over_all():
    x0, noise, _ = drawn()
    mask = torch.zeros(3, 1, 5, 6)
    mask[..., :3] = 1
    expected = ((x0 - noise) ** 2)[..., :3].mean(dim=(1, 2, 3)) / 2
    assert torch.allclose(losses(x0, noise, torch.ones(3), mask).double(), expected, rtol=1e-5)


def test_min_snr_is_its_formula():
    sigmas = torch.tensor([0.1, 1.0, 10.0])
    snr = 1 / sigmas**2
    assert torch.allclose(
        level_weights("eps", sigmas, 5), torch.minimum(snr, torch.tensor(5.0)) / snr
    )
    assert torch.allclose(
        level_weights("v", sigmas, 5), torch.minimum(snr, torch.tensor(5.0)) / (snr + 1)
    )
    for kind, gamma in (("flow", 5), ("eps", 0)):
        assert torch.equal(level_weights(kind, sigmas, gamma), torch.ones(3))


def positions(count=20_000, kind="eps", shift=1.0, **settings):
    levels, objective = NoiseLevels(kind, SIGMAS, shift), Objective(**settings)
    return sorted(position_of(objective, levels, 0, number) for number in range(count))


def distance(found, share_below):
    """The largest gap between the drawn and the wanted distribution (Kolmogorov and Smirnov)."""
    return max(abs(share_below(x) - (i + 0.5) / len(found)) for i, x in enumerate(found))


def normal_share(x):
    return 0.5 * (1 + math.erf(x / math.sqrt(2)))


CHOICES = {
    "uniform": ({"timesteps": "uniform"}, lambda x: x),
    "logit-normal": ({"timesteps": "logit-normal"}, lambda x: normal_share(math.log(x / (1 - x)))),
    "shift": ({"timesteps": "shift", "shift": 3.0}, lambda x: shifted(x, 1 / 3)),
    "auto of eps": ({}, lambda x: x),
    "auto of flow": ({"kind": "flow", "shift": 1.0}, lambda x: x),
    "range": ({"timesteps": "uniform", "low": 0.4, "high": 0.6}, lambda x: (x - 0.4) / 0.2),
}


@pytest.mark.parametrize("choice", CHOICES)
def test_timesteps_follow_their_distribution(choice):
    settings, share_below = CHOICES[choice]
    # 1.95 / sqrt(n) is passed by chance once in a thousand seeds; the counters are fixed.
    assert distance(positions(**settings), share_below) < 1.95 / math.sqrt(20_000)


def test_the_models_own_shift_is_used_where_none_is_given():
    levels = NoiseLevels("flow", SIGMAS, 3.0)
    own = position_of(Objective("shift"), levels, 1)
    assert own == position_of(Objective("shift", shift=3.0), levels, 1)
    assert own == position_of(Objective(), levels, 1)


def test_noise_depends_on_its_counters_alone():
    assert torch.equal(noise_of((4, 8, 8), 0.0, 1, 2), noise_of((4, 8, 8), 0.0, 1, 2))
    assert not torch.equal(noise_of((4, 8, 8), 0.0, 1, 2), noise_of((4, 8, 8), 0.0, 2, 1))
    state = torch.get_rng_state()
    noise_of((4, 8, 8), 0.1, 1)
    assert torch.equal(torch.get_rng_state(), state)


def test_levels_of_a_discrete_model_are_the_hosts_table():
    levels = NoiseLevels("eps", SIGMAS)
    found = levels.at(torch.tensor([0.0, 0.4999, 0.9999, 1.0]))
    assert torch.equal(found, SIGMAS[[0, 499, 999, 999]])


@pytest.mark.parametrize(
    "bad", [{"timesteps": "x"}, {"low": 0.5, "high": 0.5}, {"min_snr": -1.0}, {"high": 2.0}]
)
def test_settings_that_make_no_sense_are_refused(bad):
    with pytest.raises(TrainError):
        Objective(**bad)
    with pytest.raises(TrainError, match="no known kind"):
        NoiseLevels("x0", SIGMAS)
