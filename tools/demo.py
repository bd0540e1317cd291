"""The demo: run the example workflows on the toy model, then show by figures and pictures whether stacking works.

Started by `python dev.py demo`. It boots the real ComfyUI with the pack, queues the toy twins of the example
workflows as they are, then the style and character one with both LoRAs off, each alone, and both, over many seeds.
A rule-based reader (tools/toy_reader.py, which knows neither model nor LoRAs) says how often the style and the
character are seen.

Trainings take minutes: by default the one from ten pictures is cut to about a minute and the pair is not trained. With
--train all run at full length, and a second sheet shows the style and the character that were trained just now.
"""

from __future__ import annotations

import argparse
import copy
import io
import json
import os
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from PIL import Image, ImageDraw

from tools.demo_lessons import LONG, PAIR, RUN_LIMIT, SHORT_STEPS, cut, is_lesson, trained_file
from tools.devkit.base_directory import TOY_WORKFLOWS, standard_base
from tools.devkit.environment import ROOT, located
from tools.devkit.host_client import HostClient
from tools.devkit.host_process import running_host
from tools.make_workflows import EXAMPLES, WORKFLOWS
from tools.toy_reader import Reading, read
from tools.workflow_graph import api_prompt
from tools.workflow_train import STEPS

WANTED_WHEN_STACKED = 0.75
SHOWN_SEEDS = 8
_CELL, _LABEL, _HEAD = 192, 150, 34


@dataclass(frozen=True)
class Condition:
    """One row of the sheet: which rows of the stack are switched on."""

    title: str
    style: bool
    character: bool


CONDITIONS = (
    Condition("no LoRA", False, False),
    Condition("style", True, False),
    Condition("character", False, True),
    Condition("both", True, True),
)


@dataclass(frozen=True)
class Seen:
    """The pictures of one condition and what the reader saw in them, one a seed."""

    condition: Condition
    pictures: tuple[Image.Image, ...]
    readings: tuple[Reading, ...]

    @property
    def style_rate(self) -> float:
        return sum(reading.style for reading in self.readings) / len(self.readings)

    @property
    def character_rate(self) -> float:
        return sum(reading.character for reading in self.readings) / len(self.readings)


def with_files(prompt: dict[str, Any], files: dict[str, str]) -> dict[str, Any]:
    """The style and character workflow with other LoRA files, as they were learned, by the roles of its rows."""
    changed = copy.deepcopy(prompt)
    for node in changed.values():
        if node["class_type"] == "LoomStack":
            stack = json.loads(node["inputs"]["rows"])
            for row in stack["rows"]:
                row |= {"lora": files[row["role"]], "model": 1.0, "clip": 1.0}
            node["inputs"]["rows"] = json.dumps(stack)
    return changed


def switched(prompt: dict[str, Any], condition: Condition, seed: int) -> dict[str, Any]:
    """The style and character workflow with its rows on or off and another seed."""
    changed = copy.deepcopy(prompt)
    for node in changed.values():
        if node["class_type"] == "LoomStack":
            stack = json.loads(node["inputs"]["rows"])
            for row in stack["rows"]:
                row["on"] = condition.style if row["role"] == "style" else condition.character
            node["inputs"]["rows"] = json.dumps(stack)
        elif node["class_type"] == "KSampler":
            node["inputs"]["seed"] = seed
    return changed


def picture_of(client: HostClient, prompt: dict[str, Any]) -> Image.Image:
    """Run a workflow and fetch its picture: what Save Image saved, else what another node did."""
    finished = client.run(prompt, timeout=RUN_LIMIT)
    saver = next((key for key, node in prompt.items() if node["class_type"] == "SaveImage"), None)
    return fetched(client, finished.images(saver)[0])


def fetched(client: HostClient, view: dict[str, str]) -> Image.Image:
    return Image.open(io.BytesIO(client.fetch_image(view))).convert("RGB")


