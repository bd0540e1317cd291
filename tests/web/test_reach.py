"""Who cannot use a mouse, or not see well: every control has a name, keys reach all of them, and words stand out."""

from __future__ import annotations

import pytest
from editing import node, open_on, open_prompt, set_value, show
from stack_page import CHARACTER, STYLE, open_rows, row
from test_page import press_run
from test_train_panel import KIND as TRAIN
from test_train_panel import prompt as training
from test_train_panel import tell

PALETTES = ("dark", "light")
# The least that WCAG 2.1 asks of words, and of words and marks of what cannot be used just now.
READABLE, FAINT = 4.5, 1.5

# All that can be seen of ours and is operated or read aloud as a control, without a name.
NAMELESS = """() => {
  const roles = ['button', 'spinbutton', 'slider', 'switch', 'combobox', 'listbox', 'option', 'dialog', 'menu',
    'menuitem', 'textbox', 'img', 'progressbar', 'grid', 'gridcell', 'group', 'list', 'checkbox'];
  const asked = ['button', 'input', 'select', 'textarea', '[tabindex]', ...roles.map(role => `[role=${role}]`)];
  const all = [...document.querySelectorAll(asked.map(each => `.loom-ui ${each}, .loom-ui${each[0] === '[' ? each : '.none'}`).join(', '))];
  const name = element => element.getAttribute('aria-label') || element.closest('label')?.innerText
    || (element.matches('input, select, textarea') ? '' : element.innerText) || element.getAttribute('title') || '';
  const ours = all.filter(element => element.checkVisibility({ visibilityProperty: true }));
  return [ours.length, ours.filter(element => !name(element).trim()).map(element => element.outerHTML.slice(0, 200))];
}"""

# Every piece of our text that can be seen, with the contrast to what lies below it.
CONTRASTS = """() => {
  const board = new OffscreenCanvas(1, 1).getContext('2d', { willReadFrequently: true });
  const rgba = colour => {
    board.clearRect(0, 0, 1, 1);
    board.fillStyle = colour;
    board.fillRect(0, 0, 1, 1);
    const [r, g, b, a] = board.getImageData(0, 0, 1, 1).data;
    return [r, g, b, a / 255];
  };
  const over = ([r, g, b, a], below) => [r, g, b].map((part, place) => part * a + below[place] * (1 - a));
  const node = rgba(window.LiteGraph.NODE_DEFAULT_BGCOLOR).slice(0, 3);
  const ground = element => {
    const layers = [];
    for (let at = element; at; at = at.parentElement) {
      const colour = rgba(getComputedStyle(at).backgroundColor);
      if (colour[3]) layers.push(colour);
      // On the classic canvas the node below is drawn.
      if (colour[3] === 1 || at.classList.contains('loom-stack') || at.classList.contains('loom-mount')) {
        if (colour[3] === 1 || !window.LiteGraph.vueNodesMode) break;
      }
    }
    return layers.reverse().reduce((below, colour) => over(colour, below), node);
  };
  const light = colour => {
    const [r, g, b] = colour.map(part => (part /= 255) <= 0.03928 ? part / 12.92 : ((part + 0.055) / 1.055) ** 2.4);
    return 0.2126 * r + 0.7152 * g + 0.0722 * b;
  };
  const dimmed = element => {
    let share = 1;
    for (let at = element; at && !at.classList.contains('loom-ui'); at = at.parentElement) share *= Number(getComputedStyle(at).opacity);
    return share;
  };
  const seen = [];
  for (const element of document.querySelectorAll('.loom-ui *, .loom-report')) {
    const words = element.matches('input, textarea') ? element.value || element.placeholder
      : [...element.childNodes].filter(each => each.nodeType === 3).map(each => each.data).join('').trim();
    if (!words || element.matches('[type=checkbox]') || element.closest('option, .loom-thumb') || !element.checkVisibility({ visibilityProperty: true })) continue;
    const below = ground(element);
    const style = getComputedStyle(element);
    const colour = rgba(element instanceof SVGElement ? style.fill : style.color);
    colour[3] *= dimmed(element);
    const [high, low] = [light(over(colour, below)), light(below)].sort((one, other) => other - one);
    const idle = Boolean(element.closest(':disabled, [aria-disabled=true], .loom-off, .loom-muted'));
    seen.push({ words: words.slice(0, 40), kind: String(element.className?.baseVal ?? element.className), idle, ratio: (high + 0.05) / (low + 0.05) });
  }
  return seen;
}"""


@pytest.fixture
def palette(page):
    """A function that gives the page another palette; at the end it has its own again."""

    def choose(name: str) -> None:
        page.evaluate(
            "async name => { await window.app.extensionManager.setting.set('Comfy.ColorPalette', name); }",
            name,
        )
        page.wait_for_function(
            "light => light === (parseInt(getComputedStyle(document.body)"
            ".getPropertyValue('--comfy-menu-bg').trim().slice(1, 3), 16) > 127)",
            arg=name == "light",
        )

    yield choose
    choose("dark")


def faults(page) -> list[str]:
    """What of ours has no name or cannot be read, in words."""
    count, nameless = page.evaluate(NAMELESS)
    assert count >= 3
    found = [f"no name: {each}" for each in nameless]
    texts = page.evaluate(CONTRASTS)
    assert len(texts) >= 5
    found += [
        f"{each['ratio']:.2f}: {each['words']!r} ({each['kind']})"
        for each in texts
        if each["ratio"] < (FAINT if each["idle"] else READABLE)
    ]
    return sorted(set(found))


