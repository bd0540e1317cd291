"""Rows of other packs, pasted as a workflow, a node, widget values or tags; and ours read by other packs."""

from __future__ import annotations

import copy
import json
from dataclasses import replace
from pathlib import Path
from random import Random

import pytest

from lora_core.errors import LoraError, LoraFileError, StackError
from lora_core.files.finding import listed_name
from lora_core.stack.foreign import is_foreign, read_foreign
from lora_core.stack.interop import StackList, read_lora_stack
from lora_core.stack.rows import LoraStack, StackRow
from lora_core.stack.rows_json import parse_rows
from lora_core.stack.rows_text import read_rows
from tests.core.test_rows import BAD_ROWS

STYLE, LEAH = "style.safetensors", "people/leah.safetensors"
LISTED = [STYLE, LEAH, "people/twin.safetensors", "old/twin.safetensors"]
EXAMPLES = Path(__file__).resolve().parents[2] / "example_workflows"


def find(name: str) -> str:
    return listed_name(name, LISTED)


RGTHREE_VALUES = [
    {},
    {"type": "PowerLoraLoaderHeaderWidget"},
    {"on": True, "lora": STYLE, "strength": 0.8, "strengthTwo": None},
    {"on": False, "lora": "gone.safetensors", "strength": 1, "strengthTwo": None},
    {"on": True, "lora": "people\\leah.safetensors", "strength": 1, "strengthTwo": 0.5},
    {"on": True, "lora": "None", "strength": 1, "strengthTwo": None},
    {},
    "",
]
RGTHREE_INPUTS = {
    "PowerLoraLoaderHeaderWidget": {"type": "PowerLoraLoaderHeaderWidget"},
    "lora_1": {"on": True, "lora": STYLE, "strength": 0.8},
    "lora_2": {"on": False, "lora": "gone.safetensors", "strength": 1},
    "LORA_7": {"on": True, "lora": "people\\leah.safetensors", "strength": 1, "strengthTwo": 0.5},
    "\u2795 Add Lora": "",
    "model": ["4", 0],
}
MANAGER_ROWS = [
    {
        "name": "style",
        "strength": "0.80",
        "active": True,
        "expanded": False,
        "clipStrength": "0.80",
    },
    {"name": "gone", "strength": 1, "active": False, "clipStrength": 1},
    {
        "name": "leah",
        "strength": 1,
        "active": True,
        "expanded": True,
        "clipStrength": 0.5,
        "locked": True,
    },
]
MANAGER_VALUES = ["<lora:style:0.80> <lora:leah:1:0.5>", MANAGER_ROWS]
RGTHREE = "Power Lora Loader (rgthree)"
MANAGER = "Lora Loader (LoraManager)"
EXPECTED = LoraStack((StackRow(STYLE, 0.8, 0.8), StackRow(LEAH, 1.0, 0.5)))


def page_node(kind, values, number=5, **more):
    return {
        "id": number,
        "type": kind,
        "order": number,
        "mode": 0,
        "widgets_values": values,
        **more,
    }


def page_workflow(*nodes):
    other = [page_node("KSampler", [1, "fixed"]), {"id": 1, "type": "Reroute"}]
    return {"last_node_id": 9, "nodes": [*other, *nodes], "links": [], "version": 0.4}


FORMS = {
    "rgthree values": RGTHREE_VALUES,
    "rgthree inputs": RGTHREE_INPUTS,
    "rgthree rows": [row for row in RGTHREE_VALUES if isinstance(row, dict) and "lora" in row],
    "rgthree page node": page_node(RGTHREE, RGTHREE_VALUES),
    "rgthree page workflow": page_workflow(page_node(RGTHREE, RGTHREE_VALUES)),
    "rgthree api node": {"class_type": RGTHREE, "inputs": RGTHREE_INPUTS},
    "rgthree api workflow": {
        "4": {"class_type": "CheckpointLoaderSimple", "inputs": {"ckpt_name": "x"}},
        "7": {"class_type": RGTHREE, "inputs": RGTHREE_INPUTS, "_meta": {"title": "x"}},
    },
    "in a subgraph": page_workflow()
    | {"definitions": {"subgraphs": [{"nodes": [page_node(RGTHREE, RGTHREE_VALUES)]}]}},
    "picture's workflow": {"workflow": page_workflow(page_node(RGTHREE, RGTHREE_VALUES))},
    "queue's prompt": {"prompt": {"7": {"class_type": RGTHREE, "inputs": RGTHREE_INPUTS}}},
    "manager values": MANAGER_VALUES,
    "manager values with version": [{"version": 1, "textWidgetName": "text"}, *MANAGER_VALUES],
    "manager rows": MANAGER_ROWS,
    "manager value": {"__value__": MANAGER_ROWS},
    "manager inputs": {"text": "", "loras": {"__value__": MANAGER_ROWS}, "model": ["4", 0]},
    "manager inputs, bare list": {"loras": MANAGER_ROWS},
    "manager page workflow": page_workflow(page_node(MANAGER, MANAGER_VALUES)),
    "manager tags alone": page_workflow(page_node(MANAGER, MANAGER_VALUES[:1])),
    "manager stacker": page_node("Lora Stacker (LoraManager)", MANAGER_VALUES),
    "manager api workflow": {
        "7": {"class_type": MANAGER, "inputs": {"loras": {"__value__": MANAGER_ROWS}}}
    },
    "core loaders": page_workflow(
        page_node("LoraLoader", ["leah", 1, 0.5], 8), page_node("LoraLoader", [STYLE, 0.8, 0.8], 6)
    ),
    "core api": {
        "6": {
            "class_type": "LoraLoader",
            "inputs": {"lora_name": STYLE, "strength_model": 0.8, "strength_clip": 0.8},
        },
        "8": {
            "class_type": "LoomLoader",
            "inputs": {"lora_name": "leah", "strength_model": 1, "strength_clip": 0.5},
        },
    },
}


