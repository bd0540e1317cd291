"""Live side paths on the host's models: the pictures of the baked weights, strengths that change, no trace afterwards."""

from __future__ import annotations

import os
import random

import comfy.lora
import comfy.model_management
import pytest
import torch
from sampling import distance, sampled
from small_models import CONFIGS, kohya_lora, small_model

from lora_core.files.parse import parse_state_dict
from lora_core.host import live
from lora_core.host.stacking import Applied, apply_stack
from lora_core.host.targets import model_targets
from lora_core.stack.rows import LoraStack, StackRow

pytestmark = pytest.mark.usefixtures("as_in_the_host")

STRENGTHS = (0.8, -0.5, 0.6)
CHANGES = 200 if os.environ.get("LOOM_FULL") else 50


def attention_lora(model, seed: int, rank: int = 4) -> dict[str, torch.Tensor]:
    """A LoRA on every weight of two dimensions and more; small, so that a random model stays finite."""
    return kohya_lora(dict(model_targets(model).shapes), rank=rank, alpha=2.0, seed=seed, scale=0.1)


def as_loha(tensors: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """The modules of a LoRA as LoHa of rank 1, where two such halves are small beside the weight."""
    found = {}
    for key, up in tensors.items():
        name = key.removesuffix(".lora_up.weight")
        if name == key:
            continue
        down = tensors[f"{name}.lora_down.weight"].flatten(1)
        found[f"{name}.hada_w1_a"] = up.flatten(1)[:, :1].contiguous()
        found[f"{name}.hada_w1_b"] = down[:1].clone()
        found[f"{name}.hada_w2_a"] = up.flatten(1)[:, 1:2].contiguous() * 8
        found[f"{name}.hada_w2_b"] = down[1:2].clone()
        found[f"{name}.alpha"] = torch.tensor(1.0)
    return found


def rows_on(model, count: int = 3, **fields) -> LoraStack:
    """Rows of three ranks; the second a LoHa."""
    rows = []
    for number in range(count):
        tensors = attention_lora(model, seed=number, rank=4 + number)
        tensors = as_loha(tensors) if number == 1 else tensors
        adapter = parse_state_dict(tensors, f"lora{number}")
        rows.append(StackRow(f"lora{number}", STRENGTHS[number], 0.0, adapter=adapter, **fields))
    return LoraStack(tuple(rows))


def stronger(stack: LoraStack, *strengths: float) -> LoraStack:
    pairs = zip(stack.rows, strengths, strict=True)
    return LoraStack(
        tuple(StackRow(row.name, strength, 0.0, adapter=row.adapter) for row, strength in pairs)
    )


def applied(stack: LoraStack, model, mode: str) -> Applied:
    return apply_stack(stack, model, None, "partial", mode)


def hooks_on(model) -> int:
    return sum(len(module._forward_hooks) for module in model.model.modules())


@pytest.mark.parametrize("family", CONFIGS)
def test_live_gives_the_latents_of_the_baked_weights(family):
    model = small_model(family, torch.float32)
    stack = rows_on(model)
    plain = sampled(model, family)
    on = applied(stack, model, "live")
    found, baked = sampled(on.model, family), sampled(applied(stack, model, "baked").model, family)
    assert distance(found, baked) < 1e-4
    assert distance(plain, baked) > 100 * distance(found, baked)
    assert on.account is not None
    assert "MODEL: live" in on.account.report()


@pytest.mark.parametrize("family", CONFIGS)
def test_live_gives_one_call_of_the_model_to_summation_order(family):
    model = small_model(family, torch.float32)
    stack = rows_on(model)
    found = sampled(applied(stack, model, "live").model, family, steps=1)
    baked = sampled(applied(stack, model, "baked").model, family, steps=1)
    assert distance(found, baked) < 1e-5


@pytest.mark.parametrize("family", CONFIGS)
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16], ids=str)
def test_in_16_bits_live_is_as_near_to_float32_as_the_baked_weights_are(family, dtype):
    """Same 16-bit base weights: once computed in float32 throughout, then baked and live in 16 bits."""
    model, exact = small_model(family, dtype), small_model(family, torch.float32)
    for parameter in exact.model.diffusion_model.parameters():
        parameter.data = parameter.data.to(dtype).float()
    stack = rows_on(model)
    reference = sampled(applied(stack, exact, "baked").model, family, steps=1)
    on_live = distance(sampled(applied(stack, model, "live").model, family, steps=1), reference)
    on_baked = distance(sampled(applied(stack, model, "baked").model, family, steps=1), reference)
    assert on_live <= 1.5 * on_baked


