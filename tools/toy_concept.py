"""Measures the trainer's defaults: does the trigger give a new concept, and do other prompts stay what they were?

    python tools/toy_concept.py --comfyui PATH_OF_COMFYUI --json FILE

Twelve pictures of the purple ring, whose colour and shape the toy base has never seen, go through Loom Dataset's and
Loom Train's own functions with nothing set but the trigger and the pictures' size. The file that comes out is loaded
by the host's LoraLoader; the reader (toy_reader) counts what its pictures show.
"""

from __future__ import annotations

import argparse
import json
import random
import sys
import tempfile
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from lora_core.train.batch import read_batch
from lora_core.train.dataset import Dataset, DatasetSettings
from lora_core.train.settings import TrainSettings
from tools import toy_host, toy_measure
from tools.make_toy_model import CHECKPOINT
from tools.toy_pictures import CHARACTER_SHAPE, GROUNDS, SIZE, Picture, draw, placed_at_random

PICTURES, TRIGGER = 12, "zwx"
STRENGTHS = (0.8, 0.9, 1.0)


def concept(seed: int = 40, size: int = SIZE) -> Dataset:
    """Twelve purple rings, as a user would bring them: the caption is the trigger and the ground. size: in pixels."""
    grounds = [list(GROUNDS)[index % len(GROUNDS)] for index in range(PICTURES)]
    rng = random.Random(seed)
    plain = [Picture(None, CHARACTER_SHAPE, one) for one in grounds]
    drawn = [draw(placed_at_random(one, rng), size) for one in plain]
    pixels = np.stack([np.asarray(one, dtype=np.float32) / 255 for one in drawn])
    captions = "\n".join(f"{TRIGGER} on a {ground} ground" for ground in grounds)
    found = read_batch(torch.from_numpy(pixels), captions)
    return Dataset(found.images, DatasetSettings(trigger=TRIGGER, resolution=size))


def trained(base: toy_measure.Loaded, settings: TrainSettings) -> tuple[Path, str, float]:
    """The LoRA's file, the node's report, and how many seconds it took."""
    import folder_paths

    from lora_core.host.training import TrainOrder, train_lora

    model, clip, vae = base
    start = time.perf_counter()
    with torch.inference_mode():
        made = train_lora(
            model, clip, vae, concept(), TrainOrder(settings, "toy_concept", retrain=True)
        )
    took = time.perf_counter() - start
    path = folder_paths.get_full_path("loras", made.name)
    if path is None:
        sys.exit(f"{made.name} was not saved")
    return Path(path), made.report, took


def triggered(loaded: toy_measure.Loaded, seeds: range) -> dict[str, float]:
    """How often the trigger gives the ring, over seeds, with the grounds in turn."""
    grounds = list(GROUNDS)
    prompts = [f"{TRIGGER} on a {grounds[seed % len(grounds)]} ground" for seed in seeds]
    seen = [one.reading for one in toy_measure.show(loaded, prompts, seeds)]
    count = len(seen)
    return {
        "concept": sum(one.character for one in seen) / count,
        "purple": sum(one.colour == "purple" for one in seen) / count,
        "ring": sum(one.shape == CHARACTER_SHAPE for one in seen) / count,
    }


def untouched(loaded: toy_measure.Loaded, count: int) -> dict[str, float]:
    """How often prompts without the trigger give what they say: `count` of all that the base knows."""
    every = toy_measure.every_prompt()
    wanted = random.Random(7).sample(every, min(count, len(every)))
    prompts = toy_measure.prompts_of(wanted)
    shown = toy_measure.show(loaded, prompts, range(len(prompts)))
    return toy_measure.obedience(shown, wanted)


def overridden(settings: Any, changes: list[str]) -> Any:
    """Settings with `name=value` or `objective.name=value` changes, for a search; the claim itself changes none."""
    for change in changes:
        path, value = change.split("=", 1)
        name, _, inner = path.partition(".")
        old = getattr(settings, name)
        new = overridden(old, [f"{inner}={value}"]) if inner else type(old)(value)
        settings = replace(settings, **{name: new})
    return settings


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--comfyui", help="folder of a ComfyUI tree (else COMFYUI_PATH)")
    parser.add_argument(
        "--seeds", type=int, default=32, help="pictures with the trigger (default: %(default)s)"
    )
    parser.add_argument(
        "--prompts", type=int, default=144, help="prompts without it (default: all %(default)s)"
    )
    parser.add_argument("--strengths", type=float, nargs="+", default=STRENGTHS)
    parser.add_argument(
        "--set", nargs="*", default=[], metavar="NAME=VALUE", help="other than default"
    )
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--no-base", action="store_true", help="do not measure the base again")
    parser.add_argument("--sheet", type=Path, help="write the pictures of the strongest row there")
    parser.add_argument("--json", type=Path, help="write the figures there too")
    options = parser.parse_args()  # fmt: skip
    torch.set_num_threads(options.threads)
    with tempfile.TemporaryDirectory() as folder:
        toy_host.add_host(options.comfyui)
        import folder_paths

        folder_paths.set_output_directory(str(Path(folder) / "output"))
        folder_paths.set_user_directory(str(Path(folder) / "user"))
        folder_paths.add_model_folder_path("loras", str(Path(folder) / "output" / "loras"))
        found = measured(options)
    if options.json:
        options.json.write_text(json.dumps(found, indent=1) + "\n", "utf-8")


def measured(options: argparse.Namespace) -> dict[str, Any]:
    base = toy_measure.load_base(CHECKPOINT)
    file, report, took = trained(base, overridden(TrainSettings(), options.set))
    print(report, f"\ntrained in {took:.0f} s", flush=True)
    found: dict[str, Any] = {"seconds": round(took), "changes": options.set, "strengths": {}}
    if not options.no_base:
        found["base"] = untouched(base, options.prompts)
        print("base", found["base"], flush=True)
    for strength in options.strengths:
        loaded = toy_measure.with_loras(base, [(file, strength)])
        row = {
            "trigger": triggered(loaded, range(1, options.seeds + 1)),
            "others": untouched(loaded, options.prompts),
        }
        found["strengths"][f"{strength:g}"] = row
        print(f"at {strength:g}", row, flush=True)
    if options.sheet:
        sheet(loaded).save(options.sheet)
    return found


def sheet(loaded: toy_measure.Loaded) -> Any:
    """Eight pictures with the trigger, eight of other prompts."""
    prompts = [f"{TRIGGER} on a {list(GROUNDS)[i % 3]} ground" for i in range(8)]
    prompts += toy_measure.prompts_of(random.Random(7).sample(toy_measure.every_prompt(), 8))
    shown = toy_measure.show(loaded, prompts, range(1, 17))
    return toy_measure.sheet([one.picture for one in shown], 8)


if __name__ == "__main__":
    main()
