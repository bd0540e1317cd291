"""Live side paths where weights are unusual: other families, 8 bits, the host's quantised tensors, partly loaded models."""

from __future__ import annotations

import gc
import os
import random
from typing import Any

import comfy.model_management
import comfy.quant_ops
import comfy.sd
import pytest
import torch
from live_models import MORE, more_model, more_sampled
from sampling import distance, sampled
from small_models import kohya_lora, small_model

from lora_core.files.parse import parse_state_dict
from lora_core.host.stacking import apply_stack
from lora_core.host.targets import model_targets
from lora_core.stack.rows import LoraStack, StackRow

pytestmark = pytest.mark.usefixtures("as_in_the_host")

CHANGES = 200 if os.environ.get("LOOM_FULL") else 40


def tensors_for(model, seed: int = 0, rank: int = 4) -> dict[str, torch.Tensor]:
    shapes = dict(model_targets(model).shapes)
    return kohya_lora(shapes, rank=rank, alpha=2.0, seed=seed, scale=0.1)


def stack_on(model, *strengths: float) -> LoraStack:
    return LoraStack(
        tuple(
            StackRow(
                f"lora{number}",
                strength,
                0.0,
                adapter=parse_state_dict(tensors_for(model, number, 4 + number), f"lora{number}"),
            )
            for number, strength in enumerate(strengths)
        )
    )


def on(stack, model, mode):
    return apply_stack(stack, model, None, "partial", mode).model


def hooks_on(model) -> int:
    return sum(len(module._forward_hooks) for module in model.model.modules())


@pytest.mark.parametrize("family", MORE)
def test_live_is_baked_on_every_objective_and_architecture(family):
    model = more_model(family)
    stack = stack_on(model, 0.8, -0.5)
    plain = more_sampled(model, family)
    done = apply_stack(stack, model, None, "partial", "live")
    found, baked = more_sampled(done.model, family), more_sampled(on(stack, model, "baked"), family)
    assert distance(found, baked) < 1e-4
    assert distance(plain, baked) > 100 * distance(found, baked)
    assert torch.equal(more_sampled(model, family), plain)
    assert done.account is not None
    assert "baked all the same" not in done.account.report()


def in_8_bits(model, dtype=torch.float8_e4m3fn):
    """Matrices and convolutions stored in fp8, computed with as the host casts them."""
    for module in model.model.diffusion_model.modules():
        if hasattr(module, "comfy_cast_weights") and getattr(module, "weight", None) is not None:
            module.comfy_cast_weights = True
            if module.weight.dim() >= 2:
                module.weight.data = module.weight.data.to(dtype)
    return model


def in_float64(model, stack: LoraStack):
    """The same weights in float64 with the stack added in float64, by hand."""
    exact = small_model("SD1.5", torch.float64)
    state = {key: value.double() for key, value in model.model.state_dict().items()}
    for row_number, row in enumerate(stack.rows):
        tensors = tensors_for(model, row_number, 4 + row_number)
        for key in state:
            name = "lora_unet_" + key.removeprefix("diffusion_model.").removesuffix(
                ".weight"
            ).replace(".", "_")
            up = tensors.get(f"{name}.lora_up.weight")
            if up is None or not key.endswith(".weight"):
                continue
            down = tensors[f"{name}.lora_down.weight"].double()
            product = up.double().flatten(1) @ down.flatten(1)
            state[key] = state[key] + (row.model * 2.0 / down.shape[0]) * product.reshape(
                state[key].shape
            )
    exact.model.load_state_dict(state)
    return exact


@pytest.mark.parametrize("dtype", [torch.float8_e4m3fn, torch.float8_e5m2], ids=str)
def test_on_fp8_weights_live_is_the_float64_result(dtype):
    model = in_8_bits(small_model("SD1.5", torch.float32), dtype)
    stack = stack_on(model, 0.8, -0.5)
    exact = sampled(in_float64(model, stack), "SD1.5", steps=1)
    found = distance(sampled(on(stack, model, "auto"), "SD1.5", steps=1), exact)
    rounded = distance(sampled(on(stack, model, "baked"), "SD1.5", steps=1), exact)
    assert found < 1e-5
    assert rounded > 1000 * found


def quantised(model):
    """Half of the plain layers with the host's own quantised tensors as weights."""
    newer = hasattr(comfy.quant_ops, "TensorCoreFP8E4M3Layout")  # there the layout says the dtype
    more = {} if newer else {"dtype": torch.float8_e4m3fn}
    layers = [
        module
        for module in model.model.diffusion_model.modules()
        if isinstance(module, torch.nn.Linear) and hasattr(module, "comfy_cast_weights")
    ]
    made = 0
    for module in layers[::2]:
        weight = comfy.quant_ops.QuantizedTensor.from_float(
            module.weight.data, "TensorCoreFP8Layout", **more
        )
        module.weight = torch.nn.Parameter(weight, requires_grad=False)
        cast: Any = module
        cast.comfy_cast_weights = True
        made += 1
    assert made
    return model


