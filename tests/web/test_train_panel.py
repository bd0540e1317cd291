"""The training panel: what a run tells is shown as it comes, after a reload too, and the button stops and keeps."""

from __future__ import annotations

import json
import random
import uuid
from pathlib import Path

import pytest
from editing import no_complaints_of_ours, node, open_prompt, show
from PIL import Image
from test_page import SETTLE, count_ends, press_run

from tools.toy_pictures import CHARACTER_SHAPE, GROUNDS, Picture, draw, placed_at_random

KIND = "LoomTrain"
STEPS = 4000


def prompt(folder: Path | str, steps: int = STEPS, name: str = "loom/panel") -> dict:
    checkpoint = {"ckpt_name": "loom_toy.safetensors"}
    dataset = {
        "folder": str(folder),
        "trigger": "zwx",
        "template": "{caption}",
        "resolution": 64,
        "upscale": True,
    }
    settings = {
        "steps": steps,
        "learning_rate": 1e-3,
        "rank": 4,
        "alpha": 0.0,
        "batch_size": 1,
        "parts": "attention",
        "train_seed": 0,
        "validate_every": 5,
        "sample_every": 10,
        "sample_steps": 2,
    }
    train = {"model": ["1", 0], "clip": ["1", 1], "vae": ["1", 2], "dataset": ["2", 0]}
    return {
        "1": {"class_type": "CheckpointLoaderSimple", "inputs": checkpoint},
        "2": {"class_type": "LoomDataset", "inputs": dataset},
        "3": {"class_type": "LoomTrainSettings", "inputs": settings},
        "4": {"class_type": KIND, "inputs": {**train, "filename": name, "settings": ["3", 0]}},
    }


def tell(page, **event) -> None:
    """A loom.train event as the page's own websocket hands it on."""
    page.evaluate(
        f"event => window.app.api.dispatchEvent(new CustomEvent('loom.train',"
        f" {{ detail: {{ node: String({node(KIND)}.id), ...event }} }}))",
        event,
    )


def said(page) -> str:
    return page.locator(".loom-train-said").inner_text()


@pytest.mark.every_page
def test_events_become_curves_words_and_pictures(page, save_screenshot):
    page.route("**/loom/train", lambda route: route.fulfill(status=404))
    with no_complaints_of_ours(page):
        open_prompt(page, prompt("x"), KIND)
        assert page.locator(".loom-train").is_hidden()
        for step in range(1, 60):
            held = 0.05 + 0.2 / step if step % 6 == 0 else None
            tell(
                page,
                step=step,
                steps=100,
                loss=0.04 + 0.3 / step,
                validation=held,
                seconds_left=2.0 * (100 - step),
            )
        sample = {"step": 0, "filename": '<img src=x onerror="window.loomHurt=1">.png'}
        tell(page, step=59, steps=100, sample={**sample, "subfolder": "", "type": "temp"})
        tell(page, step=60, steps=100, loss=0.045, seconds_left=80, note="<b>back</b> to step 50")
        show(page, KIND)
        save_screenshot(page, "train-panel")
    assert "step 60 of 100" in said(page)
    assert "1 min 20 s left" in said(page)
    assert "<b>back</b> to step 50" in page.locator(".loom-hint").inner_text()
    assert page.locator(".loom-sample").count() == 1
    assert page.locator(".loom-train b, .loom-train img[src='x']").count() == 0
    assert page.evaluate("() => window.loomHurt") is None
    page.locator(".loom-chart svg").hover()
    assert "held-out" in page.locator(".loom-hover").inner_text()
    tell(page, step=60, steps=100, running=False)
    assert page.get_by_role("button", name="Stop and keep").is_hidden()
    assert "Run the same graph again" in page.locator(".loom-hint").inner_text()
    page.unroute("**/loom/train")


