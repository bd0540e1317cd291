"""Stacks from text and from other packs."""

from __future__ import annotations

import copy

import numpy as np
import pytest

from lora_core.errors import StackError
from lora_core.stack.interop import StackList, read_lora_stack
from lora_core.stack.rows import LoraStack, StackRow
from lora_core.stack.rows_json import parse_rows

BAD_ROWS = {
    "not json": ("{rows", "not JSON"),
    "no list": ("{}", "a list called 'rows'"),
    "a number": ("3", "a list called 'rows'"),
    "newer version": ('{"version": 9, "rows": []}', "rows version 9"),
    "nested without end": ("[" * 100_000, "not JSON"),
    "a number too long": (
        '[{"lora": "a", "model": 1' + "0" * 400 + "}]",
        "the model strength is 1000",
    ),
    "row is no object": ('["a"]', "Row 1 must be an object"),
    "no name": ('[{"model": 1}]', "Row 1 names no LoRA"),
    "empty name": ('[{"lora": " "}]', "Row 1 names no LoRA"),
    "name is a number": ('[{"lora": 3}]', "Row 1 names no LoRA"),
    "unknown field": (
        '[{"lora": "a"}, {"lora": "b", "strenght": 1}]',
        "Row 2 has an unknown field 'strenght'",
    ),
    "nan": ('[{"lora": "a", "model": NaN}]', "Row 1: 'a': the model strength is nan"),
    "infinite": ('[{"lora": "a", "clip": Infinity}]', "Row 1: 'a': the clip strength is inf"),
    "strength is text": (
        '[{"lora": "a", "model": "0.8"}]',
        "Row 1: 'a': the model strength is '0.8'",
    ),
    "strength is a truth value": (
        '[{"lora": "a", "model": true}]',
        "Row 1: 'a': the model strength is True",
    ),
    "on is text": ('[{"lora": "a", "on": "yes"}]', "'on' must be true or false"),
    "unknown role": ('[{"lora": "a", "role": "hero"}]', "no role 'hero'"),
    "bad row switched off": (
        '[{"lora": "a", "on": false, "model": NaN}]',
        "the model strength is nan",
    ),
}


@pytest.mark.parametrize(("text", "message"), BAD_ROWS.values(), ids=BAD_ROWS.keys())
def test_bad_rows_are_refused_with_row_and_field(text, message):
    with pytest.raises(StackError) as error:
        parse_rows(text)
    assert message in str(error.value)


SHA, OTHER = "a" * 64, "b" * 64


def test_a_lock_holds_the_row_of_its_name_and_no_other():
    text = """{"rows": [{"lora": "dir\\\\style"}, {"lora": "other"}, {"lora": "own", "autov3": "cccccccccccc"}],
        "locks": {"dir/style": {"sha256": "%s", "autov3": "dddddddddddd"}, "own": {"sha256": "%s"}}}"""
    style, other, own = parse_rows(text % (SHA, OTHER)).rows
    assert (style.sha256, style.autov3) == (SHA, "d" * 12)
    assert (other.sha256, other.autov3) == (None, None)
    assert (own.sha256, own.autov3) == (None, "c" * 12)


@pytest.mark.parametrize("locks", ["3", '{"a": "x"}', "[]"])
def test_locks_that_make_no_sense_are_refused(locks):
    with pytest.raises(StackError, match='"locks" must be an object'):
        parse_rows('{"rows": [], "locks": ' + locks + "}")


def test_rows_carry_strengths_role_and_order():
    stack = parse_rows(
        '{"rows": [{"lora": "b", "model": 0.8, "clip": 0.5, "role": "style"}, {"lora": "a"}]}'
    )
    assert stack.rows == (StackRow("b", 0.8, 0.5, "style"), StackRow("a", 1.0, 1.0, "free"))


def test_clip_follows_model_when_left_out():
    assert parse_rows('[{"lora": "a", "model": 0.3}]').rows == (StackRow("a", 0.3, 0.3),)


def test_rows_switched_off_are_left_out():
    assert parse_rows('[{"lora": "a", "on": false}, {"lora": "b", "on": true}]').rows == (
        StackRow("b"),
    )


