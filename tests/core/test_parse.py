"""Every key of a LoRA is consumed once, by name, or listed with the reason."""

from __future__ import annotations

import pytest
import torch

from lora_core.errors import LoraFileError, LoraKeyError
from lora_core.files.naming import candidate_names, is_text_encoder, split_key
from lora_core.files.parse import parse_state_dict
from tests.core.lora_tensors import low_rank, pair

SCHEMES = {
    "kohya": (".lora_up.weight", ".lora_down.weight"),
    "peft": (".lora_B.weight", ".lora_A.weight"),
    "peft with adapter name": (".lora_B.default.weight", ".lora_A.default.weight"),
    "mochi": (".lora_B", ".lora_A"),
    "diffusers": (".lora.up.weight", ".lora.down.weight"),
    "old diffusers": ("_lora.up.weight", "_lora.down.weight"),
    "old diffusers text encoder": (
        ".lora_linear_layer.up.weight",
        ".lora_linear_layer.down.weight",
    ),
}


@pytest.mark.parametrize("names", SCHEMES.values(), ids=SCHEMES.keys())
def test_every_scheme_gives_the_same_adapter(names, generator):
    tensors = pair("block.to_q", generator, names=names)
    adapter = parse_state_dict(tensors, "x")
    assert set(adapter.modules) == {"block.to_q"}
    module = low_rank(adapter, "block.to_q")
    assert torch.equal(module.up, tensors["block.to_q" + names[0]])
    assert torch.equal(module.down, tensors["block.to_q" + names[1]])
    assert module.rank == 3


def test_every_key_is_in_one_module_or_in_the_leftovers(generator):
    tensors = pair("a", generator, alpha=2.0) | pair("b", generator, kernel=(3, 3))
    tensors |= {
        "c.boft_R": torch.ones(2, 2),
        "stray": torch.ones(1),
        "b.lora_mid.weight": torch.ones(3, 3, 3, 3),
    }
    tensors |= {"a.diff_b": torch.ones(6), "n.w_norm": torch.ones(4), "s.set_weight": torch.ones(1)}
    tensors |= {"lonely.alpha": torch.tensor(1.0)}
    tensors["b.lora_down.weight"] = torch.ones(3, 5, 1, 1)
    adapter = parse_state_dict(tensors, "x")
    adapters = (*adapter.modules.values(), *adapter.differences.values())
    consumed = [key for item in adapters for key in item.keys]
    accounted = sorted(consumed + [left.key for left in adapter.leftovers])
    assert accounted == sorted(tensors)
    assert {left.key: left.reason for left in adapter.leftovers} == {
        "c.boft_R": "BOFT (of PEFT) adapters are not read",
        "stray": "not a name that any LoRA format uses",
        "lonely.alpha": "an alpha without matrices",
    }
    assert adapter.unread == ("c",)
    assert set(adapter.differences) == {("a", "bias"), ("n", "weight"), ("s", "weight")}


def test_a_module_of_a_family_that_is_not_read_is_left_over_whole(generator):
    tensors = pair("a", generator, alpha=1.0) | {"a.vera_lambda_b": torch.ones(6)}
    adapter = parse_state_dict(tensors, "x")
    assert not adapter.modules
    assert {left.key for left in adapter.leftovers} == set(tensors)
    assert all("VeRA" in left.reason for left in adapter.leftovers)


def test_a_missing_alpha_means_scale_one_and_an_alpha_divides_by_rank(generator):
    file = parse_state_dict(pair("a", generator) | pair("b", generator, rank=4, alpha=2.0), "x")
    assert low_rank(file, "a").scale == 1.0
    assert low_rank(file, "b").scale == 0.5


@pytest.mark.parametrize("half", ["lora_up", "lora_down"])
def test_a_missing_half_names_file_module_and_what_is_there(half, generator):
    tensors = pair("a.to_k", generator, alpha=1.0)
    del tensors[f"a.to_k.{half}.weight"]
    with pytest.raises(LoraKeyError, match=r"my\.safetensors: 'a\.to_k' has .* but no"):
        parse_state_dict(tensors, "my.safetensors")


def test_one_part_under_two_names_is_refused(generator):
    tensors = pair("a", generator) | pair("a", generator, names=SCHEMES["peft"])
    with pytest.raises(LoraKeyError, match="both give the up part of 'a'"):
        parse_state_dict(tensors, "x")


def test_ranks_that_differ_are_refused_with_both_shapes(generator):
    tensors = pair("a", generator, rank=3) | {"a.lora_down.weight": torch.ones(4, 5)}
    with pytest.raises(LoraKeyError, match=r"up \(6, 3\), down \(4, 5\)"):
        parse_state_dict(tensors, "x")


@pytest.mark.parametrize("shape", [(3,), (0, 5), ()])
def test_a_half_that_is_no_matrix_is_refused(shape, generator):
    tensors = pair("a", generator) | {"a.lora_down.weight": torch.ones(shape)}
    with pytest.raises(LoraKeyError, match="not made of matrices"):
        parse_state_dict(tensors, "x")


@pytest.mark.parametrize("value", [float("nan"), float("inf"), float("-inf")])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
def test_values_that_are_not_finite_are_refused_with_key_and_count(value, dtype, generator):
    tensors = {key: tensor.to(dtype) for key, tensor in pair("a", generator).items()}
    tensors["a.lora_up.weight"][2, 1] = value
    with pytest.raises(LoraFileError, match=r"'a\.lora_up\.weight' holds 1 values"):
        parse_state_dict(tensors, "x")


