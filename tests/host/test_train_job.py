"""The same training as a job: written in the graph, run by the real worker on the real host, loaded again in the graph."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import threading
import time
from dataclasses import replace
from pathlib import Path

import comfy.model_management
import comfy.sd
import folder_paths
import pytest
import torch
from training_toy import (
    CHECKPOINT,
    GRAPH,
    HIDDEN,
    LONG,
    SETTINGS,
    STEPS,
    TOLD,
    ask,
    assert_alike,
    finish,
    load_toy,
    metadata_of,
    result_of,
    rings,
    variables_of_worker,
    worker,
    write,
)

from lora_core.errors import SaveError, TrainError
from lora_core.files.parse import parse_state_dict
from lora_core.host import job_base, watching
from lora_core.host.job_follow import JobWish, job_folder, job_stamp
from lora_core.host.stacking import apply_stack
from lora_core.stack.rows import LoraStack, StackRow
from lora_core.train.job import JOB, START, WATCH, WRITE, check_files, read_job
from lora_core.train.job_data import JobData
from lora_core.train.ranks import Ranks
from lora_core.train.settings import SampleWish
from lora_core.train.state import states_in
from tools.devkit.environment import ROOT, located

# The worker's processes have one thread each.
pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture(scope="module")
def toy():
    yield load_toy()
    comfy.model_management.unload_all_models()


@pytest.fixture(scope="module")
def pictures():
    return rings()


@pytest.fixture(autouse=True)
def own_folders(tmp_path_factory, monkeypatch):
    """Trainings that ran in the graph are forgotten by the next test."""
    folder = str(tmp_path_factory.mktemp("user"))
    monkeypatch.setattr(folder_paths, "get_system_user_directory", lambda name: folder)


@pytest.fixture(scope="module")
def job(toy, pictures, tmp_path_factory):
    """A job that every test copies."""
    folder = str(tmp_path_factory.mktemp("user"))
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(folder_paths, "get_system_user_directory", lambda name: folder)
        return write(toy, pictures, "job/kept")


@pytest.fixture(scope="module")
def here(toy, pictures, tmp_path_factory):
    """The training in the graph."""
    folder = str(tmp_path_factory.mktemp("user"))
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(folder_paths, "get_system_user_directory", lambda name: folder)
        return ask(toy, pictures, "job/here")


@pytest.fixture
def copied(job, tmp_path) -> Path:
    return Path(shutil.copytree(job, tmp_path / "job"))


def test_a_job_holds_no_picture_and_no_encoder_and_says_how_to_start_it(toy, pictures, job):
    said = read_job(job)
    assert (said.base.name, said.base.folder) == (CHECKPOINT.name, "checkpoints")
    assert set(said.layers[0].factors) == {"lora_up.weight", "lora_down.weight"}
    check_files(said, job)
    assert {path.suffix for path in job.iterdir()} == {".json", ".safetensors"}
    data = JobData(said, job, "cpu")
    full = next(n for n in range(9) if data.order.first[n + 1] - data.order.first[n] == 4)
    whole = data.batch(full, Ranks())
    assert whole is not None
    assert whole.latents.shape == (4, 4, 8, 8)
    parts = [data.batch(full, Ranks(rank, 3)) for rank in range(3)]
    keys = [part.keys for part in parts if part is not None]
    assert sorted(sum(keys, ())) == sorted(whole.keys)
    assert all(part.of == 4 for part in parts if part is not None)
    again = ask(toy, pictures, "job/kept", WRITE)
    line = again.report.splitlines()[-1]
    for word in ("torch.distributed.run", "--nproc-per-node", "train_worker.py", str(job)):
        assert word in line
    stamp = job_stamp(WRITE, "", "job/kept")
    assert stamp == job_stamp(WATCH, "job/kept", "other") != job_stamp(WRITE, "", "other")


def test_one_process_ends_with_the_bytes_of_the_graph_and_its_metadata(here, copied):
    out = finish(worker(copied, 0))
    assert f"step {STEPS} of {STEPS}" in out
    made = result_of(copied)
    assert_alike(made, here.tensors)
    path = folder_paths.get_full_path("loras", here.name)
    assert path is not None
    (file,) = (copied / "lora").iterdir()
    mine, theirs = metadata_of(file), metadata_of(path)
    loose = {"ss_loss", "ss_validation_loss", "ss_output_name", "modelspec.title"}
    loose |= {key for key in theirs if "hash" in key}
    assert {k: v for k, v in mine.items() if k not in loose} == {
        k: v for k, v in theirs.items() if k not in loose
    }
    assert float(mine["ss_loss"]) == pytest.approx(float(theirs["ss_loss"]), rel=1e-4)


def test_the_graph_watches_shows_pictures_stops_the_job_and_takes_its_lora(
    toy, pictures, monkeypatch
):
    settings = replace(SETTINGS, steps=200, samples=SampleWish(4, "zwx", steps=2))
    folder = write(toy, pictures, "job/watched", settings)
    told = []
    monkeypatch.setattr(watching, "_send", lambda node, said: told.append((node, dict(said))))
    process = worker(folder, 2)

    def stop_later():
        while process.poll() is None:
            if any("sample" in said for _, said in told) and any(
                said.get("step", 0) >= 5 for _, said in told
            ):
                watching.ask_to_stop("7")
                return
            time.sleep(0.1)

    watcher = threading.Thread(target=stop_later)
    watcher.start()
    made = ask(toy, pictures, "job/watched", WATCH, settings)
    watcher.join()
    finish(process)
    assert "on your wish" in made.report
    assert made.curve["step"] < 200
    assert made.name == "job/watched.safetensors"
    assert_alike(made.tensors, result_of(folder))
    again = ask(toy, pictures, "job/watched", WRITE, settings)
    assert "was stopped by you" in again.report
    assert again.name == made.name
    samples = [said["sample"]["step"] for _, said in told if "sample" in said]
    assert samples[:2] == [0, 4]
    assert made.samples.shape[1] > 2 * 256
    assert not (folder / "stop").exists()


def test_the_worker_finds_neither_host_nor_pack_by_pythonpath(monkeypatch, tmp_path):
    """So that it is by its own path, and by --comfyui, that all these tests' workers do."""
    (tmp_path / "further_package.py").touch()
    entries = [ROOT, located().tree, tmp_path]
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join(map(str, entries)))
    ask_python = (
        "import importlib.util, sys; print(*filter(importlib.util.find_spec, sys.argv[1:]))"
    )
    empty = tmp_path / "empty"
    empty.mkdir()
    found = subprocess.run(
        [sys.executable, "-c", ask_python, *HIDDEN, "further_package"],
        env=variables_of_worker(), cwd=empty, capture_output=True, text=True, check=True,
    )  # fmt: skip
    assert found.stdout.split() == ["further_package"]


