"""The texts that the page shows: each language has all of them, with the same {places}, and English is what nodes declare."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

from tools.make_locales import words

ROOT = Path(__file__).resolve().parents[2]
LOCALES = ROOT / "locales"
LANGUAGES = sorted(path.name for path in LOCALES.iterdir() if path.name != "en")
ADVICE = "run: python -m tools.make_locales"


def english() -> dict[str, str]:
    """The texts of web/strings.js."""
    source = (ROOT / "web" / "strings.js").read_text("utf-8")
    body = source[source.index("const ENGLISH = {") : source.index("\n};")]
    return dict(re.findall(r'^  (\w+): "((?:[^"\\]|\\.)*)",$', body, re.MULTILINE))


def read(language: str, name: str) -> dict:
    return json.loads((LOCALES / language / f"{name}.json").read_text("utf-8"))


def places(text: str) -> list[str]:
    return sorted(re.findall(r"\{\w+\}", text))


def test_there_are_six_languages_beside_english():
    assert LANGUAGES == ["de", "es", "fr", "ja", "ko", "zh"]


@pytest.mark.parametrize("language", LANGUAGES)
def test_a_language_has_every_text_of_the_page_with_its_places(language):
    told, ours = read(language, "main")["loraLoom"], english()
    assert len(ours) > 200
    assert list(told) == list(ours)
    for key, text in ours.items():
        assert told[key].strip(), key
        assert places(told[key]) == places(text), key


def test_every_text_that_the_page_asks_for_is_there():
    ours = english()
    for path in (ROOT / "web").glob("*.js"):
        for key in re.findall(r'\bt\("(\w+)"', path.read_text("utf-8")):
            assert key in ours, f"{path.name}: {key}"


def test_english_names_of_nodes_are_what_the_nodes_declare(pack):
    declared = {}
    for node_id, node in pack.nodes.items():
        info = {
            "display_name": pack.titles[node_id],
            "description": node.DESCRIPTION,
            "input": node.INPUT_TYPES(),
            "output_name": node.RETURN_NAMES,
            "output_tooltips": node.OUTPUT_TOOLTIPS,
        }
        declared[node_id] = words(info)
    assert read("en", "nodeDefs") == declared, ADVICE


@pytest.mark.parametrize("language", LANGUAGES)
def test_a_language_names_every_node_and_nothing_that_is_not_there(language):
    told, ours = read(language, "nodeDefs"), read("en", "nodeDefs")
    assert list(told) == list(ours)
    names = [said["display_name"] for said in told.values()]
    assert len(set(names)) == len(names)
    for node_id, said in told.items():
        assert said["display_name"].startswith("Loom ")
        assert said.keys() <= ours[node_id].keys(), node_id
        for part in ("inputs", "outputs"):
            assert said.get(part, {}).keys() <= ours[node_id][part].keys(), node_id
        # What stands in braces, and @ and |, mean something to the page: only escaped are they signs.
        assert not re.search(
            r"[{}@|]", re.sub(r"\{'[{}@|]'\}", "", json.dumps(said["display_name"]))
        )
        assert not re.search(r"[{}@|]", re.sub(r"\{'[{}@|]'\}", "", said.get("description", "")))


@pytest.mark.parametrize("language", ["en", *LANGUAGES])
def test_no_tooltip_has_signs_that_mean_something_to_the_page(language):
    """Older pages want them escaped, newer ones show the escapes: the text that the node declares is shown as it is."""
    for node_id, said in read(language, "nodeDefs").items():
        for part in ("inputs", "outputs"):
            for name, each in said.get(part, {}).items():
                assert not re.search(r"[{}@|]", each.get("tooltip", "")), (node_id, name)