def test_large_finite_values_are_not_mistaken_for_infinity():
    tensors = {"a.lora_up.weight": torch.full((4, 1), 3e38), "a.lora_down.weight": torch.ones(1, 4)}
    assert set(parse_state_dict(tensors, "x").modules) == {"a"}


def test_an_alpha_of_several_numbers_is_refused(generator):
    with pytest.raises(LoraKeyError, match="must hold one number"):
        parse_state_dict(pair("a", generator) | {"a.alpha": torch.ones(2)}, "x")


@pytest.mark.parametrize("dtype", [torch.int8, torch.bool, torch.complex64, torch.uint8])
def test_factors_that_are_no_floating_point_numbers_are_refused(dtype, generator):
    tensors = pair("a", generator) | {"a.lora_up.weight": torch.ones(6, 3).to(dtype)}
    with pytest.raises(LoraFileError, match=r"'a\.lora_up\.weight' holds .* numbers"):
        parse_state_dict(tensors, "x")


def test_an_alpha_may_be_a_whole_number(generator):
    file = parse_state_dict(pair("a", generator) | {"a.alpha": torch.tensor(6)}, "x")
    assert low_rank(file, "a").scale == 2.0


def test_a_mid_matrix_beside_a_down_with_a_kernel_is_refused(generator):
    tensors = pair("a", generator, kernel=(3, 3)) | {"a.lora_mid.weight": torch.ones(3, 3, 3, 3)}
    with pytest.raises(LoraKeyError, match="its down must be 1x1"):
        parse_state_dict(tensors, "x")


def test_nothing_at_all_is_refused():
    with pytest.raises(LoraFileError, match="holds no tensors"):
        parse_state_dict({}, "x")


@pytest.mark.parametrize(
    ("module", "expected"),
    [
        ("unet.down_blocks.0.attentions.0.proj_in", "down_blocks_0_attentions_0_proj_in"),
        ("unet.up_blocks.1.attn1.processor.to_out", "up_blocks_1_attn1_to_out_0"),
        ("base_model.model.mid_block.attn1.to_q", "mid_block_attn1_to_q"),
        (
            "base_model.model.text_model.encoder.layers.0.mlp.fc1",
            "text_encoder.text_model.encoder.layers.0.mlp.fc1",
        ),
        ("lora_unet_mid_block_attn1_to_q", "lora_unet_mid_block_attn1_to_q"),
        ("lora_unet__blocks_0_self_attn_q", "blocks_0_self_attn_q"),
        ("transformer.layers.0.attention.to_q", "layers_0_attention_to_q"),
        ("unet.base_model.model.blocks.0.proj", "blocks_0_proj"),
        ("transformer.blocks.3.attn2.to_out.0", "blocks_3_cross_attn_o"),
        ("oft_unet_mid_block_attn1_to_q", "mid_block_attn1_to_q"),
        (
            "text_encoder.text_model.encoder.layers.0.self_attn.to_q",
            "text_encoder.text_model.encoder.layers.0.self_attn.q_proj",
        ),
        (
            "clip_l.transformer.text_model.encoder.layers.0.mlp.fc1",
            "text_encoders.clip_l.transformer.text_model.encoder.layers.0.mlp.fc1",
        ),
    ],
)
def test_the_names_looked_for_include_the_one_the_host_knows(module, expected):
    names = candidate_names(module)
    assert expected in names
    assert names[0] == module


@pytest.mark.parametrize(
    ("module", "expected"),
    [
        ("lora_te_text_model_encoder_layers_0_mlp_fc1", True),
        ("lora_te2_text_projection", True),
        ("text_encoder_2.text_model.encoder.layers.0.mlp.fc1", True),
        ("text_encoders.clip_l.transformer.x", True),
        ("lora_unet_text_thing", False),
        ("transformer.text_embedder.linear_1", False),
    ],
)
def test_text_encoder_names_are_told_from_model_names(module, expected):
    assert is_text_encoder(module) is expected


def test_a_key_without_a_known_ending_is_not_split():
    assert split_key("conv_in.weight") is None


MATRIX = torch.ones(4, 4)
CONTROL = {"single_blocks.0.norm.key_norm.scale": torch.ones(4)}


@pytest.mark.parametrize(
    "tensors",
    [
        CONTROL | {f"img_in.hada_{part}": MATRIX for part in ("w1_a", "w1_b", "w2_a", "w2_b")},
        CONTROL | {"img_in.lora_A.weight": MATRIX},
        {"a.reshape_weight": torch.ones(2, dtype=torch.complex64)},
        {"a.reshape_weight": torch.full((2,), 255, dtype=torch.uint8).view(torch.float8_e8m0fnu)},
        {"a.reshape_weight": torch.ones(20)},
        {"a.weight": torch.ones(4), "a.on_input": torch.ones(0)},
        {"a.weight": torch.ones(4), "a.on_input": torch.ones(2)},
    ],
    ids=["control LoHa", "control half", "complex", "exponents", "many sides", "no switch", "two"],
)
def test_odd_numbers_beside_the_matrices_are_read_or_refused_in_words(tensors, generator):
    """Whatever a file holds, no other exception than ours comes of it."""
    whole = tensors if "a.weight" in tensors else tensors | pair("a", generator)
    try:
        adapter = parse_state_dict(whole, "x")
    except (LoraFileError, LoraKeyError):
        return
    assert adapter.modules["img_in"].family == "LoHa"
