"""What a sheet shows, as JSON; and what the graph that made it says of prompt and seed."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from ..stack.rows import StackRow
from .points import AxisLabels, Point, Sweep
from .sheet import Box

VERSION = 1
_SEEDS = ("seed", "noise_seed")
_POSITIVE = ("positive", "conditioning")
_TEXTS = ("text", "prompt", "clip_l", "t5xxl", "text_l", "text_g", "value", "string")
_MOST_NODES = 10_000


@dataclass(frozen=True)
class GraphWords:
    """prompt, seed: None where the graph does not tell them."""

    prompt: str | None = None
    seed: int | None = None

    @property
    def text(self) -> str:
        said = [self.prompt or ""] + ([f"seed {self.seed}"] if self.seed is not None else [])
        return "\n".join(filter(None, said))


def graph_words(prompt: Any, node_id: str | None) -> GraphWords:
    """Positive prompt and seed of the nearest sampler above the `images` of a node. prompt: as the host runs it."""
    if not isinstance(prompt, Mapping) or str(node_id) not in prompt:
        return GraphWords()
    nodes = list(_above(prompt, _linked(prompt[str(node_id)], "images")))
    seed = next((s for node in nodes if (s := _seed(prompt, node)) is not None), None)
    positive = next(
        (link for node in nodes for name in _POSITIVE if (link := _linked(node, name))), None
    )
    texts = (_text(prompt, node) for node in _above(prompt, positive)) if positive else ()
    return GraphWords(next((text for text in texts if text), None), seed)


def sheet_record(
    sweep: Sweep, boxes: Sequence[Box], picture: str, words: str, found: GraphWords
) -> str:
    """The JSON beside a sheet. Its form is in web/docs/LoomSweepGrid.md."""
    points = [
        _point(point, sweep.hashes) | {"box": list(box)}
        for point, box in zip(sweep.points, boxes, strict=True)
    ]
    document = {
        "version": VERSION,
        "picture": picture,
        "text": words,
        "prompt": found.prompt,
        "seed": found.seed,
        "x": axis(sweep.x),
        "y": axis(sweep.y),
        "points": points,
    }
    return json.dumps(document, indent=1) + "\n"


def axis(labels: AxisLabels) -> dict[str, Any]:
    return {"title": labels.title, "labels": list(labels.labels)}


def place(point: Point) -> dict[str, Any]:
    """Where a point stands, for both JSONs."""
    return {
        "col": point.col,
        "row": point.row,
        "x": point.x,
        "y": point.y,
        "reference": point.reference,
    }


def _point(point: Point, hashes: Mapping[str, str]) -> dict[str, Any]:
    merge = {"merge": point.merge} if point.merge else {}
    return place(point) | merge | {"loras": [_lora(row, hashes) for row in point.rows]}


def _lora(row: StackRow, hashes: Mapping[str, str]) -> dict[str, Any]:
    """A row as Loom Stack reads it."""
    said: dict[str, Any] = {
        "lora": row.name,
        "model": row.model,
        "clip": row.clip,
        "role": row.role,
        "blocks": row.blocks,
    }
    if row.schedule:
        said["schedule"] = row.schedule
    if row.name in hashes:
        said["sha256"] = hashes[row.name]
    return said


def _linked(node: Any, name: str) -> str | None:
    """The id of the node that an input comes from."""
    value = _inputs(node).get(name)
    return str(value[0]) if isinstance(value, list) and len(value) == 2 else None


def _inputs(node: Any) -> Mapping[str, Any]:
    inputs = node.get("inputs") if isinstance(node, Mapping) else None
    return inputs if isinstance(inputs, Mapping) else {}


def _above(prompt: Mapping[str, Any], start: str | None) -> Iterator[Any]:
    """The node and all that feed it, the nearest first."""
    waiting, seen = [start], set()
    while waiting and len(seen) < _MOST_NODES:
        node_id = waiting.pop(0)
        if node_id is None or node_id in seen or node_id not in prompt:
            continue
        seen.add(node_id)
        node = prompt[node_id]
        yield node
        waiting += [_linked(node, name) for name in _inputs(node)]


def _seed(prompt: Mapping[str, Any], node: Any) -> int | None:
    for name in _SEEDS:
        value = _value(prompt, node, name)
        if isinstance(value, int) and not isinstance(value, bool):
            return value
    return None


def _text(prompt: Mapping[str, Any], node: Any) -> str | None:
    """The words of a text encoder's node; None where another node makes them."""
    values = [_value(prompt, node, name) for name in _TEXTS]
    texts = dict.fromkeys(value for value in values if isinstance(value, str) and value.strip())
    return "\n".join(texts) or None


def _value(prompt: Mapping[str, Any], node: Any, name: str) -> Any:
    """What an input holds: typed in, or from a node that holds nothing but a value (core's Primitive nodes)."""
    source = _linked(node, name)
    if source is None:
        return _inputs(node).get(name)
    holder = prompt.get(source)
    kind = holder.get("class_type", "") if isinstance(holder, Mapping) else ""
    return _inputs(holder).get("value") if str(kind).startswith("Primitive") else None
