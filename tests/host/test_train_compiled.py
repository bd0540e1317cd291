"""A MODEL that another node compiled, and v-prediction whose last noise level has no signal at all."""

from __future__ import annotations

from dataclasses import replace

import comfy.model_sampling
import pytest
import torch
from test_train import (
    SETTINGS,
    digest,
    own_user_folder,  # noqa: F401 - a fixture of every test
    rings,  # noqa: F401 - a fixture
    same_bytes,
    toy,  # noqa: F401 - a fixture
    trained,
)

from lora_core.errors import TrainError
from lora_core.host.training_model import noise_levels
from lora_core.train.objective import Objective, level_weights, noised, target_of
from lora_core.train.settings import SampleWish

SEEN = replace(SETTINGS, steps=2, rate=2e-2, samples=SampleWish(2, steps=2))


@pytest.mark.usefixtures("one_thread")
def test_a_model_that_is_compiled_as_it_samples_is_trained_as_the_plain_one(toy, rings):  # noqa: F811
    from comfy_api.torch_helpers import set_torch_compile_wrapper

    model, clip, vae = toy
    compiled = model.clone()
    set_torch_compile_wrapper(compiled, backend="eager")
    before = digest(model.model)
    plain = trained(toy, rings, "toy/plain", SEEN)
    found = trained((compiled, clip, vae), rings, "toy/compiled", SEEN, retrain=True)
    assert same_bytes(plain.tensors, found.tensors)
    # The pictures with the LoRA are of the LoRA: what was compiled has it too.
    assert torch.allclose(plain.samples, found.samples, atol=2 / 255)
    assert digest(model.model) == before


def test_compiled_modules_in_place_of_the_models_own_are_refused(toy, rings):  # noqa: F811
    model, clip, vae = toy
    compiled = model.clone()
    block = compiled.get_model_object("diffusion_model.middle_block")
    compiled.add_object_patch("diffusion_model.middle_block", torch.compile(block, backend="eager"))
    with pytest.raises(TrainError, match="The MODEL is compiled"):
        trained((compiled, clip, vae), rings, "toy/compiled", SEEN)


def test_v_without_signal_at_the_last_level_has_the_picture_as_its_target():
    """Zero terminal SNR (Lin et al. 2023): v = alpha n - sigma x0 is -x0 there, and every level has a loss."""

    class Sampling(comfy.model_sampling.ModelSamplingDiscrete, comfy.model_sampling.V_PREDICTION):
        pass

    sampling = Sampling(zsnr=True)
    levels = noise_levels(sampling)
    assert levels.kind == "v"
    generator = torch.Generator().manual_seed(0)
    latents, noise = (torch.randn(3, 4, 8, 8, generator=generator) for _ in range(2))
    sigmas = levels.at(torch.tensor([0.0, 0.5, 1.0]))
    assert float(sigmas[-1]) > 1000
    noisy = noised(levels, latents, noise, sigmas)
    hosts = sampling.noise_scaling(sigmas.view(-1, 1, 1, 1), noise.clone(), latents)
    assert torch.allclose(noisy, hosts, rtol=1e-6)
    target = target_of(levels, latents, noise, sigmas)
    assert torch.allclose(target[-1], -latents[-1], atol=5e-3)
    # What the host makes of a network that answers the target is the picture.
    wide = sigmas.view(-1, 1, 1, 1)
    picture = sampling.calculate_denoised(wide, target, noisy)
    assert torch.allclose(picture[:2], latents[:2], atol=1e-4)
    # float32 keeps three digits of a picture under thousands of times as much noise.
    assert torch.allclose(picture[-1], latents[-1], atol=5e-3)
    weights = level_weights(levels, sigmas, Objective())
    assert torch.equal(weights, torch.ones(3))
