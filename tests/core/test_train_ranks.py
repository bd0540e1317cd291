"""One training by several processes over torchrun and gloo: the same result, a lost rank, other numbers of ranks."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import safetensors.torch
import torch

from lora_core.train.ranks import Ranks
from tests.core import ranks_worker

ROOT = Path(__file__).resolve().parents[2]
# Of a tensor's size.
CLOSE = 1e-4
FULL = bool(os.environ.get("LOOM_FULL"))
STEPS = 50 if FULL else 12


def ranks_run(folder: Path, ranks: int, steps: int = STEPS, *asked: str, restarts: int = 0):
    """torchrun with as many processes; what it ended with."""
    folder.mkdir(exist_ok=True)
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone"]
    command += ["--max-restarts", str(restarts), "--nproc-per-node", str(ranks)]
    command += [str(ROOT / "tests/core/ranks_worker.py"), str(folder), str(steps), *asked]
    variables = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    return subprocess.run(
        command, env=variables, capture_output=True, text=True, timeout=300, check=False
    )


def ended(folder: Path) -> tuple[dict, dict[str, torch.Tensor]]:
    told = json.loads((folder / "told.json").read_text())
    return told, safetensors.torch.load_file(folder / "result.safetensors")


def well(folder: Path, ranks: int, *asked: str, steps: int = STEPS, restarts: int = 0):
    done = ranks_run(folder, ranks, steps, *asked, restarts=restarts)
    assert done.returncode == 0, done.stderr[-3000:]
    return ended(folder)


def curves(told: dict) -> list[float]:
    """Losses and validation losses in one row."""
    return [value for _, *some in told["losses"] for value in some if value is not None]


def assert_alike(one: dict[str, torch.Tensor], other: dict[str, torch.Tensor]) -> None:
    """But for the order of float32 sums, through all the steps of AdamW."""
    assert one.keys() == other.keys()
    for name, value in one.items():
        assert float((value - other[name]).norm()) <= CLOSE * float(other[name].norm()), name


@pytest.fixture(scope="module")
def alone(tmp_path_factory):
    """The undisturbed run of one process, without torchrun."""
    folder = tmp_path_factory.mktemp("alone")
    ranks_worker.main(folder, STEPS, {})
    return ended(folder)


@pytest.mark.parametrize("ranks", [2, 4] if FULL else [2])
def test_as_many_ranks_as_one_likes_come_to_the_same_adapter(alone, tmp_path, ranks):
    """Seven samples a step for four ranks: some have two, some one, some none in a micro-step."""
    told, weights = well(tmp_path, ranks)
    assert_alike(weights, alone[1])
    assert curves(told) == pytest.approx(curves(alone[0]), rel=1e-4)
    assert told["sent"] == told["adapter"] + 8, "the adapter's gradients, the loss and a wish"
    assert told["frozen"] == alone[0]["frozen"]
    assert len(told["frozen"]) == 1


def test_a_killed_rank_is_started_again_and_the_end_is_that_of_an_undisturbed_run(alone, tmp_path):
    told, weights = well(tmp_path, 4, "die=2@8", restarts=2)
    # The state of step 5, or of the last step that was whole when rank 0 heard of it.
    assert 5 <= told["began"] <= 8
    assert_alike(weights, alone[1])


def test_a_run_goes_on_with_another_number_of_ranks(alone, tmp_path):
    """Killed for good and gone on with: four ranks, two, four; in the short run two and one."""
    if FULL:
        assert ranks_run(tmp_path, 4, STEPS, "die=1@6").returncode
        assert ranks_run(tmp_path, 2, STEPS, "die=1@10").returncode
        told, weights = well(tmp_path, 4)
    else:
        assert ranks_run(tmp_path, 2, STEPS, "die=1@6").returncode
        ranks_worker.main(tmp_path, STEPS, {})
        told, weights = ended(tmp_path)
    assert told["began"] >= (10 if FULL else 5)
    assert_alike(weights, alone[1])


def test_a_wish_to_stop_is_heard_by_all_ranks_at_the_same_step(tmp_path):
    told, _ = well(tmp_path, 2, "stop")
    assert told["note"] == f"stopped at step 8 of {STEPS} on your wish"
    assert told["losses"][-1][0] == 8


def test_what_one_rank_cannot_do_is_refused_by_all_before_step_1(tmp_path):
    done = ranks_run(tmp_path, 2, STEPS, "unlike", "refuse=1")
    assert done.returncode
    for rank in range(2):
        assert (
            f"rank {rank} hears: the pack's version is 1.0 on rank 0 and 1.1 on rank 1"
            in done.stderr
        )
        assert f"rank {rank} refuses: rank 1: data-00002.safetensors is missing" in done.stderr
    assert not list(tmp_path.iterdir())


def test_a_network_in_pieces_answers_and_teaches_as_the_whole_one(tmp_path):
    done = ranks_run(tmp_path, 2, 1, "cut")
    assert done.returncode == 0, done.stderr[-3000:]
    for path in sorted(tmp_path.glob("rank-*.json")):
        told = json.loads(path.read_text())
        assert told["answer"] <= 1e-6
        assert len(told["gradients"]) == 14
        assert max(told["gradients"]) <= 1e-6
        assert told["share"] < 0.55
        assert told["kept"]
    assert len(list(tmp_path.iterdir())) == 2


@pytest.mark.parametrize("world", [1, 2, 3, 4, 7])
def test_shares_are_disjoint_whole_and_even(world):
    for first, last in ((0, 8), (5, 12), (12, 13), (13, 13)):
        shares = [list(Ranks(rank, world).share(first, last)) for rank in range(world)]
        assert sorted(sum(shares, [])) == list(range(first, last))
        assert max(map(len, shares)) - min(map(len, shares)) <= 1
        assert all(row % world == rank for rank, rows in enumerate(shares) for row in rows)
