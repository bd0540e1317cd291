"""A LoRA in another naming and dtype makes the same deltas; what cannot be said is refused by name."""

from __future__ import annotations

import math

import pytest
import torch

from lora_core.adapters import LowRank
from lora_core.algebra.lowrank import delta
from lora_core.errors import LoraKeyError
from lora_core.files.convert import convert, folded
from lora_core.files.dtypes import DTYPES, cast
from lora_core.files.naming import candidate_names
from lora_core.files.parse import parse_state_dict
from lora_core.files.schemes import COMFY, KEEP, KOHYA, PEFT
from lora_core.targets import Target, TargetMap
from tests.core.lora_tensors import pair

# Rounding of the factors, relative to the delta's norm: each of two factors is rounded to half a unit at most.
TOLERANCE = {"keep": 1e-6, "fp32": 1e-6, "fp16": 2**-10, "bf16": 2**-7}


def swapped(rows: torch.Tensor) -> torch.Tensor:
    """As the host rearranges the rows of norm_out."""
    shift, scale = rows.chunk(2, dim=0)
    return torch.cat([scale, shift])


ATTENTION = "diffusion_model.mid.attn.to_q.weight"
CONV = "diffusion_model.mid.conv.weight"
FUSED = "diffusion_model.double.qkv.weight"
LAST = "diffusion_model.last.weight"
MODEL = TargetMap(
    {
        "lora_unet_mid_attn_to_q": Target(ATTENTION),
        "diffusion_model.mid.attn.to_q": Target(ATTENTION),
        "lora_unet_mid_block_attn_to_q": Target(ATTENTION),
        "unet.mid_block.attn.processor.to_q": Target(ATTENTION),
        "lora_unet_mid_conv": Target(CONV),
        "diffusion_model.mid.conv": Target(CONV),
        "lora_unet_mid_block_conv": Target(CONV),
        "unet.mid_block.conv": Target(CONV),
        "lora_unet_double_qkv": Target(FUSED),
        "diffusion_model.double.qkv": Target(FUSED),
        "transformer.double.to_q": Target(FUSED, (0, 0, 6)),
        "transformer.double.to_k": Target(FUSED, (0, 6, 6)),
        "transformer.double.to_v": Target(FUSED, (0, 12, 6)),
        "lora_unet_last": Target(LAST),
        "diffusion_model.last": Target(LAST),
        "transformer.norm_out": Target(LAST, None, swapped),
    },
    {ATTENTION: (6, 5), CONV: (6, 5, 3, 3), FUSED: (18, 5), LAST: (6, 5)},
    "SDXL",
)
_FC1 = "clip_l.transformer.text_model.encoder.layers.0.mlp.fc1"
CLIP = TargetMap(
    {
        f"text_encoders.{_FC1}": Target(f"{_FC1}.weight"),
        "lora_te_text_model_encoder_layers_0_mlp_fc1": Target(f"{_FC1}.weight"),
        "lora_te1_text_model_encoder_layers_0_mlp_fc1": Target(f"{_FC1}.weight"),
        "text_encoder.text_model.encoder.layers.0.mlp.fc1": Target(f"{_FC1}.weight"),
    },
    {f"{_FC1}.weight": (6, 5)},
)


def deltas(tensors) -> dict[str, torch.Tensor]:
    """Weight -> what the host adds to it, in float64."""
    found: dict[str, torch.Tensor] = {}
    for name, module in parse_state_dict(tensors, "x").modules.items():
        maps = (MODEL, CLIP)
        places = (m.find(n) for n in candidate_names(name) for m in maps)
        target = next(place for place in places if place is not None)
        shape = {**MODEL.shapes, **CLIP.shapes}[target.key]
        empty = torch.zeros(shape[0], math.prod(shape[1:]), dtype=torch.float64)
        whole = found.setdefault(target.key, empty)
        assert isinstance(module, LowRank)
        part = delta(module, torch.float64)
        part = part if target.function is None else target.function(part)
        _, start, length = target.offset or (0, 0, shape[0])
        whole[start : start + length] += part
    return found


def same(ours, theirs, tolerance: float) -> bool:
    assert ours.keys() == theirs.keys()
    return all(float((ours[k] - theirs[k]).norm() / theirs[k].norm()) < tolerance for k in ours)


