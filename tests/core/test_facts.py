"""What a LoRA says about itself: base, words, title, one line."""

from __future__ import annotations

import pytest

from lora_core.account import describe
from lora_core.files.bases import base_of
from lora_core.files.metadata import title, trigger_words
from lora_core.files.parse import parse_state_dict
from lora_core.report import inspect_report
from tests.core.lora_tensors import pair

BASES = {
    "SD1.5": ("lora_unet_down_blocks_0_attentions_0_transformer_blocks_0_attn2_to_k", 768),
    "SD2": ("lora_unet_down_blocks_0_attentions_0_transformer_blocks_0_attn2_to_v", 1024),
    "SDXL": ("unet.down_blocks.1.attentions.0.transformer_blocks.0.attn2.processor.to_k", 2048),
    "Flux": ("lora_unet_single_blocks_3_linear1", 64),
    "SD3": ("lora_unet_joint_blocks_3_x_block_attn_qkv", 64),
    "Wan": ("diffusion_model.blocks.3.cross_attn.k", 64),
    "Qwen-Image": ("transformer_blocks.3.img_mlp.net.0.proj", 64),
    "Lumina2 / Z-Image": ("diffusion_model.noise_refiner.0.attention.qkv", 64),
    "HunyuanVideo": ("diffusion_model.double_blocks.0.img_attn_qkv", 64),
    "AuraFlow": ("transformer.joint_transformer_blocks.0.attn.to_q", 64),
}
# Names that look like a base's and are not.
NO_BASE = {
    "LTX reads text of width 2048": ("diffusion_model.transformer_blocks.0.attn2.to_k", 2048),
    "Cosmos has blocks like Wan's": ("diffusion_model.blocks.0.self_attn.q_proj", 64),
    "a second text encoder alone": ("lora_te2_text_model_encoder_layers_0_mlp_fc1", 64),
}


@pytest.mark.parametrize("base", BASES)
def test_the_base_is_told_by_names_and_shapes(base, generator):
    name, inner = BASES[base]
    assert base_of(parse_state_dict(pair(name, generator, inner=inner), "x")) == base


@pytest.mark.parametrize("case", NO_BASE)
def test_no_base_is_told_where_names_do_not_tell(case, generator):
    name, inner = NO_BASE[case]
    assert base_of(parse_state_dict(pair(name, generator, inner=inner), "x")) is None


def test_a_unet_with_a_second_text_encoder_is_sdxl(generator):
    tensors = pair("lora_te2_text_projection", generator) | pair(
        "lora_unet_down_blocks_1_x", generator
    )
    assert base_of(parse_state_dict(tensors, "x")) == "SDXL"


def test_a_file_name_in_the_metadata_does_not_outweigh_what_the_trainer_says(generator):
    metadata = {"ss_sd_model_name": "taiwanDoll_v2.safetensors", "ss_base_model_version": "sd_v1"}
    assert base_of(parse_state_dict(pair("a", generator), "x", metadata)) == "SD1.5"
    assert (
        base_of(
            parse_state_dict(
                pair("a", generator), "x", {"ss_sd_model_name": "taiwanDoll.safetensors"}
            )
        )
        is None
    )


def test_metadata_tells_the_base_where_the_keys_do_not(generator):
    tensors = pair("lora_unet_mid_block_attentions_0_proj_in", generator)
    said = parse_state_dict(
        tensors, "x", {"modelspec.architecture": "stable-diffusion-xl-v1-base/lora"}
    )
    assert base_of(said) == "SDXL"
    assert base_of(parse_state_dict(tensors, "x")) is None


@pytest.mark.parametrize(
    ("metadata", "words"),
    [
        ({"modelspec.trigger_phrase": "ohwx, rainy street"}, ("ohwx", "rainy street")),
        ({"trained_words": '["sks_leah woman", "sks_leah woman"]'}, ("sks_leah woman",)),
        ({"modelspec.trigger_phrase": "None"}, ()),
        ({"trained_words": "[broken"}, ("[broken",)),
        ({"ss_tag_frequency": "{"}, ()),
        ({"trained_words": "[" * 100_000}, ("[" * 100_000,)),
        ({"trained_words": '["a", {"b": 1}, 3]'}, ("a",)),
        ({}, ()),
    ],
)
def test_trigger_words_come_once_and_in_order(metadata, words):
    assert trigger_words(metadata) == words


def test_the_title_falls_back_to_the_file_name(generator):
    tensors = pair("a", generator)
    assert title(parse_state_dict(tensors, "x.safetensors", {"modelspec.title": "Rain"})) == "Rain"
    assert (
        title(parse_state_dict(tensors, "x.safetensors", {"modelspec.title": "None"}))
        == "x.safetensors"
    )


def test_one_line_says_base_rank_alpha_and_kind(generator):
    tensors = pair("a", generator, rank=4, alpha=2.0) | pair(
        "b", generator, rank=8, alpha=2.0, kernel=(3, 3)
    )
    assert describe(parse_state_dict(tensors, "x")) == "base unknown, rank 4 to 8, alpha 2, LoCon"


def test_a_1x1_convolution_is_still_called_lora(generator):
    assert describe(parse_state_dict(pair("a", generator, kernel=(1, 1)), "x")).endswith("LoRA")


def test_the_report_lists_what_was_not_read(generator):
    tensors = pair("a", generator) | {
        f"m{i}.vera_lambda_b": tensor
        for i, tensor in enumerate([next(iter(pair("a", generator).values()))] * 25)
    }
    report = inspect_report(parse_state_dict(tensors, "x"))
    assert "not read: m0.vera_lambda_b: VeRA adapters are not read" in report
    assert "and 5 more keys that were not read" in report