@pytest.mark.parametrize("document", FORMS.values(), ids=FORMS.keys())
def test_every_form_gives_the_same_rows(document):
    before = copy.deepcopy(document)
    assert is_foreign(document)
    assert read_foreign(document, find).stack == EXPECTED
    assert read_rows(json.dumps(document), find).stack == EXPECTED
    assert document == before


def test_a_single_row_is_read_alone():
    assert read_foreign({"on": True, "lora": "style", "strength": 0.5}, find).stack == LoraStack(
        (StackRow(STYLE, 0.5, 0.5),)
    )


def test_a_model_only_loader_has_no_text_encoder_strength():
    node = page_node("LoraLoaderModelOnly", [STYLE, 0.8])
    assert read_foreign(node, find).stack == LoraStack((StackRow(STYLE, 0.8, 0.0),))


def test_nodes_come_in_the_order_of_their_execution():
    later, sooner = (
        page_node(RGTHREE, RGTHREE_VALUES, 9),
        page_node("LoraLoader", ["leah", 1, 1], 3),
    )
    names = [row.name for row in read_foreign(page_workflow(later, sooner), find).stack.rows]
    assert names == [LEAH, STYLE, LEAH]


def test_our_own_stack_in_a_workflow_is_read_too():
    workflow = json.loads((EXAMPLES / "lora_stack.json").read_text("utf-8"))
    rows = read_foreign(workflow, find).stack.rows
    assert [(row.model, row.role) for row in rows] == [(0.8, "style"), (0.9, "character")]


@pytest.mark.parametrize(
    ("node", "said"),
    [
        (page_node("CR LoRA Stack", ["On", STYLE, 1, 1]), "node 5 'CR LoRA Stack' is not read"),
        (page_node(RGTHREE, RGTHREE_VALUES, mode=4), f"node 5 '{RGTHREE}' is switched off"),
        (page_node("LoraLoader", None), "node 5 'LoraLoader' is not read"),
        (page_node("LoraLoader", []), "its LoRA comes from another node"),
        (page_node(RGTHREE, [{"lora": STYLE}]), "row {'lora': 'style.safetensors'} is not read"),
    ],
)
def test_what_names_loras_and_is_not_read_is_said(node, said):
    found = read_foreign(page_workflow(node, page_node("LoraLoader", [STYLE, 1, 1], 7)), find)
    assert found.stack == LoraStack((StackRow(STYLE),))
    (line,) = found.unread
    assert said in line


def test_a_linked_name_of_an_api_node_is_said():
    node = {"class_type": "LoraLoader", "inputs": {"lora_name": ["3", 0], "strength_model": 1}}
    (line,) = read_foreign({"6": node}, find).unread
    assert line == "node 6 'LoraLoader': its LoRA comes from another node and is not read"


def manager(name):
    return {"name": name, "strength": 1, "active": True}


def test_a_name_that_fits_two_files_or_none_is_refused_with_the_candidates():
    with pytest.raises(LoraFileError) as error:
        read_rows(json.dumps([manager("style"), manager("twin"), manager("stile")]), find)
    message = str(error.value)
    assert "'twin' may be old/twin.safetensors or people/twin.safetensors" in message
    assert "LoRA 'stile' not found" in message
    assert "The nearest names: style.safetensors" in message


@pytest.mark.parametrize(
    ("strength", "message"),
    [("much", "'much'"), (None, None), (float("nan"), "nan"), (True, "True"), ([1], r"\[1\]")],
)
def test_a_strength_that_is_no_number_is_refused_with_node_and_row(strength, message):
    row = {"on": True, "lora": STYLE, "strength": strength}
    workflow = page_workflow(page_node(RGTHREE, [row]))
    if message is None:
        assert read_foreign(workflow, find).stack == LoraStack((StackRow(STYLE),))
        return
    with pytest.raises(StackError, match=rf"node 5 .*row 1: .* strength is {message}"):
        read_foreign(workflow, find)


