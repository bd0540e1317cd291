"""Our patched weights against core's own chain and against float64, on the host's model classes; nothing is left behind."""

from __future__ import annotations

import hashlib

import comfy.model_management
import comfy.sd
import pytest
import torch
from small_models import CONFIGS, SAMPLED, kohya_lora, small_model

from lora_core.adapters import AdapterFile, LowRank
from lora_core.algebra.lowrank import delta
from lora_core.errors import MatchError, PatchError
from lora_core.files.parse import parse_state_dict
from lora_core.host.patching import StackAdapter, apply_patches
from lora_core.host.stacking import apply_stack
from lora_core.host.targets import model_targets
from lora_core.resolve import resolve
from lora_core.stack.rows import LoraStack, StackRow

pytestmark = pytest.mark.usefixtures("as_in_the_host")

DTYPES = [torch.float32, torch.float16, torch.bfloat16]
# A unit in the last place of each dtype, as a fraction of a weight's magnitude: both round once, but our float32 sum
# and core's differ in their last bits and may fall on the two sides of a tie.
ONE_UNIT = {torch.float32: 2**-23, torch.float16: 2**-10, torch.bfloat16: 2**-7}
# Those last bits themselves: sums of terms below 1 in another order.
SUM_ORDER = 2e-7
STRENGTHS = (0.8, -0.5, 1.3)

cases = pytest.mark.parametrize(
    ("family", "dtype"),
    [
        (family, dtype)
        for family in CONFIGS
        for dtype in DTYPES
        if family in SAMPLED or dtype == torch.float32
    ],
    ids=lambda value: str(value).removeprefix("torch."),
)


def make_stack(model, count: int = 3) -> list[tuple[StackRow, dict[str, torch.Tensor]]]:
    """Rows with LoRAs of different rank and alpha for every weight of the model."""
    shapes = dict(model_targets(model).shapes)
    return [
        (
            StackRow(f"lora{i}", STRENGTHS[i], 0.0),
            kohya_lora(shapes, rank=4 + i, alpha=2.0 + i, seed=i),
        )
        for i in range(count)
    ]


def parsed(
    rows: list[tuple[StackRow, dict[str, torch.Tensor]]],
) -> list[tuple[StackRow, AdapterFile]]:
    return [(row, parse_state_dict(tensors, row.name)) for row, tensors in rows]


def ours(model, rows):
    resolved, account = resolve(parsed(rows), model_targets(model), None)
    assert not account.warnings
    return apply_patches(model, None, resolved)[0]


def core_chain(model, rows):
    for row, tensors in rows:
        model, _ = comfy.sd.load_lora_for_models(model, None, tensors, row.model, 0.0)
    return model


def loaded_weights(model) -> dict[str, torch.Tensor]:
    comfy.model_management.load_models_gpu([model], force_full_load=True)
    return {key: weight.detach().cpu().clone() for key, weight in model.model.state_dict().items()}


def fingerprint(model) -> str:
    digest = hashlib.sha256()
    for key, weight in sorted(model.model.state_dict().items()):
        digest.update(
            key.encode() + weight.detach().cpu().contiguous().view(torch.uint8).numpy().tobytes()
        )
    return digest.hexdigest()


@cases
def test_a_stack_gives_the_weights_of_cores_chain_within_one_rounding(family, dtype):
    model = small_model(family, dtype)
    rows = make_stack(model)
    base = loaded_weights(model)
    core = loaded_weights(core_chain(model, rows))
    mine = loaded_weights(ours(model, rows))
    changed = 0
    for key, expected in core.items():
        allowed = ONE_UNIT[dtype] * expected.double().abs() + SUM_ORDER
        assert bool(((mine[key].double() - expected.double()).abs() <= allowed).all()), key
        changed += not torch.equal(base[key], expected)
    assert changed == sum(key.endswith("lora_up.weight") for key in rows[0][1])


