"""Stop-and-keep, what the page is told, and sample pictures, on the toy model."""

from __future__ import annotations

import random
import threading
import time
from dataclasses import replace
from pathlib import Path

import comfy.model_management
import comfy.sd
import folder_paths
import numpy as np
import pytest
import torch

from lora_core.host import watching
from lora_core.host.training import TrainOrder, train_lora
from lora_core.train.batch import read_batch
from lora_core.train.dataset import Dataset, DatasetSettings
from lora_core.train.settings import SampleWish, TrainSettings
from lora_core.train.state import states_in
from tools.devkit.base_directory import TOY_MODEL
from tools.toy_pictures import CHARACTER_SHAPE, GROUNDS, Picture, draw, placed_at_random

SETTINGS = TrainSettings(
    steps=12, rate=2e-3, rank=4, alpha=4.0, save_every=6, validate_every=6, samples=SampleWish(-1)
)


@pytest.fixture(scope="module")
def toy():
    """MODEL, CLIP and VAE of the toy checkpoint, loaded as in a graph: under inference mode."""
    import tools.toy_pack  # noqa: F401 - registers the toy with the host

    output = Path(folder_paths.get_output_directory()) / "loras"
    folder_paths.add_model_folder_path("loras", str(output))
    with torch.inference_mode():
        found = comfy.sd.load_checkpoint_guess_config(str(TOY_MODEL / "loom_toy.safetensors"))
    yield found[:3]
    comfy.model_management.unload_all_models()


def ring(seed: int) -> Picture:
    ground = list(GROUNDS)[seed % len(GROUNDS)]
    return placed_at_random(Picture(None, CHARACTER_SHAPE, ground), random.Random(seed))


@pytest.fixture(scope="module")
def rings():
    """Eleven drawn pictures of 64 pixels with captions."""
    drawn = [
        np.asarray(draw(ring(n), 64).convert("RGB"), dtype=np.float32) / 255 for n in range(11)
    ]
    captions = "\n".join(f"zwx on a {list(GROUNDS)[n % len(GROUNDS)]} ground" for n in range(11))
    found = read_batch(torch.from_numpy(np.stack(drawn)), captions)
    return Dataset(found.images, DatasetSettings(trigger="zwx", resolution=64))


@pytest.fixture(autouse=True)
def own_user_folder(tmp_path, monkeypatch):
    monkeypatch.setattr(folder_paths, "get_system_user_directory", lambda name: str(tmp_path))


def trained(toy, rings, name, settings=SETTINGS, **order):
    with torch.inference_mode():
        return train_lora(
            toy[0], toy[1], toy[2], rings, TrainOrder(settings, name, node="7", **order)
        )


def stopping_at(step, monkeypatch):
    """Ask for a stop when the node has told this step; as the route does."""
    real = watching.Teller.step

    def told(self, loss, validation):
        real(self, loss, validation)
        if len(self._curve.losses) == step:
            assert watching.ask_to_stop("7")

    monkeypatch.setattr(watching.Teller, "step", told)


def test_stop_and_keep_hands_on_what_is_there_and_can_be_gone_on_from(
    toy, rings, tmp_path, monkeypatch
):
    whole = trained(toy, rings, "stop/whole")
    with monkeypatch.context() as patched:
        stopping_at(4, patched)
        stopped = trained(toy, rings, "stop/early", retrain=True)
    assert "stopped at step 5 of 12 on your wish" in stopped.report
    assert stopped.curve["step"] == 5
    assert stopped.name == "stop/early.safetensors"
    again = trained(toy, rings, "stop/early")
    assert "stopped by you at step 5 of 12" in again.report
    assert again.name == stopped.name
    (folder,) = (tmp_path / "training").iterdir()
    assert states_in(folder)[0].stem == "step-00000005"
    on = trained(toy, rings, "stop/late", retrain=True)
    assert "resumed at step 5" in on.report
    assert on.tensors.keys() == whole.tensors.keys()
    assert all(torch.equal(value, whole.tensors[key]) for key, value in on.tensors.items())
    assert not states_in(folder)