def converted(tensors, scheme: str, model: TargetMap | None = MODEL, clip: TargetMap | None = CLIP):
    return convert(tensors, parse_state_dict(tensors, "x"), scheme, model, clip)


@pytest.fixture
def kohya(generator):
    """One of everything, in kohya naming."""
    return (
        pair("lora_unet_mid_attn_to_q", generator, alpha=1.0)
        | pair("lora_unet_mid_conv", generator, kernel=(3, 3), alpha=2.5)
        | pair("lora_unet_double_qkv", generator, out=18, alpha=3.0)
        | pair("lora_unet_last", generator)
        | pair("lora_te_text_model_encoder_layers_0_mlp_fc1", generator, alpha=-0.7)
    )


def test_kohya_becomes_diffusers_and_comes_back(kohya):
    there = converted(kohya, PEFT).tensors
    assert {key.rpartition(".lora_")[0] for key in there} == {
        "unet.mid_block.attn.to_q",
        "unet.mid_block.conv",
        "transformer.double.to_q",
        "transformer.double.to_k",
        "transformer.double.to_v",
        "transformer.norm_out",
        "text_encoder.text_model.encoder.layers.0.mlp.fc1",
    }
    assert all(key.endswith((".lora_A.weight", ".lora_B.weight")) for key in there)
    assert same(deltas(there), deltas(kohya), 1e-6)
    back = converted(there, KOHYA).tensors
    modules = {key.split(".")[0] for key in kohya}
    assert {key.split(".")[0] for key in back} == modules
    assert same(deltas(back), deltas(kohya), 1e-6)
    assert back["lora_unet_double_qkv.lora_down.weight"].shape == (9, 5)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("scheme", [KEEP, KOHYA, PEFT, COMFY])
@pytest.mark.parametrize("stored", [torch.float32, torch.float16, torch.bfloat16])
def test_every_naming_and_dtype_makes_the_same_deltas(kohya, scheme, dtype, stored):
    source = {key: tensor.to(stored) for key, tensor in kohya.items()}
    new = converted(source, scheme)
    final, _ = cast(new.tensors, DTYPES[dtype], "x", new.dtypes)
    wanted = DTYPES[dtype] or stored
    assert {t.dtype for t in final.values() if t.numel() > 1} == {wanted}
    name = {torch.float32: "fp32", torch.float16: "fp16", torch.bfloat16: "bf16"}[wanted]
    assert same(deltas(final), deltas(source), TOLERANCE[name])


def test_comfyui_naming_is_the_weights_own(kohya):
    there = converted(kohya, COMFY).tensors
    assert {key.partition(".lora_")[0].removesuffix(".alpha") for key in there} == {
        "diffusion_model.mid.attn.to_q",
        "diffusion_model.mid.conv",
        "diffusion_model.double.qkv",
        "diffusion_model.last",
        f"text_encoders.{_FC1}",
    }
    assert same(deltas(there), deltas(kohya), 1e-6)


def test_a_whole_name_for_some_slices_leaves_the_others_at_zero(generator):
    names = (".lora_B.weight", ".lora_A.weight")
    only_k = pair("transformer.double.to_k", generator, names=names)
    new = converted(only_k, KOHYA)
    whole = deltas(new.tensors)[FUSED]
    assert not whole[:6].any()
    assert not whole[12:].any()
    assert same(deltas(new.tensors), deltas(only_k), 1e-6)
    assert "joined" in new.notes[0]


def test_a_mid_matrix_goes_into_down_where_the_scheme_has_none(generator):
    tensors = pair("lora_unet_mid_conv", generator, kernel=(1, 1), alpha=1.0)
    tensors["lora_unet_mid_conv.lora_mid.weight"] = torch.randn(3, 3, 3, 3, generator=generator)
    new = converted(tensors, PEFT).tensors
    assert new["unet.mid_block.conv.lora_A.weight"].shape == (3, 5, 3, 3)
    assert same(deltas(new), deltas(tensors), 1e-6)


