"""The pictures of the help pages and the README, from real runs of the toy workflows in the real page.

.loom/venv/bin/python -m tools.make_pictures [NAME ...]     (the interpreter that dev.py made; Chromium as for the page tests)

Each is made by one function of PICTURES. Thumbnails of the examples and the contact sheet: `python dev.py demo --renew`.
"""

from __future__ import annotations

import argparse
import io
import json
import random
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from PIL import Image
from playwright.sync_api import Page, sync_playwright

from tools import toy_conflict
from tools.devkit.base_directory import SETTINGS, TOY_WORKFLOWS, standard_base
from tools.devkit.environment import ROOT, located
from tools.devkit.host_client import HostClient
from tools.devkit.host_process import running_host
from tools.devkit.pages import chromium, opened
from tools.toy_pictures import CHARACTER_SHAPE, GROUNDS, Picture, draw, placed_at_random

IMAGES = ROOT / "web" / "docs" / "images"
MOST_BYTES = 60_000
RUN_LIMIT = 600.0  # seconds
_SETTLE = 700  # ms that the page needs to draw
# What would cover the graph.
_QUIET = {"Comfy.Minimap.Visible": False, "Comfy.Graph.CanvasMenu": False}


@dataclass(frozen=True)
class Studio:
    """A page, its host, and a folder for what a picture needs."""

    page: Page
    client: HostClient
    folder: Path

    def open(self, name: str) -> None:
        """A toy workflow, as it is saved."""
        graph = json.loads((TOY_WORKFLOWS / f"{name}.json").read_text("utf-8"))
        self.page.evaluate("graph => window.app.loadGraphData(graph)", graph)
        self.page.wait_for_timeout(_SETTLE)

    def open_prompt(self, prompt: dict[str, Any]) -> None:
        self.page.evaluate("prompt => window.app.loadApiJson(prompt, 'picture')", prompt)
        self.page.wait_for_timeout(_SETTLE)

    def run(self) -> dict[str, Any]:
        """Press Run and wait; the outputs by node."""
        self.page.evaluate(
            "() => { window.ended = null;"
            " for (const kind of ['execution_success', 'execution_error', 'execution_interrupted'])"
            "   window.app.api.addEventListener(kind, e => { window.ended = { kind, ...e.detail }; }); }"
        )
        self.page.locator('[data-testid="queue-button"]:visible').first.click()
        deadline = time.monotonic() + RUN_LIMIT
        while (end := self.page.evaluate("() => window.ended")) is None:
            if time.monotonic() > deadline:
                raise SystemExit(f"the run did not end within {RUN_LIMIT:g} s")
            self.page.wait_for_timeout(300)
        if end["kind"] != "execution_success":
            raise SystemExit(f"the run ended with {end['kind']}: {end.get('exception_message')}")
        self.page.wait_for_timeout(2 * _SETTLE)
        return self.client.history(end["prompt_id"])["outputs"]

    def node(self, kind: str, width: int = 0) -> Image.Image:
        """The first node of a type as the page draws it, alone. width: given to it first, 0 leaves it."""
        rect = self.page.evaluate(
            """async ([kind, width]) => {
              const app = window.app, node = app.graph.nodes.find((n) => n.type === kind);
              for (const other of app.graph.nodes) if (other !== node) other.pos = [other.pos[0], other.pos[1] - 9000];
              if (width) node.setSize([width, node.size[1]]);
              const view = app.canvas;
              view.deselectAll?.();
              view.ds.scale = 1;
              view.ds.offset = [130 - node.pos[0], 230 - node.pos[1]];
              view.setDirty(true, true);
              await new Promise((done) => setTimeout(done, 900));
              view.setDirty(true, true);
              await new Promise((done) => setTimeout(done, 400));
              const at = view.canvas.getBoundingClientRect();
              return { x: at.x + 130, y: at.y + 200, width: node.size[0], height: node.size[1] + 30 };
            }""",
            [kind, width],
        )
        edge = 4
        whole = _image(self.page.screenshot())
        x, y = rect["x"], rect["y"]
        right, below = x + rect["width"], y + rect["height"]
        return whole.crop((int(x) - edge, int(y) - edge, int(right) + edge, int(below) + edge))

    def picture(self, outputs: dict[str, Any], kind: str) -> Image.Image:
        """The first picture that a node of this type showed or saved in a run."""
        number = self.page.evaluate(
            "kind => String(window.app.graph.nodes.find((node) => node.type === kind).id)", kind
        )
        return _image(self.client.fetch_image(outputs[number]["images"][0]))


def stack(studio: Studio) -> Image.Image:
    """The rows of a style and a character, the first one open."""
    studio.open("style_and_character")
    studio.page.locator(".loom-row").first.get_by_role("button", expanded=False).last.click()
    return studio.node("LoomStack", 460)


def blocks(studio: Studio) -> Image.Image:
    studio.open("block_strengths")
    studio.run()
    return studio.node("LoomBlocks", 480)


def schedule(studio: Studio) -> Image.Image:
    studio.open("scheduled_style")
    return studio.node("LoomSchedule", 460)


def sweep(studio: Studio) -> Image.Image:
    studio.open("strength_sweep")
    studio.run()
    return studio.node("LoomSweepGrid", 640)


