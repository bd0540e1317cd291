"""What a LoRA says about itself: base, words, title, one line."""

from __future__ import annotations

import json
from random import Random
from typing import Any

import pytest

from lora_core.account import describe
from lora_core.files.bases import base_of
from lora_core.files.facts import facts_text, gather
from lora_core.files.metadata import title, trigger_words
from lora_core.files.parse import parse_state_dict
from lora_core.report import inspect_report
from lora_core.stack.rows import StackRow
from lora_core.stack.words import joined_words, stack_facts
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
        ({"trained_words": "[" * 100_000}, ()),
        (
            {"modelspec.trigger_phrase": "ohwx (red, wet:1.2), <s0><s1>"},
            ("ohwx (red, wet:1.2)", "<s0><s1>"),
        ),
        ({"modelspec.trigger_phrase": "ohwx, <lora:other:1>"}, ("ohwx",)),
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


KOHYA = {
    "ss_network_dim": "32",
    "ss_network_alpha": "16.0",
    "ss_steps": "1200",
    "ss_epoch": "6",
    "ss_num_epochs": "10",
    "ss_num_train_images": "400",
    "ss_resolution": "(1024, 1024)",
    "ss_learning_rate": "0.0001",
    "ss_optimizer": "bitsandbytes.optim.adamw.AdamW8bit",
    "ss_training_finished_at": "1700000000.25",
    "ss_base_model_version": "sdxl_base_v1-0",
    "ss_output_name": "rain_v3",
}


def value(fact):
    """Of a fact that somebody states."""
    assert fact is not None
    return fact.value


def said(fact):
    """A fact as (value, source)."""
    return None if fact is None else (fact.value, fact.source)


def test_training_facts_are_read_from_what_kohya_writes():
    training = {name: fact.value for name, fact in gather(KOHYA).training.items()}
    assert training == {
        "rank": "32",
        "alpha": "16.0",
        "steps": "1200",
        "epochs": "6",
        "images": "400",
        "resolution": "1024x1024",
        "learning rate": "0.0001",
        "optimizer": "bitsandbytes.optim.adamw.AdamW8bit",
        "date": "2023-11-14",
    }
    assert gather(KOHYA).training["rank"].source == "ss_network_dim in the file"


def test_the_base_is_said_in_words_with_what_the_file_wrote():
    assert value(gather(KOHYA).base) == "SDXL (sdxl_base_v1-0)"
    assert (
        value(gather({"modelspec.architecture": "some-new-base/lora"}).base) == "some-new-base/lora"
    )


def test_what_the_author_wrote_goes_before_what_the_trainer_recorded():
    facts = gather(
        {**KOHYA, "modelspec.title": "Rain", "modelspec.architecture": "flux-1-dev/lora"}
    )
    assert said(facts.title) == ("Rain", "modelspec.title in the file")
    assert value(facts.base) == "Flux (flux-1-dev/lora)"


def test_the_title_that_sd_scripts_fills_in_is_none():
    facts = gather({"modelspec.title": "LoRA@1700000000", "ss_output_name": "rain"})
    assert said(facts.title) == ("rain", "ss_output_name in the file")


def test_modelspec_names_author_licence_hint_tags_description_and_origin():
    facts = gather(
        {
            "modelspec.author": "Ada",
            "modelspec.license": "CC-BY-4.0",
            "modelspec.usage_hint": "0.6 to 0.9",
            "modelspec.tags": "rain, street",
            "modelspec.description": "Rain\nand more",
            "modelspec.merged_from": "a.safetensors, b.safetensors",
        }
    )
    assert (value(facts.author), value(facts.licence)) == ("Ada", "CC-BY-4.0")
    assert value(facts.usage) == "0.6 to 0.9"
    assert value(facts.tags) == ("rain", "street")
    assert value(facts.description) == "Rain\nand more"
    assert value(facts.merged_from) == "a.safetensors, b.safetensors"


@pytest.mark.parametrize(
    "metadata",
    [
        {"lora_adapter_metadata": '{"transformer.r": 16, "transformer.lora_alpha": 8.5}'},
        {"lora_adapter_metadata": '{"r": 16, "lora_alpha": 8.5}'},
        {"ot_config": '{"lora_rank": 16, "lora_alpha": 8.5}'},
    ],
)
def test_rank_and_alpha_are_read_from_fields_that_hold_json(metadata):
    training = gather(metadata).training
    assert (training["rank"].value, training["alpha"].value) == ("16", "8.5")


@pytest.mark.parametrize("value", ["NaN", "many", "Infinity", "1e999", "[]"])
def test_a_rank_that_is_no_number_becomes_a_note(value):
    facts = gather({"ss_network_dim": value})
    assert "rank" not in facts.training
    assert facts.notes == (f"ss_network_dim in the file is '{value}', not a number",)


FREQUENCY = json.dumps({"10_x": {"1girl": 40, "ohwx": 39, "red": 12, "rain": 36}})
DIRECTORIES = json.dumps({"10_x": {"n_repeats": 10, "img_count": 40}})


@pytest.mark.parametrize(
    "metadata",
    [
        {"ss_tag_frequency": FREQUENCY, "ss_dataset_dirs": DIRECTORIES},
        {"ss_tag_frequency": FREQUENCY, "ss_num_train_images": "400"},
    ],
)
def test_the_tag_of_nearly_all_captions_is_the_word_where_none_is_named(metadata):
    (word,) = gather(metadata).words
    assert said(word) == ("ohwx", "worked out from ss_tag_frequency: in 39 of 40 captions")
    named = gather({**metadata, "modelspec.trigger_phrase": "zwx"})
    assert [word.value for word in named.words] == ["zwx"]