@pytest.mark.parametrize(
    ("text", "rows"),
    [
        ("<lora:style:0.8> <lora:leah:1:0.5>", EXPECTED.rows),
        ("<lora:style:0.8>,\n<lora:leah:1:0.5>\n", EXPECTED.rows),
        ("  <lora:leah:LBW=SD-MIDD;>", (StackRow(LEAH, blocks="SD-MIDD"),)),
    ],
)
def test_pasted_tags_are_rows(text, rows):
    assert read_rows(text, find).stack.rows == rows


def test_pasted_tags_keep_their_schedule():
    (row,) = read_rows("<lora:style:0@0,1@1>", find).stack.rows
    assert row.schedule == "0@0,1@1"


def test_a_prompt_does_not_belong_into_the_rows():
    with pytest.raises(
        StackError, match=r"more than tags: 'rain'\. Put a prompt with tags into Loom Tags"
    ):
        read_rows("rain <lora:style:1>", find)


@pytest.mark.parametrize(("text", "message"), BAD_ROWS.values(), ids=BAD_ROWS.keys())
def test_our_own_rows_are_read_as_strictly_as_ever(text, message):
    with pytest.raises(StackError) as error:
        read_rows(text, find)
    assert message in str(error.value)


STILL_OURS = (
    "",
    " [] ",
    '{"rows": []}',
    '[{"lora": "style", "on": true, "model": 0.5, "words": ["a"]}]',
    '{"version": 1, "rows": [{"lora": "any name at all", "role": "style", "on": false}]}',
)


@pytest.mark.parametrize("text", STILL_OURS)
def test_our_own_rows_are_never_taken_for_foreign_ones(text):
    read = read_rows(text, find)
    assert read.stack == parse_rows(text)
    assert read.unread == ()


@pytest.mark.parametrize(
    "text",
    [
        '{"rows": [{"on": true, "lora": "a", "strength": 1}]}',
        '[{"on": true, "lora": "a", "strength": 1}, {"lora": "b"}]',
        '[{"on": true, "lora": "a", "strength": 1, "model": 1}]',
        '[{"on": true, "lora": "a", "strength": 1, "sha256": ""}]',
        '[{"lora": "a", "strength": 1}]',
        '{"nodes": []}',
        '[{"name": "a"}]',
    ],
)
def test_a_mixture_of_ours_and_theirs_is_refused(text):
    with pytest.raises(StackError):
        read_rows(text, find)


@pytest.mark.parametrize(
    ("words", "read"), [("null", None), ("[]", ()), ('["a", "b c"]', ("a", "b c"))]
)
def test_a_row_carries_its_choice_of_words(words, read):
    (row,) = parse_rows(f'[{{"lora": "a", "words": {words}}}]').rows
    assert row.words == read


@pytest.mark.parametrize("words", ['"a"', "3", "[1]", '{"a": true}', "[null]", "true"])
def test_words_that_are_no_texts_are_refused_with_the_row(words):
    with pytest.raises(StackError, match="Row 1: 'a': words must be a list of texts"):
        parse_rows(f'[{{"lora": "a", "words": {words}}}]')


def test_code_that_unpacks_exactly_three_takes_our_stack():
    rows = (
        StackRow(STYLE, 0.8, 0.5, words=("a",), blocks="SD-MIDD", schedule="0@0,1@1"),
        StackRow(LEAH),
    )
    out = StackList(LoraStack(rows), [row.name for row in rows])
    taken = []
    for name, model, clip in out:  # as other packs write it
        taken.append((name, model, clip))
    taken.extend([(name, model, clip) for name, model, clip in out.copy()])
    assert taken == [(STYLE, 0.8, 0.5), (LEAH, 1.0, 1.0)] * 2
    assert all(len(item) == 3 and type(item) is tuple for item in out)
    assert list(out) + [("other", 1.0, 1.0)] == [*taken[:2], ("other", 1.0, 1.0)]
    (first, _) = read_lora_stack(out).rows
    assert (first.words, first.blocks, first.schedule) == (("a",), "SD-MIDD", "0@0,1@1")


@pytest.mark.parametrize("field", ["blocks", "schedule"])
def test_blocks_and_schedule_are_texts(field):
    with pytest.raises(StackError, match=f"'a': {field} must be text"):
        replace(StackRow("a"), **{field: 3})


def mutated(random: Random, value: object) -> object:
    """The value with parts of it replaced or gone."""
    if random.random() < 0.08:
        return random.choice([None, True, 3, "x", [], {}, [[]], "<lora:style:1>", float("nan")])
    if isinstance(value, list):
        return [mutated(random, item) for item in value if random.random() > 0.05]
    if isinstance(value, dict):
        return {key: mutated(random, item) for key, item in value.items() if random.random() > 0.05}
    return value


@pytest.mark.parametrize("seed", range(400))
def test_a_damaged_document_is_read_or_refused_in_words(seed):
    random = Random(seed)
    document = mutated(random, random.choice(list(FORMS.values())))
    try:
        found = read_rows(json.dumps(document), find)
    except LoraError:
        return
    assert all(row.name in LISTED for row in found.stack.rows)
