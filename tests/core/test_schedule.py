"""Schedules: what their text means step by step, and which step a model call belongs to."""

from __future__ import annotations

import pytest
import torch

from lora_core.analysis.draw_schedule import schedule_chart
from lora_core.errors import StackError
from lora_core.live.progress import step_of, strength_table
from lora_core.stack.rows import LoraStack, StackRow
from lora_core.stack.schedule import PRESETS, read_schedule
from lora_core.stack.schedulerows import (
    composite_calls,
    curve_line,
    curve_of,
    schedule_text,
    with_schedule,
)


@pytest.mark.parametrize(
    ("text", "steps", "curve"),
    [
        ("0@0,1@0.5", 4, (0, 0.5, 1, 1)),
        ("0@0,1@0.5:curve=step", 4, (0, 0, 1, 1)),
        ("0@0,1@1:curve=cosine", 4, (0, 0.1464466, 0.5, 0.8535534)),
        ("1@0,0@2", 4, (1, 0.5, 0, 0)),
        ("1@1,0@3", 4, (1, 1, 0.5, 0)),
        ("50%@0,100%@0.5:curve=step", 4, (0.4, 0.4, 0.8, 0.8)),
        ("start=1:stop=3", 4, (0, 0.8, 0.8, 0)),
        ("step=1-3", 4, (0, 0.8, 0.8, 0)),
        ("start=0.25:stop=0.75", 4, (0, 0.8, 0.8, 0)),
        ("1@0,0@20:start=2", 4, (0, 0, 0.9, 0.85)),
        ("-1e-1@0", 2, (-0.1, -0.1)),
        ("0.3", 2, (0.3, 0.3)),
        ("0.3, 1", 2, (0.3, 0.65)),
        ("turn=1/2", 5, (0.8, 0, 0.8, 0, 0.8)),
        ("turn=2/3:every=2", 8, (0, 0, 0.8, 0.8, 0, 0, 0, 0)),
        ("0%@0,100%@1:turn=2/2", 4, (0, 0.2, 0, 0.6)),
        ("composite=2/2", 2, (0.8, 0.8)),
    ],
)
def test_a_text_gives_a_strength_for_each_step(text, steps, curve):
    assert curve_of(StackRow("a", 0.8, schedule=text), steps) == pytest.approx(curve)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("much", "'much' is no keyframe"),
        ("1@0.5,0@0", "after the one before"),
        ("1@0.5,0@0.5", "after the one before"),
        ("1@0:0@1", "two places"),
        ("begin=5", "'begin=5' is not understood"),
        ("1e999@0,1@1", "'1e999@0' is more than a number can hold"),
        ("start=soon", "'soon' is no step"),
        ("0@0,1@1:curve=bent", "no curve 'bent'"),
        ("turn=3/2", "'3/2' is no turn"),
        ("turn=0/2", "'0/2' is no turn"),
        ("turn=1/2:every=0", "every=0 is no number of steps"),
        ("every=2", "every= needs turn="),
        ("turn=1/2:composite=1/2", "not both"),
    ],
)
def test_a_text_that_makes_no_sense_is_refused_with_the_row(text, message):
    with pytest.raises(StackError, match=message) as error:
        StackRow("style", schedule=text)
    assert "'style'" in str(error.value)


def test_no_text_is_no_schedule():
    assert read_schedule("  ") is None
    assert StackRow("a").timeline is None
    assert curve_of(StackRow("a", 0.7), 2) == (0.7, 0.7)


@pytest.mark.parametrize("preset", PRESETS)
def test_presets_stay_between_off_and_the_rows_own_strength(preset):
    curve = curve_of(StackRow("a", 0.6, schedule=PRESETS[preset]), 20)
    assert 0 <= min(curve) < 0.1
    assert 0.5 < max(curve) <= 0.6 + 1e-9


