"""Stacks on the dynamic patcher of newer hosts: live by itself, baked without a second copy, nothing it forbids."""

from __future__ import annotations

import gc

import pytest
import torch

from lora_core.files.parse import parse_state_dict
from lora_core.resolve import resolve
from lora_core.stack.rows import StackRow

from .fake_host import CPU, DynamicPatcher, Inner, swapped

QKV, PROJ, FINAL = (f"diffusion_model.{name}.weight" for name in ("qkv", "proj", "final"))


def lora(*names: str, seed: int = 0, shapes: dict[str, tuple[int, int]] | None = None):
    generator = torch.Generator().manual_seed(seed)
    tensors = {}
    for name in names:
        rows, columns = (shapes or {}).get(name, (8, 24) if "proj" in name else (8, 8))
        rows = 24 if name.endswith("qkv") else rows
        tensors[f"{name}.lora_A.weight"] = torch.randn(2, columns, generator=generator)
        tensors[f"{name}.lora_B.weight"] = torch.randn(rows, 2, generator=generator)
    return tensors


NAMES = (
    "diffusion_model.qkv",
    "diffusion_model.proj",
    "transformer.to_q",
    "transformer.to_v",
    "transformer.norm_out",
)


def delta(tensors, name: str) -> torch.Tensor:
    return tensors[f"{name}.lora_B.weight"] @ tensors[f"{name}.lora_A.weight"]


def whole_delta(tensors) -> dict[str, torch.Tensor]:
    """What the LoRA of NAMES adds to each weight, by hand."""
    qkv = delta(tensors, "diffusion_model.qkv").clone()
    qkv[:8] += delta(tensors, "transformer.to_q")
    qkv[16:] += delta(tensors, "transformer.to_v")
    return {
        QKV: qkv,
        PROJ: delta(tensors, "diffusion_model.proj"),
        FINAL: swapped(delta(tensors, "transformer.norm_out")),
    }


def applied(pack, patcher, tensors, strength: float = 0.5, mode: str = "auto", schedule: str = ""):
    row = StackRow("style", strength, 0.0, schedule=schedule)
    targets = pack.targets.model_targets(patcher)
    resolved, _ = resolve([(row, parse_state_dict(tensors, "style"))], targets, None)
    return pack.modes.apply_in_mode(patcher, None, resolved, [row], mode)


def loaded(patcher):
    patcher.partially_load(CPU)
    return patcher


def output(patcher) -> torch.Tensor:
    x = torch.randn(3, 8, generator=torch.Generator().manual_seed(4))
    return patcher.model.diffusion_model(x)


def expected(inner: Inner, tensors, strength: float) -> torch.Tensor:
    deltas = whole_delta(tensors)
    x = torch.randn(3, 8, generator=torch.Generator().manual_seed(4))
    for key in (QKV, PROJ, FINAL):
        x = x @ (inner.state_dict()[key] + strength * deltas[key]).T
    return x


@pytest.fixture
def patcher():
    return DynamicPatcher(Inner())


def hooks_on(inner: Inner) -> int:
    return sum(len(module._forward_hooks) for module in inner.modules())


def test_auto_runs_live_and_no_strength_change_uploads_anything(pack, patcher):
    tensors = lora(*NAMES)
    loaded(patcher)
    uuid = patcher.model.current_weight_patches_uuid
    for strength in (0.5, 0.9, -0.3, 0.5):
        done = applied(pack, patcher, tensors, strength)
        assert "piece by piece" in done.how[0]
        assert not done.model.patches
        found = output(loaded(done.model))
        torch.testing.assert_close(found, expected(patcher.model, tensors, strength))
        done.model.eject_model()
    assert patcher.model.uploads == 0
    assert patcher.model.current_weight_patches_uuid == uuid
    assert hooks_on(patcher.model) == 0


@pytest.mark.parametrize("mode", ["live", "baked"])
def test_slices_and_rearranged_weights_of_the_key_map_are_right_in_both_modes(pack, patcher, mode):
    tensors = lora(*NAMES)
    found = output(loaded(applied(pack, patcher, tensors, 0.7, mode).model))
    torch.testing.assert_close(found, expected(patcher.model, tensors, 0.7))


