"""Loom Tags as a node: what it hands out, and what it refuses before the graph runs."""

from __future__ import annotations

import json

import pytest

PROMPT = "ohwx, <lora:style:0.5:0.8>, rain"


def test_a_prompt_gives_a_stack_of_triples_and_the_text_without_tags(pack):
    answer = pack.nodes["LoomTags"]().read(PROMPT, "comfyui")
    stack, text, report = answer["result"]
    assert stack == [("style.safetensors", 0.5, 0.8)]
    assert text == "ohwx, rain"
    assert report == "<lora:style:0.5:0.8>: style.safetensors, model 0.5, clip 0.8"
    assert answer["ui"]["text"] == [report]


def test_the_dialect_says_which_number_is_the_models(pack):
    stack, *_ = pack.nodes["LoomTags"]().read(PROMPT, "a1111")["result"]
    assert stack == [("style.safetensors", 0.8, 0.5)]


def test_an_incoming_stack_stands_in_front_and_is_not_changed(pack):
    incoming = [("dir/character.safetensors", 0.9, 0.9)]
    stack, *_ = pack.nodes["LoomTags"]().read(PROMPT, "comfyui", lora_stack=incoming)["result"]
    assert stack == [*incoming, ("style.safetensors", 0.5, 0.8)]
    assert len(incoming) == 1


def test_the_stack_can_be_applied_by_our_own_node(pack):
    stack, *_ = pack.nodes["LoomTags"]().read("<lora:character:1:LBW=SD-MIDD;>", "lbw")["result"]
    pack.nodes["LoomApply"]().apply("M", stack)
    (row,) = pack.applied[0][0].rows
    assert (row.name, row.blocks) == ("dir/character.safetensors", "SD-MIDD")


def test_a_name_that_no_file_has_is_an_error_or_left_out_as_chosen(pack):
    node = pack.nodes["LoomTags"]()
    stack, text, report = node.read("a <lora:stile:1> b", "comfyui", unknown="skip")["result"]
    assert (stack, text) == ([], "a b")
    assert report.startswith("left out: <lora:stile:1>: LoRA 'stile' not found")
    validate = pack.nodes["LoomTags"].VALIDATE_INPUTS
    assert "The nearest names: style.safetensors" in validate("<lora:stile:1>", "comfyui", "error")
    assert validate("<lora:stile:1>", "comfyui", "skip") is True


@pytest.mark.parametrize(
    ("inputs", "message"),
    [
        ({"text": "<lora:style:much>"}, "'much' is no strength"),
        ({"text": "<lora:style:1"}, "has no end"),
        ({"text": "rain", "dialect": "a111"}, "No tag dialect 'a111'"),
        ({"text": "rain", "unknown": "ignore"}, "no choice 'ignore'"),
    ],
)
def test_what_cannot_be_read_is_refused_before_the_graph_runs(pack, inputs, message):
    assert message in pack.nodes["LoomTags"].VALIDATE_INPUTS(**inputs)


def test_text_that_comes_by_a_link_is_read_when_it_is_there(pack):
    node = pack.nodes["LoomTags"]
    assert node.VALIDATE_INPUTS(None) is True
    assert node.IS_CHANGED(None, dialect="comfyui") == ""
    assert node.IS_CHANGED("<lora:style:1>", dialect="comfyui") != node.IS_CHANGED("rain")


def test_pasted_rows_of_another_pack_are_read_by_the_stack_and_the_rest_is_shown(pack):
    nodes = [
        {"id": 3, "type": "LoraLoader", "widgets_values": ["character", 0.9, 0.4]},
        {"id": 4, "type": "CR LoRA Stack", "widgets_values": ["On", "style", 1, 1]},
    ]
    answer = pack.nodes["LoomStack"]().stack(json.dumps({"nodes": nodes}))
    assert answer["result"][2] == [("dir/character.safetensors", 0.9, 0.4)]
    assert answer["ui"]["text"][0].splitlines()[-1] == "node 4 'CR LoRA Stack' is not read"
    validate = pack.nodes["LoomStack"].VALIDATE_INPUTS
    assert validate("<lora:style:1>") is True
    assert "not found" in validate("<lora:stile:1>")