def sweep_table(client: HostClient, prompt: dict[str, Any], out: Path) -> str:
    """Draw a sweep's sheet once more (no picture is made anew), keep its JSON, and read every picture of it."""
    (grid,) = [key for key, node in prompt.items() if node["class_type"] == "LoomSweepGrid"]
    prompt = copy.deepcopy(prompt)
    prompt[grid]["inputs"]["filename_prefix"] += "_read"
    shown = client.run(prompt, timeout=600).outputs[grid]
    (sweep,) = shown["loom_sweep"]
    (out / "strength_sweep.json").write_bytes(client.fetch_image(sweep["json"][0]))
    seen = {
        (cell["row"], cell["col"]): read(fetched(client, cell["file"]))
        for cell in shown["loom_grid"]
    }
    lines = [f"{sweep['y']['title']} down, {sweep['x']['title']} across; S style, C character seen"]
    lines.append(f"{'':>6}" + "".join(f"{label:>5}" for label in sweep["x"]["labels"]))
    for row, label in enumerate(sweep["y"]["labels"]):
        marks = [seen[row, col] for col in range(len(sweep["x"]["labels"]))]
        said = [("S" if mark.style else "-") + ("C" if mark.character else "-") for mark in marks]
        lines.append(f"{label:>6}" + "".join(f"{mark:>5}" for mark in said))
    return "\n".join(lines)


def see(client: HostClient, prompt: dict[str, Any], condition: Condition, seeds: int) -> Seen:
    pictures = []
    for seed in range(1, seeds + 1):
        pictures.append(picture_of(client, switched(prompt, condition, seed)))
        print(f"\r  {condition.title}: {seed} of {seeds} seeds", end="", flush=True)
    print()
    return Seen(condition, tuple(pictures), tuple(read(picture) for picture in pictures))


def sheet(rows: list[Seen], prompt_text: str) -> Image.Image:
    """A labelled contact sheet: one row a condition, the first seeds side by side."""
    columns = min(SHOWN_SEEDS, len(rows[0].pictures))
    canvas = Image.new("RGB", (_LABEL + columns * _CELL, 2 * _HEAD + len(rows) * _CELL), "white")
    draw = ImageDraw.Draw(canvas)
    draw.text(
        (8, 10), f'LoRA Loom on the toy model, prompt: "{prompt_text}"', fill="black", font_size=18
    )
    for column in range(columns):
        draw.text(
            (_LABEL + column * _CELL + 8, _HEAD + 8),
            f"seed {column + 1}",
            fill="black",
            font_size=15,
        )
    for index, seen in enumerate(rows):
        top = 2 * _HEAD + index * _CELL
        draw.text((8, top + 40), seen.condition.title, fill="black", font_size=20)
        rates = f"style {seen.style_rate:.0%}\ncharacter {seen.character_rate:.0%}"
        draw.text((8, top + 72), rates, fill="black", font_size=15)
        for column, picture in enumerate(seen.pictures[:columns]):
            canvas.paste(picture.resize((_CELL - 4, _CELL - 4)), (_LABEL + column * _CELL, top))
    return canvas


def table(rows: list[Seen]) -> str:
    """The measured rates as text."""
    lines = [f"{'stack':<12}{'style seen':>14}{'character seen':>18}"]
    for seen in rows:
        count = len(seen.readings)
        style, character = round(seen.style_rate * count), round(seen.character_rate * count)
        lines.append(
            f"{seen.condition.title:<12}{f'{style} of {count}':>14}{f'{character} of {count}':>18}"
        )
    return "\n".join(lines)


def text_of(prompt: dict[str, Any]) -> str:
    """The positive prompt of a workflow."""
    sampler = next(node for node in prompt.values() if node["class_type"] == "KSampler")
    return prompt[sampler["inputs"]["positive"][0]]["inputs"]["text"]


def shrunk(picture: Image.Image) -> Image.Image:
    """A thumbnail of at most 768 pixels."""
    picture.thumbnail((768, 768), Image.Resampling.LANCZOS)
    return picture