@LONG
def test_the_same_node_gives_the_finished_jobs_lora_at_once(toy, pictures, here):
    folder = write(toy, pictures, "job/given")
    finish(worker(folder, 0))
    made = ask(toy, pictures, "job/given", WRITE)
    assert "was finished before" in made.report
    assert "output/loom_jobs/job/given" in made.report
    assert_alike(made.tensors, here.tensors)
    assert folder_paths.get_full_path("loras", made.name)


def by_core(toy, file):
    return comfy.sd.load_lora_for_models(toy[0], toy[1], file, 1.0, 1.0)[0]


def by_our_stack(toy, file):
    adapter = parse_state_dict(file, "carried")
    rows = LoraStack((StackRow("carried", 1.0, 1.0, adapter=adapter),))
    return apply_stack(rows, toy[0], toy[1], mode="baked").model


@LONG
@pytest.mark.parametrize("put_on", [by_core, by_our_stack])
def test_a_job_with_loras_on_the_model_takes_their_weights_along(toy, pictures, here, put_on):
    path = folder_paths.get_full_path("loras", here.name)
    assert path is not None
    with torch.inference_mode():
        with_lora = put_on(toy, comfy.utils.load_torch_file(path))
    short = replace(SETTINGS, steps=2)
    folder = write(toy, pictures, f"job/on_top_{put_on.__name__}", short, model=with_lora)
    finish(worker(folder, 0))
    assert_alike(
        result_of(folder),
        ask(toy, pictures, f"job/top_{put_on.__name__}", None, short, with_lora).tensors,
    )