def test_baked_adapters_are_rebuilt_from_copies_at_every_use(pack, patcher):
    tensors = lora(*NAMES)
    weights = {key: value.clone() for key, value in patcher.model.state_dict().items()}
    done = loaded(applied(pack, patcher, tensors, 0.7, "baked").model)
    first = output(done)
    assert torch.equal(output(done), first)
    assert all(
        torch.equal(value, weights[key]) for key, value in patcher.model.state_dict().items()
    )
    plain = output(loaded(patcher))
    assert not torch.allclose(plain, first)


def test_fast_repatching_leaves_a_dynamic_model_to_the_host(pack, patcher):
    tensors = lora(*NAMES)
    loaded(applied(pack, patcher, tensors, 0.3, "baked").model)
    strong = applied(pack, patcher, tensors, 0.9, "baked").model
    (prepare,) = strong.wrappers["prepare_sampling"]["loom_repatch"]
    prepare(lambda model: loaded(model), strong)
    torch.testing.assert_close(output(strong), expected(patcher.model, tensors, 0.9))
    assert patcher.model.uploads == 1  # the host's own way


def test_a_schedule_uses_no_hooks(pack, patcher):
    done = applied(pack, patcher, lora(*NAMES), schedule="0@0,1@1")
    assert not done.model.hook_patches
    assert set(done.model.wrappers) == {"outer_sample", "apply_model"}


def test_a_lora_that_makes_a_weight_larger_is_loaded_beforehand_and_taken_off_again(pack, patcher):
    name = "diffusion_model.proj"
    tensors = lora(name, shapes={name: (12, 24)})
    tensors[f"{name}.reshape_weight"] = torch.tensor([12, 24])
    before = patcher.model.state_dict()[PROJ].clone()
    done = applied(pack, patcher, tensors, 1.0)
    assert "larger" in "".join(done.how)
    loaded(done.model)
    assert patcher.model.state_dict()[PROJ].shape == (12, 24)
    loaded(patcher)
    assert torch.equal(patcher.model.state_dict()[PROJ], before)


def test_loading_twice_and_clones_put_the_side_paths_on_once(pack, patcher):
    done = applied(pack, patcher, lora(*NAMES)).model
    once = output(loaded(done))
    again = done.clone()
    assert torch.equal(output(loaded(done)), once)
    done.eject_model()
    assert torch.equal(output(loaded(again)), once)
    again.eject_model()
    assert hooks_on(patcher.model) == 0


def test_a_copy_on_another_device_gets_side_paths_of_its_own(pack, patcher):
    """As for several GPUs: the clone holds another inner model."""
    done = applied(pack, patcher, lora(*NAMES)).model
    other = Inner()
    copy = done.clone(model_override=other)
    one, two = output(loaded(done)), output(loaded(copy))
    torch.testing.assert_close(one, two)
    done.eject_model()
    assert hooks_on(patcher.model) == 0
    torch.testing.assert_close(output(copy), two)


def test_a_patcher_that_is_dropped_takes_its_side_paths_along(pack, patcher):
    done = loaded(applied(pack, patcher, lora(*NAMES)).model)
    assert hooks_on(patcher.model) > 0
    del done
    gc.collect()
    assert hooks_on(patcher.model) == 0


def test_two_nodes_add_up_live_beside_live_and_live_on_baked(pack, patcher):
    first, second = lora(*NAMES), lora(*NAMES, seed=3)
    summed = {key: whole_delta(first)[key] + whole_delta(second)[key] for key in (QKV, PROJ, FINAL)}
    x = torch.randn(3, 8, generator=torch.Generator().manual_seed(4))
    for key in (QKV, PROJ, FINAL):
        x = x @ (patcher.model.state_dict()[key] + 0.5 * summed[key]).T
    for mode in ("live", "baked"):
        below = applied(pack, patcher, first, 0.5, mode).model
        both = applied(pack, below, second, 0.5, "live").model
        torch.testing.assert_close(output(loaded(both)), x)
        both.eject_model()
