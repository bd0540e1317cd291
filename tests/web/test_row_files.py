"""What a row, the chooser and the panel show of a file, and what a run has found of it."""

from __future__ import annotations

import hashlib
import json
import math
import shutil

import pytest
import torch
from PIL import Image
from safetensors.torch import save_file
from stack_page import ROWS, STACK, STYLE, look_at_stack, open_rows, row, rows_of
from test_page import press_run

FOLDER = "shown"
PICTURED = f"{FOLDER}/pictured.safetensors"
SDXL = f"{FOLDER}/made_for_sdxl.safetensors"
SAID = {
    "notes": "Best at 0.8.",
    "size": 5,
    "civitai": {"trainedWords": ["framed"]},
}


@pytest.fixture
def shelf(page, hosts, drawing):
    """A LoRA with a picture and a sidecar, and one for another base, in a folder that the page has heard of."""
    loras = hosts(drawing.version).base / "models" / "loras"
    folder = loras / FOLDER
    folder.mkdir()
    (loras / PICTURED).symlink_to(loras / STYLE)
    Image.new("RGB", (64, 48), "magenta").save(folder / "pictured.preview.png")
    (folder / "pictured.metadata.json").write_text(json.dumps(SAID), "utf-8")
    name = "lora_unet_input_blocks_4_1_transformer_blocks_0_attn2_to_k"
    pair = {f"{name}.lora_down.weight": torch.ones(2, 2048)}
    pair |= {f"{name}.lora_up.weight": torch.ones(640, 2), f"{name}.alpha": torch.tensor(2.0)}
    save_file(pair, loras / SDXL)
    page.evaluate("() => window.app.refreshComboInNodes()")
    yield loras
    shutil.rmtree(folder)
    page.evaluate("() => window.app.refreshComboInNodes()")


@pytest.mark.every_page
def test_a_picture_beside_the_file_is_shown_in_the_row_the_list_and_the_panel(page, shelf):
    def shows_it(place: str) -> None:
        image = page.locator(f"{place} img")
        image.wait_for()
        assert image.evaluate("image => image.naturalWidth") > 0

    open_rows(page, [{"lora": PICTURED}])
    shows_it(".loom-row .loom-thumb")
    row(page, 0).locator(".loom-name").click()
    shows_it(".loom-choice[aria-selected=true] .loom-thumb")
    shows_it(".loom-about .loom-thumb")
    page.keyboard.press("Escape")
    row(page, 0).locator(".loom-picture").click()
    shows_it(".loom-info .loom-thumb")
    page.keyboard.press("Escape")


def test_the_panel_tells_all_that_is_known_of_a_file(page, client, shelf):
    open_rows(page, [{"lora": PICTURED}])
    client.free()
    assert press_run(page)["kind"] == "execution_success"
    row(page, 0).locator(".loom-name").press("i")
    panel = page.locator(".loom-info")
    panel.locator("dl").wait_for()
    assert panel.locator(".loom-info-title").inner_text() == "Toy style: a frame around the picture"
    assert panel.locator(".loom-chip").all_inner_texts() == ["ohwx", "framed"]
    told = " ".join(panel.inner_text().split())
    data = (shelf / PICTURED).read_bytes()
    for fact in (
        PICTURED,
        "SD1.5, rank 2 to 15, alpha 2 to 15, LoCon",
        f"{math.ceil(len(data) / 1e3)} kB",
        hashlib.sha256(data).hexdigest(),
        "steps 1500",
        "learning rate 0.001",
        SAID["notes"],
        "was written for a file of 5 bytes",
    ):
        assert fact in told, told
    page.keyboard.press("Escape")


def test_a_lora_for_another_base_is_marked_by_the_run_that_found_it(fresh_page, client, shelf):
    """Refused at first, then, where all is taken that fits, applied in vain."""
    page = fresh_page
    open_rows(page, [{"lora": STYLE}, {"lora": SDXL}])
    client.free()
    assert press_run(page)["kind"] == "execution_error"
    page.keyboard.press("Escape")
    mark = row(page, 1).get_by_role("button", name="Notes on")
    mark.wait_for()
    assert "this LoRA is for SDXL; the model is SD1.5" in str(mark.get_attribute("title"))
    assert row(page, 0).get_by_role("button", name="Notes on").is_hidden()
    page.evaluate(
        f"() => {{ {STACK}.widgets.find(w => w.name === 'matching').value = 'partial'; }}"
    )
    assert press_run(page)["kind"] == "execution_success"
    page.wait_for_function(f"() => {ROWS}.value.includes('locks')")
    look_at_stack(page)
    assert "SDXL" in str(mark.get_attribute("title"))
    mark.click()
    page.get_by_role("menuitem", name="Choose another").first.click()
    page.locator(".loom-search").fill("toy character")
    page.locator(".loom-choice[aria-selected=true]").wait_for()
    page.keyboard.press("Enter")
    mark.wait_for(state="hidden")
    assert [each["lora"] for each in rows_of(page)] != [STYLE, SDXL]
