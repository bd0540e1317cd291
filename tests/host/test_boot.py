"""A real ComfyUI starts with the pack in it and offers all that the pack brings."""

from __future__ import annotations

import ast
import re
from pathlib import Path

import pytest

from tools.devkit.host_client import PromptFailed, PromptRefused

ROOT = Path(__file__).resolve().parents[2]
PACK = "lora-loom"
NODES = (
    "LoomLoader",
    "LoomStack",
    "LoomApply",
    "LoomTags",
    "LoomBlocks",
    "LoomSchedule",
    "LoomMerge",
    "LoomResize",
    "LoomInspect",
    "LoomIndex",
    "LoomSave",
    "LoomDataset",
    "LoomTrainSettings",
    "LoomTrain",
)


def import_lines(log: str) -> list[str]:
    """What the log says about loading packs: the table of times, and failures."""
    plain = re.sub(r"\x1b\[\d+m", "", log)
    return [line for line in plain.splitlines() if "seconds" in line or "Cannot import" in line]


def declared_nodes() -> set[str]:
    """The ids in the literal NODE_CLASS_MAPPINGS of nodes/*.py."""
    ids = set()
    for file in (ROOT / "nodes").glob("*.py"):
        for statement in ast.parse(file.read_text(encoding="utf-8")).body:
            if not isinstance(statement, ast.Assign) or not isinstance(statement.value, ast.Dict):
                continue
            if "NODE_CLASS_MAPPINGS" in map(ast.unparse, statement.targets):
                ids |= {ast.literal_eval(key) for key in statement.value.keys if key is not None}
    return ids


def test_the_pack_is_imported_without_failure(host):
    ours = [line for line in import_lines(host.log()) if line.rstrip().endswith(PACK)]
    assert ours, "the log does not name the pack"
    assert not [line for line in ours if "FAILED" in line or "Cannot import" in line]


def test_the_toy_pack_is_imported_without_failure(host):
    lines = import_lines(host.log())
    toy = [line for line in lines if "custom_nodes" in line and "loom_toy_pack" in line]
    assert toy
    assert not [line for line in toy if "FAILED" in line or "Cannot import" in line]


@pytest.mark.parametrize("node", NODES)
def test_the_node_is_offered_from_the_pack(client, node):
    info = client.object_info(node)
    assert info["python_module"] == f"custom_nodes.{PACK}"
    assert info["display_name"] != node
    assert info["description"]


def test_every_declared_node_is_offered(client):
    offered = {
        name
        for name, info in client.object_info().items()
        if info["python_module"] == f"custom_nodes.{PACK}"
    }
    assert offered == declared_nodes()


def test_the_packs_scripts_are_listed_once(client):
    listed = [path for path in client.get("/extensions") if f"/{PACK}/" in path]
    scripts = [file.relative_to(ROOT / "web") for file in (ROOT / "web").rglob("*.js")]
    assert sorted(listed) == sorted(f"/extensions/{PACK}/{file.as_posix()}" for file in scripts)


@pytest.mark.parametrize("node", NODES)
def test_the_nodes_help_page_is_served(client, node):
    page = client.get_bytes(f"/extensions/{PACK}/docs/{node}.md")
    assert page == (ROOT / "web" / "docs" / f"{node}.md").read_bytes()
    assert page.strip()


def test_the_example_workflows_are_listed_as_templates(client):
    examples = {file.stem for file in (ROOT / "example_workflows").glob("*.json")}
    assert examples
    assert set(client.get("/workflow_templates")[PACK]) == examples


def test_the_toy_models_can_be_chosen(client):
    assert "loom_toy.safetensors" in client.get("/models/checkpoints")
    loras = {file.name for file in (ROOT / "tools" / "toy_model" / "loras").glob("*.safetensors")}
    assert loras
    assert loras <= set(client.get("/models/loras"))


def picture_graph(width: object) -> dict:
    """A graph of core nodes that needs no model: a plain picture, shown."""
    size = {"width": width, "height": 64, "batch_size": 1, "color": 255}
    return {
        "1": {"class_type": "EmptyImage", "inputs": size},
        "2": {"class_type": "PreviewImage", "inputs": {"images": ["1", 0]}},
    }


def test_a_graph_runs_and_its_picture_can_be_fetched(client):
    finished = client.run(picture_graph(64))
    assert finished.executed == ("1", "2")
    (view,) = finished.images("2")
    assert client.fetch_image(view).startswith(b"\x89PNG")
    again = client.run(picture_graph(64))
    assert again.executed == ()
    assert set(again.cached) == {"1", "2"}


def test_a_refused_graph_names_the_node(client):
    with pytest.raises(PromptRefused, match="width") as refusal:
        client.run(picture_graph("wide"))
    assert (refusal.value.node_id, refusal.value.node_type) == ("1", "EmptyImage")


def test_a_failed_node_is_named_and_the_host_goes_on(client):
    graph = {
        **picture_graph(32),
        "3": {"class_type": "ImageToMask", "inputs": {"image": ["1", 0], "channel": "alpha"}},
        "4": {"class_type": "MaskPreview", "inputs": {"mask": ["3", 0]}},
    }
    with pytest.raises(PromptFailed, match="out of bounds") as failure:
        client.run(graph)
    assert (failure.value.node_id, failure.value.node_type) == ("3", "ImageToMask")
    assert failure.value.kind == "IndexError"
    assert client.run(picture_graph(32)).images()
