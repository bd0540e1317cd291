"""The same training as a job: written in the graph, run by the real worker on the real host, loaded again in the graph."""

from __future__ import annotations

import json
import os
import shutil
import signal
import threading
import time
from dataclasses import replace
from pathlib import Path

import comfy.model_management
import comfy.sd
import folder_paths
import pytest
import safetensors
import safetensors.torch
import torch
from training_toy import CHECKPOINT, GRAPH, SETTINGS, finish, load_toy, rings, worker

from lora_core.errors import SaveError, TrainError
from lora_core.host import job_base, watching
from lora_core.host.job_follow import JobWish, job_folder, job_stamp
from lora_core.host.training import TrainOrder, train_lora
from lora_core.train.job import JOB, START, WATCH, WRITE, check_files, read_job
from lora_core.train.job_data import JobData
from lora_core.train.ranks import Ranks
from lora_core.train.settings import SampleWish
from lora_core.train.state import states_in

# The worker's processes have one thread each.
pytestmark = pytest.mark.usefixtures("one_thread")
FULL = bool(os.environ.get("LOOM_FULL"))
STEPS = 50 if FULL else 6
TOLD = replace(SETTINGS, steps=STEPS)
# Each process of the worker takes seconds to import torch and the host.
LONG = pytest.mark.skipif(not FULL, reason="the long matrix: LOOM_FULL=1")


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


def result_of(folder: Path) -> dict[str, torch.Tensor]:
    return safetensors.torch.load_file(folder / "result.safetensors")


def metadata_of(path: str | Path) -> dict[str, str]:
    with safetensors.safe_open(path, "pt") as file:
        return dict(file.metadata())


def assert_alike(one, other) -> None:
    """But for the order of float32 sums: all of it to 1e-4 of its size, and what began at nought to 1e-3."""
    assert one.keys() == other.keys()
    for part, close in (("", 1e-4), ("lora_up", 1e-3)):
        names = [name for name in one if part in name and "alpha" not in name]
        mine, theirs = (torch.cat([each[n].flatten() for n in names]) for each in (one, other))
        assert float((mine - theirs).norm()) <= close * float(theirs.norm()), part


def losses_of(folder: Path) -> list[float]:
    return json.loads(metadata_of(folder / "result.safetensors")["loom_result"])["losses"]


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


@pytest.mark.parametrize("ranks", [2, 4] if FULL else [2])
def test_more_ranks_come_to_the_same_adapter_and_never_change_the_base(
    here, copied, tmp_path, ranks
):
    finish(worker(copied, ranks, probe=tmp_path / "seen"))
    assert_alike(result_of(copied), here.tensors)
    seen = [json.loads(path.read_text()) for path in sorted((tmp_path / "seen").iterdir())]
    assert len(seen) == ranks
    assert len({each["before"] for each in seen} | {each["after"] for each in seen}) == 1
    adapter = sum(t.nbytes for t in safetensors.torch.load_file(copied / START).values())
    alphas = 4 * len(read_job(copied).layers)
    assert {each["sent"] for each in seen} == {adapter - alphas + 8}


def test_the_frozen_base_in_pieces_gives_the_same_adapter_from_half_the_weights(
    here, copied, tmp_path
):
    finish(worker(copied, 2, "--shard", probe=tmp_path / "seen"))
    assert_alike(result_of(copied), here.tensors)
    seen = [json.loads(path.read_text()) for path in sorted((tmp_path / "seen").iterdir())]
    whole = sum(p.nbytes for p in load_toy()[0].model.diffusion_model.parameters())
    assert all(each["before"] == each["after"] for each in seen)
    assert all(each["bytes"] < 0.52 * whole for each in seen)
    assert sum(each["bytes"] for each in seen) >= whole


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


@LONG
def test_the_same_node_gives_the_finished_jobs_lora_at_once(toy, pictures, here):
    folder = write(toy, pictures, "job/given")
    finish(worker(folder, 0))
    made = ask(toy, pictures, "job/given", WRITE)
    assert "was finished before" in made.report
    assert "output/loom_jobs/job/given" in made.report
    assert_alike(made.tensors, here.tensors)
    assert folder_paths.get_full_path("loras", made.name)


@LONG
def test_a_job_with_loras_on_the_model_takes_their_weights_along(toy, pictures, here):
    path = folder_paths.get_full_path("loras", here.name)
    assert path is not None
    with torch.inference_mode():
        file = comfy.utils.load_torch_file(path)
        with_lora, _ = comfy.sd.load_lora_for_models(toy[0], toy[1], file, 1.0, 1.0)
    short = replace(SETTINGS, steps=2)
    folder = write(toy, pictures, "job/on_top", short, model=with_lora)
    finish(worker(folder, 0))
    assert_alike(result_of(folder), ask(toy, pictures, "job/top", None, short, with_lora).tensors)


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


@LONG
def test_a_missing_file_is_refused_by_every_rank_before_step_1(copied):
    (copied / "data-00001.safetensors").unlink()
    process = worker(copied, 2)
    _, err = process.communicate(timeout=600)
    assert process.returncode
    for rank in range(2):
        assert f"[rank {rank} of 2] rank 0: The job in 'job' is not whole" in err
    assert "data-00001.safetensors is missing" in err
    assert not states_in(copied)


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


def pid_of(process, rank: int) -> int:
    """Of a rank among torchrun's children, by its environment. Linux only."""
    for path in Path("/proc").glob("[0-9]*/environ"):
        try:
            said = path.read_bytes().split(b"\0")
            parent = (path.parent / "stat").read_text().rpartition(")")[2].split()[1]
        except OSError:
            continue
        if f"RANK={rank}".encode() in said and int(parent) == process.pid:
            return int(path.parent.name)
    raise AssertionError("no such rank")


def wait_for_step(folder: Path, step: int, process) -> None:
    while process.poll() is None:
        log = folder / "log.jsonl"
        if log.is_file() and log.read_bytes().count(b"\n") >= step:
            return
        time.sleep(0.05)
    raise AssertionError(process.communicate()[1][-3000:])


@LONG
def test_a_rank_killed_from_outside_costs_nothing(here, copied):
    process = worker(copied, 4, restarts=2)
    wait_for_step(copied, 20, process)
    os.kill(pid_of(process, 2), signal.SIGKILL)
    out = finish(process)
    assert "resumed at step" in out
    assert_alike(result_of(copied), here.tensors)


@LONG
def test_four_ranks_then_two_then_four(here, copied):
    for ranks, step in ((4, 15), (2, 30)):
        process = worker(copied, ranks)
        wait_for_step(copied, step, process)
        os.kill(pid_of(process, ranks - 1), signal.SIGKILL)
        process.communicate(timeout=600)
        assert process.returncode
    finish(worker(copied, 4))
    assert_alike(result_of(copied), here.tensors)
