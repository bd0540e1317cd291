"""What the nodes declare: frozen ids and inputs, words for everything a person sees."""

from __future__ import annotations

import json
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
FROZEN = Path(__file__).with_name("frozen_api.json")


def declared(nodes: dict[str, type]) -> dict:
    """Ids, inputs in order with their types, and outputs: what saved workflows rely on."""
    api = {}
    for node_id, node in nodes.items():
        inputs = node.INPUT_TYPES()
        api[node_id] = {
            "inputs": [
                [section, name, spec[0] if isinstance(spec[0], str) else "COMBO"]
                for section in ("required", "optional")
                for name, spec in inputs.get(section, {}).items()
            ],
            "outputs": list(node.RETURN_TYPES),
        }
    return api


def test_ids_inputs_and_outputs_only_ever_grow(pack):
    frozen, now = json.loads(FROZEN.read_text("utf-8")), declared(pack.nodes)
    for node_id, api in frozen.items():
        assert node_id in now
        assert now[node_id]["inputs"][: len(api["inputs"])] == api["inputs"]
        assert now[node_id]["outputs"][: len(api["outputs"])] == api["outputs"]
    assert now == frozen, "a node grew: append what is new to frozen_api.json"


def test_every_input_and_output_has_words(pack):
    for node_id, node in pack.nodes.items():
        inputs = node.INPUT_TYPES()
        for section in ("required", "optional"):
            for name, spec in inputs.get(section, {}).items():
                assert spec[1].get("tooltip"), f"{node_id}.{name}"
        assert node.DESCRIPTION
        assert node.SEARCH_ALIASES
        assert node.CATEGORY == "LoRA Loom"
        assert len(node.OUTPUT_TOOLTIPS) == len(node.RETURN_NAMES) == len(node.RETURN_TYPES)
        assert pack.titles[node_id].startswith("Loom ")


def test_every_node_has_a_help_page_that_names_its_inputs(pack):
    for node_id, node in pack.nodes.items():
        page = (ROOT / "web" / "docs" / f"{node_id}.md").read_text("utf-8")
        inputs = node.INPUT_TYPES()
        for section in ("required", "optional"):
            for name in inputs.get(section, {}):
                assert f"`{name}`" in page, f"{node_id}.md does not explain {name}"


def test_every_node_that_names_a_file_follows_it(pack):
    """IS_CHANGED must be a comparable value, never a truth value: True would compare equal to itself for ever."""
    values = {
        "lora_name": "style.safetensors",
        "rows": '[{"lora": "style.safetensors"}]',
        "text": "<lora:style:1>",
        "folder": "style.safetensors",
        "tuned_file": "style.safetensors",
        "job_folder": "style.safetensors",
        "preset": "SD-MIDD",  # presets may stand in files too
    }
    for node in pack.nodes.values():
        sections = node.INPUT_TYPES()
        inputs = {**sections["required"], **sections.get("optional", {})}
        named = next((name for name in values if name in inputs), None)
        assert hasattr(node, "IS_CHANGED") == (named is not None)
        if named is not None:
            said = "SD-MIDD" if named == "preset" else "style.safetensors"
            assert said in node.IS_CHANGED(**{named: values[named]})


def test_a_whole_number_that_one_types_stays_what_it_is(pack):
    """The page rounds an INT to whole steps from its least value: with 1 and a step of 10 it makes 1501 of 1500."""
    for node_id, node in pack.nodes.items():
        inputs = node.INPUT_TYPES()
        for name, spec in {**inputs["required"], **inputs.get("optional", {})}.items():
            if spec[0] == "INT":
                least, step = spec[1].get("min", 0), spec[1].get("step", 1)
                assert least % step == 0, f"{node_id}.{name}"
                assert spec[1]["default"] % step == 0, f"{node_id}.{name}"
