"""The loop: what it computes, how it goes on after a kill, and what it does when the loss goes wrong."""

from __future__ import annotations

import os
import random
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from lora_core.errors import LoraFileError, SaveError, TrainError
from lora_core.train import state as states
from lora_core.train.adapters import attached, parameters_of
from lora_core.train.loop import batch_loss, train
from lora_core.train.ranks import Ranks
from lora_core.train.settings import TrainSettings, rate_at
from lora_core.train.state import load_latest, save_state, states_in
from tests.core.small_training import (
    LEVELS,
    SETTINGS,
    Tiny,
    batch,
    batch_at,
    branches_of,
    result_bytes,
    run,
)

ROOT = Path(__file__).resolve().parents[2]
KILLS = int(os.environ.get("LOOM_KILLS", "3"))


def test_the_loss_falls_at_fixed_noise():
    reports, _ = run(None, replace(SETTINGS, steps=100, validate_every=20, ema=0.9))
    found = [report.validation for report in reports if report.validation is not None]
    assert found[-1] < 0.8 * found[0]
    assert [report.step for report in reports[:-1]] == list(range(1, 101))


def test_the_same_settings_give_the_same_bytes_and_another_seed_others():
    assert result_bytes(*run(None)) == result_bytes(*run(None))
    assert result_bytes(*run(None)) != result_bytes(*run(None, replace(SETTINGS, seed=6)))


def test_the_global_random_state_is_left_alone():
    before = torch.get_rng_state()
    run(None)
    assert torch.equal(torch.get_rng_state(), before)


def gradients(batches, settings=SETTINGS):
    network = Tiny()
    branches = branches_of(network)
    for branch in branches:
        torch.nn.init.normal_(branch.up, generator=torch.Generator().manual_seed(9))
    with attached(network, branches):
        for each in batches:
            (batch_loss(network, each, LEVELS, settings).mean() / len(batches)).backward()
    found = [p.grad for p in parameters_of(branches)]
    return [gradient for gradient in found if gradient is not None]


def test_a_batch_of_four_is_the_mean_of_four_batches_of_one():
    together = gradients([batch(1, 2, 3, 4)])
    one_by_one = gradients([batch(1), batch(2), batch(3), batch(4)])
    for mine, other in zip(together, one_by_one, strict=True):
        assert torch.allclose(mine, other, atol=1e-6)
        assert mine.abs().max() > 1e-4


def test_accumulation_changes_nothing():
    whole, _ = run(None, replace(SETTINGS, steps=6), batch_at=lambda n: batch(2 * n, 2 * n + 1))
    parts, _ = run(None, replace(SETTINGS, steps=6, accumulate=2), batch_at=lambda n: batch(n))
    for one, other in zip(whole[-1].weights, parts[-1].weights, strict=True):
        assert torch.allclose(one, other, atol=1e-6)


@pytest.mark.parametrize("stop", [1, 7, 23])
def test_a_run_that_is_left_and_taken_up_again_ends_with_the_same_bytes(tmp_path, stop):
    settings = replace(SETTINGS, save_every=5)

    class Left(Exception):
        pass

    def leaving(number):
        if number == stop:
            raise Left
        return batch_at(number)

    with pytest.raises(Left):
        run(tmp_path, settings, batch_at=leaving)
    kept = load_latest(tmp_path, "job")
    assert kept is not None
    assert kept.step == stop
    assert result_bytes(*run(tmp_path, settings)) == result_bytes(*run(None, settings))


def test_closing_the_generator_saves_the_state(tmp_path):
    network = Tiny()
    branches = branches_of(network)
    settings = replace(SETTINGS, save_every=10)
    with attached(network, branches):
        steps = train(
            network, batch_at, parameters_of(branches), LEVELS, settings,
            save=lambda state: save_state(state, tmp_path, "job"),
        )  # fmt: skip
        next(steps)
        next(steps)
        steps.close()
    kept = load_latest(tmp_path, "job")
    assert kept is not None
    assert kept.step == 2


def test_killed_at_random_moments_it_ends_with_the_same_bytes(tmp_path):
    """kill -9, in a process of its own that saves at every step, so that many kills fall into a save."""
    steps, draw = 60, random.Random(4)
    # One thread for both: sums over two threads are taken in another order than over one.
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}

    def command(folder: Path) -> list[str]:
        return [sys.executable, "-m", "tests.core.small_training", str(folder), str(steps)]

    def to_the_end(folder: Path) -> bytes:
        subprocess.run(
            command(folder),
            cwd=ROOT,
            stdout=subprocess.DEVNULL,
            env=environment,
            check=True,
            timeout=120,
        )
        return (folder / "result").read_bytes()

    whole = tmp_path / "uninterrupted"
    whole.mkdir()
    expected = to_the_end(whole)
    for _ in range(KILLS):
        with subprocess.Popen(
            command(tmp_path), cwd=ROOT, stdout=subprocess.PIPE, env=environment
        ) as worker:
            assert worker.stdout is not None
            assert worker.stdout.readline() == b"begun\n"
            time.sleep(draw.uniform(0.0, 0.4))
            worker.kill()
        if states_in(tmp_path / "states"):
            assert load_latest(tmp_path / "states", "job") is not None
    assert to_the_end(tmp_path) == expected
    assert not list((tmp_path / "states").glob(".*.tmp"))


