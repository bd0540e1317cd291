"""Hashes of files: the digests that other tools write, in one pass, and the claims of metadata."""

from __future__ import annotations

import hashlib

import pytest
import safetensors.torch

from lora_core.errors import LoraFileError
from lora_core.files import identity
from lora_core.files.identity import (
    FileHashes,
    autov3_of,
    hash_file,
    real_stamp,
    sha256_of,
    stored_autov3,
)
from lora_core.files.reader import read_adapter
from lora_core.report import inspect_report
from tests.core.lora_tensors import pair

EMPTY = hashlib.sha256(b"").hexdigest()


def weights_of(path) -> bytes:
    data = path.read_bytes()
    return data[8 + int.from_bytes(data[:8], "little") :]


@pytest.mark.parametrize("chunk", [7, 8, 64, 1 << 20])
def test_both_digests_are_right_wherever_the_chunks_end(chunk, write_lora, generator, monkeypatch):
    monkeypatch.setattr(identity, "CHUNK", chunk)
    path = write_lora(pair("a", generator), metadata={"modelspec.title": "Rain"})
    stamp, hashes = hash_file(path, "x")
    assert stamp == real_stamp(path)
    assert hashes.sha256 == hashlib.sha256(path.read_bytes()).hexdigest()
    assert hashes.autov3 == hashlib.sha256(weights_of(path)).hexdigest()[:12]
    assert hashes.autov2 == hashes.sha256[:10]


def test_edited_metadata_changes_the_sha256_but_not_the_autov3(write_lora, generator):
    tensors = pair("a", generator)
    before = hash_file(write_lora(tensors, "before.safetensors"), "x")[1]
    after = hash_file(write_lora(tensors, "after.safetensors", {"title": "Rain"}), "x")[1]
    assert before.sha256 != after.sha256
    assert before.autov3 == after.autov3


def test_progress_ends_at_the_size_and_what_it_raises_stops_the_work(
    write_lora, generator, monkeypatch
):
    monkeypatch.setattr(identity, "CHUNK", 64)
    path = write_lora(pair("a", generator))
    size = path.stat().st_size
    told = []
    hash_file(path, "x", lambda done, total: told.append((done, total)))
    assert [done for done, _ in told] == [*range(64, size, 64), size]
    assert {total for _, total in told} == {size}

    class Interrupted(Exception):
        pass

    def interrupt(done: int, total: int) -> None:
        told.append((done, total))
        raise Interrupted

    told.clear()
    with pytest.raises(Interrupted):
        hash_file(path, "x", interrupt)
    assert told == [(64, size)]


@pytest.mark.parametrize(
    "content", [b"", b"1234567", b"<html>not found</html>", (2**62).to_bytes(8, "little") + b"{}"]
)
def test_what_is_no_safetensors_file_has_a_sha256_and_no_autov3(content, tmp_path):
    path = tmp_path / "x.safetensors"
    path.write_bytes(content)
    assert hash_file(path, "x")[1] == FileHashes(hashlib.sha256(content).hexdigest(), None)


def test_a_file_that_is_gone_or_changes_meanwhile_is_an_error(tmp_path, write_lora, generator):
    with pytest.raises(LoraFileError, match=r"gone\.safetensors"):
        hash_file(tmp_path / "gone.safetensors", "gone.safetensors")
    path = write_lora(pair("a", generator))

    def grow(done: int, total: int) -> None:
        with path.open("ab") as file:
            file.write(b"more")

    with pytest.raises(LoraFileError, match="changed while it was hashed"):
        hash_file(path, "some.safetensors", grow)


@pytest.mark.parametrize(
    ("metadata", "claims"),
    [
        ({"sshs_model_hash": "A" * 64}, {"sshs_model_hash": "a" * 12}),
        ({"modelspec.hash_sha256": "0x" + "b" * 64}, {"modelspec.hash_sha256": "b" * 12}),
        ({"modelspec.hash_sha256": "b" * 64}, {"modelspec.hash_sha256": "b" * 12}),
        ({"sshs_model_hash": "c" * 12}, {"sshs_model_hash": "c" * 12}),
        ({"sshs_model_hash": EMPTY}, {}),
        ({"modelspec.hash_sha256": "0x" + EMPTY}, {}),
        ({"sshs_model_hash": "None"}, {}),
        ({"sshs_model_hash": "a" * 11}, {}),
        ({"sshs_model_hash": "a" * 65}, {}),
        ({}, {}),
    ],
)
def test_stored_hashes_are_recognised(metadata, claims):
    assert stored_autov3(metadata) == claims


def test_hashes_are_read_as_people_write_them():
    assert sha256_of(" 0x" + "AB" * 32 + "\n") == "ab" * 32
    assert sha256_of("ab" * 31) is None
    assert sha256_of("zz" * 32) is None
    assert autov3_of("ABCDEF012345") == "abcdef012345"
    assert autov3_of("abcdef01234") is None


def test_the_report_names_the_hashes_and_a_claim_that_is_false(write_lora, generator):
    tensors = pair("a", generator)
    right = hashlib.sha256(safetensors.torch.save(tensors)).hexdigest()  # of the whole file: false
    path = write_lora(tensors, metadata={"sshs_model_hash": right})
    hashes = hash_file(path, "x")[1]
    report = inspect_report(read_adapter(path, "x"), hashes=hashes)
    assert f"sha256: {hashes.sha256}" in report
    assert f"AutoV2: {hashes.autov2}, AutoV3: {hashes.autov3}" in report
    assert f"sshs_model_hash says {right[:12]}: the weights were changed" in report