def test_without_a_running_training_there_is_nothing_to_stop(toy, rings):
    assert not watching.ask_to_stop()
    trained(toy, rings, "stop/other", replace(SETTINGS, steps=2))
    assert not watching.ask_to_stop("7")
    assert watching.curves()["7"]["running"] is False


def test_sample_pictures_show_the_base_and_the_lora_and_change_nothing_learned(
    toy, rings, monkeypatch
):
    told = []
    monkeypatch.setattr(watching, "_send", lambda node, said: told.append((node, dict(said))))
    plain = trained(toy, rings, "sample/plain", replace(SETTINGS, rate=2e-2))
    seen = replace(SETTINGS, rate=2e-2, samples=SampleWish(6, steps=2))
    made = trained(toy, rings, "sample/seen", seen, retrain=True)
    assert all(torch.equal(value, made.tensors[key]) for key, value in plain.tensors.items())
    samples = [said["sample"] for _, said in told if "sample" in said]
    assert [sample["step"] for sample in samples] == [0, 6, 12]
    for sample in samples:
        folder = Path(folder_paths.get_temp_directory()) / sample["subfolder"]
        assert (folder / sample["filename"]).is_file()
    # Two prompts wide (with and without the trigger), three rows high.
    assert made.samples.shape[2] > 2 * 256
    rows = made.samples[0].unfold(0, 256, 262)
    assert len(rows) >= 3
    assert (
        float((made.samples[0, 40:290, 130:380] - made.samples[0, 564:814, 130:380]).abs().max())
        > 0.02
    )
    steps = [said["step"] for _, said in told if said.get("loss") is not None]
    assert steps == sorted(steps) or steps.count(12) > 1
    assert told[-1][1]["running"] is False


GRAPH = {
    "1": {"class_type": "CheckpointLoaderSimple", "inputs": {"ckpt_name": "loom_toy.safetensors"}},
    "2": {"class_type": "EmptyImage", "inputs": {"width": 64, "height": 64, "batch_size": 3, "color": 8010040}},
    "3": {
        "class_type": "LoomDataset",
        "inputs": {"folder": "", "trigger": "zwx", "template": "{caption}", "resolution": 64, "images": ["2", 0], "captions": "a plain"},
    },
    "4": {
        "class_type": "LoomTrainSettings",
        "inputs": {"steps": 100000, "learning_rate": 1e-4, "rank": 2, "alpha": 0.0, "batch_size": 1, "parts": "attention", "train_seed": 0, "sample_every": -1, "save_every": 1000},
    },
    "5": {
        "class_type": "LoomTrain",
        "inputs": {"model": ["1", 0], "clip": ["1", 1], "vae": ["1", 2], "dataset": ["3", 0], "settings": ["4", 0], "filename": "stop/served"},
    },
}  # fmt: skip


def test_the_server_stops_and_keeps_on_its_route_and_tells_the_curve(client):
    answers = []

    def stop_later():
        deadline = time.monotonic() + 120
        while time.monotonic() < deadline:
            curve = client.get("/loom/train").get("5", {})
            if curve.get("step", 0) >= 3:
                answers.append((curve, client.post("/loom/stop", {"node": "5"})))
                return
            time.sleep(0.2)

    assert client.post("/api/loom/stop", {}) == {"stopping": False}
    watcher = threading.Thread(target=stop_later)
    watcher.start()
    finished = client.run(GRAPH, timeout=300)
    watcher.join()
    ((curve, answer),) = answers
    assert answer == {"stopping": True}
    assert (curve["running"], curve["steps"]) == (True, 100000)
    (kept,) = finished.outputs["5"]["train"]
    assert 3 <= kept["step"] < 100000
    assert kept["loss"][-1][0] == kept["step"]
    assert "on your wish" in finished.outputs["5"]["text"][0]
