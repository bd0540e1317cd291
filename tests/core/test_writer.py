"""A saved file is whole or not there, says the right hashes, and never takes another file's place unasked."""

from __future__ import annotations

import hashlib
import os
import shutil

import pytest
import safetensors
import safetensors.torch
import torch

from lora_core.errors import LoraFileError, SaveError
from lora_core.files import writer
from lora_core.files.metadata_edit import edited
from lora_core.files.reader import read_tensors
from lora_core.files.writer import write_lora
from tests.core.lora_tensors import pair


@pytest.fixture
def lora(generator):
    return pair("a", generator, alpha=2.0) | pair("b", generator, kernel=(3, 3))


@pytest.mark.parametrize(
    "dtype", [torch.float64, torch.float32, torch.float16, torch.bfloat16, torch.float8_e4m3fn]
)
def test_what_is_written_is_what_the_library_reads(dtype, lora, tmp_path):
    tensors = {key: t.to(dtype) for key, t in lora.items()} | {"n": torch.tensor([3, 4])}
    tensors |= {"empty": torch.zeros(0, 3), "odd": torch.ones(3, dtype=torch.uint8)}
    said = write_lora(tensors, {"ss_x": "\u96e8"}, tmp_path / "x.safetensors", replace=False)
    with safetensors.safe_open(tmp_path / "x.safetensors", "pt") as file:
        assert file.metadata() == said
    read = safetensors.torch.load_file(tmp_path / "x.safetensors")
    ours, _ = read_tensors(tmp_path / "x.safetensors", "x")
    for found in (read, ours):
        assert found.keys() == tensors.keys()
        for key, tensor in tensors.items():
            assert found[key].dtype == tensor.dtype
            assert torch.equal(found[key].float(), tensor.float())


def test_the_hashes_are_those_of_the_bytes(lora, tmp_path):
    lora["large.diff"] = torch.ones(700, 1000)
    path = tmp_path / "x.safetensors"
    said = write_lora(lora, {"ss_x": "y", "modelspec.title": "Rain"}, path, replace=False)
    raw = path.read_bytes()
    digest = hashlib.sha256(raw[8 + int.from_bytes(raw[:8], "little") :]).hexdigest()
    assert said["sshs_model_hash"] == digest
    assert said["modelspec.hash_sha256"] == f"0x{digest}"
    write_lora(lora, {"ss_x": "y"}, tmp_path / "bare.safetensors", replace=False)
    bare = safetensors.torch.load_file(tmp_path / "bare.safetensors")
    kohya = writer._head(
        dict(sorted(bare.items(), key=lambda i: -i[1].dtype.itemsize)), {"ss_x": "y"}
    )
    window = (kohya + raw[8 + int.from_bytes(raw[:8], "little") :])[0x100000:0x110000]
    assert len(window) == 0x10000
    assert said["sshs_legacy_hash"] == hashlib.sha256(window).hexdigest()[:8]


def test_autov3_survives_a_change_of_metadata(lora, tmp_path):
    mixed = {**lora, "c.diff": torch.ones(3).half(), "A.diff": torch.ones(2).double()}
    safetensors.torch.save_file(mixed, tmp_path / "x.safetensors", {"ss_x": "y"})
    tensors, metadata = read_tensors(tmp_path / "x.safetensors", "x")
    write_lora(tensors, {**metadata, "more": "z" * 99}, tmp_path / "y.safetensors", replace=False)
    bodies = [
        raw[8 + int.from_bytes(raw[:8], "little") :]
        for raw in (
            tmp_path.joinpath(name).read_bytes() for name in ("x.safetensors", "y.safetensors")
        )
    ]
    assert bodies[0] == bodies[1]


def test_a_name_that_is_taken_is_refused_unless_told_or_the_same(lora, tmp_path):
    path = tmp_path / "x.safetensors"
    write_lora(lora, {}, path, replace=False)
    before = (path.read_bytes(), path.stat().st_mtime_ns)
    write_lora(lora, {}, path, replace=False)
    with pytest.raises(SaveError, match=r"x\.safetensors is already there and is not overwritten"):
        write_lora(lora, {"a": "b"}, path, replace=False)
    assert (path.read_bytes(), path.stat().st_mtime_ns) == before
    write_lora(lora, {"a": "b"}, path, replace=True)
    assert path.read_bytes() != before[0]


def test_a_name_taken_meanwhile_is_not_overwritten(lora, tmp_path, monkeypatch):
    path = tmp_path / "x.safetensors"

    def somebody_else(*_):
        path.write_bytes(b"theirs")

    monkeypatch.setattr(writer, "_check_written", somebody_else)
    with pytest.raises(SaveError, match="already there"):
        write_lora(lora, {}, path, replace=False)
    assert path.read_bytes() == b"theirs"
    assert os.listdir(tmp_path) == ["x.safetensors"]


@pytest.mark.parametrize("fault", ["flip", "cut", "fsync", "rename"])
def test_a_fault_while_writing_leaves_the_old_file_and_nothing_else(
    fault, lora, tmp_path, monkeypatch
):
    path = tmp_path / "x.safetensors"
    path.write_bytes(b"old")
    check = writer._check_written

    def damaged(temporary, *rest):
        raw = bytearray(temporary.read_bytes())
        raw[-5] ^= 4
        temporary.write_bytes(raw if fault == "flip" else raw[:-9])
        check(temporary, *rest)

    def fails(*_):
        raise OSError(5, "Input/output error")

    if fault in ("flip", "cut"):
        monkeypatch.setattr(writer, "_check_written", damaged)
    else:
        monkeypatch.setattr(os, {"fsync": "fsync", "rename": "replace"}[fault], fails)
    with pytest.raises((SaveError, LoraFileError), match=r"x\.safetensors"):
        write_lora(lora, {}, path, replace=True)
    assert path.read_bytes() == b"old"
    assert os.listdir(tmp_path) == ["x.safetensors"]


def test_a_full_disk_is_noticed_before_anything_is_written(lora, tmp_path, monkeypatch):
    usage = shutil.disk_usage(tmp_path)._replace(free=20_000_000)
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage)
    large = {"a.diff": torch.zeros(6_000_000)}
    with pytest.raises(SaveError, match=r"needs 24\.0 MB, and the disk .* 20\.0 MB left"):
        write_lora(large, {}, tmp_path / "x.safetensors", replace=False)
    assert not os.listdir(tmp_path)
    write_lora(lora, {}, tmp_path / "x.safetensors", replace=False)


class TestMetadata:
    OLD = {"ss_steps": "9", "modelspec.title": "Old", "sshs_model_hash": "lies"}

    def test_all_is_kept_but_the_old_hashes(self):
        assert edited(self.OLD, "") == {"ss_steps": "9", "modelspec.title": "Old"}

    def test_lines_title_and_words_are_set_and_an_empty_value_removes(self):
        new = edited(self.OLD, "a = b=c\n\nss_steps=\n", title=" Rain ", words="rain, ohwx")
        assert new == {
            "modelspec.title": "Rain",
            "modelspec.trigger_phrase": "rain, ohwx",
            "a": "b=c",
        }

    def test_json_is_taken_too_and_kept_as_text(self):
        new = edited({}, '{"a": "x", "b": [1, "2"], "c": null, "d": 3.5}')
        assert new == {"a": "x", "b": '[1, "2"]', "d": "3.5"}

    @pytest.mark.parametrize("text", ["no equals sign", "=value", '{"a": ', '{"a": "\\ud800"}'])
    def test_what_is_no_metadata_is_refused(self, text):
        with pytest.raises(SaveError, match=r"[Mm]etadata"):
            edited({}, text)
