"""LoRA rows as other packs keep them -> LoraStack: from a pasted workflow, one node of it, or bare widget values.

What tells the forms apart, so that nothing is taken for something else:
a workflow of the page has a list "nodes", one of the API nodes with "class_type"; one node has "type" and
"widgets_values", or "class_type" and "inputs"; rgthree's rows have "on", "lora" and "strength", Lora-Manager's "name" and
"strength". Our own rows text has "rows", or rows with "lora" and without "strength".
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from ..errors import LoraFileError, StackError
from ..files.finding import FindName
from .rows import LoraStack, StackRow
from .rows_json import parse_rows
from .tags import has_tags, read_tags

# How the page writes that a node is muted or bypassed.
_SWITCHED_OFF = (2, 4)
# Fields that only our own rows have.
_OURS = {"model", "clip", "role", "words", "sha256", "autov3", "accept", "blocks"}
_ROW_INPUT = re.compile(r"lora_\d+", re.IGNORECASE)


@dataclass(frozen=True)
class Foreign:
    """unread: what names LoRAs and could not be read or is switched off in the workflow, one sentence each."""

    stack: LoraStack = LoraStack()
    unread: tuple[str, ...] = ()

    def __add__(self, other: Foreign) -> Foreign:
        return Foreign(self.stack + other.stack, self.unread + other.unread)


Fields = list[Any] | dict[str, Any]


def is_foreign(document: object) -> bool:
    """Whether a JSON document has one of the forms above. One with "rows" is ours."""
    return _reader(document) is not None


def read_foreign(document: object, find: FindName) -> Foreign:
    """Rows that are switched on, in the order of the nodes and of their rows.

    find: a name as another pack writes it -> the listed name. Raises StackError for a document of another form or a
    row that makes no sense, LoraFileError with every name that `find` refuses.
    """
    read = _reader(document)
    if read is None:
        raise StackError(
            "No LoRA rows in this text. Paste a workflow, a node, or a node's widget values as JSON."
        )
    missing: list[str] = []

    def find_or_note(name: str) -> str:
        try:
            return find(name)
        except LoraFileError as error:
            missing.append(str(error))
            return name

    found = read(document, find_or_note)
    if missing:
        raise LoraFileError("\n".join(dict.fromkeys(missing)))
    return found


def _reader(document: Any) -> Callable[[Any, FindName], Foreign] | None:
    if isinstance(document, list):
        return _reader_of_fields(document)
    if not isinstance(document, dict) or "rows" in document:
        return None
    if _all_objects(document.get("nodes")):
        return _page_workflow
    if isinstance(document.get("type"), str) and "widgets_values" in document:
        return _page_node
    if isinstance(document.get("class_type"), str) and "inputs" in document:
        return _api_node
    for key in ("workflow", "prompt"):
        if isinstance(document.get(key), dict) and (read := _reader(document[key])):
            return lambda whole, find, key=key, read=read: read(whole[key], find)
    nodes = list(document.values())
    if _all_objects(nodes) and all("class_type" in node for node in nodes):
        return _api_workflow
    return _reader_of_fields(document)


def _all_objects(value: object) -> bool:
    return isinstance(value, list) and bool(value) and all(isinstance(v, dict) for v in value)


def _reader_of_fields(fields: Fields) -> Callable[[Any, FindName], Foreign] | None:
    """By the rows in a node's widget values or inputs, whatever the node."""
    own = _rgthree_rows(fields)
    if _has_header(fields) or (own and all(_is_rgthree(row) for row in own)):
        return _rgthree
    rows = _lora_manager_rows(fields)
    return _lora_manager if rows and all(_is_lora_manager(row) for row in rows) else None


def _page_workflow(document: Mapping[str, Any], find: FindName) -> Foreign:
    """Nodes in their order of execution, those of subgraphs after them."""
    definitions = document.get("definitions")
    subgraphs = definitions.get("subgraphs") if isinstance(definitions, dict) else None
    graphs = [document, *(subgraphs if isinstance(subgraphs, list) else ())]
    whole = Foreign()
    for graph in graphs:
        nodes = graph.get("nodes") if isinstance(graph, dict) else None
        listed = nodes if isinstance(nodes, list) and _all_objects(nodes) else []
        for node in sorted(listed, key=_order):
            whole += _page_node(node, find)
    return whole


def _order(node: Mapping[str, Any]) -> float:
    order = node.get("order")
    return order if isinstance(order, int | float) else 0


def _page_node(node: Mapping[str, Any], find: FindName) -> Foreign:
    kind, said = node.get("type"), f"node {node.get('id', '?')} '{node.get('type')}'"
    if node.get("mode") in _SWITCHED_OFF and _speaks_of_loras(kind):
        return Foreign(unread=(f"{said} is switched off in the workflow",))
    return _node(kind, node.get("widgets_values"), said, find)


def _api_workflow(document: Mapping[str, Any], find: FindName) -> Foreign:
    whole = Foreign()
    for key, node in document.items():
        whole += _api_node({"id": key, **node}, find)
    return whole


def _api_node(node: Mapping[str, Any], find: FindName) -> Foreign:
    kind = node.get("class_type")
    return _node(kind, node.get("inputs"), f"node {node.get('id', '?')} '{kind}'", find)


