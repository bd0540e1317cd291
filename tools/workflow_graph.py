"""Workflows in the page's own format, built node by node; and the way back to what the server runs."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

# What the page writes into the nodes of a pack, so that a missing pack can be named and installed.
PACK = {"cnr_id": "lora-loom", "ver": "0.1.0"}
CORE = {"cnr_id": "comfy-core", "ver": "0.3.75"}
_NOTES = {"MarkdownNote", "Note"}
# The height below its title that a node of ours has after a run at most: reports and panels come then.
GROWN = {
    "LoomApply": 320,
    "LoomBalance": 440,
    "LoomBlockMap": 320,
    "LoomBlocks": 740,
    "LoomDataset": 840,
    "LoomExtract": 500,
    "LoomIndex": 160,
    "LoomInspect": 400,
    "LoomInterference": 680,
    "LoomLoader": 340,
    "LoomMerge": 780,
    "LoomRegion": 300,
    "LoomResize": 500,
    "LoomSave": 500,
    "LoomSchedule": 740,
    "LoomStack": 500,
    "LoomSweep": 680,
    "LoomSweepGrid": 720,
    "LoomTags": 320,
    "LoomTrain": 1240,
    "LoomTrainSettings": 1300,
}
_TITLE = 30  # pixels above a node's position
_BETWEEN = 20  # pixels between a node and the next below it
_BADGE = 20  # pixels above the title in which the name of a pack stands
# Seeds have a second widget behind them in the page: what to do after a run.
_SEED_FOLLOWER = "control_after_generate"
# Inputs of these types are widgets that a link may replace.
_WIDGET_TYPES = {"STRING", "INT", "FLOAT", "BOOLEAN"}


@dataclass
class Graph:
    """A workflow that grows by `add`; `document` is the JSON of the page (format 0.4)."""

    nodes: list[dict[str, Any]] = field(default_factory=list)
    links: list[list[Any]] = field(default_factory=list)

    def add(
        self,
        kind: str,
        at: tuple[int, int],
        size: tuple[int, int],
        outputs: list[tuple[str, str]],
        inputs: list[tuple[str, str, tuple[int, int] | None]] | None = None,
        widgets: list[Any] | None = None,
        properties: dict[str, Any] | None = None,
    ) -> int:
        """Append a node and return its id. inputs: (name, type, (source id, output index) or None)."""
        node_id = len(self.nodes) + 1
        source = PACK if kind.startswith("Loom") else CORE
        node = {
            "id": node_id,
            "type": kind,
            "pos": list(at),
            "size": list(size),
            "flags": {},
            "order": node_id - 1,
            "mode": 0,
            "inputs": [self._input(node_id, slot, *spec) for slot, spec in enumerate(inputs or [])],
            "outputs": [
                {"name": name, "type": kind_, "links": [], "slot_index": slot}
                for slot, (name, kind_) in enumerate(outputs)
            ],
            "properties": {"Node name for S&R": kind, **source, **(properties or {})},
            "widgets_values": widgets or [],
        }
        self.nodes.append(node)
        return node_id

    def _input(
        self, node_id: int, slot: int, name: str, kind: str, source: tuple[int, int] | None
    ) -> dict[str, Any]:
        widget = {"widget": {"name": name}} if kind in _WIDGET_TYPES else {}
        if source is None:
            return {"name": name, "type": kind, "link": None, **widget}
        link = len(self.links) + 1
        self.links.append([link, source[0], source[1], node_id, slot, kind])
        self.nodes[source[0] - 1]["outputs"][source[1]]["links"].append(link)
        return {"name": name, "type": kind, "link": link, **widget}

    def note(self, at: tuple[int, int], size: tuple[int, int], text: str) -> None:
        """Words on the canvas; never run."""
        self.add("MarkdownNote", at, size, [], widgets=[text])

    def document(self) -> dict[str, Any]:
        _make_room(self.nodes)
        return {
            "last_node_id": len(self.nodes),
            "last_link_id": len(self.links),
            "nodes": self.nodes,
            "links": self.links,
            "groups": [],
            "config": {},
            "extra": {},
            "version": 0.4,
        }


def _make_room(nodes: list[dict[str, Any]]) -> None:
    """Move nodes down that others above them would cover once they have run."""
    placed: list[dict[str, Any]] = []
    for node in sorted(nodes, key=lambda each: each["pos"][1]):
        left, right = node["pos"][0], node["pos"][0] + node["size"][0]
        room = _TITLE + _BETWEEN + (_BADGE if node["type"].startswith("Loom") else 0)
        for above in placed:
            if above["pos"][0] < right and left < above["pos"][0] + above["size"][0]:
                grown = max(above["size"][1], GROWN.get(above["type"], 0))
                node["pos"][1] = max(node["pos"][1], above["pos"][1] + grown + room)
        placed.append(node)


def api_prompt(workflow: dict[str, Any], object_info: dict[str, Any]) -> dict[str, Any]:
    """What the page would send for a workflow: {node id: {class_type, inputs}}. Notes are left out. Raises KeyError for a node that the host lacks."""
    origins = {link[0]: [str(link[1]), link[2]] for link in workflow["links"]}
    prompt = {}
    for node in workflow["nodes"]:
        if node["type"] in _NOTES:
            continue
        if node["type"] not in object_info:
            raise KeyError(f"the host has no node {node['type']}")
        inputs = dict(
            zip(_widget_names(object_info[node["type"]]), node["widgets_values"], strict=True)
        )
        inputs.pop(_SEED_FOLLOWER, None)
        inputs |= {i["name"]: origins[i["link"]] for i in node["inputs"] if i["link"] is not None}
        prompt[str(node["id"])] = {"class_type": node["type"], "inputs": inputs}
    return prompt


def _widget_names(info: dict[str, Any]) -> list[str]:
    """The inputs that are widgets, in the order in which a workflow holds their values."""
    names = []
    for section in ("required", "optional"):
        for name in info["input_order"].get(section, []):
            kind, *options = info["input"][section][name]
            if isinstance(kind, list) or kind in {"INT", "FLOAT", "STRING", "BOOLEAN", "COMBO"}:
                names.append(name)
                if options and options[0].get(_SEED_FOLLOWER):
                    names.append(_SEED_FOLLOWER)
    return names
