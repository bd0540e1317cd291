"""The index of hashes: survives kills, other processes, foreign files and folders that cannot be written."""

from __future__ import annotations

import json
import os
import random
import subprocess
import sys
import time
from pathlib import Path

import pytest

from lora_core.errors import LoraFileError
from lora_core.files import index
from lora_core.files.index import IndexRow, read_index, update_index

ROOT = Path(__file__).resolve().parents[2]
KILLS = 20 if os.environ.get("LOOM_FULL") else 3


def stamp(name: str, size: int = 100, mtime: int = 5) -> tuple[str, int, int]:
    return (f"/loras/{name}", mtime, size)


def row(digit: str = "a", **facts) -> IndexRow:
    return IndexRow(digit * 64, digit * 12, **facts)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "user" / "index.json"


def test_rows_come_back_as_they_were_put(path):
    rows = {
        stamp("x"): row("a", finite=True, base="SDXL"),
        stamp("y \u00e9"): IndexRow("b" * 64),
    }
    assert read_index(path) == {}
    assert update_index(path, rows) is None
    assert read_index(path) == rows


def test_new_rows_are_merged_with_those_that_are_there(path):
    update_index(path, {stamp("x"): row("a")})
    update_index(path, {stamp("y"): row("b")})
    assert read_index(path) == {stamp("x"): row("a"), stamp("y"): row("b")}


def test_a_file_in_a_new_state_replaces_its_old_row(path):
    update_index(path, {stamp("x", mtime=5): row("a")})
    update_index(path, {stamp("x", mtime=6): row("b")})
    assert read_index(path) == {stamp("x", mtime=6): row("b")}


def test_what_is_known_of_the_same_file_stays_known(path):
    update_index(path, {stamp("x"): row("a", finite=True)})
    update_index(path, {stamp("x"): row("a", base="SDXL")})
    assert read_index(path) == {stamp("x"): row("a", finite=True, base="SDXL")}
    update_index(path, {stamp("x"): row("b")})
    assert read_index(path) == {stamp("x"): row("b")}


ABSURD = {
    "nothing": b"",
    "not text": b"\xff\xfe\x00\x01" * 40,
    "cut": b'{"version": 1, "files": {"/loras/x": {"size"',
    "a list": b"[1, 2, 3]",
    "another program's": b'{"users": {}}',
    "another version": b'{"version": 2, "files": {}}',
    "files is a list": b'{"version": 1, "files": []}',
    "nested without end": b"[" * 200_000,
    "a number too long": b'{"version": 1' + b"0" * 10_000 + b"}",
}


@pytest.mark.parametrize("content", ABSURD.values(), ids=ABSURD.keys())
def test_a_file_that_is_no_index_is_set_aside_and_rebuilt(content, path):
    path.parent.mkdir()
    path.write_bytes(content)
    assert read_index(path) == {}
    assert "is kept as index.broken.json" in (update_index(path, {stamp("x"): row()}) or "")
    assert read_index(path) == {stamp("x"): row()}
    assert path.with_name("index.broken.json").read_bytes() == content


def test_a_file_of_absurd_size_is_not_read(path, monkeypatch):
    monkeypatch.setattr(index, "_MOST_BYTES", 1000)
    path.parent.mkdir()
    path.write_text(json.dumps({"version": 1, "files": {}, "more": "x" * 1000}))
    assert read_index(path) == {}
    assert update_index(path, {stamp("x"): row()}) is not None
    assert read_index(path) == {stamp("x"): row()}


BAD_ROWS = {
    "no row": 3,
    "no size": {"mtime_ns": 5, "sha256": "a" * 64},
    "size is text": {"size": "100", "mtime_ns": 5, "sha256": "a" * 64},
    "time with a fraction": {"size": 100, "mtime_ns": 5.5, "sha256": "a" * 64},
    "hash too short": {"size": 100, "mtime_ns": 5, "sha256": "a" * 63},
    "hash is a number": {"size": 100, "mtime_ns": 5, "sha256": 7},
}


@pytest.mark.parametrize("bad", BAD_ROWS.values(), ids=BAD_ROWS.keys())
def test_a_row_that_makes_no_sense_costs_only_itself(bad, path):
    update_index(path, {stamp("x"): row()})
    document = json.loads(path.read_text())
    document["files"]["/loras/bad"] = bad
    path.write_text(json.dumps(document))
    assert read_index(path) == {stamp("x"): row()}


def test_facts_of_the_wrong_kind_are_as_good_as_unknown(path):
    update_index(path, {stamp("x"): row()})
    document = json.loads(path.read_text())
    document["files"]["/loras/x"] |= {"finite": "yes", "base": 3, "autov3": []}
    path.write_text(json.dumps(document))
    assert read_index(path) == {stamp("x"): IndexRow("a" * 64)}


