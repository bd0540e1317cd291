"""Schedules: what their text means step by step, and which step a model call belongs to."""

from __future__ import annotations

import pytest
import torch

from lora_core.analysis.draw_schedule import schedule_chart
from lora_core.errors import StackError
from lora_core.live.progress import step_of, strength_table
from lora_core.stack.rows import LoraStack, StackRow
from lora_core.stack.schedule import PRESETS, read_schedule
from lora_core.stack.schedulerows import curve_line, curve_of, schedule_text, with_schedule


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
        ("start=soon", "'soon' is no step"),
        ("0@0,1@1:curve=bent", "no curve 'bent'"),
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