def test_the_button_asks_for_this_node_and_says_that_it_stops(page):
    asked = []

    def answer(route) -> None:
        asked.append(json.loads(route.request.post_data))
        route.fulfill(json={"stopping": True})

    page.route("**/loom/stop", answer)
    page.route("**/loom/train", lambda route: route.fulfill(status=404))
    open_prompt(page, prompt("x"), KIND)
    tell(page, step=3, steps=100, loss=0.1, seconds_left=None)
    page.get_by_role("button", name="Stop and keep").press("Enter")
    page.locator(".loom-hint", has_text="Stopping after this step").wait_for()
    tell(page, step=3, steps=100, running=False)
    curve = {"step": 3, "steps": 100, "loss": [[3, 0.1]], "validation": [], "samples": []}
    page.evaluate(f"curve => {node(KIND)}.onExecuted({{ train: [curve] }})", curve)
    page.locator(".loom-hint", has_text="Stopped at step 3 of 100").wait_for()
    assert asked == [{"node": str(page.evaluate(f"() => {node(KIND)}.id"))}]
    page.unroute("**/loom/stop")
    page.unroute("**/loom/train")


def pictures(folder: Path) -> Path:
    for number in range(11):
        ground = list(GROUNDS)[number % len(GROUNDS)]
        picture = placed_at_random(Picture(None, CHARACTER_SHAPE, ground), random.Random(number))
        drawn: Image.Image = draw(picture, 64).convert("RGB")
        drawn.save(folder / f"{number}.png")
        (folder / f"{number}.txt").write_text(f"zwx on a {ground} ground", "utf-8")
    return folder


def test_hostile_captions_and_names_of_pictures_are_shown_as_words(page, client, tmp_path):
    evil = "<img src=x onerror=window.loomHurt=1>"
    captions = [evil, f"\u202e{evil}", "\U0001f600" * 2000, "x" * 60_000]
    pictures(tmp_path)
    for number, caption in enumerate(captions):
        (tmp_path / f"{number}.txt").write_text(caption, "utf-8")
    for ending in ("png", "txt"):
        (tmp_path / f"9.{ending}").rename(tmp_path / f"{evil}.{ending}")
    with no_complaints_of_ours(page):
        open_prompt(page, {"2": prompt(tmp_path)["2"]}, "LoomDataset")
        client.free()
        assert press_run(page)["kind"] == "execution_success"
        page.locator(".loom-report", has_text="samples an epoch").wait_for(state="visible")
    assert page.evaluate("() => window.loomHurt") is None
    assert page.locator(".loom-report *").count() == 0


def test_a_graph_that_is_opened_while_the_page_asks_gets_no_other_graphs_curve(fresh_page):
    page, asked = fresh_page, []
    open_prompt(page, prompt("x"), KIND)
    page.route("**/loom/train", lambda route: asked.append(route))
    page.reload(wait_until="domcontentloaded")
    page.wait_for_function(f"() => window.app?.graph && {node(KIND)}", timeout=120_000)
    for _ in range(600):
        if asked:
            break
        page.wait_for_timeout(50)
    open_prompt(page, prompt("another"), KIND)
    number = str(page.evaluate(f"() => {node(KIND)}.id"))
    curve = {"step": 3, "steps": 9, "loss": [[3, 0.1]], "validation": [], "samples": []}
    asked[0].fulfill(json={number: curve})
    page.wait_for_timeout(SETTLE)
    assert page.locator(".loom-train").is_hidden()


def test_a_real_run_outlives_a_reload_and_is_stopped_and_kept(fresh_page, client, tmp_path):
    page = fresh_page
    with no_complaints_of_ours(page):
        open_prompt(page, prompt(pictures(tmp_path), name=f"loom/{uuid.uuid4().hex}"), KIND)
        assert page.locator(".loom-train").is_hidden()
        page.locator('[data-testid="queue-button"]:visible').first.click()
        page.locator(".loom-sample").first.wait_for(timeout=120_000)
        page.wait_for_function("() => document.querySelector('.loom-validation-dot')")
        page.wait_for_timeout(SETTLE)
        page.reload(wait_until="domcontentloaded")
        page.wait_for_function(f"() => window.app?.graph && {node(KIND)}", timeout=120_000)
        page.locator(".loom-loss").first.wait_for(state="attached", timeout=30_000)
        assert f"of {STEPS}" in said(page)
        assert page.locator(".loom-sample").count() >= 1
        count_ends(page)
        show(page, KIND)
        page.get_by_role("button", name="Stop and keep").click()
        page.wait_for_function("() => window.loomEnds.length", timeout=120_000)
        assert page.evaluate("() => window.loomEnds[0].kind") == "execution_success"
        page.locator(".loom-hint", has_text="Stopped at step").wait_for(timeout=20_000)
