"""Files next to a LoRA: what each kind says, whom to trust, and that no content does harm."""

from __future__ import annotations

import json
import os
import tracemalloc
from pathlib import Path
from random import Random

import pytest

from lora_core.files.facts import facts_text, gather
from lora_core.files.lenient import MOST_BYTES
from lora_core.files.sidecars import sidecar_facts

CIVITAI = {
    "id": 12,
    "name": "v2",
    "baseModel": "Illustrious",
    "trainedWords": ["ohwx woman, red coat", "ohwx"],
    "description": "<p>Better <b>hands</b> &amp; eyes</p><p>Two</p>",
    "model": {
        "name": "Rain Style",
        "tags": ["style", "rain"],
        "allowNoCredit": False,
        "allowCommercialUse": ["Image", "Rent"],
        "allowDerivatives": True,
        "allowDifferentLicense": False,
    },
    "creator": {"username": "ada"},
}
LORA_MANAGER = {
    "file_name": "rain",
    "model_name": "Rain (mine)",
    "size": 10,
    "base_model": "SDXL 1.0",
    "notes": "use with care",
    "tags": ["mine"],
    "civitai": CIVITAI,
    "modelDescription": "<p>long</p>",
    "usage_tips": json.dumps({"strength_min": 0.3, "strength_max": 0.8, "strength": 0.6}),
}
RGTHREE = {
    "name": "Rain - v2",
    "baseModel": "Pony",
    "trainedWords": [
        {"word": "1girl", "count": 40, "metadata": True},
        {"word": "ohwx", "count": 39, "metadata": True, "civitai": True},
        {"word": "mine", "user": True},
    ],
    "strengthMin": 0.4,
    "strengthMax": 0.9,
}
AUTOMATIC1111 = {
    "description": "a note",
    "sd version": "SD1",
    "activation text": "ohwx, rain <lora:rain:0.7>",
    "preferred weight": 0.7,
}


@pytest.fixture
def lora(tmp_path: Path) -> Path:
    path = tmp_path / "rain.v1.safetensors"
    path.write_bytes(b"0" * 10)
    return path


def beside(lora: Path, ending: str, content: object) -> None:
    """Write a sidecar: bytes, text, or a value as JSON."""
    name = lora.name if ending.startswith(".safetensors") else "rain.v1"
    side = lora.with_name(name.removesuffix(".safetensors") + ending)
    if isinstance(content, bytes):
        side.write_bytes(content)
    else:
        text = content if isinstance(content, str) else json.dumps(content)
        side.write_text(text, encoding="utf-8", errors="surrogatepass")


def value(fact):
    """Of a fact that somebody states."""
    assert fact is not None
    return fact.value


def source(fact):
    assert fact is not None
    return fact.source


def words(facts) -> list[str]:
    return [word.value for word in facts.words]


def test_lora_manager_says_title_base_notes_words_and_strengths(lora):
    beside(lora, ".metadata.json", LORA_MANAGER)
    facts = gather({}, lora)
    assert (value(facts.title), value(facts.base)) == ("Rain (mine)", "SDXL 1.0")
    assert source(facts.title) == "rain.v1.metadata.json: model_name"
    assert value(facts.description) == "use with care"
    assert words(facts) == ["ohwx woman", "red coat", "ohwx"]
    assert facts.words[0].source == "rain.v1.metadata.json: civitai.trainedWords"
    assert (value(facts.strength), value(facts.strength_range)) == (0.6, (0.3, 0.8))
    assert value(facts.tags) == ("mine",)
    assert facts.notes == ()


def test_lora_managers_file_name_is_no_title_and_a_wrong_size_is_said(lora):
    beside(lora, ".metadata.json", {**LORA_MANAGER, "model_name": "rain.v1", "size": 99})
    facts = gather({}, lora)
    assert value(facts.title) == "Rain Style"
    (note,) = facts.notes
    assert "written for a file of 99 bytes; this one has 10" in note


def test_civitai_info_says_author_licence_and_a_text_without_markup(lora):
    beside(lora, ".civitai.info", CIVITAI)
    facts = gather({}, lora)
    assert (value(facts.title), value(facts.author)) == ("Rain Style", "ada")
    assert value(facts.licence) == (
        "credit the author; merges allowed; same terms; commercial use: Image, Rent"
    )
    assert value(facts.description) == "Better hands & eyes\n\nTwo"
    assert value(facts.tags) == ("style", "rain")
    assert source(facts.base) == "rain.v1.civitai.info: baseModel"