def fp8_model(family: str):
    """A model whose matrices and convolutions are fp8, computed with in float32, as the host casts them."""
    model = small_model(family, torch.float32)
    for module in model.model.diffusion_model.modules():
        if hasattr(module, "comfy_cast_weights") and getattr(module, "weight", None) is not None:
            module.comfy_cast_weights = True
            if module.weight.dim() >= 2:
                module.weight.data = module.weight.data.to(torch.float8_e4m3fn)
    return model


def test_on_fp8_weights_live_is_exact_where_baked_is_rounded():
    model, exact = fp8_model("SD1.5"), small_model("SD1.5", torch.float32)
    with torch.no_grad():
        pairs = zip(
            exact.model.diffusion_model.parameters(),
            model.model.diffusion_model.parameters(),
            strict=True,
        )
        for parameter, stored in pairs:
            parameter.data = stored.data.float()
    stack = rows_on(model)
    reference = sampled(applied(stack, exact, "baked").model, "SD1.5", steps=1)
    on = applied(stack, model, "auto")
    assert on.account is not None
    assert "quantised" in on.account.report()
    found = distance(sampled(on.model, "SD1.5", steps=1), reference)
    rounded = distance(sampled(applied(stack, model, "baked").model, "SD1.5", steps=1), reference)
    assert found < 1e-4
    assert rounded > 100 * found


def test_slices_rearranged_rows_and_blocks_run_live():
    """Flux in diffusers naming, with strengths of its own for one block."""
    model = small_model("Flux", torch.float32)
    targets = model_targets(model)
    generator = torch.Generator().manual_seed(3)
    tensors = {}
    for name, target in targets.names.items():
        shape = targets.shape_of(target)
        if name.startswith("transformer.") and shape is not None and len(shape) == 2:
            tensors[f"{name}.lora_A.weight"] = torch.randn(4, shape[1], generator=generator) * 0.1
            tensors[f"{name}.lora_B.weight"] = torch.randn(shape[0], 4, generator=generator) * 0.1
    adapter = parse_state_dict(tensors, "flux")
    stack = LoraStack((StackRow("flux", 0.7, 0.0, adapter=adapter, blocks="D00=0.25"),))
    found = sampled(applied(stack, model, "live").model, "Flux", steps=1)
    baked = sampled(applied(stack, model, "baked").model, "Flux", steps=1)
    unblocked = LoraStack((StackRow("flux", 0.7, 0.0, adapter=adapter),))
    assert distance(found, baked) < 1e-5
    assert distance(sampled(applied(unblocked, model, "live").model, "Flux", steps=1), baked) > 1e-4


def test_what_cannot_run_live_is_baked_beside_it_and_named():
    model = small_model("SD1.5", torch.float32)
    tensors = attention_lora(model, seed=1)
    name = next(key for key in tensors if key.endswith("attn1_to_q.lora_up.weight"))
    name = name.removesuffix(".lora_up.weight")
    tensors[f"{name}.dora_scale"] = torch.ones(tensors[f"{name}.lora_up.weight"].shape[0], 1)
    tensors["diffusion_model.out.2.diff_b"] = torch.ones(4) * 0.1
    stack = LoraStack((StackRow("dora", 0.8, 0.0, adapter=parse_state_dict(tensors, "dora")),))
    on = applied(stack, model, "live")
    assert on.account is not None
    report = on.account.report()
    assert "DoRA LoRA is made from the weight itself: 1 (" in report
    assert "no matrix: 1 (diffusion_model.out.2.bias)" in report
    baked = sampled(applied(stack, model, "baked").model, "SD1.5", steps=1)
    assert distance(sampled(on.model, "SD1.5", steps=1), baked) < 1e-5


def test_no_weight_is_touched_and_nothing_is_reloaded():
    model = small_model("SD1.5", torch.float32)
    sampled(model, "SD1.5")
    loads = model.model.current_weight_patches_uuid
    before = {key: value.data_ptr() for key, value in model.model.state_dict().items()}
    sampled(applied(rows_on(model), model, "live").model, "SD1.5")
    assert {key: value.data_ptr() for key, value in model.model.state_dict().items()} == before
    assert model.model.current_weight_patches_uuid == loads