@cases
def test_a_stack_is_at_least_as_near_to_float64_as_cores_chain(family, dtype):
    model = small_model(family, dtype)
    rows = make_stack(model)
    exact = {key: weight.double() for key, weight in loaded_weights(model).items()}
    names = model_targets(model).names
    for row, adapter in parsed(rows):
        for name, module in adapter.modules.items():
            key = names[name].key
            assert isinstance(module, LowRank)
            exact[key] = exact[key] + row.model * delta(module, torch.float64).reshape(
                exact[key].shape
            )
    core, mine = loaded_weights(core_chain(model, rows)), loaded_weights(ours(model, rows))

    def error(weights: dict[str, torch.Tensor]) -> float:
        return (
            sum(float((weights[key].double() - exact[key]).square().sum()) for key in exact) ** 0.5
        )

    assert error(mine) <= 1.02 * error(core)
    assert error(mine) > 0


@cases
def test_removing_gives_back_the_very_bits_and_the_input_is_never_changed(family, dtype):
    model = small_model(family, dtype)
    before, patches_before = fingerprint(model), dict(model.patches)
    patched = ours(model, make_stack(model))
    assert fingerprint(model) == before
    loaded_weights(patched)
    assert fingerprint(model) != before
    comfy.model_management.load_models_gpu([model], force_full_load=True)
    assert fingerprint(model) == before
    assert dict(model.patches) == patches_before


def test_a_stack_on_top_of_a_core_lora_keeps_both():
    model = small_model("SD1.5", torch.float32)
    rows = make_stack(model)
    both = loaded_weights(ours(core_chain(model, rows[:1]), rows[1:]))
    chain = loaded_weights(core_chain(model, rows))
    for key, expected in chain.items():
        torch.testing.assert_close(both[key], expected, rtol=1e-5, atol=1e-6)


def test_a_patched_model_can_be_patched_again_and_the_first_stays_as_it_was():
    model = small_model("SD1.5", torch.float32)
    rows = make_stack(model)
    first = ours(model, rows[:1])
    alone = loaded_weights(first)
    loaded_weights(ours(first, rows[1:]))
    again = loaded_weights(first)
    assert all(torch.equal(alone[key], again[key]) for key in alone)


def test_whole_differences_of_biases_and_norms_are_those_of_cores_chain():
    """As core's own trainer writes them, beside the low-rank layers."""
    model = small_model("SD1.5", torch.float32)
    (row, tensors), *_ = make_stack(model)
    generator = torch.Generator().manual_seed(2)
    for key, shape in model_targets(model).shapes.items():
        if key.startswith("diffusion_model.") and len(shape) == 1:
            module, _, part = key.rpartition(".")
            ending = {"weight": "diff", "bias": "diff_b"}[part]
            tensors[f"{module}.{ending}"] = torch.randn(shape, generator=generator) * 0.1
    core, mine = (
        loaded_weights(core_chain(model, [(row, tensors)])),
        loaded_weights(ours(model, [(row, tensors)])),
    )
    base = loaded_weights(model)
    for key, expected in core.items():
        assert (
            key.endswith("num_batches_tracked")
            or not torch.equal(base[key], expected)
            or "diffusion_model" not in key
        )
        torch.testing.assert_close(mine[key], expected, rtol=1e-6, atol=1e-6)


