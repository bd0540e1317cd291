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
    resolution_shift,
    shifted,
    target_of,
)
from lora_core.train.objective import drawn as draw_batch

SIGMAS = torch.linspace(0.03, 14.6, 1000)


def levels_of(kind):
    return NoiseLevels(kind, SIGMAS)


def drawn(seed=0):
    generator = torch.Generator().manual_seed(seed)
    x0, noise = (torch.randn(3, 4, 5, 6, generator=generator).double() for _ in range(2))
    return x0, noise, torch.tensor([0.1, 0.5, 0.9]).double()


@pytest.mark.parametrize("kind", ["eps", "v", "flow"])
def test_a_network_that_answers_the_target_gives_the_picture_back_by_the_hosts_formula(kind):
    """The host's calculate_denoised of EPS, V_PREDICTION (sigma_data 1) and CONST, written out."""
    x0, noise, sigma = drawn()
    x, out = noised(levels_of(kind), x0, noise, sigma), target_of(levels_of(kind), x0, noise, sigma)
    s = sigma.view(-1, 1, 1, 1)
    formulas = {"v": x / (s**2 + 1) - out * s / (s**2 + 1) ** 0.5}
    denoised = formulas.get(kind, x - out * s)
    assert torch.allclose(denoised, x0, atol=1e-12)


def test_noisy_v_latents_are_velocities_of_unit_angle():
    """With alpha = cos, sigma = sin of one angle: v = alpha * noise - sigma * x0 (Salimans & Ho, appendix D)."""
    x0, noise, _ = drawn()
    angle = torch.tensor([0.2, 0.7, 1.4]).double()
    cos, sin = angle.cos().view(-1, 1, 1, 1), angle.sin().view(-1, 1, 1, 1)
    assert torch.allclose(target_of(levels_of("v"), x0, noise, angle.tan()), cos * noise - sin * x0)


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
        level_weights(levels_of("eps"), sigmas, Objective()),
        torch.minimum(snr, torch.tensor(5.0)) / snr,
    )
    assert torch.allclose(
        level_weights(levels_of("v"), sigmas, Objective(weighting="min-SNR")),
        torch.minimum(snr, torch.tensor(5.0)) / (snr + 1),
    )
    for kind, gamma in (("flow", 5), ("eps", 0)):
        found = level_weights(levels_of(kind), sigmas, Objective(min_snr=gamma))
        assert torch.equal(found, torch.ones(3))


def test_debiased_weights_are_their_formula():
    sigmas = torch.tensor([0.1, 1.0, 10.0])
    snr = 1 / sigmas**2
    wish = Objective(weighting="debiased")
    assert torch.allclose(level_weights(levels_of("eps"), sigmas, wish), 1 / snr.sqrt())
    assert torch.allclose(level_weights(levels_of("v"), sigmas, wish), 1 / (snr + 1))
    assert float(level_weights(levels_of("eps"), torch.tensor([1e-3]), wish)) == pytest.approx(
        1000**-0.5
    )
    with pytest.raises(TrainError, match="choose none"):
        level_weights(levels_of("flow"), sigmas, wish)


def test_the_huber_loss_is_square_near_nought_and_straight_far_away():
    x0 = torch.tensor([[[1e-3]], [[100.0]]])
    found = losses(x0, torch.zeros_like(x0), torch.ones(2), huber=0.1)
    assert float(found[0]) == pytest.approx(1e-6, rel=1e-3)
    assert float(found[1]) == pytest.approx(2 * 0.1 * (100 - 0.1), rel=1e-3)


def test_a_family_of_its_own_is_asked_for_its_own_target():
    class Halved:
        def noised(self, latents, noise, sigmas):
            return latents / 2

        def target(self, latents, noise, sigmas):
            return noise * 3

    levels = NoiseLevels("own", SIGMAS, own=Halved())
    x0, noise, sigma = drawn()
    assert torch.equal(noised(levels, x0, noise, sigma), x0 / 2)
    assert torch.equal(target_of(levels, x0, noise, sigma), noise * 3)
    assert torch.equal(level_weights(levels, sigma, Objective()), torch.ones_like(sigma))


def test_the_shift_by_resolution_is_that_of_fluxs_sampler():
    """Its published points: e^0.5 for 256 tokens (256 px) and e^1.15 for 4096 (1024 px)."""
    assert resolution_shift(256) == pytest.approx(math.exp(0.5))
    assert resolution_shift(4096) == pytest.approx(math.exp(1.15))
    wish, levels = Objective("resolution"), NoiseLevels("flow", SIGMAS)
    expected = position_of(Objective("shift", shift=math.exp(1.15)), levels, 7)
    assert position_of(wish, levels, 7, tokens=4096) == pytest.approx(expected)


def test_items_of_a_batch_have_their_own_noise_and_level_whatever_the_batch():
    levels, latents = levels_of("eps"), torch.zeros(2, 4, 8, 8)
    noise, sigmas = draw_batch(Objective(), levels, latents, 3, ((1, 0), (2, 0)))
    assert not torch.equal(noise[0], noise[1])
    assert sigmas[0] != sigmas[1]
    alone, level = draw_batch(Objective(), levels, latents[:1], 3, ((2, 0),))
    assert torch.equal(alone[0], noise[1])
    assert level[0] == sigmas[1]


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
    "sigmoid": ({"timesteps": "sigmoid"}, lambda x: normal_share(math.log(x / (1 - x)))),
    "logit-normal moved": (
        {"timesteps": "logit-normal", "mean": 0.5, "spread": 2.0},
        lambda x: normal_share((math.log(x / (1 - x)) - 0.5) / 2),
    ),
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
    "bad",
    [
        {"timesteps": "x"},
        {"weighting": "x"},
        {"loss": "x"},
        {"huber": 0.0},
        {"spread": 0.0},
        {"low": 0.5, "high": 0.5},
        {"min_snr": -1.0},
        {"high": 2.0},
    ],
)
def test_settings_that_make_no_sense_are_refused(bad):
    with pytest.raises(TrainError):
        Objective(**bad)
    with pytest.raises(TrainError, match="no known kind"):
        NoiseLevels("x0", SIGMAS)
