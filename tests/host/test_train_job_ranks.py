"""A job of Loom Train by several processes of the real worker: the same LoRA, lost ranks, what is refused before step 1."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import time
from pathlib import Path

import comfy.model_management
import folder_paths
import pytest
import safetensors.torch
import torch
from job_probe import digest
from training_toy import (
    CHECKPOINT,
    FULL,
    LONG,
    STEPS,
    ask,
    assert_alike,
    curves_of,
    finish,
    load_toy,
    result_of,
    rings,
    worker,
    write,
)

from lora_core.train.job import START, read_job
from lora_core.train.state import states_in

# The worker's processes have one thread each.
pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture(scope="module")
def toy():
    yield load_toy()
    comfy.model_management.unload_all_models()


@pytest.fixture(scope="module")
def written(toy, tmp_path_factory):
    """A job's folder, which every test copies, and that of the same training in the graph."""
    folder = str(tmp_path_factory.mktemp("user"))
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(folder_paths, "get_system_user_directory", lambda name: folder)
        pictures = rings()
        ask(toy, pictures, "job/alone")
        (result,) = Path(folder).rglob("result.safetensors")
        return write(toy, pictures, "job/ranks"), result.parent


@pytest.fixture(scope="module")
def here(written):
    """The folder of the training in the graph."""
    return written[1]


@pytest.fixture
def copied(written, tmp_path) -> Path:
    return Path(shutil.copytree(written[0], tmp_path / "job"))


@pytest.fixture(scope="module")
def undisturbed(written, tmp_path_factory):
    """A run of so many ranks, and what each of them saw; each number once."""
    known = {}

    def of(ranks: int):
        if ranks not in known:
            place = tmp_path_factory.mktemp("undisturbed")
            folder = Path(shutil.copytree(written[0], place / "job"))
            finish(worker(folder, ranks, probe=place / "seen"))
            known[ranks] = folder, seen_in(place / "seen")
        return known[ranks]

    return of


def seen_in(folder: Path) -> list[dict]:
    return [json.loads(path.read_text()) for path in sorted(folder.iterdir())]


@pytest.mark.parametrize("ranks", [1, 2, 4] if FULL else [2])
def test_as_many_ranks_as_one_likes_come_to_the_adapter_of_the_graph(here, undisturbed, ranks):
    folder, seen = undisturbed(ranks)
    assert len(seen) == ranks
    assert_alike(result_of(folder), result_of(here))
    losses, validation = curves_of(folder)
    expected, measured = curves_of(here)
    assert len(losses) == STEPS
    # A preserved picture's loss begins at nought and is all rounding at first.
    assert losses == pytest.approx(expected, rel=1e-5, abs=1e-6)
    assert [step for step, _ in validation] == [step for step, _ in measured]
    values = [value for _, value in measured]
    assert [value for _, value in validation] == pytest.approx(values, rel=1e-5)


@pytest.mark.parametrize("ranks", [1, 2, 4] if FULL else [2])
def test_every_rank_has_the_base_of_the_graph_before_and_after(toy, undisturbed, ranks):
    """sha256 of every weight and buffer of the frozen network."""
    expected = digest(toy[0].model.diffusion_model)
    _, seen = undisturbed(ranks)
    assert [(each["before"], each["after"]) for each in seen] == [(expected, expected)] * ranks


@pytest.mark.parametrize("ranks", [2, 4] if FULL else [2])
def test_a_step_sends_the_adapters_size_and_two_numbers(written, undisturbed, ranks):
    start = safetensors.torch.load_file(written[0] / START)
    alphas = 4 * len(read_job(written[0]).layers)
    adapter = sum(value.nbytes for value in start.values()) - alphas
    assert {each["sent"] for each in undisturbed(ranks)[1]} == {adapter + 8}


def test_the_frozen_base_in_pieces_gives_the_same_adapter_from_half_the_weights(
    toy, here, copied, tmp_path
):
    finish(worker(copied, 2, "--shard", probe=tmp_path / "seen"))
    assert_alike(result_of(copied), result_of(here))
    seen = seen_in(tmp_path / "seen")
    whole = sum(p.nbytes for p in toy[0].model.diffusion_model.parameters())
    assert all(each["before"] == each["after"] for each in seen)
    assert all(each["bytes"] < 0.52 * whole for each in seen)
    assert sum(each["bytes"] for each in seen) >= whole


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
def test_a_rank_killed_from_outside_costs_nothing(undisturbed, copied):
    """To the last bit: as many ranks add up in the same order."""
    process = worker(copied, 4, restarts=2)
    wait_for_step(copied, 20, process)
    os.kill(pid_of(process, 2), signal.SIGKILL)
    assert "resumed at step" in finish(process)
    expected = result_of(undisturbed(4)[0])
    made = result_of(copied)
    assert made.keys() == expected.keys()
    assert all(torch.equal(value, expected[name]) for name, value in made.items())
    assert curves_of(copied) == curves_of(undisturbed(4)[0])


@LONG
def test_four_ranks_then_two_then_four(here, copied):
    for ranks, step in ((4, 15), (2, 30)):
        process = worker(copied, ranks)
        wait_for_step(copied, step, process)
        os.kill(pid_of(process, ranks - 1), signal.SIGKILL)
        process.communicate(timeout=600)
        assert process.returncode
    assert "resumed at step" in finish(worker(copied, 4))
    assert_alike(result_of(copied), result_of(here))


def missing(job: Path) -> tuple[str, ...]:
    (job / "data-00001.safetensors").unlink()
    return ()


def changed(job: Path) -> tuple[str, ...]:
    path = job / "data-00001.safetensors"
    path.write_bytes(path.read_bytes()[:-1] + b"\x01")
    return ()


def another_model(job: Path) -> tuple[str, ...]:
    path = job.parent / CHECKPOINT.name
    path.write_bytes(CHECKPOINT.read_bytes()[:-1] + b"\x01")
    return "--model", str(path)


@LONG
@pytest.mark.parametrize(
    ("fault", "words"),
    [
        (missing, "data-00001.safetensors is missing"),
        (changed, "data-00001.safetensors was changed (sha256"),
        (another_model, "is not the model that the job was written with: sha256"),
    ],
    ids=["missing", "changed", "another model"],
)
def test_wrong_files_are_refused_by_every_rank_before_step_1(copied, fault, words):
    assert_refused(worker(copied, 2, *fault(copied)), copied, f"rank 0: .*{re.escape(words)}")


def test_ranks_of_another_version_are_refused_by_every_rank_before_step_1(copied, tmp_path):
    process = worker(copied, 2, probe=tmp_path / "seen", other_version_on=1)
    assert_refused(process, copied, r"LoRA Loom's version is \S+ on rank 0 and 0.0.0 on rank 1")


def assert_refused(process, job: Path, words: str) -> None:
    """By each rank, in these words after its own number, and nothing was trained."""
    _, err = process.communicate(timeout=600)
    assert process.returncode
    for rank in range(2):
        assert re.search(rf"^\[rank {rank} of 2\] {words}", err, re.MULTILINE), err[-3000:]
    assert not states_in(job)
    assert not (job / "log.jsonl").exists()
    assert not (job / "result.safetensors").exists()
