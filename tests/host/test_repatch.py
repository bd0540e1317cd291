"""A strength change written in place: the bits and the memory of a fresh load, and the host's way wherever it is not safe."""

from __future__ import annotations

import comfy.model_management
import comfy.sd
import pytest
import torch
from sampling import sampled
from small_models import SAMPLED, kohya_lora, small_model

import lora_core.host.repatch as repatch_module
from lora_core.errors import PatchError
from lora_core.files.parse import parse_state_dict
from lora_core.host.patching import StackAdapter
from lora_core.host.repatch import repatch
from lora_core.host.stacking import apply_stack
from lora_core.host.targets import model_targets
from lora_core.stack.rows import LoraStack, StackRow

pytestmark = pytest.mark.usefixtures("as_in_the_host")

DTYPES = [torch.float32, torch.float16, torch.bfloat16]


def on(model, *strengths: float):
    """The model with a LoRA a strength, all on the same weights, baked."""
    shapes = dict(model_targets(model).shapes)
    rows = []
    for number, strength in enumerate(strengths):
        tensors = kohya_lora(shapes, rank=4, alpha=2.0, seed=number, scale=0.1)
        adapter = parse_state_dict(tensors, f"lora{number}")
        rows.append(StackRow(f"lora{number}", strength, 0.0, adapter=adapter))
    return apply_stack(LoraStack(tuple(rows)), model, None, "auto", "baked").model


def load(model) -> None:
    comfy.model_management.load_models_gpu([model], force_full_load=True)


def weights(model) -> dict[str, torch.Tensor]:
    return {key: weight.clone() for key, weight in model.model.state_dict().items()}


def addresses(model) -> dict[str, int]:
    return {key: weight.data_ptr() for key, weight in model.model.state_dict().items()}


def assert_same(first: dict[str, torch.Tensor], second: dict[str, torch.Tensor]) -> None:
    assert all(torch.equal(first[key], second[key]) for key in second)


@pytest.mark.parametrize("family", SAMPLED)
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_a_change_in_place_gives_the_bits_of_a_fresh_load_at_the_same_addresses(family, dtype):
    model = small_model(family, dtype)
    base = weights(model)
    weak, strong = on(model, 0.3, 0.2), on(model, 0.9, -0.4)
    load(strong)
    fresh = weights(strong)
    load(model)
    load(weak)
    before = addresses(weak)
    assert repatch(strong)
    load(strong)
    assert_same(weights(strong), fresh)
    assert addresses(strong) == before
    load(model)
    assert_same(weights(model), base)


def test_sampling_takes_this_way_by_itself_and_gives_the_same_latents():
    model = small_model("SD1.5", torch.float32)
    weak, strong = on(model, 0.3), on(model, 0.9)
    expected = sampled(strong, "SD1.5", steps=1)
    plain = sampled(model, "SD1.5", steps=1)
    sampled(weak, "SD1.5", steps=1)
    before = addresses(weak)
    assert torch.equal(sampled(strong, "SD1.5", steps=1), expected)
    assert addresses(strong) == before
    assert torch.equal(sampled(model, "SD1.5", steps=1), plain)


def test_many_changes_and_back_are_the_first_bits():
    model = small_model("SD1.5", torch.bfloat16)
    first = on(model, 0.5)
    load(first)
    expected, places = weights(first), addresses(first)
    for step in range(20):
        assert repatch(on(model, 0.05 * (step + 1) + 0.01))
    again = on(model, 0.5)
    assert repatch(again)
    assert_same(weights(again), expected)
    assert addresses(again) == places


def test_a_core_lora_below_ours_is_kept():
    model = small_model("SD1.5", torch.float32)
    shapes = dict(model_targets(model).shapes)
    tensors = kohya_lora(shapes, rank=4, alpha=2.0, seed=9, scale=0.1)
    core, _ = comfy.sd.load_lora_for_models(model, None, tensors, 0.5, 0.0)
    strong = on(core, 0.9)
    load(strong)
    fresh = weights(strong)
    load(on(core, 0.3))
    assert repatch(strong)
    assert_same(weights(strong), fresh)


