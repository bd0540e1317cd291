"""What tests of jobs share: pictures to learn from, the graph that a job is written in, and the worker's processes."""

from __future__ import annotations

import json
import os
import random
import subprocess
import sys
from dataclasses import replace
from importlib.machinery import PathFinder
from pathlib import Path

import comfy.sd
import folder_paths
import numpy as np
import pytest
import safetensors
import safetensors.torch
import torch

from lora_core.host.job_follow import JobWish, job_folder
from lora_core.host.training import TrainOrder, train_lora
from lora_core.train.batch import read_batch
from lora_core.train.dataset import Dataset, DatasetSettings
from lora_core.train.job import WRITE
from lora_core.train.settings import SampleWish, TrainSettings
from tools.devkit.base_directory import TOY_MODEL
from tools.devkit.environment import ROOT, located
from tools.toy_pictures import CHARACTER_SHAPE, GROUNDS, Picture, draw, placed_at_random

CHECKPOINT = TOY_MODEL / "loom_toy.safetensors"
# As the page sends it: the loader, a node between, and the training node.
GRAPH = {
    "1": {"class_type": "CheckpointLoaderSimple", "inputs": {"ckpt_name": CHECKPOINT.name}},
    "2": {"class_type": "SomeLoraNode", "inputs": {"model": ["1", 0]}},
    "7": {"class_type": "LoomTrain", "inputs": {"model": ["2", 0]}},
}
# What the worker must find by its own path and by --comfyui alone.
HIDDEN = ("comfy", "folder_paths", "nodes", "lora_core", "train_worker")
SETTINGS = TrainSettings(
    steps=6, rate=2e-3, batch_size=4, rank=4, alpha=4.0, save_every=2, validate_every=3,
    samples=SampleWish(-1),
)  # fmt: skip
# The long matrix, whose runs are of 50 steps.
FULL = bool(os.environ.get("LOOM_FULL"))
# Each process of the worker takes seconds to import torch and the host.
LONG = pytest.mark.skipif(not FULL, reason="the long matrix: LOOM_FULL=1")
STEPS = 50 if FULL else 6
# A tenth of the rate that suits this model: at that one, a training makes rounding a thousand times as large in 50 steps
# even in one process, and nothing could be told from it (docs/benchmarks.md, ranks).
TOLD = replace(SETTINGS, steps=STEPS, rate=2e-4)


def load_toy():
    """MODEL, CLIP and VAE of the toy checkpoint, loaded as in a graph, from a folder that the host lists."""
    import tools.toy_pack  # noqa: F401 - registers the toy with the host

    output = Path(folder_paths.get_output_directory()) / "loras"
    folder_paths.add_model_folder_path("loras", str(output))
    folder_paths.add_model_folder_path("checkpoints", str(TOY_MODEL))
    with torch.inference_mode():
        return comfy.sd.load_checkpoint_guess_config(str(CHECKPOINT))[:3]


def rings(count: int = 11) -> Dataset:
    """Drawn pictures of 64 pixels with captions; crops, flips and dropped captions differ from epoch to epoch."""
    made = []
    for seed in range(count):
        ground = list(GROUNDS)[seed % len(GROUNDS)]
        one = placed_at_random(Picture(None, CHARACTER_SHAPE, ground), random.Random(seed))
        made.append(np.asarray(draw(one, 64).convert("RGB"), dtype=np.float32) / 255)
    captions = "\n".join(
        f"zwx, on a {list(GROUNDS)[n % len(GROUNDS)]} ground" for n in range(count)
    )
    found = read_batch(torch.from_numpy(np.stack(made)), captions)
    settings = DatasetSettings(trigger="zwx", resolution=64, flip=True, dropout=0.2)
    return Dataset(found.images, settings)


def ask(toy, pictures, name, run=None, settings=TOLD, model=None, **order):
    """What LoomTrain does with these widgets."""
    with torch.inference_mode():
        job = {"job": JobWish(run, "", GRAPH)} if run else {}
        asked = TrainOrder(settings, name, node="7", **job, **order)
        return train_lora(model or toy[0], toy[1], toy[2], pictures, asked)