def block_map(studio: Studio) -> Image.Image:
    studio.open("block_effect_map")
    return studio.picture(studio.run(), "SaveImage")


def merge(studio: Studio) -> Image.Image:
    studio.open("merge_and_save")
    return studio.picture(studio.run(), "PreviewImage")


def interference(studio: Studio) -> Image.Image:
    """A style with a part that was planted against the character's own directions, and that character."""
    toy_conflict.write(studio.folder / "host" / "models" / "loras" / toy_conflict.NAME)
    rows = f"<lora:{toy_conflict.NAME}:0.8> <lora:{toy_conflict.CHARACTER.name}:0.9>"
    inputs = {"lora_stack": ["2", 2], "model": ["1", 0], "clip": ["1", 1]}
    studio.open_prompt(
        {
            "1": _checkpoint(),
            "2": {"class_type": "LoomStack", "inputs": {"rows": rows}},
            "3": {"class_type": "LoomInterference", "inputs": inputs},
        }
    )
    studio.run()
    return studio.node("LoomInterference", 560)


def train(studio: Studio) -> Image.Image:
    """A training of a ring from eleven drawn pictures, watched to its end."""
    dataset = {"folder": str(_drawn(studio.folder / "rings")), "trigger": "zwx"}
    dataset |= {"template": "{caption}", "resolution": 128, "upscale": True}
    settings = {"steps": 300, "learning_rate": 2e-3, "rank": 8, "batch_size": 2, "train_seed": 0}
    settings |= {"validate_every": 25, "sample_every": 75, "sample_steps": 20}
    order = {"model": ["1", 0], "clip": ["1", 1], "vae": ["1", 2], "dataset": ["2", 0]}
    order |= {"settings": ["3", 0], "filename": "loom/picture"}
    studio.open_prompt(
        {
            "1": _checkpoint(),
            "2": {"class_type": "LoomDataset", "inputs": dataset},
            "3": {"class_type": "LoomTrainSettings", "inputs": settings},
            "4": {"class_type": "LoomTrain", "inputs": order},
        }
    )
    studio.run()
    return studio.node("LoomTrain", 520)


def graph(studio: Studio) -> Image.Image:
    """The graph of a style and a character after a run."""
    studio.open("style_and_character")
    studio.run()
    studio.page.evaluate(
        "() => { const view = window.app.canvas; view.deselectAll?.(); view.ds.scale = 0.8;"
        " view.ds.offset = [70, 210]; view.setDirty(true, true); }"
    )
    studio.page.wait_for_timeout(2 * _SETTLE)
    # Below the page's own bars and messages.
    return _image(studio.page.screenshot()).crop((56, 180, 1600, 620))


PICTURES: dict[str, Callable[[Studio], Image.Image]] = {
    "stack": stack,
    "blocks": blocks,
    "schedule": schedule,
    "sweep": sweep,
    "block_map": block_map,
    "interference": interference,
    "merge": merge,
    "train": train,
    "graph": graph,
}


def _checkpoint() -> dict[str, Any]:
    inputs = {"ckpt_name": "loom_toy.safetensors"}
    return {"class_type": "CheckpointLoaderSimple", "inputs": inputs}


def _drawn(folder: Path) -> Path:
    """Eleven pictures of the toy's character with captions."""
    folder.mkdir(parents=True, exist_ok=True)
    for number in range(11):
        ground = list(GROUNDS)[number % len(GROUNDS)]
        picture = placed_at_random(Picture(None, CHARACTER_SHAPE, ground), random.Random(number))
        draw(picture, 128).convert("RGB").save(folder / f"{number}.png")
        (folder / f"{number}.txt").write_text(f"zwx on a {ground} ground", "utf-8")
    return folder


def _image(data: bytes) -> Image.Image:
    return Image.open(io.BytesIO(data)).convert("RGB")


def written(image: Image.Image, path: Path) -> None:
    """As JPEG of at most MOST_BYTES, at the best quality that fits."""
    image.thumbnail((1200, 1200), Image.Resampling.LANCZOS)
    for quality in range(92, 30, -4):
        data = io.BytesIO()
        image.save(data, "JPEG", quality=quality, optimize=True, progressive=True)
        if data.tell() <= MOST_BYTES:
            break
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(data.getvalue())
    print(f"{path.relative_to(ROOT)}: {image.width} x {image.height}, {data.tell() >> 10} KB")


def main() -> None:
    parser = argparse.ArgumentParser(
        prog="make_pictures", description="Make the pictures of the docs."
    )
    parser.add_argument("names", nargs="*", choices=[*PICTURES, []], help="all by default")
    names = parser.parse_args().names or list(PICTURES)
    environment = located()
    with tempfile.TemporaryDirectory(prefix="loom-pictures-") as folder:
        base = standard_base(Path(folder) / "host", {**SETTINGS, **_QUIET})
        with (
            running_host(environment, base) as host,
            sync_playwright() as playwright,
            chromium(playwright) as browser,
            opened(browser, host.url, 1600, 1400) as page,
        ):
            studio = Studio(page, HostClient(host.url), Path(folder))
            for name in names:
                written(PICTURES[name](studio), IMAGES / f"{name}.jpg")


if __name__ == "__main__":
    main()
