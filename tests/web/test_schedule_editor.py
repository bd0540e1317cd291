"""The curve of Loom Schedule says what its text says, and writes nothing that the Python side would not read."""

from __future__ import annotations

import random

import pytest
from editing import (
    drag,
    module,
    no_complaints_of_ours,
    node,
    open_on,
    saved,
    sent,
    set_value,
    show,
    value,
    wait_for_value,
    with_values,
)
from test_page import load, press_run, workflow

from lora_core.errors import StackError
from lora_core.stack.schedule import CURVES, PRESETS, read_schedule

WORKFLOW = "scheduled_style"
KIND = "LoomSchedule"
TEXTS = [
    *PRESETS.values(),
    "",
    "0.5",
    "0,1",
    "0@0,0.8@10",
    "1e-1@0, -2.5 @ .5 ,+3@1",
    "start=5:stop=10",
    "0%@0,100%@1:start=0.2:stop=0.8:curve=cosine",
    "step=5-10:0.5",
    "0@0,1@0.5:CURVE=step",
    "1@0.5,0@0.2",
    "1@0,1@0",
    "nan@0",
    "0@0,1@0.5:curve=no",
    "1:2",
    "start=-1",
    "stop=inf",
    "start=",
    "0@0,,1@1",
    "0x1@0",
    "speed=3",
    "turn=2/3:every=2",
    "0@0,1@1:TURN = 1 / 2 :stop=0.8",
    "composite=2/3:50%",
    "turn=1/1:turn=1/2",
    "turn=3/2",
    "turn=0/2",
    "turn=1/2:composite=1/2",
    "every=2",
    "turn=1/2:every=0",
    "turn=1/2:every=1.5",
    "composite=x",
]


def by_python(text: str, own: float, steps: int) -> list[float] | str | None:
    """The strength in each step; None for an empty text, "error" for one that is refused."""
    try:
        schedule = read_schedule(text)
    except StackError:
        return "error"
    if schedule is None:
        return None
    return [schedule.strength(own, step, steps) for step in range(steps)]


def by_page(page, texts: list[str], own: float, steps: int) -> list:
    return module(
        page,
        "schedule_text.js",
        "(m, a) => a.texts.map(text => { const schedule = m.readSchedule(text); if (!schedule) return 'error';"
        " if (!text.trim()) return null; const written = m.readSchedule(m.writeSchedule(schedule));"
        " return [schedule, written].map(each => Array.from({ length: a.steps },"
        " (_, step) => m.strengthAt(each, a.own, step, a.steps))); })",
        {"texts": texts, "own": own, "steps": steps},
    )


def drawn_texts(count: int) -> list[str]:
    generator = random.Random(11)
    texts = []
    for _ in range(count):
        end = generator.choice([1, 1, 30])
        positions = sorted({round(generator.uniform(0, end), 2) for _ in range(5)})
        unit = generator.choice(["", "%"])
        most = 200 if unit else 2
        frames = ",".join(
            f"{generator.randint(-most, most)}{unit}@{position}" for position in positions
        )
        words = [frames, f"curve={generator.choice(list(CURVES))}"]
        words += [f"start={round(generator.uniform(0, 0.5), 2)}"] * generator.randint(0, 1)
        turn = f"{generator.randint(1, 3)}/3"
        shared = [[], [f"turn={turn}"], [f"turn={turn}", "every=2"], [f"composite={turn}"]]
        words += generator.choice(shared)
        words += [f"stop={generator.choice([0.7, 0.95, 1, 15])}"] * generator.randint(0, 1)
        texts.append(":".join(words))
    return texts


def test_the_curve_reads_every_form_of_text_as_python_does_and_writes_it_back_the_same(page):
    for own, steps in ((1.0, 20), (0.65, 7)):
        texts = [*TEXTS, *drawn_texts(60)]
        for text, shown in zip(texts, by_page(page, texts, own, steps), strict=True):
            expected = by_python(text, own, steps)
            if expected is None or expected == "error":
                assert shown == expected, text
                continue
            for values in shown:
                assert max(abs(a - b) for a, b in zip(values, expected, strict=True)) < 1e-9, text


@pytest.mark.every_page
def test_dragged_and_moved_by_keys_it_sends_what_typing_the_text_sends(
    page, client, save_screenshot
):
    with no_complaints_of_ours(page):
        open_on(page, WORKFLOW, KIND)
        set_value(page, KIND, "schedule", "0@0,1@0.5")
        frames = page.locator(".loom-keyframe")
        assert frames.count() == 2
        plot = page.locator(".loom-plot").bounding_box()
        drag(page, frames.nth(1), plot["width"] * 0.225, plot["height"] * 0.163)
        dragged = value(page, KIND, "schedule")
        first, second = dragged.split(",")
        assert first == "0@0"
        strength, position = (float(part) for part in second.split("@"))
        assert 0.7 <= strength <= 0.8
        assert 0.7 <= position <= 0.8
        frames.nth(1).focus()
        page.keyboard.press("ArrowUp")
        page.keyboard.press("Shift+ArrowLeft")
        frames.nth(0).focus()
        page.keyboard.press("+")
        save_screenshot(page, "schedule-editor")
        made = value(page, KIND, "schedule")
        assert len(made.split(",")) == 3
        assert read_schedule(made) is not None
        by_curve = sent(page)
        load(page, saved(page))
        assert sent(page) == by_curve
        values = {"v0": made}
        load(page, with_values(workflow(WORKFLOW), KIND, **values))
        by_hand = sent(page)
        (key,) = [key for key, each in by_hand.items() if each["class_type"] == KIND]
        assert by_curve[key] == by_hand[key]
        show(page, KIND)
        client.free()
        assert press_run(page)["kind"] == "execution_success"


