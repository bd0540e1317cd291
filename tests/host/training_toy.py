"""What tests of jobs share: pictures to learn from, the graph that a job is written in, and the worker's processes."""

from __future__ import annotations

import os
import random
import subprocess
import sys
from pathlib import Path

import comfy.sd
import folder_paths
import numpy as np
import torch

from lora_core.train.batch import read_batch
from lora_core.train.dataset import Dataset, DatasetSettings
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
SETTINGS = TrainSettings(
    steps=6, rate=2e-3, batch_size=4, rank=4, alpha=4.0, save_every=2, validate_every=3,
    samples=SampleWish(-1),
)  # fmt: skip


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


def worker(
    job: Path, ranks: int, *more: str, restarts: int = 0, probe: Path | None = None
) -> subprocess.Popen[str]:
    """The worker's processes, started by path; ranks 0: one process without torchrun."""
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
    variables = {k: v for k, v in os.environ.items() if k not in ("COMFYUI_PATH", "PYTHONPATH")}
    variables |= {"OMP_NUM_THREADS": "1"}
    return subprocess.Popen(
        command, env=variables, text=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE
    )


def finish(process: subprocess.Popen[str], timeout: float = 600) -> str:
    """Its output; it must have ended well."""
    out, err = process.communicate(timeout=timeout)
    assert process.returncode == 0, out[-3000:] + err[-6000:]
    return out + err