def test_on_the_hosts_quantised_tensors_live_is_the_side_path_beside_the_same_weights():
    """Against the model with the dequantised weights and the stack baked in float32."""
    stack = stack_on(small_model("SD1.5", torch.float32), 0.8, -0.5)
    model, exact = (
        quantised(small_model("SD1.5", torch.float32)),
        small_model("SD1.5", torch.float32),
    )
    pairs = zip(
        exact.model.diffusion_model.parameters(),
        model.model.diffusion_model.parameters(),
        strict=True,
    )
    for parameter, stored in pairs:
        parameter.data = stored.dequantize() if hasattr(stored, "_qdata") else stored.data.clone()
    done = apply_stack(stack, model, None, "partial", "auto")
    assert done.account is not None
    assert "quantised" in done.account.report()
    before = [p for p in model.model.diffusion_model.parameters() if hasattr(p, "_qdata")]
    found = sampled(done.model, "SD1.5", steps=1)
    reference = sampled(on(stack, exact, "baked"), "SD1.5", steps=1)
    assert distance(found, reference) < 1e-4
    after = [p for p in model.model.diffusion_model.parameters() if hasattr(p, "_qdata")]
    assert all(a is b for a, b in zip(before, after, strict=True))


def test_on_a_partly_loaded_model_with_baked_loras_below_it_is_the_same(monkeypatch):
    """The host patches at every use what it did not load; the side paths do not care."""
    model = small_model("SD1.5", torch.float32)
    below, _ = comfy.sd.load_lora_for_models(model, None, tensors_for(model, 9), 0.5, 0.0)
    live = on(stack_on(model, 0.8, -0.5), below, "live")
    expected = sampled(live, "SD1.5")
    comfy.model_management.unload_all_models()
    partly = []

    def load(models, *_, **__):
        for each in models:
            each.patch_model(torch.device("cpu"), lowvram_model_memory=300_000)
            partly.append(each.model.model_lowvram)

    monkeypatch.setattr(comfy.model_management, "load_models_gpu", load)
    found = sampled(live, "SD1.5")
    live.detach()
    assert partly == [True]
    assert distance(found, expected) < 1e-4
    assert hooks_on(model) == 0


def test_several_samplers_at_different_strengths_in_one_graph_in_any_order():
    model = small_model("SD1.5", torch.float32)
    stack = stack_on(model, 0.8, -0.5)
    weak = LoraStack(
        tuple(StackRow(r.name, r.model / 3, 0.0, adapter=r.adapter) for r in stack.rows)
    )
    kinds = {
        "plain": model,
        "live": on(stack, model, "live"),
        "weak live": on(weak, model, "live"),
        "baked": on(stack, model, "baked"),
        "weak baked": on(weak, model, "baked"),
    }
    first = {name: sampled(each, "SD1.5", steps=2) for name, each in kinds.items()}
    draw = random.Random(3)
    for name in draw.choices(list(kinds), k=12):
        assert torch.equal(sampled(kinds[name], "SD1.5", steps=2), first[name]), name


def test_a_dora_in_a_second_node_sees_the_weight_without_the_live_part():
    """Its magnitudes are of base and DoRA alone; the live row is added beside the result."""
    model = small_model("SD1.5", torch.float32)
    plain = stack_on(model, 0.8)
    tensors = tensors_for(model, 5)
    for key in [key for key in tensors if key.endswith(".lora_up.weight")]:
        rows = tensors[key].shape[0]
        tensors[key.replace("lora_up.weight", "dora_scale")] = torch.full(
            (rows, *(1,) * (tensors[key].dim() - 1)), 0.4
        )
    dora = LoraStack((StackRow("dora", 0.6, 0.0, adapter=parse_state_dict(tensors, "dora")),))
    after_live = on(dora, on(plain, model, "live"), "baked")
    beside = on(plain, on(dora, model, "baked"), "live")
    found = sampled(after_live, "SD1.5", steps=1)
    assert distance(found, sampled(beside, "SD1.5", steps=1)) < 1e-5
    on_baked = sampled(on(dora, on(plain, model, "baked"), "baked"), "SD1.5", steps=1)
    assert distance(found, on_baked) > 1e-4


def tensors_alive() -> tuple[int, int]:
    """(how many, bytes) of all tensors that anything holds."""
    gc.collect()
    found = {
        id(each): each.nbytes
        for each in gc.get_objects()
        if type(each) in (torch.Tensor, torch.nn.Parameter)
    }
    return len(found), sum(found.values())


@pytest.mark.parametrize("mode", ["live", "baked"])
def test_many_changes_leave_the_first_picture_and_memory_where_it_was(mode):
    model = small_model("SD1.5", torch.float32)
    stack, draw = stack_on(model, 0.8, -0.5), random.Random(11)

    def changed(*strengths: float):
        rows = zip(stack.rows, strengths, strict=True)
        return on(
            LoraStack(tuple(StackRow(r.name, s, 0.0, adapter=r.adapter) for r, s in rows)),
            model,
            mode,
        )

    def run(count: int) -> None:
        for _ in range(count):
            patched = changed(draw.uniform(-1.0, 1.0), draw.uniform(0.1, 1.0))
            sampled(patched, "SD1.5", steps=1)

    first = sampled(changed(0.8, -0.5), "SD1.5", steps=1)
    run(4)
    before = tensors_alive()
    run(CHANGES)
    assert tensors_alive() == before
    assert torch.equal(sampled(changed(0.8, -0.5), "SD1.5", steps=1), first)
    assert hooks_on(model) == 0
