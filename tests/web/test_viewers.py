"""The sweep viewer and the heat map, after real runs, and with hostile words."""

from __future__ import annotations

from editing import no_complaints_of_ours, node, open_prompt, show
from test_page import press_run, settle

STYLE = "loom_toy_style_careless.safetensors"
CHARACTER = "loom_toy_character_careless.safetensors"
ROWS = f"<lora:{STYLE}:0.8> <lora:{CHARACTER}:0.9>"


def models() -> dict:
    return {
        "1": {
            "class_type": "CheckpointLoaderSimple",
            "inputs": {"ckpt_name": "loom_toy.safetensors"},
        },
        "2": {
            "class_type": "LoomStack",
            "inputs": {
                "rows": ROWS,
                "strength_model": 1.0,
                "strength_clip": 1.0,
                "matching": "auto",
                "mode": "auto",
            },
        },
    }


def interference() -> dict:
    inputs = {"lora_stack": ["2", 2], "model": ["1", 0], "clip": ["1", 1]}
    return {**models(), "3": {"class_type": "LoomInterference", "inputs": inputs}}


def test_the_heat_map_shows_every_block_and_says_its_figures(page, client, save_screenshot):
    with no_complaints_of_ours(page):
        open_prompt(page, interference(), "LoomInterference")
        client.free()
        end = press_run(page)
        assert end["kind"] == "execution_success"
        page.locator(".loom-heat-table").wait_for()
        document = client.history(end["prompt_id"])["outputs"]["3"]["loom_interference"][0]
        assert page.locator(".loom-heat-table tbody tr").count() == 1 + len(document["blocks"])
        assert page.locator(".loom-heat-table thead th").count() == 1 + 2 * len(document["pairs"])
        show(page, "LoomInterference")
        cell = page.locator(".loom-heat-cell").first
        cell.hover()
        takes = document["pairs"][0]["whole"]["a"]["takes"]
        percent = f"{float(f'{100 * takes:.3g}'):g} %"
        assert f"takes {percent}" in page.locator(".loom-cell-words").inner_text()
        save_screenshot(page, "heat-map")
        cell.focus()
        page.keyboard.press("ArrowDown")
        page.keyboard.press("ArrowRight")
        page.wait_for_timeout(300)
        first = document["blocks"][0]
        assert page.locator(".loom-cell-words").inner_text().startswith(f"{first}, ")
        page.get_by_label("Figure").select_option("cosine")
        assert page.locator(".loom-heat-table thead th").count() == 1 + len(document["pairs"])


def told_grid(page, grid: list, told: dict) -> None:
    page.evaluate(
        f"output => {node('LoomSweepGrid')}.onExecuted(output)",
        {"loom_grid": grid, "loom_sweep": [told]},
    )
    settle(page)


def test_the_viewer_shows_every_picture_under_its_labels(page, client, save_screenshot):
    with no_complaints_of_ours(page):
        page.evaluate(
            "() => fetch('/userdata/workflows%2Fstrength_sweep.json').then(answer => answer.json())"
            ".then(graph => window.app.loadGraphData(graph))"
        )
        settle(page)
        page.evaluate(
            "() => { for (const node of window.app.graph.nodes) for (const widget of node.widgets ?? [])"
            " { if (node.type === 'KSampler' && widget.name === 'steps') widget.value = 2;"
            " if (node.type === 'EmptyLatentImage' && ['width', 'height'].includes(widget.name)) widget.value = 64; } }"
        )
        client.free()
        end = press_run(page)
        assert end["kind"] == "execution_success", end.get("exception_message")
        page.locator(".loom-sweep-table").wait_for()
        outputs = client.history(end["prompt_id"])["outputs"].values()
        (told,) = [output for output in outputs if "loom_grid" in output]
        show(page, "LoomSweepGrid")
        save_screenshot(page, "sweep-viewer")
        assert page.locator(".loom-cell").count() == len(told["loom_grid"])
        labels = page.locator(".loom-sweep-table thead th[scope=col]").all_inner_texts()
        assert labels == told["loom_sweep"][0]["x"]["labels"]
        page.locator(".loom-cell").first.focus()
        page.keyboard.press("ArrowRight")
        page.keyboard.press("Enter")
        large = page.locator(".loom-enlarged")
        large.wait_for()
        assert f"{labels[1]}" in page.locator(".loom-enlarged-said").inner_text()
        page.keyboard.press("ArrowRight")
        assert "(3 of" in page.locator(".loom-enlarged-said").inner_text()
        page.keyboard.press("Escape")
        large.wait_for(state="detached")


def test_hostile_words_are_shown_as_words(page):
    evil = "<img src=x onerror=window.loomHurt=1>\u202e" + "\U0001f600" * 50
    file = {"filename": f"{evil}.png", "subfolder": "../..", "type": "temp"}
    grid = [{"file": file, "x": evil, "y": evil, "col": 0, "row": 0, "batch": 0, "reference": True}]
    axis = {"title": evil, "labels": [evil]}
    with no_complaints_of_ours(page):
        open_prompt(
            page,
            {"1": {"class_type": "LoomSweepGrid", "inputs": {"filename_prefix": "x", "cell": 64}}},
            "LoomSweepGrid",
        )
        told_grid(page, grid, {"x": axis, "y": axis, "prompt": evil, "seed": 1})
    assert evil in page.locator(".loom-sweep-table").inner_text()
    assert page.evaluate("() => window.loomHurt") is None
