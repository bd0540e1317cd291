"""Mutated files: each ends in a LoraError that names it, or in a correct load; no other exception, no hang, no flood.

LOOM_FUZZ_COUNT files (200, or 2000 with `dev.py test --full`) from LOOM_FUZZ_SEED.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip(
    "resource", reason="peak memory is read with the resource module, not there on Windows"
)

ROOT = Path(__file__).resolve().parents[2]
SEED = int(os.environ.get("LOOM_FUZZ_SEED", "20250607"))
COUNT = int(os.environ.get("LOOM_FUZZ_COUNT", "200"))
# Far above what any file needs (milliseconds), far below what a person calls a hang.
SECONDS_A_FILE = 30.0
# What Python and torch may take besides twice the file; the headers that are refused reach a few MB.
ALLOWANCE = 64 << 20


def read_all(seed: int, count: int) -> list[dict[str, Any]]:
    """The worker's lines; ends early where one file takes too long or the process dies."""
    command = [sys.executable, "-m", "tests.core.fuzz_worker", str(seed), "0", str(count)]
    lines = []
    with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True) as worker:
        assert worker.stdout is not None
        while True:
            watchdog = threading.Timer(SECONDS_A_FILE, worker.kill)
            watchdog.start()
            line = worker.stdout.readline()
            watchdog.cancel()
            if not line:
                return lines
            lines.append(json.loads(line))


@pytest.fixture(scope="module")
def lines() -> list[dict[str, Any]]:
    return read_all(SEED, COUNT)


def test_no_file_hangs_the_reader_or_ends_the_process(lines):
    done = [line["index"] for line in lines if "index" in line]
    assert done == list(range(COUNT)), f"file {len(done)} of seed {SEED} was not read to its end"


def test_every_file_is_refused_with_its_name_or_read_correctly(lines):
    wrong = [line for line in lines if line["outcome"].startswith("wrong")]
    assert not wrong, f"{len(wrong)} of {COUNT} (seed {SEED}), first: {wrong[0]}"


def test_no_file_takes_more_than_twice_its_size(lines):
    greedy = [line for line in lines if line["grown"] > 2 * line["size"] + ALLOWANCE]
    assert not greedy, greedy[0]


def test_whole_files_are_read_and_both_ends_occur(lines):
    """The mutations are worth something only if some files still load and most do not."""
    assert all(line["outcome"] == "loaded" for line in lines if line["mutation"] == "none")
    ends = Counter(line["outcome"].partition(":")[0] for line in lines if "index" in line)
    assert ends["loaded"] >= COUNT // 20
    assert ends["refused"] >= COUNT // 2