def test_clones_at_different_strengths_do_not_touch_each_other():
    model = small_model("SD1.5", torch.float32)
    stack = rows_on(model)
    weak, strong = (
        applied(stronger(stack, *(factor * s for s in STRENGTHS)), model, "live").model
        for factor in (0.3, 1.2)
    )
    plain, first, second = (sampled(each, "SD1.5") for each in (model, weak, strong))
    assert distance(first, second) > 1e-3
    for each, expected in ((strong, second), (weak, first), (model, plain), (strong, second)):
        assert torch.equal(sampled(each, "SD1.5"), expected)
    assert torch.equal(sampled(weak.clone(), "SD1.5"), first)


def test_a_second_lora_node_after_it_adds_to_it():
    model = small_model("SD1.5", torch.float32)
    stack = rows_on(model)
    first, rest = LoraStack(stack.rows[:1]), LoraStack(stack.rows[1:])
    expected = sampled(applied(stack, model, "baked").model, "SD1.5")
    for before, after in (("live", "live"), ("live", "baked"), ("baked", "live")):
        both = applied(rest, applied(first, model, before).model, after).model
        assert distance(sampled(both, "SD1.5"), expected) < 1e-4
    assert hooks_on(model) == 0


class Trouble(Exception):
    pass


@pytest.mark.parametrize(
    "trouble",
    [
        Trouble,
        comfy.model_management.InterruptProcessingException,
        torch.cuda.OutOfMemoryError,
    ],
)
def test_an_end_in_the_middle_leaves_the_model_clean(trouble):
    model = small_model("SD1.5", torch.float32)
    plain = sampled(model, "SD1.5")
    on = applied(rows_on(model), model, "live").model
    expected, calls = sampled(on, "SD1.5"), []

    def callback(step, *_):
        calls.append(hooks_on(model))
        if step == 1:
            raise trouble("in the middle")

    with pytest.raises(trouble):
        sampled(on, "SD1.5", callback=callback)
    assert all(calls)
    assert hooks_on(model) == 0
    assert torch.equal(sampled(model, "SD1.5"), plain)
    assert torch.equal(sampled(on, "SD1.5"), expected)
    assert hooks_on(model) == 0


def test_a_patcher_that_is_dropped_while_loaded_takes_its_side_paths_along():
    model = small_model("SD1.5", torch.float32)
    on = applied(rows_on(model), model, "live").model
    comfy.model_management.load_models_gpu([on])
    assert hooks_on(model) > 0
    del on
    assert hooks_on(model) == 0


def test_many_strength_changes_and_back_give_the_first_bits_and_make_no_new_factors():
    model = small_model("SD1.5", torch.float32)
    stack = rows_on(model)
    first = sampled(applied(stack, model, "live").model, "SD1.5", steps=1)
    ((_, bank),) = live._banks[model.model]
    made = {key: id(factors) for key, (_, _, factors) in bank.ready.items()}
    draw = random.Random(5)
    for _ in range(CHANGES):
        changed = stronger(stack, *(draw.uniform(0.1, 1.0) for _ in stack.rows))
        comfy.model_management.load_models_gpu([applied(changed, model, "live").model])
    again = sampled(applied(stack, model, "live").model, "SD1.5", steps=1)
    assert torch.equal(first, again)
    assert {key: id(factors) for key, (_, _, factors) in bank.ready.items()} == made
    assert len(live._banks[model.model]) == 1
    assert hooks_on(model) == 0


def test_auto_bakes_into_plain_weights_and_runs_live_on_a_dynamic_patcher():
    model = small_model("SD1.5", torch.float32)
    stack = rows_on(model, 1)
    plain = applied(stack, model, "auto")
    assert plain.account is not None
    assert "MODEL: baked into the weights" in plain.account.report()
    assert plain.model.patches
    assert not plain.model.injections
    model.is_dynamic = lambda: True
    dynamic = applied(stack, model, "auto")
    assert dynamic.account is not None
    assert "piece by piece" in dynamic.account.report()
    assert not dynamic.model.patches
