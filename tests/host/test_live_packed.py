"""GGUF's packed weights: live mode leaves the bytes alone, and gives what the unpacked weights give with the stack baked."""

from __future__ import annotations

import pytest
import torch
from packed_weights import in_packed_layers, pack
from sampling import distance, sampled
from small_models import kohya_lora, small_model

from lora_core.files.parse import parse_state_dict
from lora_core.host.stacking import apply_stack
from lora_core.host.targets import model_targets
from lora_core.stack.rows import LoraStack, StackRow

pytestmark = pytest.mark.usefixtures("as_in_the_host")


def stack_for(model, *strengths: float) -> LoraStack:
    shapes = dict(model_targets(model).shapes)
    rows = []
    for number, strength in enumerate(strengths):
        tensors = kohya_lora(shapes, rank=4 + number, alpha=2.0, seed=number, scale=0.1)
        adapter = parse_state_dict(tensors, f"lora{number}")
        rows.append(StackRow(f"lora{number}", strength, 0.0, adapter=adapter))
    return LoraStack(tuple(rows))


@pytest.fixture
def packed():
    """A MODEL of packed layers, and one of plain layers with the same numbers."""
    found = pack()
    model, plain = (small_model("SD1.5", torch.float32) for _ in range(2))
    assert in_packed_layers(model, found) > 20
    pairs = zip(
        plain.model.diffusion_model.parameters(),
        model.model.diffusion_model.parameters(),
        strict=True,
    )
    for wide, stored in pairs:
        if getattr(stored, "tensor_type", None) is not None:
            wide.data = found.unpacked(stored, torch.float32).clone()
    return model, plain


def bytes_of(model) -> list[torch.Tensor]:
    return [
        weight.data.as_subclass(torch.Tensor).clone()
        for weight in model.model.diffusion_model.parameters()
    ]


def latents(stack, model, mode):
    return sampled(apply_stack(stack, model, None, "auto", mode).model, "SD1.5", steps=2)


def test_shapes_are_those_of_the_unpacked_weights(packed):
    model, plain = packed
    assert model_targets(model).shapes == model_targets(plain).shapes


def test_auto_runs_live_and_gives_what_the_unpacked_weights_give(packed):
    model, plain = packed
    before, base = bytes_of(model), sampled(model, "SD1.5", steps=2)
    stack = stack_for(plain, 0.8, -0.5)
    done = apply_stack(stack, model, None, "auto", "auto")
    assert done.account is not None
    assert "quantised" in done.account.report()
    assert not done.model.patches
    found = sampled(done.model, "SD1.5", steps=2)
    assert distance(found, base) > 1e-3
    assert distance(found, latents(stack, plain, "baked")) < 1e-4
    assert all(torch.equal(a, b) for a, b in zip(bytes_of(model), before, strict=True))
    assert torch.equal(sampled(model, "SD1.5", steps=2), base)


def test_a_change_of_strengths_and_back_gives_the_first_latents(packed):
    model, plain = packed
    first, second = stack_for(plain, 0.8, -0.5), stack_for(plain, 0.3, 0.9)
    before = latents(first, model, "live")
    assert distance(latents(second, model, "live"), latents(second, plain, "baked")) < 1e-4
    assert torch.equal(latents(first, model, "live"), before)


def test_baked_rides_on_the_weights_as_their_own_node_pack_applies_it(packed):
    model, plain = packed
    base = sampled(model, "SD1.5", steps=2)
    for strengths in ((0.8, -0.5), (0.3, 0.9)):
        stack = stack_for(plain, *strengths)
        assert distance(latents(stack, model, "baked"), latents(stack, plain, "baked")) < 1e-4
    assert torch.equal(sampled(model, "SD1.5", steps=2), base)
