"""file -> convert -> file -> the same weights, for every adapter family: told by what the steps make of a weight."""

from __future__ import annotations

import pytest
import torch

from lora_core.algebra.steps import run
from lora_core.errors import LoraKeyError
from lora_core.files.convert import convert
from lora_core.files.dtypes import cast
from lora_core.files.parse import parse_state_dict
from lora_core.files.reader import read_adapter
from lora_core.files.schemes import COMFY, KOHYA, PEFT
from lora_core.files.writer import write_lora
from lora_core.resolve import resolve
from lora_core.stack.rows import StackRow
from lora_core.targets import Target, TargetMap
from tools.family_formulas import expected
from tools.family_tensors import CASES, MAKERS, SHAPES, Draw, named

WEIGHT, BIAS, NORM = (
    "diffusion_model.mid.w.weight",
    "diffusion_model.mid.w.bias",
    "diffusion_model.mid.norm",
)
KOHYA_NAME, NORM_NAME = "lora_unet_mid_block_w", "lora_unet_mid_block_norm"
# float32 sums in another order, relative to the weight's norm.
TOLERANCE = 2e-5
# One magnitude an input: PEFT knows no such DoRA, and conversion says so.
NOT_IN_PEFT = "dora_input"


def targets_of(shape: tuple[int, ...]) -> TargetMap:
    """As the host's key map names one layer with a bias and one norm beside it."""
    names = {}
    for own, module in (("mid.w", KOHYA_NAME), ("mid.norm", NORM_NAME)):
        target = Target(f"diffusion_model.{own}.weight")
        bare = module.removeprefix("lora_unet_mid_block_")
        names |= {
            module: target,
            f"diffusion_model.{own}": target,
            f"unet.mid_block.{bare}": target,
        }
    shapes = {WEIGHT: shape, BIAS: shape[:1], f"{NORM}.weight": (8,), f"{NORM}.bias": (8,)}
    return TargetMap(names, shapes, "SD1.5")


def plain_weights(targets: TargetMap) -> dict[str, torch.Tensor]:
    draw = Draw(9)
    return {key: draw(*shape, spread=1.0).double() for key, shape in targets.shapes.items()}


def patched(adapter, targets: TargetMap) -> dict[str, torch.Tensor]:
    """Every weight of the model after the LoRA, strictly matched."""
    weights = plain_weights(targets)
    steps = resolve([(StackRow("x"), adapter)], targets, None, "strict")[0].model.steps
    return {
        key: run(weight, steps[Target(key)]) if Target(key) in steps else weight
        for key, weight in weights.items()
    }


def close(first: dict[str, torch.Tensor], second: dict[str, torch.Tensor]) -> bool:
    pairs = ((first[key], second[key]) for key in second)
    return first.keys() == second.keys() and all(
        float((a - b).norm()) <= TOLERANCE * float(b.norm()) for a, b in pairs
    )


def through_file(tensors, scheme: str, targets: TargetMap, path):
    """The LoRA after conversion, writing and reading."""
    converted = convert(tensors, parse_state_dict(tensors, "x"), scheme, targets)
    write_lora(converted.tensors, {}, path, replace=False)
    return converted.tensors, read_adapter(path, path.name)


@pytest.mark.parametrize("scheme", [KOHYA, PEFT, COMFY])
@pytest.mark.parametrize(("kind", "layer"), CASES)
def test_a_family_keeps_its_deltas_there_and_back(kind, layer, scheme, tmp_path):
    shape, draw = SHAPES[layer], Draw(1)
    bare = MAKERS[kind](shape, draw)
    tensors, targets = named(KOHYA_NAME, bare), targets_of(shape)
    before = patched(parse_state_dict(tensors, "x"), targets)
    exact = expected(kind, Draw(9)(*shape, spread=1.0).double(), bare)
    assert close({WEIGHT: before[WEIGHT]}, {WEIGHT: exact})
    if scheme == PEFT and kind == NOT_IN_PEFT:
        with pytest.raises(LoraKeyError, match="PEFT only knows one for each"):
            through_file(tensors, scheme, targets, tmp_path / "there.safetensors")
        return
    there, adapter = through_file(tensors, scheme, targets, tmp_path / "there.safetensors")
    if scheme != KOHYA:
        assert not any(key.startswith("lora_unet") for key in there)
    assert close(patched(adapter, targets), before)
    _, back = through_file(there, KOHYA, targets, tmp_path / "back.safetensors")
    assert close(patched(back, targets), before)
    assert set(back.modules) <= {KOHYA_NAME}


@pytest.mark.parametrize("scheme", [KOHYA, PEFT, COMFY])
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_differences_of_weights_biases_and_norms_come_through(scheme, dtype, tmp_path):
    """diff, diff_b, w_norm and b_norm: additions with no factors, stored in 16 bits."""
    shape, draw = SHAPES["Linear"], Draw(2)
    whole = named(KOHYA_NAME, {"diff": draw(*shape), "diff_b": draw(shape[0])})
    whole |= named(NORM_NAME, {"w_norm": draw(8), "b_norm": draw(8)})
    tensors, _ = cast(whole, dtype, "x")
    targets = targets_of(shape)
    before = patched(parse_state_dict(tensors, "x"), targets)
    plain = plain_weights(targets)
    assert all(not torch.equal(before[key], plain[key]) for key in plain)
    there, adapter = through_file(tensors, scheme, targets, tmp_path / "there.safetensors")
    assert {tensor.dtype for tensor in there.values()} == {dtype}
    assert close(patched(adapter, targets), before)
    _, back = through_file(there, KOHYA, targets, tmp_path / "back.safetensors")
    assert close(patched(back, targets), before)