@LONG
def test_a_training_that_was_begun_in_the_graph_goes_on_as_a_job(toy, pictures, here):
    class Interrupted(Exception):
        pass

    with pytest.MonkeyPatch.context() as patched:

        def fail(*_):
            raise Interrupted

        patched.setattr("lora_core.host.training_follow.loss_chart", fail)
        patched.setattr("lora_core.host.training_follow._CHARTS", 2)
        with pytest.raises(Interrupted):
            ask(toy, pictures, "job/begun")
    folder = write_on(toy, pictures, "job/begun")
    (state,) = states_in(folder)
    assert int(state.stem.split("-")[1]) == STEPS // 2
    assert f"resumed at step {STEPS // 2}" in finish(worker(folder, 0))
    assert_alike(result_of(folder), here.tensors)


def write_on(toy, pictures, name) -> Path:
    ask(toy, pictures, name, WRITE)
    return job_folder(JobWish(WRITE), name)


def test_wrong_files_are_refused_in_words(job, copied, tmp_path):
    said = read_job(copied)
    (copied / START).write_bytes((copied / START).read_bytes()[:-1] + b"\x01")
    with pytest.raises(TrainError, match=r"start.safetensors was changed \(sha256"):
        check_files(said, copied)
    other = tmp_path / "loom_toy.safetensors"
    other.write_bytes(CHECKPOINT.read_bytes()[:-1] + b"\x01")
    with pytest.raises(TrainError, match="is not the model that the job was written with"):
        job_base.check_base(said.base, other)
    other.write_bytes(b"short")
    with pytest.raises(TrainError, match="a file of 5 bytes"):
        job_base.check_base(said.base, other)
    with pytest.raises(TrainError, match="is not in the folder checkpoints"):
        job_base.check_base(replace(said.base, name="gone.safetensors"), None)
    with pytest.raises(TrainError, match="loaded to other weights"):
        job_base.load_base(replace(said.base, weights="0"), CHECKPOINT, JobData(said, job, "cpu"))
    text = (copied / JOB).read_text("utf-8")
    (copied / JOB).write_text(text.replace('"format": 1', '"format": 0'), "utf-8")
    with pytest.raises(TrainError, match="has the format 0, this pack runs 1"):
        read_job(copied)
    (copied / JOB).unlink()
    with pytest.raises(TrainError, match=r"holds no job.json"):
        read_job(copied)


def test_what_no_process_could_repeat_is_refused_in_the_graph(toy, pictures, job):
    with pytest.raises(TrainError, match="text_rate"):
        ask(toy, pictures, "job/no", WRITE, replace(TOLD, text_rate=0.1))
    with pytest.raises(TrainError, match="holds another training"):
        ask(toy, pictures, "job/kept", WRITE, replace(TOLD, seed=8))
    with pytest.raises(TrainError, match="write it first"):
        ask(toy, pictures, "job/none", WATCH)
    with pytest.raises(SaveError):
        job_folder(JobWish(WRITE, "../out"), "x")
    merged = {**GRAPH, "2": {"class_type": "ModelMergeSimple", "inputs": {"model1": ["1", 0]}}}
    with pytest.raises(TrainError, match="MODEL comes from ModelMergeSimple"):
        job_base.base_of(toy[0], merged, "7")
    wrapped = toy[0].clone()
    wrapped.add_object_patch("model_sampling", toy[0].model.model_sampling)
    with pytest.raises(TrainError, match="beside its weights"):
        job_base.base_of(wrapped, GRAPH, "7")