def test_only_the_newest_states_are_kept_and_a_damaged_one_is_passed_over(tmp_path):
    run(tmp_path, replace(SETTINGS, keep=3))
    kept = states_in(tmp_path)
    assert [path.stem for path in kept] == ["step-00000024", "step-00000023", "step-00000022"]
    kept[0].write_bytes(kept[0].read_bytes()[:-5])
    data = bytearray(kept[1].read_bytes())
    data[-1] ^= 1
    kept[1].write_bytes(data)
    found = load_latest(tmp_path, "job")
    assert found is not None
    assert found.step == 22


def test_a_state_of_another_job_is_refused(tmp_path):
    run(tmp_path)
    with pytest.raises(TrainError, match="begun with another model"):
        load_latest(tmp_path, "another job")


def test_a_full_disk_is_an_error_that_leaves_the_states_before(tmp_path, monkeypatch):
    run(tmp_path, replace(SETTINGS, steps=3))
    before = {path.name: path.read_bytes() for path in tmp_path.iterdir()}

    def full(descriptor):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("lora_core.files.writer.os.fsync", full)
    with pytest.raises((LoraFileError, SaveError), match="No space left"):
        run(tmp_path, replace(SETTINGS, steps=6))
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == before


def poisoned(at, times, bad="nan"):
    """batch_at whose batch number `at` is wrong the first `times` times."""
    asked = []

    def batches(number):
        found = batch_at(number)
        if number == at:
            asked.append(number)
            if len(asked) <= times:
                factor = float("nan") if bad == "nan" else 1e6
                return replace(found, weights=found.weights * factor)
        return found

    return batches


@pytest.mark.parametrize("bad", ["nan", "explosion"])
def test_a_bad_loss_goes_back_once_at_half_the_rate(bad):
    settings = replace(SETTINGS, save_every=4, steps=30)
    reports, _ = run(None, settings, batch_at=poisoned(22, 1, bad))
    (noted,) = [report for report in reports if report.note]
    assert (noted.step, "back at step 20" in noted.note) == (20, True)
    after = reports[reports.index(noted) + 1]
    assert after.rate == pytest.approx(rate_at(settings, 20) / 2)
    assert reports[-1].step == 30


def test_a_second_bad_loss_stops_with_the_last_good_state():
    settings = replace(SETTINGS, save_every=4, ema=0.0)
    reports, _ = run(None, settings, batch_at=poisoned(9, 2))
    assert reports[-1].step == 8
    assert "for the second time" in reports[-1].note
    until, _ = run(None, settings, batch_at=batch_at)
    assert len(reports[-1].weights) == len(until[-1].weights)
    assert all(bool(w.isfinite().all()) for w in reports[-1].weights)


class Halving(Ranks):
    """Ranks whose sum is half of what this one has."""

    def summed(self, parameters, loss):
        for parameter in parameters:
            assert parameter.grad is not None
            parameter.grad.mul_(0.5)
        return loss / 2


def test_gradients_and_losses_pass_through_the_ranks():
    halved, _ = run(None, replace(SETTINGS, steps=1), ranks=Halving())
    whole, _ = run(None, replace(SETTINGS, steps=1))
    assert halved[0].norm == pytest.approx(whole[0].norm / 2, rel=1e-5)
    assert halved[0].loss == pytest.approx(whole[0].loss / 2, rel=1e-5)


def test_rates_rise_and_fall():
    settings = TrainSettings(steps=100, rate=1.0, warmup=0.1)
    rates = [rate_at(settings, step) for step in range(100)]
    assert rates[0] == pytest.approx(0.1)
    assert rates[9] == rates[10] == 1.0
    assert rates[55] == pytest.approx(0.5)
    assert rates[-1] < 0.001
    assert rate_at(replace(settings, schedule="constant"), 99) == 1.0
    assert rate_at(replace(settings, schedule="linear"), 55) == pytest.approx(0.5)


@pytest.mark.parametrize(
    "bad",
    [
        {"steps": 0},
        {"rate": -1.0},
        {"alpha": 0.0},
        {"schedule": "x"},
        {"rank": 0},
        {"ema": 1.0},
        {"parts": "x"},
    ],
)
def test_settings_that_make_no_sense_are_refused(bad):
    with pytest.raises(TrainError):
        TrainSettings(**bad)


def test_the_format_is_part_of_a_state(tmp_path, monkeypatch):
    run(tmp_path, replace(SETTINGS, steps=2))
    monkeypatch.setattr(states, "FORMAT", states.FORMAT + 1)
    assert load_latest(tmp_path, "job") is None