def test_a_call_belongs_to_the_step_whose_noise_level_it_has():
    sigmas = torch.tensor([14.6, 7.0, 3.0, 1.0, 0.0])
    calls = [14.6, 7.0, 7.0 * (1 + 1e-6), 7.0 * (1 - 1e-6), 5.0, 3.0, 1.0, 0.5, 0.0, 20.0]
    steps = [int(step_of(torch.tensor(call), sigmas)) for call in calls]
    assert steps == [0, 1, 1, 1, 1, 2, 3, 3, 3, 0]


def test_the_table_has_a_strength_for_each_step_and_row():
    table = strength_table([0.5, 1.0], [None, read_schedule("0@0,1@1")], 4)
    assert table.tolist() == [[0.5, 0.0], [0.5, 0.25], [0.5, 0.5], [0.5, 0.75]]


def test_a_schedule_goes_onto_one_row_or_all_and_can_be_taken_away():
    stack = LoraStack((StackRow("a"), StackRow("b")))
    assert [row.schedule for row in with_schedule(stack, "0@0,1@1", 2).rows] == ["", "0@0,1@1"]
    every = with_schedule(stack, "0@0,1@1")
    assert all(row.schedule for row in every.rows)
    assert with_schedule(every, "") == stack
    with pytest.raises(StackError, match="Row 3 is not there"):
        with_schedule(stack, "", 3)


def test_preset_and_text_together_are_refused():
    assert schedule_text("", "late") == PRESETS["late"]
    with pytest.raises(StackError, match="Both the preset"):
        schedule_text("0@0", "late")


def test_the_words_name_runs_of_equal_strength_once():
    row = StackRow("a", schedule="0@0,1@0.5:curve=step")
    assert curve_line(row, 10).endswith("in 10 steps is 0-4: 0, 5-9: 1")
    assert curve_line(StackRow("b", 0.5), 10) == "b: 0.5 in every step"


def test_the_chart_shows_every_row_and_another_curve_is_another_picture():
    curves = [("a", (0.0, 0.5, 1.0)), ("b", (-1.0, 0.2, 2.0))]
    first = schedule_chart(curves)
    assert first.size == (768, schedule_chart(curves[:1]).size[1] + 22)
    assert first.tobytes() != schedule_chart([curves[0], ("b", (0.0, 0.2, 2.0))]).tobytes()


def test_switch_gives_every_row_that_acts_a_turn_and_composite_a_call():
    stack = LoraStack((StackRow("a"), StackRow("off", 0.0), StackRow("b")))
    switched = with_schedule(stack, "1@0", combine="switch", every=2)
    assert [row.schedule for row in switched.rows] == [
        "1@0:turn=1/2:every=2",
        "1@0",
        "1@0:turn=2/2:every=2",
    ]
    composed = with_schedule(stack, "", combine="composite")
    assert [row.schedule for row in composed.rows] == ["composite=1/2", "", "composite=2/2"]
    for arguments, message in (
        (("", 1, "switch"), "One row alone cannot switch"),
        (("turn=1/2", 0, "composite"), "names turns already"),
        (("", 0, "mix"), "cannot combine as 'mix'"),
    ):
        with pytest.raises(StackError, match=message):
            with_schedule(stack, *arguments)


def test_with_one_step_a_turn_exactly_one_row_acts_in_every_step():
    stack = with_schedule(LoraStack(tuple(map(StackRow, "abc"))), "", combine="switch")
    curves = [curve_of(row, 7) for row in stack.rows]
    assert [[row for row in range(3) if curves[row][step]] for step in range(7)] == [
        [0],
        [1],
        [2],
        [0],
        [1],
        [2],
        [0],
    ]


def test_a_composite_has_a_call_for_each_place_that_a_row_has():
    read = [read_schedule(text) for text in ("composite=1/3", "", "composite=3/3")]
    assert composite_calls(read) == ((True, True, False), (False, True, True))
    assert composite_calls([None, read_schedule("0@0")]) == ((True, True),)
    with pytest.raises(StackError, match=r"disagree on how many they are \(2, 3\)"):
        composite_calls([read_schedule("composite=1/2"), read_schedule("composite=1/3")])