def test_slices_of_fused_weights_are_patched_where_they_belong():
    """Flux in diffusers naming: to_q, to_k, to_v are thirds of one qkv weight; norm_out swaps its halves."""
    model = small_model("Flux", torch.float32)
    targets = model_targets(model)
    generator = torch.Generator().manual_seed(3)
    tensors, taken = {}, set()
    for name, target in targets.names.items():
        shape = targets.shape_of(target)
        # Newer hosts know several names for one weight.
        if (
            name.startswith("transformer.")
            and shape is not None
            and len(shape) == 2
            and target not in taken
        ):
            taken.add(target)
            tensors[f"{name}.lora_A.weight"] = torch.randn(4, shape[1], generator=generator) * 0.1
            tensors[f"{name}.lora_B.weight"] = torch.randn(shape[0], 4, generator=generator) * 0.1
    assert any(target.offset for target in targets.names.values())
    assert any(target.function for target in targets.names.values())
    rows = [(StackRow("flux", 0.7, 0.0), tensors)]
    core, mine = loaded_weights(core_chain(model, rows)), loaded_weights(ours(model, rows))
    for key, expected in core.items():
        torch.testing.assert_close(mine[key], expected, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_a_low_memory_patch_is_rounded_once_not_once_per_lora(dtype):
    """Weights that stay in 16 bits (low memory, dynamic memory): core rounds after every LoRA, the stack once."""
    generator = torch.Generator().manual_seed(1)
    base = (torch.randn(64, 48, generator=generator) * 0.05).to(dtype)
    ups = tuple(torch.randn(64, 4, generator=generator) for _ in range(8))
    downs = tuple(torch.randn(4, 48, generator=generator) * 0.003 for _ in range(8))
    scales = (0.5,) * 8
    exact = base.double() + sum(
        0.5 * u.double() @ d.double() for u, d in zip(ups, downs, strict=True)
    )
    adapter = StackAdapter({"w"}, ((("low_rank", (ups, downs), scales),), False))
    weight = adapter.calculate_weight(base.clone(), "w", 1.0, 1.0, None, lambda x: x, dtype)
    ideal = exact.to(dtype)
    assert weight.dtype == dtype
    differing = (weight != ideal).float().mean()
    assert differing < 1e-2


def test_a_view_that_is_not_contiguous_is_patched_in_place():
    generator = torch.Generator().manual_seed(1)
    whole = torch.randn(12, 10, generator=generator)
    expected = whole.clone()
    up, down = torch.randn(12, 2, generator=generator), torch.randn(2, 4, generator=generator)
    expected[:, 3:7] += 0.5 * up @ down
    StackAdapter({"w"}, ((("low_rank", ((up,), (down,)), (0.5,)),), False)).calculate_weight(
        whole.narrow(1, 3, 4), "w", 1.0, 1.0, (1, 3, 4), lambda x: x
    )
    torch.testing.assert_close(whole, expected)


def test_an_adapter_survives_being_rebuilt_as_newer_hosts_do():
    generator = torch.Generator().manual_seed(1)
    factors = ((torch.randn(6, 2, generator=generator),), (torch.ones(2, 5),))
    adapter = StackAdapter({"w"}, ((("low_rank", factors, (0.5,)),), False))
    rebuilt = type(adapter)(adapter.loaded_keys, adapter.weights)
    weight = torch.zeros(6, 5)
    arguments = ("w", 1.0, 1.0, None, lambda x: x)
    first = adapter.calculate_weight(weight.clone(), *arguments)
    assert torch.equal(first, rebuilt.calculate_weight(weight.clone(), *arguments))
    assert bool(first.any())
    assert rebuilt.calculate_shape("w") is None


def test_a_patch_that_cannot_be_computed_says_which_weight():
    factors = ((torch.ones(6, 2),), (torch.ones(2, 9),))
    adapter = StackAdapter({"w"}, ((("low_rank", factors, (1.0,)),), False))
    with pytest.raises(PatchError, match=r"'w': the stack's 1 steps .* \(6, 5\)"):
        adapter.calculate_weight(torch.zeros(6, 5), "w", 1.0, 1.0, None, lambda x: x)


def test_nothing_is_applied_when_one_row_of_the_stack_does_not_fit():
    model = small_model("SD1.5", torch.float32)
    (good, tensors), *_ = make_stack(model)
    rows = (
        StackRow(good.name, 1.0, 0.0, adapter=parse_state_dict(tensors, good.name)),
        StackRow(
            "bad",
            1.0,
            0.0,
            adapter=parse_state_dict(
                {"x.lora_A": torch.ones(1, 2), "x.lora_B": torch.ones(2, 1)}, "bad"
            ),
        ),
    )
    before = fingerprint(model)
    with pytest.raises(MatchError, match="bad: none of its keys"):
        apply_stack(LoraStack(rows), model, None)
    assert fingerprint(model) == before
    assert not model.patches
