"""The example workflows and their toy twins: one graph each, told apart by models, words and sizes alone."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest

from lora_core.merge.methods import METHODS
from tools import toy_datasets
from tools.make_workflows import EXAMPLES, TWINS, WORKFLOWS, published, written
from tools.workflow_models import FLUX, SD15, SDXL, TOY

# (node type, index among its widgets) of all that may differ.
MAY_DIFFER = {
    ("CheckpointLoaderSimple", 0),
    ("LoomLoader", 0),
    ("LoomInspect", 0),
    ("LoomTags", 0),
    ("LoomResize", 0),
    ("LoomDataset", 0),
    ("LoomDataset", 1),
    ("LoomDataset", 2),
    ("LoomDataset", 3),
    ("CLIPTextEncode", 0),
    ("KSampler", 3),  # guidance
    ("LoomBlocks", 0),  # which blocks hold a style
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
    assert (EXAMPLES / f"{name}.json").read_text("utf-8") == written(name, published(name))
    assert (TWINS / f"{name}.json").read_text("utf-8") == written(name, TOY)


def test_every_file_comes_from_the_tool_and_every_example_has_a_thumbnail():
    assert {path.stem for path in EXAMPLES.glob("*.json")} == set(WORKFLOWS)
    assert {path.stem for path in TWINS.glob("*.json")} == set(WORKFLOWS)
    assert {path.stem for path in EXAMPLES.glob("*.jpg")} == set(WORKFLOWS)


def test_every_example_is_listed_in_the_docs_with_what_to_learn():
    text = (EXAMPLES.parent / "docs" / "examples.md").read_text("utf-8")
    assert sorted(re.findall(r"^\| `(\w+)` \| .", text, re.MULTILINE)) == sorted(WORKFLOWS)


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


def test_examples_are_wired_for_published_checkpoints_of_three_bases():
    nodes = [node for name in WORKFLOWS for node in read(EXAMPLES / f"{name}.json")["nodes"]]
    loaders = [node for node in nodes if node["type"] == "CheckpointLoaderSimple"]
    wired = {node["widgets_values"][0] for node in loaders}
    assert wired == {SD15.checkpoint, SDXL.checkpoint, FLUX.checkpoint}
    for models in (SD15, SDXL, FLUX):
        (source,) = models.checkpoint_source["models"]
        assert source["name"] == models.checkpoint
        assert len(source["hash"]) == 64


def test_every_node_of_the_pack_is_used_by_an_example():
    frozen = read(Path(__file__).parents[1] / "nodes" / "frozen_api.json")
    used = {node["type"] for name in WORKFLOWS for node in read(EXAMPLES / f"{name}.json")["nodes"]}
    assert set(frozen) - used == set()


def test_every_merge_method_is_used_by_an_example():
    nodes = [node for name in WORKFLOWS for node in read(EXAMPLES / f"{name}.json")["nodes"]]
    merged = {node["widgets_values"][0] for node in nodes if node["type"] == "LoomMerge"}
    for node in nodes:
        if node["type"] == "LoomSweep" and node["widgets_values"][0] == "merge method":
            merged |= set(node["widgets_values"][5].split(", "))
    assert set(METHODS) - merged == set()


# The glossary's own pair: what they are learned from, and for how long.
@pytest.mark.parametrize(
    ("name", "caption", "drawn"),
    [
        ("train_style", "ohwx illustration of {caption}", toy_datasets.drawings),
        ("train_character", "sks_leah woman {caption}", toy_datasets.portraits),
    ],
)
def test_the_pair_is_trained_for_1500_steps_on_25_drawings_and_20_portraits(name, caption, drawn):
    for folder in (EXAMPLES, TWINS):
        assert widgets_of(folder / f"{name}.json", "LoomTrainSettings")[0] == 1500
    assert widgets_of(EXAMPLES / f"{name}.json", "LoomDataset")[2] == caption
    assert len(drawn()) == {"train_style": 25, "train_character": 20}[name]


@pytest.mark.parametrize("folder", [EXAMPLES, TWINS], ids=lambda folder: folder.name)
def test_the_second_of_the_pair_is_trained_where_the_first_already_acts(folder):
    workflow = read(folder / "train_on_style.json")
    nodes = {node["id"]: node for node in workflow["nodes"]}
    links = {link[0]: link for link in workflow["links"]}
    (train,) = [node for node in nodes.values() if node["type"] == "LoomTrain"]
    asked = {each["name"]: nodes[links[each["link"]][1]] for each in train["inputs"][:3]}
    assert asked["model"] is asked["clip"]
    assert asked["model"]["type"] == "LoomStack"
    (row,) = json.loads(asked["model"]["widgets_values"][0])["rows"]
    models = TOY if folder == TWINS else SD15
    assert (row["lora"], row["model"]) == (models.trained_style, 0.8)
    assert asked["vae"]["type"] == "CheckpointLoaderSimple"


def test_half_of_the_pictures_of_the_second_are_in_the_manner_of_the_first_and_say_so():
    drawn = toy_datasets.portraits_and_drawings()
    assert sum(picture.styled for picture, _ in drawn) == len(drawn) / 2
    for picture, said in drawn:
        assert said == f"{'ohwx ' if picture.styled else ''}zwx on a {picture.ground} ground"


def test_the_pictures_of_the_toy_lessons_are_drawn_with_a_caption_each_and_always_the_same(
    tmp_path,
):
    toy_datasets.write_all(tmp_path / "one")
    toy_datasets.write_all(tmp_path / "other")
    for folder, count in (
        (toy_datasets.DRAWINGS, 25), (toy_datasets.PORTRAITS, 20), (toy_datasets.TEN, 10),
        (toy_datasets.BOTH_MANNERS, 30),
    ):  # fmt: skip
        files = sorted(path.name for path in (tmp_path / "one" / folder).iterdir())
        assert files == [f"{n:02}.{end}" for n in range(1, count + 1) for end in ("png", "txt")]
        for file in files:
            here, there = (tmp_path / which / folder / file for which in ("one", "other"))
            assert here.read_bytes() == there.read_bytes()


def widgets_of(path: Path, kind: str) -> list[Any]:
    (node,) = [node for node in read(path)["nodes"] if node["type"] == kind]
    return node["widgets_values"]