def test_beyond_the_limit_rows_of_files_that_are_gone_leave_first_then_the_oldest(
    path, tmp_path, monkeypatch
):
    monkeypatch.setattr(index, "MOST_ROWS", 3)
    there = []
    for name in "abcd":
        (tmp_path / name).write_bytes(b"x")
        there.append((str(tmp_path / name), 5, 1))
    gone = stamp("gone")
    update_index(path, {there[0]: row(), gone: row(), there[1]: row()})
    assert set(read_index(path)) == {there[0], gone, there[1]}
    update_index(path, {there[2]: row()})
    assert set(read_index(path)) == set(there[:3])
    update_index(path, {there[3]: row()})
    assert set(read_index(path)) == set(there[1:])


def test_a_folder_that_cannot_be_written_is_said_and_not_fatal(tmp_path):
    (tmp_path / "file").write_bytes(b"")
    said = {
        update_index(place, {stamp("x"): row()}) for place in [tmp_path / "file" / "index.json"] * 2
    }
    (text,) = said  # the same words each time, so that the host can say them once
    assert text is not None
    assert "cannot be kept" in text
    assert read_index(tmp_path / "file" / "index.json") == {}


def test_an_index_that_is_a_folder_is_not_fatal(path):
    path.mkdir(parents=True)
    assert read_index(path) == {}
    assert "cannot be kept" in (update_index(path, {stamp("x"): row()}) or "")


def test_an_index_that_cannot_be_read_is_not_overwritten(path, monkeypatch):
    update_index(path, {stamp("x"): row()})
    before = path.read_bytes()

    def refuse(*_) -> None:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(index, "_load", refuse)
    assert "Permission denied" in (update_index(path, {stamp("y"): row()}) or "")
    assert path.read_bytes() == before


def test_a_moment_in_which_the_file_is_held_is_waited_out(path, monkeypatch):
    held = [True, True, False]
    write = index.write_bytes

    def sometimes(data: bytes, to: Path) -> None:
        if held.pop(0):
            raise LoraFileError("held") from PermissionError(13, "Permission denied")
        write(data, to)

    monkeypatch.setattr(index, "write_bytes", sometimes)
    assert update_index(path, {stamp("x"): row()}) is None
    assert read_index(path) == {stamp("x"): row()}


def test_what_killed_processes_left_behind_is_swept(path):
    update_index(path, {stamp("x"): row()})
    old, fresh = path.with_name(".index-old.tmp"), path.with_name(".index-fresh.tmp")
    for file in (old, fresh):
        file.write_bytes(b"half")
    os.utime(old, (1, 1))
    update_index(path, {stamp("y"): row()})
    assert (old.exists(), fresh.exists()) == (False, True)


WRITER = """
import sys
from pathlib import Path
from lora_core.files.index import IndexRow, read_index, update_index

path, who, count = Path(sys.argv[1]), sys.argv[2], int(sys.argv[3])
number = 0
while number < count or count == 0:
    stamp = (f"/loras/{who}-{number}", number, 100)
    fault = update_index(path, {stamp: IndexRow(f"{number:064x}", f"{number:012x}")})
    assert fault is None, fault
    print(number, flush=True)
    number += 1
"""


def writer(path: Path, who: str, count: int) -> subprocess.Popen[str]:
    """A process that adds `count` rows one by one (0: without end) and prints the number of each."""
    command = [sys.executable, "-c", WRITER, str(path), who, str(count)]
    return subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True)


def check_rows(path: Path) -> set[str]:
    """The file is a whole index of right rows; their names. Fails where it had to be set aside."""
    snapshot = path.with_name("snapshot")
    snapshot.write_bytes(path.read_bytes())
    rows = read_index(snapshot)
    assert len(rows) == len(json.loads(snapshot.read_text())["files"]) > 0
    for (name, mtime, _), found in rows.items():
        assert found == IndexRow(f"{mtime:064x}", f"{mtime:012x}")
        assert name.endswith(f"-{mtime}")
    assert not path.with_name("index.broken.json").exists()
    return {name for name, _, _ in rows}


def test_four_processes_at_once_leave_a_whole_index_of_right_rows(path):
    update_index(path, {stamp("first-0", mtime=0): IndexRow(f"{0:064x}", f"{0:012x}")})
    writers = [writer(path, f"w{number}", 25) for number in range(4)]
    while any(process.poll() is None for process in writers):
        assert "/loras/first-0" in check_rows(path)
    assert [process.wait() for process in writers] == [0] * 4
    names = check_rows(path)
    # A row may be lost to another writer; the last to write keeps its own.
    assert any(f"/loras/w{number}-24" in names for number in range(4))
    assert not list(path.parent.glob(".index-*.tmp"))


def test_a_kill_at_any_moment_leaves_the_old_or_the_new_index(path):
    known: set[str] = set()
    moments = random.Random(7)
    for attempt in range(KILLS):
        process = writer(path, f"k{attempt}", 0)
        assert process.stdout is not None
        for _ in range(10 + 7 * (attempt % 10)):
            number = int(process.stdout.readline())
        # Anywhere within the next few writes.
        time.sleep(moments.uniform(0, 0.02))
        process.kill()
        process.communicate()
        names = check_rows(path)
        # Nothing that was ever in place is lost.
        assert known | {f"/loras/k{attempt}-{n}" for n in range(number + 1)} <= names
        known = names
