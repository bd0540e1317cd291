"""The walk of someone new through what `dev.py serve` offers: each example is opened, run, and its nodes are read about.

LOOM_FULL goes through all of them, an ordinary run through a sample. Trainings and long sweeps are cut short (walking.py).
"""

from __future__ import annotations

import json
import os

import pytest
from editing import no_complaints_of_ours
from test_page import WORKFLOW_FILES, complaints, press_run, unregistered_types, workflow
from walking import (
    ARRIVED,
    COVERED,
    FAULTY,
    file_names,
    fit,
    help_pictures,
    open_from_the_side,
    put_alone,
    read_help,
    shorten,
)

from tools.devkit.environment import ROOT
from tools.devkit.pages import opened

FULL = bool(os.environ.get("LOOM_FULL"))
NAMES = [file.stem for file in WORKFLOW_FILES]
WALKED = [name for name in NAMES if FULL or name in ("one_lora", "merge_and_save")]
HELP = sorted(path.stem for path in (ROOT / "web" / "docs").glob("*.md"))
READ = [kind for kind in HELP if FULL or kind in ("LoomStack", "LoomTrain")]
EXAMPLES = ROOT / "example_workflows"
RUN_LIMIT = 1800.0  # seconds; an example may be a training


@pytest.mark.parametrize("name", WALKED)
def test_an_example_is_opened_run_and_looked_at(page, client, name, save_screenshot):
    with no_complaints_of_ours(page):
        open_from_the_side(page, name)
        assert complaints(page) == []
        assert unregistered_types(page) == []
        shorten(page, name)
        client.free()
        end = press_run(page, RUN_LIMIT)
        assert end["kind"] == "execution_success", end.get("exception_message")
        # All of it in view: what is not may wait with its pictures until it is.
        fit(page)
        page.wait_for_function(ARRIVED, timeout=20_000)
        fit(page)
        save_screenshot(page, f"walk-{name}")
    assert complaints(page) == []
    assert page.evaluate(FAULTY) == []
    assert page.evaluate(COVERED) == []


def test_nodes_that_cover_each_other_would_be_noticed(page):
    graph = workflow("one_lora")
    graph["nodes"][1]["pos"] = [60, 140]
    page.evaluate("graph => window.app.loadGraphData(graph)", graph)
    fit(page)
    covered = page.evaluate(COVERED)
    assert "CheckpointLoaderSimple 1 and LoomLoader 2" in covered


@pytest.fixture(scope="module")
def reading_page(browser, client):
    """A page whose panel of help may stay open."""
    with opened(browser, client.url) as page:
        yield page


@pytest.mark.parametrize("kind", READ)
def test_the_help_of_a_node_opens_by_its_button_with_all_its_pictures(reading_page, kind):
    page = reading_page
    with no_complaints_of_ours(page):
        text = read_help(page, put_alone(page, kind))
    written = (ROOT / "web" / "docs" / f"{kind}.md").read_text("utf-8")
    assert written.splitlines()[0].removeprefix("# ") in text
    widths = help_pictures(page)
    assert len(widths) == written.count("](images/")
    assert all(widths)


@pytest.mark.every_page
def test_a_shipped_example_is_found_among_the_templates_and_says_what_is_missing(
    fresh_page, save_screenshot
):
    """Its published files are not on this machine."""
    page, name = fresh_page, "style_and_character"
    graph = json.loads((EXAMPLES / f"{name}.json").read_text("utf-8"))
    page.evaluate("() => window.app.extensionManager.command.execute('Comfy.BrowseTemplates')")
    dialog = page.get_by_role("dialog")
    dialog.get_by_text("lora-loom").first.click()
    card = dialog.get_by_text(name, exact=True).first
    card.wait_for()
    save_screenshot(page, "templates")
    # Pictures further down come when they are scrolled to.
    pictures = dialog.locator("img")
    pictures.nth(2).wait_for()
    assert all(image.evaluate("image => image.naturalWidth") for image in pictures.all())
    card.click()
    (checkpoint,) = [each for each in file_names(graph) if each.startswith("v1-5")]
    page.get_by_text(checkpoint).first.wait_for()
    save_screenshot(page, "shipped-example")
    page.keyboard.press("Escape")
    for place in range(2):
        mark = page.locator(".loom-row").nth(place).get_by_role("button", name="Notes on")
        mark.wait_for(state="attached")
        assert "Not in the loras folders" in str(mark.get_attribute("title"))
    assert unregistered_types(page) == []