@pytest.mark.parametrize(
    "metadata",
    [
        {"ss_tag_frequency": FREQUENCY},
        {"ss_tag_frequency": '{"10_x": {"ohwx": 3}}', "ss_num_train_images": "30"},
        {"ss_tag_frequency": '{"10_x": {"1girl": 40, "red": 9}}', "ss_num_train_images": "400"},
        {"ss_tag_frequency": '{"10_x": {"ohwx": 80}}', "ss_num_train_images": "400"},
        {"ss_tag_frequency": '{"0_x": {"ohwx": 40}}', "ss_num_train_images": "400"},
        {"ss_tag_frequency": '{"10_x": [1], "a": {"b": "x"}}', "ss_num_train_images": "400"},
        {"ss_tag_frequency": "[]", "ss_dataset_dirs": "3"},
    ],
)
def test_no_word_is_worked_out_where_it_would_be_a_guess(metadata):
    assert gather(metadata).words == ()


def test_texts_are_cleaned_and_cut():
    facts = gather({"modelspec.title": "Ra\x00in \ud800\u202egnp\t " + "x" * 1_000_000})
    assert value(facts.title).startswith("Rain gnp xxx")
    assert len(value(facts.title)) <= 303
    value(facts.title).encode("utf-8")


def test_facts_are_said_with_their_source():
    text = facts_text(gather({"modelspec.title": "Rain", "modelspec.trigger_phrase": "ohwx"}))
    assert text.splitlines() == [
        "title: Rain (modelspec.title in the file)",
        "trigger word: ohwx (modelspec.trigger_phrase in the file)",
    ]
    assert facts_text(gather({})) == ""


def row(name, words, chosen=None):
    """A row and its facts, whose file names these words."""
    return StackRow(name, words=chosen), gather({"modelspec.trigger_phrase": words})


@pytest.mark.parametrize(
    ("rows", "words"),
    [
        ([row("a", "ohwx, rain"), row("b", "Rain, zwx")], "ohwx, rain, zwx"),
        ([row("a", "ohwx, rain", ()), row("b", "zwx")], "zwx"),
        ([row("a", "ohwx, rain", ("rain",)), row("b", "zwx")], "rain, zwx"),
        ([row("a", "ohwx", ("mine", " ohwx ", "")), row("b", "mine")], "mine, ohwx"),
        ([row("b", "zwx"), row("a", "ohwx")], "zwx, ohwx"),
        ([], ""),
    ],
)
def test_the_words_of_a_stack_follow_the_choice_of_each_row(rows, words):
    assert joined_words(rows) == words


def test_the_facts_of_a_stack_name_row_and_strengths():
    text = stack_facts([row("a.safetensors", "ohwx", ("ohwx",)), row("b.safetensors", "")])
    assert text.split("\n\n")[0].startswith("a.safetensors (model 1, clip 1, words chosen: ohwx)\n")
    assert text.split("\n\n")[1] == "b.safetensors (model 1, clip 1)"


def garbage(random: Random) -> str:
    """A value such as a broken or hostile tool may write."""
    kinds = (
        lambda: "".join(
            chr(random.choice([0, 9, 34, 60, 92, 0x202E, 0xD800, 0x1F600])) for _ in range(50)
        ),
        lambda: random.choice(["NaN", "-Infinity", "1e999", "9" * 5000, "None", "", " ", "true"]),
        lambda: json.dumps(nested(random, 3)),
        lambda: json.dumps(nested(random, 4))[: random.randrange(1, 60)],
        lambda: random.choice("[{(") * random.randrange(1, 50_000),
        lambda: random.choice(["x", "<", ",", "1,", '"', "\\u"]) * random.randrange(1, 200_000),
    )
    return random.choice(kinds)()


def nested(random: Random, depth: int) -> object:
    """A JSON value of any shape, with the keys that the readers look for."""
    keys = (
        "trainedWords",
        "civitai",
        "model",
        "name",
        "word",
        "size",
        "tags",
        "usage_tips",
        "10_x",
    )
    if depth == 0 or random.random() < 0.2:
        return random.choice([None, True, float("nan"), 1e308, "x" * 600, "a, b", [], {}, -3])
    if random.random() < 0.5:
        return [nested(random, depth - 1) for _ in range(random.randrange(5))]
    return {key: nested(random, depth - 1) for key in random.sample(keys, random.randrange(6))}


FIELDS = [
    "modelspec.title",
    "modelspec.tags",
    "modelspec.trigger_phrase",
    "modelspec.date",
    "modelspec.description",
    "ss_network_dim",
    "ss_resolution",
    "ss_tag_frequency",
    "ss_dataset_dirs",
    "ss_num_train_images",
    "ss_training_finished_at",
    "trained_words",
    "lora_adapter_metadata",
    "training_info",
    "ot_config",
    "ss_sd_model_name",
]


@pytest.mark.parametrize("seed", range(300))
def test_any_metadata_gives_facts_or_notes(seed):
    random = Random(seed)
    metadata = {field: garbage(random) for field in random.sample(FIELDS, 6)}
    facts = gather(metadata)
    text = facts_text(facts)
    text.encode("utf-8")
    json.dumps(text, allow_nan=False)
    assert len(text) < 300_000
    assert all(isinstance(word.value, str) and 0 < len(word.value) <= 503 for word in facts.words)
    trigger_words(metadata)


def test_values_of_other_types_do_no_harm():
    metadata: Any = dict.fromkeys(FIELDS, 3.5) | {
        "modelspec.title": ["Rain"],
        "ss_tag_frequency": {},
    }
    assert gather(metadata).title is None