def _node(kind: object, fields: Any, said: str, find: FindName) -> Foreign:
    if not _speaks_of_loras(kind):
        return Foreign()
    read = _NODES.get(str(kind))
    if read is None and isinstance(fields, list | dict):
        read = _reader_of_fields(fields)
    if read is None or not isinstance(fields, list | dict):
        return Foreign(unread=(f"{said} is not read",))
    try:
        found = read(fields, find)
    except StackError as error:
        raise StackError(f"{said}: {error}") from error
    return Foreign(found.stack, tuple(f"{said}: {text}" for text in found.unread))


def _speaks_of_loras(kind: object) -> bool:
    return isinstance(kind, str) and ("lora" in kind.lower() or kind in _NODES)


def _rgthree_rows(fields: Fields) -> list[Any]:
    if isinstance(fields, list):
        return [row for row in fields if isinstance(row, dict) and "lora" in row]
    if _is_rgthree(fields):
        return [fields]
    return [row for key, row in fields.items() if _ROW_INPUT.fullmatch(key)]


def _has_header(fields: Fields) -> bool:
    values = fields if isinstance(fields, list) else fields.values()
    return {"type": "PowerLoraLoaderHeaderWidget"} in values


def _is_rgthree(row: object) -> bool:
    if not isinstance(row, dict) or _OURS & set(row):
        return False
    return {"on", "lora", "strength"} <= set(row)


def _rgthree(fields: Fields, find: FindName) -> Foreign:
    rows = _rgthree_rows(fields)
    unread = tuple(f"row {row!r:.80} is not read" for row in rows if not _is_rgthree(row))
    read = [row for row in rows if _is_rgthree(row)]
    return Foreign(_stack(read, "on", ("lora", "strength", "strengthTwo"), find), unread)


def _lora_manager_rows(fields: object) -> list[Any]:
    """The rows wherever its widget keeps them: under "loras", under "__value__", as a list among the values."""
    if isinstance(fields, dict):
        key = next((key for key in ("loras", "__value__") if key in fields), None)
        return _lora_manager_rows(fields[key]) if key else []
    if not isinstance(fields, list) or _all_objects(fields) and "name" in fields[0]:
        return fields if isinstance(fields, list) else []
    nested = (_lora_manager_rows(item) for item in fields if isinstance(item, list | dict))
    return next((rows for rows in nested if rows), [])


def _is_lora_manager(row: object) -> bool:
    return isinstance(row, dict) and {"name", "strength"} <= set(row) and "lora" not in row


def _lora_manager(fields: Fields, find: FindName) -> Foreign:
    """A widget without rows holds its LoRAs as tags."""
    rows = _lora_manager_rows(fields)
    if not rows and isinstance(fields, list):
        texts = [text for text in fields if isinstance(text, str) and has_tags(text)]
        read = [read_tags(text, find) for text in texts]
        return sum((Foreign(tags.stack) for tags in read), Foreign())
    return Foreign(_stack(rows, "active", ("name", "strength", "clipStrength"), find))


_CORE_FIELDS = ("lora_name", "strength_model", "strength_clip")


def _core(fields: Fields, find: FindName) -> Foreign:
    """One LoRA as the host's own loaders and ours keep it: name, model strength, clip strength."""
    row: Mapping[str, Any] = (
        dict(zip(_CORE_FIELDS, fields, strict=False)) if isinstance(fields, list) else fields
    )
    if not isinstance(row.get("lora_name"), str):
        return Foreign(unread=("its LoRA comes from another node and is not read",))
    return Foreign(_stack([row], "", _CORE_FIELDS, find))


def _core_model_only(fields: Fields, find: FindName) -> Foreign:
    found = _core(fields, find)
    rows = tuple(StackRow(row.name, row.model, 0.0) for row in found.stack.rows)
    return Foreign(LoraStack(rows), found.unread)


def _own(fields: Fields, find: FindName) -> Foreign:
    text = next(iter(fields), "") if isinstance(fields, list) else fields.get("rows")
    if not isinstance(text, str):
        return Foreign(unread=("its rows come from another node and are not read",))
    return Foreign(parse_rows(text))


def _stack(
    rows: Iterable[Mapping[str, Any]], on: str, fields: tuple[str, str, str], find: FindName
) -> LoraStack:
    """on: the field that switches a row off. fields: those of name, model and clip strength."""
    read = []
    for number, row in enumerate(rows, start=1):
        name, model, clip = (row.get(field) for field in fields)
        if row.get(on) is False or name in (None, "", "None"):
            continue
        if not isinstance(name, str):
            raise StackError(f"row {number}: the name must be text; found {name!r:.80}.")
        model = 1.0 if model is None else _strength(model)
        clip = model if clip is None else _strength(clip)
        try:
            read.append(StackRow(find(name), model, clip))
        except StackError as error:
            raise StackError(f"row {number}: {error}") from error
    return LoraStack(tuple(read))


def _strength(value: Any) -> Any:
    """Lora-Manager writes some strengths as text; what is no number is left for the row to refuse."""
    if not isinstance(value, str):
        return value
    try:
        return float(value)
    except ValueError:
        return value


_NODES: dict[str, Callable[[Any, FindName], Foreign]] = {
    "Power Lora Loader (rgthree)": _rgthree,
    "Lora Loader (LoraManager)": _lora_manager,
    "Lora Stacker (LoraManager)": _lora_manager,
    "LoraLoader": _core,
    "LoraLoaderModelOnly": _core_model_only,
    "LoomLoader": _core,
    "LoomStack": _own,
}
