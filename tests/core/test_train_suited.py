"""What settings that are left open become for a model."""

from __future__ import annotations

import pytest
import torch

from lora_core.errors import TrainError
from lora_core.train.objective import Objective
from lora_core.train.settings import TrainSettings, rate_at
from lora_core.train.suited import suited, width_of


def layers(*widths: int) -> dict[str, torch.nn.Module]:
    return {str(i): torch.nn.Linear(width, 8, device="meta") for i, width in enumerate(widths)}


@pytest.mark.parametrize(
    ("width", "rate"), [(3072, 1e-4), (1280, 1e-4), (640, 2e-4), (128, 1e-3), (64, 2e-3)]
)
def test_an_open_rate_goes_with_one_over_the_width_below_that_of_sdxl(width, rate):
    assert suited(TrainSettings(), layers(width), "zwx", "eps").rate == pytest.approx(rate)


def test_the_middle_layer_decides_and_a_convolution_counts_by_its_channels():
    assert width_of(layers(64, 128, 4096)) == 128
    assert width_of({"conv": torch.nn.Conv2d(320, 8, 3, device="meta")}) == 320


def test_a_rate_that_is_set_stays():
    assert suited(TrainSettings(rate=3e-5), layers(64), "zwx", "eps").rate == 3e-5


@pytest.mark.parametrize(
    ("wished", "kind", "found"),
    [
        (Objective(), "eps", "min-SNR"),
        (Objective(), "v", "none"),
        (Objective(), "flow", "none"),
        (Objective(min_snr=0.0), "eps", "none"),
        (Objective(weighting="debiased"), "v", "debiased"),
    ],
)
def test_an_open_weighting_is_said_plainly_for_the_kind_of_model(wished, kind, found):
    settings = suited(TrainSettings(objective=wished), layers(64), "zwx", kind)
    assert settings.objective.weighting == found


def test_an_optimizer_that_finds_its_own_rate_gets_the_factor_one():
    assert suited(TrainSettings(optimizer="Prodigy"), layers(64), "zwx", "eps").rate == 1.0


def test_without_a_trigger_nothing_is_preserved():
    assert suited(TrainSettings(preserve=0.3), layers(64), " ", "eps").preserve == 0.0
    assert suited(TrainSettings(preserve=0.3), layers(64), "zwx", "eps").preserve == 0.3


def test_an_open_rate_is_no_rate():
    with pytest.raises(TrainError, match="suited"):
        rate_at(TrainSettings(), 0)
