"""Loom Tags on a running host: the LoRAs that a prompt names give the picture of the stack that names them."""

from __future__ import annotations

import shutil

import numpy as np
import pytest
from graphs import CHARACTER, STYLE, only, pixels, twin, with_rows

from tools.devkit.host_client import PromptFailed

ROWS = [{"lora": STYLE, "model": 0.8, "clip": 0.5}, {"lora": CHARACTER, "model": 0.9, "clip": 0.9}]
WORDS = "ohwx zwx on a dark ground"


def with_text(prompt, text, **inputs):
    """Set the text of the prompt's LoomTags; returns the prompt."""
    only(prompt, "LoomTags")["inputs"] |= {"text": text, **inputs}
    return prompt


def stem(name):
    return name.removesuffix(".safetensors")


@pytest.mark.parametrize(
    ("dialect", "tag"),
    [("comfyui", f"<lora:{stem(STYLE)}:0.8:0.5>"), ("a1111", f"<lora:{stem(STYLE)}:0.5:0.8>")],
)
def test_tags_give_the_picture_of_the_same_rows(client, dialect, tag):
    rows = pixels(client, with_rows(twin(client, "lora_stack"), ROWS))
    text = f"{tag}, ohwx zwx <lora:{stem(CHARACTER)}:0.9> on a dark ground"
    tags = with_text(twin(client, "prompt_tags"), text, dialect=dialect)
    assert np.array_equal(pixels(client, tags), rows)
    assert not np.array_equal(pixels(client, with_text(tags, WORDS)), rows)


def test_the_order_of_two_numbers_follows_the_dialect(client):
    text = f"{WORDS} <lora:{stem(STYLE)}:0.2:0.9>"
    comfyui, swapped = (
        pixels(client, with_text(twin(client, "prompt_tags"), text, dialect=dialect))
        for dialect in ("comfyui", "a1111")
    )
    assert not np.array_equal(comfyui, swapped)


def test_a_name_that_no_file_has_stops_the_graph_before_it_runs(client):
    prompt = with_text(twin(client, "prompt_tags"), f"{WORDS} <lora:loom_toy_stile:0.8>")
    with pytest.raises(PromptFailed, match="The nearest names: loom_toy_style.safetensors"):
        client.run(prompt)


def test_a_name_that_no_file_has_is_left_out_where_that_is_chosen(client):
    text = f"{WORDS} <lora:loom_toy_stile:0.8>"
    without = pixels(client, with_text(twin(client, "prompt_tags"), WORDS))
    skipped = with_text(twin(client, "prompt_tags"), text, unknown="skip")
    assert np.array_equal(pixels(client, skipped), without)


def test_rows_of_another_pack_pasted_into_the_stack_are_applied(client):
    rgthree = (
        '[{}, {"type": "PowerLoraLoaderHeaderWidget"}, '
        f'{{"on": true, "lora": "{STYLE}", "strength": 0.8, "strengthTwo": 0.5}}, '
        f'{{"on": true, "lora": "{CHARACTER}", "strength": 0.9, "strengthTwo": null}}, {{}}, ""]'
    )
    ours, theirs = (with_rows(twin(client, "lora_stack"), rows) for rows in (ROWS, rgthree))
    assert np.array_equal(pixels(client, ours), pixels(client, theirs))


def test_the_words_of_a_sidecar_come_out_when_they_change(client, host):
    loras = host.base / "models" / "loras"
    shutil.copyfile(loras / STYLE, loras / "worded.safetensors")
    sidecar = loras / "worded.civitai.info"
    sidecar.write_text('{"trainedWords": ["sidecar word"]}', encoding="utf-8")
    prompt = {
        "1": {"class_type": "LoomInspect", "inputs": {"lora_name": "worded.safetensors"}},
        "2": {"class_type": "LoomStack", "inputs": {"rows": '[{"lora": "worded.safetensors"}]'}},
        "3": {"class_type": "PreviewAny", "inputs": {"source": ["2", 3]}},
    }
    first = client.run(prompt)
    assert "sidecar word (worded.civitai.info: trainedWords)" in first.outputs["1"]["text"][0]
    assert "sidecar word" in first.outputs["3"]["text"][0]
    sidecar.write_text(
        '{"description": "more", "trainedWords": ["sidecar word"]}', encoding="utf-8"
    )
    assert client.run(prompt).executed == ()
    sidecar.write_text('{"trainedWords": ["another word"]}', encoding="utf-8")
    changed = client.run(prompt)
    assert "another word" in changed.outputs["3"]["text"][0]
    assert "sidecar word" not in changed.outputs["3"]["text"][0]


def test_block_strengths_of_a_tag_are_those_of_a_row(client):
    row = {"lora": STYLE, "model": 0.8, "clip": 0.8}
    plain, blocked = (
        pixels(client, with_rows(twin(client, "lora_stack"), [{**row, "blocks": blocks}]))
        for blocks in ("", "*=0.5")
    )
    tag = f"<lora:{stem(STYLE)}:0.8:0.8:LBW=*=0.5;>"
    prompt = with_text(twin(client, "prompt_tags"), f"{WORDS} {tag}", dialect="lbw")
    assert np.array_equal(pixels(client, prompt), blocked)
    assert not np.array_equal(plain, blocked)