def run_examples(client: HostClient, out: Path, train: bool) -> dict[str, dict[str, Any]]:
    """Queue the toy workflows, keep their pictures; the prompts by name. train: the lessons too, as they are."""
    info = client.object_info()
    prompts = {}
    for file in sorted(TOY_WORKFLOWS.glob("*.json")):
        name, prompt = file.stem, api_prompt(json.loads(file.read_text("utf-8")), info)
        note = ""
        if is_lesson(prompt) and not train:
            if name in LONG:
                print(f"  {name}: left out, it takes minutes; --train runs it")
                continue
            prompt, note = cut(prompt), f" (cut to {SHORT_STEPS} of {STEPS} steps)"
        started = time.monotonic()
        picture_of(client, prompt).save(out / f"{name}.png")
        prompts[name] = prompt
        print(f"  {name}: {out.name}/{name}.png{note}, {time.monotonic() - started:.0f} s")
    return prompts


def renew_pictures(out: Path, train: bool) -> None:
    """Write the committed pictures again: the examples' thumbnails and the sheet of the README.

    train: those of the training examples too, which the demo runs at full length only then.
    """
    for name in WORKFLOWS:
        if name.startswith("train_") and not train:
            continue
        shrunk(Image.open(out / f"{name}.png")).save(EXAMPLES / f"{name}.jpg", quality=90)
    Image.open(out / "sheet.png").convert("RGB").save(ROOT / "docs" / "sheet.jpg", quality=88)


def shown(client: HostClient, prompt: dict[str, Any], seeds: int, out: Path) -> list[Seen]:
    """All conditions of the style and character workflow: the sheet at `out`, the rates in words."""
    print(f'Style and character, prompt "{text_of(prompt)}":')
    rows = [see(client, prompt, condition, seeds) for condition in CONDITIONS]
    sheet(rows, text_of(prompt)).save(out)
    print(f"\n{table(rows)}\n\nThe sheet: {os.path.relpath(out)}")
    return rows


def stacking_works(rows: list[Seen]) -> bool:
    """Whether the stacked row shows both, and the row without LoRAs shows neither."""
    none, both = rows[0], rows[-1]
    shown = min(both.style_rate, both.character_rate) >= WANTED_WHEN_STACKED
    return shown and none.style_rate == none.character_rate == 0


def main() -> int:
    parser = argparse.ArgumentParser(
        prog="dev.py demo", description="Run the examples on the toy model."
    )
    parser.add_argument(
        "--out", type=Path, default=ROOT / "demo_output", help="where the pictures go"
    )
    parser.add_argument("--seeds", type=int, default=16, help="pictures for each row of the sheet")
    parser.add_argument(
        "--renew", action="store_true", help="write thumbnails and README sheet again"
    )
    parser.add_argument(
        "--train",
        action="store_true",
        help="train at full length, style and character too, and make a second sheet with them (many minutes)",
    )
    options = parser.parse_args()
    options.out.mkdir(parents=True, exist_ok=True)
    environment = located()
    base = standard_base(environment.home / "demo")
    print("Starting ComfyUI with LoRA Loom ...", flush=True)
    with running_host(environment, base) as host:
        client = HostClient(host.url)
        print("The example workflows on the toy model:")
        prompts = run_examples(client, options.out, options.train)
        print(f"\n{sweep_table(client, prompts['strength_sweep'], options.out)}\n")
        prompt = prompts["style_and_character"]
        rows = shown(client, prompt, options.seeds, options.out / "sheet.png")
        if options.train:
            files = {role: trained_file(client, prompts[name]) for role, name in PAIR.items()}
            print(f"\nWith what was trained here, {' and '.join(files.values())}, both at 1:")
            sheet_of_these = options.out / "sheet_trained.png"
            shown(client, with_files(prompt, files), options.seeds, sheet_of_these)
    if options.renew:
        renew_pictures(options.out, options.train)
    if not stacking_works(rows):
        print(
            f"Stacking does not work here: both should be seen in {WANTED_WHEN_STACKED:.0%} or more."
        )
        return 1
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