def test_rgthrees_caption_tags_are_no_trigger_words(lora):
    beside(lora, ".safetensors.rgthree-info.json", RGTHREE)
    facts = gather({}, lora)
    assert words(facts) == ["ohwx", "mine"]
    assert value(facts.strength_range) == (0.4, 0.9)
    assert source(facts.title) == "rain.v1.safetensors.rgthree-info.json: name"


def test_automatic1111_says_words_and_weight(lora):
    beside(lora, ".json", AUTOMATIC1111)
    facts = gather({}, lora)
    assert words(facts) == ["ohwx", "rain"]
    assert (value(facts.strength), value(facts.base)) == (0.7, "SD1")
    beside(lora, ".json", {"preferred weight": 0, "activation text": ""})
    assert gather({}, lora).strength is None


def test_a_text_file_is_a_description_and_only_labelled_lines_are_words(lora):
    beside(lora, ".txt", "A rainy style.\nTrigger words: ohwx, rain\nohwx woman, in the rain")
    facts = gather({}, lora)
    assert words(facts) == ["ohwx", "rain"]
    assert value(facts.description).startswith("A rainy style.\n")


def test_the_order_of_trust_is_file_lora_manager_civitai_rgthree_a1111_text(lora):
    beside(lora, ".metadata.json", LORA_MANAGER)
    beside(lora, ".civitai.info", {**CIVITAI, "trainedWords": ["second"]})
    beside(lora, ".safetensors.rgthree-info.json", RGTHREE)
    beside(lora, ".json", AUTOMATIC1111)
    beside(lora, ".txt", "trigger: last")
    facts = gather({"modelspec.title": "Author's", "ss_output_name": "rain_3"}, lora)
    assert value(facts.title) == "Author's"
    assert value(facts.base) == "SDXL 1.0"
    assert words(facts) == ["ohwx woman", "red coat", "ohwx", "second", "mine", "rain", "last"]
    # What a trainer called its output says less than a sidecar.
    assert value(gather({"ss_output_name": "rain_3"}, lora).title) == "Rain (mine)"


def test_named_words_of_a_sidecar_go_before_a_word_that_is_only_worked_out(lora):
    metadata = {"ss_tag_frequency": '{"10_x": {"blue": 40}}', "ss_num_train_images": "400"}
    assert words(gather(metadata, lora)) == ["blue"]
    beside(lora, ".txt", "trigger: ohwx")
    assert words(gather(metadata, lora)) == ["ohwx"]


@pytest.mark.parametrize(
    ("endings", "found"),
    [
        ([".png"], "rain.v1.png"),
        ([".png", ".preview.jpeg"], "rain.v1.preview.jpeg"),
        ([".mp4"], None),
        ([], None),
    ],
)
def test_the_preview_is_a_picture_next_to_the_file(lora, endings, found):
    for ending in endings:
        beside(lora, ending, b"picture")
    preview = gather({}, lora).preview
    assert (preview and preview.value.name) == found


def test_a_preview_path_inside_a_sidecar_is_not_followed(lora):
    beside(lora, ".metadata.json", {**LORA_MANAGER, "preview_url": "/etc/passwd"})
    assert gather({}, lora).preview is None


def test_a_changed_sidecar_is_read_again(lora):
    assert sidecar_facts(lora).words == ()
    beside(lora, ".txt", "trigger: ohwx")
    assert words(sidecar_facts(lora)) == ["ohwx"]
    beside(lora, ".txt", "trigger: other words")
    assert words(sidecar_facts(lora)) == ["other words"]
    lora.with_name("rain.v1.txt").unlink()
    assert sidecar_facts(lora).words == ()


BROKEN = {
    "empty": ("", "is not readable JSON"),
    "cut": ('{"trainedWords": ["a"', "is not readable JSON"),
    "binary": (bytes(range(256)) * 9, "is not readable JSON"),
    "a list": ("[1, 2]", "holds no JSON object, but a list"),
    "a text": ('"ohwx"', "holds no JSON object, but a str"),
    "nested without end": ("[" * 50_000, "is not readable JSON"),
    "too large": (b" " * (MOST_BYTES + 1), f"has {MOST_BYTES + 1} bytes"),
    "too many parts": ("[" + "{}," * 150_000 + "0]", "too many to be facts"),
}