def test_what_the_curve_does_not_show_is_kept_when_it_is_moved(page):
    for shared in ("turn=2/3:every=2", "composite=1/2"):
        open_on(page, WORKFLOW, KIND)
        set_value(page, KIND, "schedule", f"{shared}:0@0,1@0.5")
        assert page.locator(".loom-schedule .loom-note").inner_text().startswith("Acts in ")
        page.locator(".loom-keyframe").nth(1).focus()
        page.keyboard.press("ArrowDown")
        wait_for_value(page, KIND, "schedule", f"0@0,0.95@0.5:{shared}")


def test_presets_units_bounds_and_undo(page):
    open_on(page, WORKFLOW, KIND)
    set_value(page, KIND, "schedule", "")
    set_value(page, KIND, "preset_curve", "soft late")
    assert page.locator(".loom-keyframe").count() == 2
    # Moving a keyframe of the node's preset writes it out: a preset and a text together would be refused.
    page.locator(".loom-keyframe").first.focus()
    page.keyboard.press("ArrowUp")
    wait_for_value(page, KIND, "preset_curve", "none")
    wait_for_value(page, KIND, "schedule", "5%@0.2,100%@0.7:curve=cosine")
    page.get_by_label("Begin with a preset").select_option(label="middle")
    wait_for_value(page, KIND, "schedule", PRESETS["middle"])
    page.get_by_role("button", name="% of the row's").click()
    wait_for_value(page, KIND, "schedule", "0@0,1@0.5,0@1:curve=cosine")
    page.get_by_label("Acts up to here").fill("0.8")
    page.keyboard.press("Enter")
    wait_for_value(page, KIND, "schedule", "0@0,1@0.5,0@1:stop=0.8:curve=cosine")
    page.locator(".loom-keyframe").nth(1).focus()
    page.keyboard.press("Delete")
    wait_for_value(page, KIND, "schedule", "0@0,0@1:stop=0.8:curve=cosine")
    page.keyboard.press("Control+z")
    wait_for_value(page, KIND, "schedule", "0@0,1@0.5,0@1:stop=0.8:curve=cosine")


def test_steps_stay_steps_and_keyframes_stay_in_order(page):
    """A last keyframe at step 1 or before would turn step numbers into shares."""
    open_on(page, WORKFLOW, KIND)
    set_value(page, KIND, "schedule", "0@0,1@3")
    frames = page.locator(".loom-keyframe")
    frames.nth(1).focus()
    for _ in range(5):
        page.keyboard.press("ArrowLeft")
    wait_for_value(page, KIND, "schedule", "0@0,1@2")
    frames.nth(0).focus()
    for _ in range(3):
        page.keyboard.press("ArrowRight")
    wait_for_value(page, KIND, "schedule", "0@1,1@2")
    page.get_by_label("Strength of the chosen keyframe").fill("no number")
    page.keyboard.press("Enter")
    assert value(page, KIND, "schedule") == "0@1,1@2"


def test_a_schedule_that_comes_by_a_link_locks_the_curve(page):
    open_on(page, WORKFLOW, KIND)
    set_value(page, KIND, "schedule", "0@0,1@0.5")
    page.evaluate(
        "() => { const text = window.LiteGraph.createNode('PrimitiveStringMultiline');"
        " window.app.graph.add(text);"
        f" const target = {node(KIND)};"
        " text.connect(0, target, target.inputs.findIndex(input => input.name === 'schedule')); }"
    )
    page.locator(".loom-schedule .loom-note", has_text="by a link").wait_for(state="attached")
    page.locator(".loom-keyframe").nth(1).focus()
    page.keyboard.press("ArrowDown")
    page.keyboard.press("Delete")
    assert value(page, KIND, "schedule") == "0@0,1@0.5"
    assert page.get_by_label("Begin with a preset").is_disabled()


def test_a_text_that_is_no_schedule_is_said_and_left_alone(page):
    open_on(page, WORKFLOW, KIND)
    set_value(page, KIND, "schedule", "<img src=x onerror=window.loomHurt=1>")
    assert page.locator(".loom-schedule .loom-note").inner_text().startswith("This text is no")
    assert page.get_by_role("button", name="Add a keyframe").is_disabled()
    assert page.evaluate("() => window.loomHurt") is None