def test_fewer_weights_are_written_in_place_too_and_more_are_left_to_the_host():
    """A block that is left out takes its pristine copy; as a sweep over blocks goes, and back."""
    model = small_model("SD1.5", torch.bfloat16)
    every, fewer = on(model, 0.3), on(model, 0.9)
    for key in list(fewer.patches)[::3]:
        del fewer.patches[key]
    load(fewer)
    expected = weights(fewer)
    assert not repatch(every)  # has weights that are not in the copies
    load(every)
    whole, before = weights(every), addresses(every)
    assert repatch(fewer)
    load(fewer)
    assert_same(weights(fewer), expected)
    assert addresses(fewer) == before
    assert repatch(every)
    assert_same(weights(every), whole)
    load(model)
    assert_same(weights(model), weights(small_model("SD1.5", torch.bfloat16)))


def test_other_weights_the_plain_model_and_other_kinds_of_loading_are_left_to_the_host():
    model = small_model("SD1.5", torch.float32)
    weak, strong = on(model, 0.3), on(model, 0.9)
    assert not repatch(strong)  # nothing is loaded
    load(weak)
    assert not repatch(weak)  # already there
    assert not repatch(model)  # no patches
    strong.is_dynamic = lambda: True
    assert not repatch(strong)
    del strong.is_dynamic
    model.model.model_lowvram = True
    assert not repatch(strong)
    model.model.model_lowvram = False
    assert repatch(strong)


@pytest.mark.parametrize("way", ["write", "calculate_weight"])
def test_a_failure_in_the_middle_makes_the_host_load_anew(monkeypatch, way):
    model = small_model("SD1.5", torch.float32)
    weak, strong = on(model, 0.3), on(model, 0.9)
    load(weak)
    expected, calls = weights(weak), []
    compute = getattr(StackAdapter, way)

    def failing(self, *arguments, **named):
        calls.append(1)
        if len(calls) == 5:
            raise PatchError("in the middle")
        return compute(self, *arguments, **named)

    if way != "write":
        monkeypatch.setattr(StackAdapter, "write", lambda *_: False)
    monkeypatch.setattr(StackAdapter, way, failing)
    with pytest.raises(PatchError):
        repatch(strong)
    monkeypatch.undo()
    load(weak)
    assert_same(weights(weak), expected)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_weights_are_written_straight_into_their_memory_with_the_bits_of_the_hosts_way(
    monkeypatch, dtype
):
    model = small_model("SD1.5", dtype)
    weak, strong = on(model, 0.3, 0.2), on(model, 0.9, -0.4)
    load(weak)
    write, written = StackAdapter.write, []

    def counted(self, key, into, base):
        written.append(write(self, key, into, base))
        return written[-1]

    monkeypatch.setattr(StackAdapter, "write", counted)
    assert repatch(strong)
    straight = weights(strong)
    assert written == [True] * len(strong.patches)
    monkeypatch.setattr(StackAdapter, "write", lambda *_: False)
    assert repatch(weak)
    assert repatch(strong)
    assert_same(weights(strong), straight)


def test_pristine_copies_are_kept_on_the_device_while_there_is_room_and_leave_with_the_model(
    monkeypatch,
):
    """A device that is not the copies' own, stood in for by "meta": the copy is made once and given back at the end."""
    model = small_model("SD1.5", torch.float32)
    patched = on(model, 0.3)
    load(patched)
    key = next(iter(patched.patches))
    assert repatch_module._pristine(patched, key) is patched.backup[key].weight
    patched.load_device = torch.device("meta")
    monkeypatch.setattr(comfy.model_management, "get_free_memory", lambda device: 0)
    assert repatch_module._pristine(patched, key) is patched.backup[key].weight
    monkeypatch.setattr(comfy.model_management, "get_free_memory", lambda device: 1 << 60)
    near = repatch_module._pristine(patched, key)
    assert near.device.type == "meta"
    assert repatch_module._pristine(patched, key) is near
    patched.load_device = torch.device("cpu")
    patched.detach()
    assert model.model not in repatch_module._near