def write(toy, pictures, name, settings=TOLD, **more) -> Path:
    """A job's folder."""
    said = ask(toy, pictures, name, WRITE, settings, **more)
    assert "not begun" in said.report
    return job_folder(JobWish(WRITE), name)


def worker(
    job: Path,
    ranks: int,
    *more: str,
    restarts: int = 0,
    probe: Path | None = None,
    other_version_on: int | None = None,
) -> subprocess.Popen[str]:
    """The worker's processes, started by path; ranks 0: one process without torchrun.

    probe: a folder for what each rank sees. other_version_on: a rank whose pack says that it is of another version.
    """
    script = [str(ROOT / "train_worker.py")]
    if probe is not None:
        probe.mkdir(exist_ok=True)
        script = [str(ROOT / "tests/host/job_probe.py"), str(probe)]
    start = [sys.executable]
    if ranks:
        start += ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", str(ranks)]
        start += ["--max-restarts", str(restarts)]
    command = [*start, *script, str(job), "--comfyui", str(located().tree)]
    command += ["--custom-node", str(ROOT / "tools/toy_pack"), "--model", str(CHECKPOINT), *more]
    variables = variables_of_worker()
    if other_version_on is not None:
        variables["LOOM_OTHER_VERSION_ON"] = str(other_version_on)
    return subprocess.Popen(
        command, env=variables, text=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE
    )


def variables_of_worker() -> dict[str, str]:
    """The environment, in which nothing leads to a host or to the pack; packages in PYTHONPATH stay."""
    variables = {k: v for k, v in os.environ.items() if k not in ("COMFYUI_PATH", "PYTHONPATH")}
    entries = [each for each in os.environ.get("PYTHONPATH", "").split(os.pathsep) if each]
    kept = [each for each in entries if not any(found_in(each, name) for name in HIDDEN)]
    return variables | {"PYTHONPATH": os.pathsep.join(kept), "OMP_NUM_THREADS": "1"}


def found_in(entry: str, name: str) -> bool:
    """Whether Python would find this module in a folder of its search path."""
    return PathFinder.find_spec(name, [entry]) is not None


def finish(process: subprocess.Popen[str], timeout: float = 600) -> str:
    """Its output; it must have ended well."""
    out, err = process.communicate(timeout=timeout)
    assert process.returncode == 0, out[-3000:] + err[-6000:]
    return out + err


def result_of(folder: Path) -> dict[str, torch.Tensor]:
    return safetensors.torch.load_file(folder / "result.safetensors")


def metadata_of(path: str | Path) -> dict[str, str]:
    with safetensors.safe_open(path, "pt") as file:
        return dict(file.metadata())


def curves_of(folder: Path) -> tuple[list[float], list[tuple[int, float]]]:
    """The losses of all steps, and the validation losses with their steps."""
    told = json.loads(metadata_of(folder / "result.safetensors")["loom_result"])
    return told["losses"], [(step, value) for step, value in told["validation"]]


def apart(one, other) -> tuple[float, float]:
    """How far two LoRAs are from each other, as a share of the other's norm: all of it, and what began at nought."""
    assert one.keys() == other.keys()
    found = []
    for part in ("", "lora_up"):
        names = [name for name in one if part in name and "alpha" not in name]
        mine, theirs = (torch.cat([each[n].flatten() for n in names]) for each in (one, other))
        found.append(float((mine - theirs).norm() / theirs.norm()))
    return found[0], found[1]


def assert_alike(one, other) -> None:
    """But for the order of float32 sums.

    One sum is off by some 1e-7 of its size. Adam divides a gradient by its own size, so that a number whose gradient
    is all rounding moves by the whole rate, either way; those few make the distance. How far that is differs with the
    order of sums inside a single product: six kernels that are all right to 4e-7 gave 1.3e-6 to 7.9e-6 for all of it,
    1.3e-4 to 8e-4 for what began at nought.
    """
    whole, begun = apart(one, other)
    assert whole <= 1e-5
    assert begun <= 2e-3
