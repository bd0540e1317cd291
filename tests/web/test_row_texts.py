"""The rows as text: copied and pasted, and after whatever is done to them what Python reads is what the page shows."""

from __future__ import annotations

import json
import random

import pytest
from stack_page import (
    CHARACTER,
    ROWS,
    STYLE,
    drag,
    menu,
    open_rows,
    row,
    rows_of,
    strength,
    text_of,
)

from lora_core.files.filenames import slashed
from lora_core.stack.rows_json import parse_rows

LOCK = {"sha256": "a" * 64}
TOLD = {
    "version": 1,
    "rows": [
        {"lora": STYLE, "model": 0.7, "clip": 0.2, "role": "style", "words": ["ohwx", "misty"]},
        {"lora": CHARACTER, "model": 0.9, "on": False, "blocks": "IN04=0.5"},
    ],
    "locks": {CHARACTER: LOCK},
}


def copied(page) -> str:
    page.locator(".loom-message", has_text="Copied").wait_for()
    return page.evaluate("() => navigator.clipboard.readText()")


def paste(page) -> None:
    page.locator(".loom-add").focus()
    page.keyboard.press("Control+v")


def test_rows_copied_as_text_are_pasted_as_the_same_rows(page):
    page.context.grant_permissions(["clipboard-read", "clipboard-write"])
    open_rows(page, TOLD)
    menu(page, "Copy rows as text")
    assert json.loads(copied(page)) == TOLD
    open_rows(page, [])
    paste(page)
    row(page, 1).wait_for()
    assert json.loads(text_of(page)) == TOLD


def test_one_row_is_copied_by_the_key_and_pasted_into_another_stack(page):
    page.context.grant_permissions(["clipboard-read", "clipboard-write"])
    open_rows(page, TOLD)
    row(page, 1).locator(".loom-name").focus()
    page.keyboard.press("Control+c")
    assert json.loads(copied(page))["rows"] == [TOLD["rows"][1]]
    open_rows(page, [{"lora": STYLE}])
    paste(page)
    row(page, 1).wait_for()
    assert rows_of(page) == [{"lora": STYLE}, TOLD["rows"][1]]
    assert json.loads(text_of(page))["locks"] == {CHARACTER: LOCK}


KEYS = ("ArrowUp", "ArrowDown", "PageUp", "PageDown", "Shift+ArrowUp", "Shift+ArrowDown")
TYPED = ("-0,5", "1e3", "NaN", "Infinity", "99999", ".5", "0x1F", "", "1.23456789", "-0", "1_0")
PASTED = (
    "<lora:loom_toy_style:0.7:NaN>",
    "<lora:loom_toy_character:1e999> <lora:loom_toy_style:-1e9>",
    '[{"lora": "' + STYLE + '", "model": 1e400}]',
    '[{"lora": "", "model": 1}]',
    '{"version": 2, "rows": []}',
    '[{"on": true, "lora": "' + STYLE + '", "strength": "0.4"}]',
    '{"rows": [{"lora": "x", "role": "hero"}]}',
    "\ud83d\ude00 no rows at all",
    '{"rows": [{"lora": "a\\\\b.safetensors", "words": ["\\u202e"]}]}',
)


def type_strength(page, place, generator):
    strength(page, place).press("Enter")
    page.locator(".loom-typed").fill(generator.choice(TYPED))
    page.keyboard.press("Enter")


def press_strength(page, place, generator):
    strength(page, place).press(generator.choice(KEYS))


def drag_strength(page, place, generator):
    drag(page, strength(page, place), generator.randint(-80, 80), 0, steps=3)


def switch(page, place, generator):
    row(page, place).get_by_role("switch").press(" ")


def link_or_part(page, place, generator):
    row(page, place).locator(".loom-link").press("Enter")


def move_or_double_or_drop(page, place, generator):
    key = generator.choice(("Alt+ArrowUp", "Alt+ArrowDown", "Control+d", "Control+d", "Delete"))
    row(page, place).locator(".loom-name").press(key)


def choose_role(page, place, generator):
    if row(page, place).locator(".loom-chevron").get_attribute("aria-expanded") == "false":
        row(page, place).locator(".loom-chevron").press("Enter")
    role = generator.choice(("free", "style", "character", "detail"))
    row(page, place).get_by_role("combobox", name="Role").select_option(role)


def add_word(page, place, generator):
    choose_role(page, place, generator)
    box = row(page, place).locator(".loom-add-word")
    box.fill(generator.choice(('"', "a, b", "<b>", "\u202e", "\\", "  ", "\ud83d\ude00")))
    box.press("Enter")


def paste_text(page, place, generator):
    page.locator(".loom-stack").evaluate(
        "(element, text) => { const data = new DataTransfer(); data.setData('text/plain', text);"
        " element.dispatchEvent(new ClipboardEvent('paste', { clipboardData: data, bubbles: true })); }",
        generator.choice(PASTED),
    )


DEEDS = (
    type_strength,
    type_strength,
    press_strength,
    drag_strength,
    switch,
    link_or_part,
    move_or_double_or_drop,
    choose_role,
    add_word,
    paste_text,
)
# Of each row as it is shown: file, whether it is on, model and clip strength.
SHOWN = (
    "() => [...document.querySelectorAll('.loom-row')].map(row => {"
    " const [model, clip] = [...row.querySelectorAll('.loom-strength')];"
    " const value = field => Number(field.getAttribute('aria-valuenow'));"
    " return [row.querySelector('.loom-name').title, row.querySelector('.loom-switch').checked,"
    "   value(model), value(clip.hidden ? model : clip)]; })"
)


@pytest.mark.parametrize("seed", range(3))
def test_whatever_is_done_to_the_rows_python_reads_what_is_shown(page, seed):
    generator = random.Random(seed)
    open_rows(page, TOLD)
    done = []
    for _ in range(40):
        count = len(rows_of(page))
        deed = generator.choice(DEEDS) if count else paste_text
        place = generator.randrange(count) if count else 0
        # Rows further down may be out of sight.
        deed(page, min(place, 4), generator)
        done.append((deed.__name__, place))
        text, shown = text_of(page), page.evaluate(SHOWN)
        read = [(slashed(each.name), each.model, each.clip) for each in parse_rows(text).rows]
        on = [(name, model, clip) for name, on, model, clip in shown if on]
        assert read == on, (done, text)
    assert page.evaluate(f"() => typeof {ROWS}.value") == "string"
