"""The example workflows and their toy twins: one graph each, told apart by models, words and sizes alone."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest

from tools.make_workflows import EXAMPLES, PUBLISHED, TOY, TWINS, WORKFLOWS, written

# (node type, index among its widgets) of all that may differ.
MAY_DIFFER = {
    ("CheckpointLoaderSimple", 0),
    ("LoomLoader", 0),
    ("LoomInspect", 0),
    ("LoomTags", 0),
    ("CLIPTextEncode", 0),
    ("EmptyLatentImage", 0),
    ("EmptyLatentImage", 1),
    ("MarkdownNote", 0),
}


def read(path: Path) -> dict[str, Any]:
    return json.loads(path.read_text("utf-8"))


def masked(workflow: dict[str, Any]) -> dict[str, Any]:
    """The workflow without model names, model sources, prompt words and sizes."""
    for node in workflow["nodes"]:
        node["properties"].pop("models", None)
        for index, value in enumerate(node["widgets_values"]):
            if (node["type"], index) in MAY_DIFFER:
                node["widgets_values"][index] = None
            elif node["type"] == "LoomStack" and index == 0:
                node["widgets_values"][index] = re.sub(r'"lora": "[^"]*"', '"lora": ""', value)
    return workflow


@pytest.mark.parametrize("name", WORKFLOWS)
def test_a_twin_differs_in_models_words_and_sizes_only(name):
    example, twin = EXAMPLES / f"{name}.json", TWINS / f"{name}.json"
    assert read(example) != read(twin)
    assert masked(read(example)) == masked(read(twin))


@pytest.mark.parametrize("name", WORKFLOWS)
def test_the_files_are_what_the_tool_writes(name):
    assert (EXAMPLES / f"{name}.json").read_text("utf-8") == written(name, PUBLISHED)
    assert (TWINS / f"{name}.json").read_text("utf-8") == written(name, TOY)


def test_every_file_comes_from_the_tool_and_every_example_has_a_thumbnail():
    assert {path.stem for path in EXAMPLES.glob("*.json")} == set(WORKFLOWS)
    assert {path.stem for path in TWINS.glob("*.json")} == set(WORKFLOWS)
    assert {path.stem for path in EXAMPLES.glob("*.jpg")} == set(WORKFLOWS)


@pytest.mark.parametrize("name", WORKFLOWS)
def test_links_join_outputs_and_inputs_that_exist(name):
    workflow = read(EXAMPLES / f"{name}.json")
    nodes = {node["id"]: node for node in workflow["nodes"]}
    for link, source, slot, target, into, kind in workflow["links"]:
        assert link in nodes[source]["outputs"][slot]["links"]
        assert nodes[source]["outputs"][slot]["type"] == kind
        assert nodes[target]["inputs"][into]["link"] == link


@pytest.mark.parametrize("name", WORKFLOWS)
def test_published_checkpoints_are_named_with_source_and_hash(name):
    workflow = read(EXAMPLES / f"{name}.json")
    (loader,) = [node for node in workflow["nodes"] if node["type"] == "CheckpointLoaderSimple"]
    (model,) = loader["properties"]["models"]
    assert model["name"] == loader["widgets_values"][0]
    assert model["url"].startswith("https://")
    assert re.fullmatch(r"[0-9a-f]{64}", model["hash"])
    assert model["directory"] == "checkpoints"


@pytest.mark.parametrize("name", WORKFLOWS)
def test_a_loader_names_where_its_lora_comes_from_and_no_other_node_does(name):
    """The page's dialog of missing models looks a name up in a plain widget: of our nodes only Loom Loader has one."""
    for node in read(EXAMPLES / f"{name}.json")["nodes"]:
        sources = node["properties"].get("models", [])
        if node["type"] == "LoomLoader":
            (source,) = sources
            assert source["name"] == node["widgets_values"][0]
            assert source["url"].startswith("https://civitai.com/api/download/models/")
            assert source["directory"] == "loras"
        elif node["type"].startswith("Loom"):
            assert sources == []


# Nodes whose example is still to come: training in the demo.
AWAITED = {"LoomDataset", "LoomTrain", "LoomTrainSettings"}


def test_every_node_of_the_pack_is_used_by_an_example():
    frozen = read(Path(__file__).parents[1] / "nodes" / "frozen_api.json")
    used = {node["type"] for name in WORKFLOWS for node in read(EXAMPLES / f"{name}.json")["nodes"]}
    assert set(frozen) - used == AWAITED