@pytest.mark.parametrize("text", ["", "  ", "[]", '{"rows": []}'])
def test_no_rows_are_an_empty_stack(text):
    assert parse_rows(text) == LoraStack()


def test_an_outgoing_stack_is_a_list_of_exact_triples():
    rows = LoraStack((StackRow("a", 0.8, 0.5, "style"), StackRow("b", 1.0, 0.0)))
    out = StackList(rows, ["dir/a.safetensors", "b.safetensors"])
    assert isinstance(out, list)
    assert list(out) == [("dir/a.safetensors", 0.8, 0.5), ("b.safetensors", 1.0, 0.0)]
    assert [(type(item), len(item)) for item in out] == [(tuple, 3)] * 2
    for name, model, clip in out:
        assert (type(name), type(model), type(clip)) == (str, float, float)


def test_our_own_rows_come_back_through_the_socket():
    rows = LoraStack((StackRow("a", 0.8, 0.5, "style"),))
    assert read_lora_stack(StackList(rows, ["a"])) == rows
    assert read_lora_stack(copy.deepcopy(StackList(rows, ["a"]))) == rows


def test_a_stack_that_another_node_changed_is_read_from_its_tuples():
    out = StackList(LoraStack((StackRow("a", 0.8, 0.5, "style"),)), ["a"])
    out.append(("b", 1.0, 1.0))
    assert [row.name for row in read_lora_stack(out).rows] == ["a", "b"]
    changed = StackList(LoraStack((StackRow("a", 0.8, 0.5),)), ["a"])
    changed[0] = ("other", 0.8, 0.5)
    assert [row.name for row in read_lora_stack(changed).rows] == ["other"]


@pytest.mark.parametrize(
    "item",
    [
        ("a", 0.8, 0.5),
        ["a", 0.8, 0.5],
        ("a", 0.8, 0.5, "additive", "*"),
        {"name": "a", "strength": 0.8, "clip_strength": 0.5},
        {"lora": "a", "strength": 0.8, "strengthTwo": 0.5, "on": True},
        {"lora_name": "a", "model_strength": 0.8, "clip_strength": 0.5},
    ],
)
def test_rows_of_other_packs_are_read(item):
    assert read_lora_stack([item]).rows == (StackRow("a", 0.8, 0.5),)


def test_numbers_of_numpy_become_plain_floats():
    (row,) = read_lora_stack([("a", np.float32(0.5), np.int64(1))]).rows
    assert (row.model, row.clip) == (0.5, 1.0)
    assert (type(row.model), type(row.clip)) == (float, float)


@pytest.mark.parametrize("value", [None, [], [("None", 1.0, 1.0)], [{"lora": "a", "on": False}]])
def test_nothing_is_an_empty_stack(value):
    assert read_lora_stack(value) == LoraStack()


@pytest.mark.parametrize(
    ("value", "message"),
    [
        ("a.safetensors", "must be a list"),
        (3, "must be a list"),
        ([("a", 1.0)], "LORA_STACK row 1"),
        ([("a", float("nan"), 1.0)], "LORA_STACK row 1"),
        ([(3, 1.0, 1.0)], "the name must be text"),
    ],
)
def test_a_stack_that_makes_no_sense_is_refused(value, message):
    with pytest.raises(StackError) as error:
        read_lora_stack(value)
    assert message in str(error.value)


def test_a_stack_that_comes_back_without_its_blocks_is_said_to():
    """Another pack unpacks three and builds a list of its own; the same rows that never had blocks are no news."""
    plain = LoraStack((StackRow("interop-a", 0.7, 0.6),))
    rebuilt = [tuple(row) for row in StackList(plain, ["interop-a"])]
    assert read_lora_stack(rebuilt).notes == ()
    blocked = LoraStack((StackRow("interop-a", 0.7, 0.6, blocks="IN04=0.5"),))
    sent = StackList(blocked, ["interop-a"])
    assert read_lora_stack(sent).notes == ()
    stack = read_lora_stack([tuple(row) for row in sent])
    assert "came back without" in stack.notes[0]
    assert "block strengths" in stack.notes[0]
    assert (stack + plain).active.notes == stack.notes
    StackList(plain, ["interop-a"])
    assert read_lora_stack(rebuilt).notes == ()