def test_other_families_keep_their_endings_and_alpha(generator):
    module = "lora_unet_mid_attn_to_q"
    endings = ("hada_w1_a", "hada_w1_b", "hada_w2_a", "hada_w2_b", "alpha", "diff_b")
    tensors = {
        f"{module}.{e}": torch.ones(2, 2) if e.startswith("hada") else torch.ones(1)
        for e in endings
    }
    new = converted(tensors, PEFT).tensors
    assert set(new) == {f"unet.mid_block.attn.to_q.{ending}" for ending in endings}


def test_a_dora_takes_its_magnitude_along(generator):
    module = "lora_unet_mid_attn_to_q"
    magnitude = torch.rand(6, 1, generator=generator)
    tensors = pair(module, generator, alpha=1.0) | {f"{module}.dora_scale": magnitude}
    there = converted(tensors, PEFT).tensors
    assert there["unet.mid_block.attn.to_q.lora_magnitude_vector"].shape == (6,)
    back = converted(there, KOHYA).tensors
    assert torch.equal(back[f"{module}.dora_scale"], magnitude)
    tensors[f"{module}.dora_scale"] = torch.ones(1, 5)
    with pytest.raises(LoraKeyError, match="magnitude for each input"):
        converted(tensors, PEFT)


def test_without_a_model_pure_spelling_still_works(generator):
    names = (".lora_B.weight", ".lora_A.weight")
    peft = pair("unet.mid_block.attn1.to_q", generator, names=names)
    peft |= pair("text_encoder.text_model.encoder.layers.0.mlp.fc1", generator, names=names)
    peft |= pair(
        "text_encoder_2.text_model.encoder.layers.1.self_attn.q_proj", generator, names=names
    )
    kohya = converted(peft, KOHYA, None, None).tensors
    modules = {
        "lora_unet_mid_block_attn1_to_q",
        "lora_te1_text_model_encoder_layers_0_mlp_fc1",
        "lora_te2_text_model_encoder_layers_1_self_attn_q_proj",
    }
    assert {key.split(".")[0] for key in kohya} == modules
    words = {key: t for key, t in kohya.items() if key.startswith("lora_te")}
    back = converted(words, PEFT, None, None).tensors
    assert set(back) == {key for key in peft if key.startswith("text")}


def test_what_cannot_be_said_is_listed_and_the_way_out_named(kohya):
    with pytest.raises(
        LoraKeyError, match=r"no name for 4 .*lora_unet_mid_attn_to_q.*Connect the MODEL"
    ):
        converted(kohya, PEFT, None, CLIP)
    with pytest.raises(LoraKeyError, match=r"connected model has no such name"):
        converted({"lora_unet_nowhere.diff": torch.ones(2)}, PEFT)
    with pytest.raises(LoraKeyError, match=r"1 of its modules \(stray\) of no known LoRA format"):
        converted(kohya | {"stray": torch.ones(1)}, KOHYA)


def test_two_modules_of_one_weight_are_refused(generator):
    tensors = pair("lora_unet_mid_attn_to_q", generator) | pair(
        "diffusion_model.mid.attn.to_q", generator
    )
    with pytest.raises(LoraKeyError, match="two of its modules would both be"):
        converted(tensors, PEFT)


def test_a_small_scale_does_not_push_half_precision_below_its_range():
    up, down = torch.full((2, 1), 1e-4), torch.full((1, 2), 1e-1)
    scale = 1 / 128
    new_up, new_down = (t.half().float() for t in folded(up, down, scale))
    wanted = scale * up @ down
    assert float((new_up @ new_down - wanted).norm() / wanted.norm()) < 2**-10
    plain = (up * scale).half().float() @ down.half().float()
    assert float((plain - wanted).norm() / wanted.norm()) > 2**-10


def test_a_value_that_half_precision_cannot_hold_is_refused_by_key():
    with pytest.raises(LoraKeyError, match=r"'a\.lora_up\.weight' reaches 70000.*bf16 or fp32"):
        cast({"a.lora_up.weight": torch.full((2, 2), 7e4)}, torch.float16, "x")


def test_alphas_and_whole_numbers_keep_their_dtype():
    tensors = {"a.alpha": torch.tensor(0.1), "a.reshape_weight": torch.tensor([4, 5])}
    same_ones, rounding = cast(tensors, torch.bfloat16, "x")
    assert [t.dtype for t in same_ones.values()] == [torch.float32, torch.int64]
    assert rounding == 0