@pytest.mark.parametrize("colours", PALETTES)
def test_the_rows_their_menus_and_panels_are_named_and_readable(
    page, palette, colours, save_screenshot
):
    palette(colours)
    rows = [{"lora": STYLE, "clip": 0.5}, {"lora": CHARACTER, "on": False}, {"lora": "gone"}]
    open_rows(page, rows)
    row(page, 0).locator(".loom-chevron").click()
    row(page, 0).locator(".loom-chip").first.wait_for()
    found = faults(page)
    save_screenshot(page, f"reach-rows-{colours}")
    row(page, 2).get_by_role("button", name="Notes on").click()
    found += faults(page)
    page.keyboard.press("Escape")
    page.locator(".loom-head button[aria-haspopup=menu]").click()
    found += faults(page)
    save_screenshot(page, f"reach-menu-{colours}")
    page.keyboard.press("Escape")
    row(page, 0).locator(".loom-name").click()
    page.locator(".loom-choice .loom-base:not(:empty)").first.wait_for()
    found += faults(page)
    save_screenshot(page, f"reach-chooser-{colours}")
    page.keyboard.press("Escape")
    row(page, 0).locator(".loom-picture").click()
    page.locator(".loom-info dl").wait_for()
    found += faults(page)
    page.keyboard.press("Escape")
    assert not found, "\n".join(found)


@pytest.mark.parametrize("colours", PALETTES)
def test_the_editors_are_named_and_readable(page, client, palette, colours, save_screenshot):
    palette(colours)
    open_on(page, "block_strengths", "LoomBlocks")
    client.free()
    assert press_run(page)["kind"] == "execution_success"
    show(page, "LoomBlocks")
    found = faults(page)
    save_screenshot(page, f"reach-blocks-{colours}")
    open_on(page, "scheduled_style", "LoomSchedule")
    set_value(page, "LoomSchedule", "schedule", "0@0,1@0.5,0.2@1:turn=1/2")
    found += faults(page)
    save_screenshot(page, f"reach-schedule-{colours}")
    assert not found, "\n".join(found)


@pytest.mark.parametrize("colours", PALETTES)
def test_the_panels_of_runs_are_named_and_readable(page, client, palette, colours, save_screenshot):
    palette(colours)
    page.route("**/loom/train", lambda route: route.fulfill(status=404))
    open_prompt(page, training("x"), TRAIN)
    for step in (10, 20, 30):
        tell(page, step=step, steps=100, loss=1 / step, validation=2 / step, seconds_left=80)
    tell(page, step=31, steps=100, loss=0.04, seconds_left=70, note="back to step 30")
    show(page, TRAIN)
    page.locator(".loom-chart svg").hover()
    found = faults(page)
    save_screenshot(page, f"reach-train-{colours}")
    page.unroute("**/loom/train")
    open_on(page, "balance", "LoomInterference")
    client.free()
    assert press_run(page)["kind"] == "execution_success"
    show(page, "LoomInterference")
    page.locator(".loom-heat-cell").first.hover()
    found += faults(page)
    save_screenshot(page, f"reach-heat-{colours}")
    assert not found, "\n".join(found)


@pytest.mark.every_page
def test_the_tab_key_walks_the_controls_of_a_stack_in_the_order_in_which_they_stand(page):
    open_rows(page, [{"lora": STYLE}, {"lora": CHARACTER, "clip": 0.5}])
    page.locator(".loom-head input").focus()
    focused = (
        "() => { const at = document.activeElement;"
        " return at.closest('.loom-stack') ? at.getAttribute('aria-label') ?? at.innerText : null; }"
    )
    walked = [page.evaluate(focused)]
    for _ in range(17):
        page.keyboard.press("Tab")
        walked.append(page.evaluate(focused))
    style, character = "loom_toy_style", "loom_toy_character"
    assert walked == [
        "All rows on",
        "More",
        f"Move {style}: drag, or Alt with the arrow keys",
        f"{style} on",
        f"Info on {style}",
        f"Choose another LoRA for {style}",
        "Strength",
        "Model and clip strength apart",
        f"Role, blocks and words of {style}",
        f"Move {character}: drag, or Alt with the arrow keys",
        f"{character} on",
        f"Info on {character}",
        f"Choose another LoRA for {character}",
        "Model strength",
        "One strength for model and clip",
        "Clip strength",
        f"Role, blocks and words of {character}",
        "Add LoRA",
    ]
    for expected in reversed(walked[:-1]):
        page.keyboard.press("Shift+Tab")
        assert page.evaluate(focused) == expected


def test_a_panel_keeps_the_tab_key_near_it_and_gives_the_focus_back(page):
    open_rows(page, [{"lora": STYLE}])
    row(page, 0).locator(".loom-name").press("Enter")
    page.locator(".loom-search").wait_for()
    page.keyboard.press("Tab")
    assert page.evaluate("() => document.activeElement.className").endswith("loom-folders")
    page.keyboard.press("Escape")
    assert page.evaluate("() => document.activeElement.className") == "loom-name"
    assert page.evaluate(f"() => {node('LoomStack')}.widgets.length") > 0
