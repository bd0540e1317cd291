"""Hashing the loras folder with the host's own bar and its own interrupt."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from pathlib import Path

import comfy.model_management
import comfy.utils
import folder_paths
import pytest

from lora_core.errors import LoraFileError
from lora_core.files import identity
from lora_core.files.identity import real_stamp
from lora_core.files.index import read_index
from lora_core.host import hashing
from lora_core.host.finding import find_row
from lora_core.host.paths import index_file
from lora_core.stack.rows import StackRow

CHUNK = 1 << 10
FILE = 4 * CHUNK


@pytest.fixture
def loras(tmp_path, monkeypatch) -> Iterator[Path]:
    """A loras folder of five files, an index of its own, and small chunks."""
    folder = tmp_path / "loras"
    (folder / "sub").mkdir(parents=True)
    for number, name in enumerate(("a", "b", "c", "sub/d", "sub/e")):
        (folder / f"{name}.safetensors").write_bytes(bytes([number]) * FILE)
    (folder / "notes.txt").write_text("no LoRA")
    monkeypatch.setitem(
        folder_paths.folder_names_and_paths, "loras", ([str(folder)], {".safetensors"})
    )
    folder_paths.filename_list_cache.pop("loras", None)
    monkeypatch.setattr(folder_paths, "user_directory", str(tmp_path / "user"))
    monkeypatch.setattr(identity, "CHUNK", CHUNK)
    monkeypatch.setattr(comfy.utils, "PROGRESS_BAR_HOOK", None)
    yield folder
    folder_paths.filename_list_cache.pop("loras", None)
    comfy.model_management.interrupt_current_processing(False)


def digest(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def test_every_file_is_hashed_once_under_one_bar(loras, monkeypatch):
    told = []
    monkeypatch.setattr(
        comfy.utils, "PROGRESS_BAR_HOOK", lambda done, total, *_, **__: told.append((done, total))
    )
    hashed = hashing.hash_all()
    files = sorted(loras.rglob("*.safetensors"))
    assert {path: hashes.sha256 for path, hashes in hashed.hashes.items()} == {
        path: digest(path) for path in files
    }
    assert told[-1] == (5 * FILE, 5 * FILE)
    assert told == sorted(told)
    assert index_file() == loras.parent / "user" / "__lora_loom" / "index.json"
    assert set(read_index(index_file())) == {real_stamp(path) for path in files}
    assert hashing.hash_all().hashes == {}
    (loras / "a.safetensors").write_bytes(b"new" * FILE)
    assert set(hashing.hash_all().hashes) == {loras / "a.safetensors"}


def test_an_interrupt_ends_it_within_a_chunk_and_what_was_hashed_is_kept(loras, monkeypatch):
    """The third file is in work when the person presses stop."""
    asked_at = 2 * FILE + CHUNK
    told = []
    update = comfy.utils.ProgressBar.update_absolute

    def press_stop(bar, value, *rest, **more):
        told.append(value)
        update(bar, value, *rest, **more)
        if value >= asked_at:
            comfy.model_management.interrupt_current_processing()

    monkeypatch.setattr(comfy.utils.ProgressBar, "update_absolute", press_stop)
    with pytest.raises(comfy.model_management.InterruptProcessingException):
        hashing.hash_all()
    assert told[-1] == asked_at
    rows = read_index(index_file()).values()
    assert sorted(row.sha256 for row in rows) == sorted(
        digest(loras / name) for name in ("a.safetensors", "b.safetensors")
    )
    monkeypatch.setattr(comfy.utils.ProgressBar, "update_absolute", update)
    assert len(hashing.hash_all().hashes) == 3


def test_the_index_is_written_on_the_way(loras, monkeypatch):
    """A process that is killed keeps all but the last stretch."""
    monkeypatch.setattr(hashing, "_SAVE_EVERY", FILE)
    sizes = []
    keep = hashing._keep

    def count(rows):
        sizes.append(len(rows))
        keep(rows)

    monkeypatch.setattr(hashing, "_keep", count)
    hashing.hash_all()
    assert sizes == [1] * 5


def test_a_file_that_vanishes_stops_no_other(loras):
    files = sorted(loras.rglob("*.safetensors"))
    files[1].unlink()
    hashed = hashing.hash_files(files)
    assert set(hashed.hashes) == {*files[:1], *files[2:]}
    assert "b.safetensors: cannot be opened" in hashed.faults[files[1]]


def test_where_the_index_cannot_be_written_it_is_said_once_and_all_goes_on(loras, caplog):
    (loras.parent / "user").write_text("a file where a folder should be")
    for _ in range(2):
        assert len(hashing.hash_all().hashes) == 5
    said = [record for record in caplog.records if "cannot be kept" in record.message]
    assert len(said) == 1


def test_a_search_says_what_it_could_not_look_into(loras, monkeypatch):
    hash_file = hashing.hash_file

    def refuse_b(path, label, on_progress=None):
        if path.name == "b.safetensors":
            raise LoraFileError(f"{label}: cannot be read (Permission denied).")
        return hash_file(path, label, on_progress)

    monkeypatch.setattr(hashing, "hash_file", refuse_b)
    assert (
        find_row(StackRow("gone", sha256=digest(loras / "c.safetensors"))).name == "c.safetensors"
    )
    with pytest.raises(LoraFileError) as error:
        find_row(StackRow("gone", sha256="0" * 64))
    assert "LoRA 'gone' not found" in str(error.value)
    assert "Not looked into: b.safetensors: cannot be read" in str(error.value)
    with pytest.raises(
        LoraFileError, match=r"^b\.safetensors: cannot be read \(Permission denied\)\.$"
    ):
        find_row(StackRow("b", sha256="0" * 64))


def test_a_file_that_was_read_is_known_to_be_finite_until_it_changes(loras):
    """What spares the second search for NaN; a file that was only hashed was never searched."""
    path = loras / "a.safetensors"
    hashing.hash_files([path])
    assert not hashing.known_finite(real_stamp(path))
    hashing.hashes_of({real_stamp(path): "SDXL"})
    assert hashing.known_finite(real_stamp(path))
    assert read_index(index_file())[real_stamp(path)].base == "SDXL"
    hashing.hashes_of({real_stamp(path): None})
    assert read_index(index_file())[real_stamp(path)].base == "SDXL"
    path.write_bytes(b"new" * FILE)
    assert not hashing.known_finite(real_stamp(path))
