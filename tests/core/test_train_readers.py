"""What is trained, against PEFT and diffusers: the gradients of one step, and the trained file in their hands.

Needs the packages peft and diffusers, as tests/core/test_other_readers.py does and says.
"""

from __future__ import annotations

import pytest
import torch

pytest.importorskip("peft", reason="peft is not installed; it is needed by this test alone")
pytest.importorskip("diffusers", reason="diffusers is not installed; it is needed by this test")

from peft import LoraConfig, inject_adapter_in_model

from lora_core.train.adapters import attached, new_branches, parameters_of
from lora_core.train.export import lora_of
from tests.core.test_other_readers import (
    PICTURE,
    WEIGHTS,
    by_diffusers,
    layers,
    names_of,
    unet,  # noqa: F401 - a fixture
)

RANK, ALPHA = 4, 2.0


def filled(network):
    """Branches none of whose factors is zero."""
    made = new_branches(layers(network), RANK, ALPHA, seed=0)
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for branch in made:
            branch.up.copy_(torch.randn(branch.up.shape, generator=generator) * 0.1)
    return made


def loss_of(network) -> torch.Tensor:
    generator = torch.Generator().manual_seed(5)
    latent, noise = (torch.randn(2, 4, 8, 8, generator=generator) for _ in range(2))
    words = torch.randn(2, 6, 16, generator=generator)
    answer = network(latent, torch.tensor([10, 700]), encoder_hidden_states=words).sample
    return (answer - noise).square().mean()


def test_the_gradients_of_one_step_are_pefts(unet):  # noqa: F811
    unet.requires_grad_(False)
    branches = filled(unet)
    with attached(unet, branches):
        loss = loss_of(unet)
        ours = torch.autograd.grad(loss, parameters_of(branches))
    config = LoraConfig(
        r=RANK,
        lora_alpha=ALPHA,
        target_modules=[branch.path for branch in branches],
        rank_pattern={b.path: b.rank for b in branches if b.rank != RANK},
        alpha_pattern={b.path: b.alpha for b in branches if b.rank != RANK},
    )
    inject_adapter_in_model(config, unet, adapter_name="ours")
    theirs = []
    for branch in branches:
        layer = unet.get_submodule(branch.path)
        theirs += [layer.lora_A["ours"].weight, layer.lora_B["ours"].weight]
    with torch.no_grad():
        for into, value in zip(theirs, parameters_of(branches), strict=True):
            into.copy_(value)
    same = loss_of(unet)
    expected = torch.autograd.grad(same, theirs)
    assert float(loss.detach()) == pytest.approx(float(same.detach()), rel=1e-5)
    for mine, other in zip(ours, expected, strict=True):
        assert float((mine - other).norm()) <= 1e-4 * float(other.norm()) + 1e-9


def test_the_trained_file_acts_in_diffusers_as_training_saw_it(unet, tmp_path):  # noqa: F811
    import safetensors.torch

    unet.requires_grad_(False)
    branches = filled(unet)
    with attached(unet, branches), torch.no_grad():
        seen = loss_of(unet)
    with torch.no_grad():
        before = loss_of(unet)
    path = tmp_path / "made.safetensors"
    file = lora_of(branches, parameters_of(branches), names_of(unet))
    safetensors.torch.save_file(file, path)
    by_diffusers(unet, path)
    for branch in branches:
        theirs = unet.get_submodule(branch.path).get_delta_weight("saved").detach()
        ours = branch.delta(theirs.shape).detach()
        assert float((theirs - ours).norm() / ours.norm()) < WEIGHTS, branch.path
    with torch.no_grad():
        given = loss_of(unet)
    assert abs(float(given - seen)) < PICTURE * abs(float(seen - before))