@pytest.mark.parametrize("ending", [".metadata.json", ".civitai.info", ".json"])
@pytest.mark.parametrize(("content", "note"), BROKEN.values(), ids=BROKEN.keys())
def test_a_broken_sidecar_becomes_a_note_and_the_rest_is_read(ending, content, note, lora):
    beside(lora, ending, content)
    beside(lora, ".txt", "trigger: ohwx")
    facts = gather({}, lora)
    (said,) = facts.notes
    assert said.startswith(f"rain.v1{ending} ")
    assert note in said
    assert words(facts) == ["ohwx"]


WRONG_TYPES = (
    None,
    True,
    3,
    -1e308,
    "text",
    "[",
    [],
    [[1]],
    {},
    {"word": 3},
    [{"word": [1]}, None],
)


@pytest.mark.parametrize("value", WRONG_TYPES, ids=repr)
@pytest.mark.parametrize("document", [LORA_MANAGER, CIVITAI, RGTHREE, AUTOMATIC1111])
def test_a_field_of_another_type_is_no_fact(document, value, lora):
    for ending in (".metadata.json", ".civitai.info", ".safetensors.rgthree-info.json", ".json"):
        beside(lora, ending, dict.fromkeys(document, value))
    facts_text(gather({}, lora))


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="the system has no pipes in folders")
def test_a_pipe_or_a_folder_is_not_opened(lora):
    os.mkfifo(lora.with_name("rain.v1.txt"))
    lora.with_name("rain.v1.json").mkdir()
    notes = gather({}, lora).notes
    assert notes == ("rain.v1.json is not a plain file", "rain.v1.txt is not a plain file")


def test_a_dangling_link_becomes_a_note(lora):
    lora.with_name("rain.v1.txt").symlink_to(lora.with_name("gone"))
    (note,) = gather({}, lora).notes
    assert "rain.v1.txt cannot be opened" in note


FULL = {
    "one text": (".json", '{"activation text": "' + "a" * (MOST_BYTES - 100) + '"}'),
    "wide characters": (".txt", "\U0001f600" * (MOST_BYTES // 4 - 40)),
    "open markup": (".json", '{"description": "' + "<p " * (MOST_BYTES // 3 - 40) + '"}'),
    "open tags": (".json", '{"activation text": "' + "<lora:" * (MOST_BYTES // 6 - 40) + '"}'),
    "objects": (".civitai.info", '{"trainedWords": [' + '{"word":1e1},' * 90_000 + "{}]}"),
    "words": (".civitai.info", '{"trainedWords": [' + '"ab",' * 290_000 + '"c"]}'),
    "keys": (".metadata.json", "{" + ",".join(f'"k{i}":1.5' for i in range(290_000)) + "}"),
}


@pytest.mark.parametrize(("ending", "content"), FULL.values(), ids=FULL.keys())
def test_reading_a_sidecar_never_takes_more_than_eight_times_its_cap(ending, content, lora):
    beside(lora, ending, content)
    tracemalloc.start()
    try:
        facts = gather({}, lora)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak < 8 * MOST_BYTES
    assert len(facts_text(facts)) < 200_000


@pytest.mark.parametrize("seed", range(200))
def test_any_bytes_give_facts_or_notes(seed, lora):
    random = Random(seed)
    for ending in (
        ".metadata.json",
        ".civitai.info",
        ".safetensors.rgthree-info.json",
        ".json",
        ".txt",
    ):
        good = json.dumps(random.choice([LORA_MANAGER, CIVITAI, RGTHREE, AUTOMATIC1111])).encode()
        data = bytearray(good)
        for _ in range(random.randrange(12)):
            place = random.randrange(len(data))
            data[place] = random.choice(b'{}[]",:0\\\x00\xff<')
        beside(lora, ending, bytes(data[: random.randrange(1, len(data) + 1)]))
    text = facts_text(gather({}, lora))
    text.encode("utf-8")
