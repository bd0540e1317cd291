"""Reading files: bad ones end in a message, good ones are read once and owned."""

from __future__ import annotations

import json
import os

import pytest
import torch

from lora_core.errors import LoraFileError
from lora_core.files.cache import BoundedCache
from lora_core.files.reader import file_stamp, read_adapter, read_adapters, read_tensors
from tests.core.lora_tensors import low_rank, pair


def bad_files(tmp_path):
    return {
        "missing.safetensors": None,
        "empty.safetensors": b"",
        "seven_bytes.safetensors": b"1234567",
        "text.safetensors": b"<html>404 not found</html>" * 20,
        "lying_header.safetensors": (2**40).to_bytes(8, "little") + b"{}",
        "picture.safetensors": b"\x89PNG\r\n\x1a\n" + bytes(500),
        "weights.pt": b"PK\x03\x04" + bytes(100),
    }


@pytest.mark.parametrize("name", bad_files(None))
def test_a_bad_file_ends_in_a_message_that_names_it(name, tmp_path):
    content = bad_files(tmp_path)[name]
    if content is not None:
        (tmp_path / name).write_bytes(content)
    with pytest.raises(LoraFileError, match=name.replace(".", r"\.")):
        read_adapter(tmp_path / name, name)


def test_a_file_cut_anywhere_ends_in_a_message(write_lora, generator, tmp_path):
    whole = write_lora(pair("a", generator) | pair("b", generator)).read_bytes()
    cut = tmp_path / "cut.safetensors"
    for length in range(0, len(whole), 37):
        cut.write_bytes(whole[:length])
        with pytest.raises(LoraFileError, match=r"cut\.safetensors"):
            read_adapter(cut, "cut.safetensors")


def test_an_unchanged_file_is_read_once(write_lora, generator):
    path = write_lora(pair("a", generator))
    assert read_adapter(path, "x") is read_adapter(path, "x")


def test_several_files_are_read_in_order_each_once_and_the_first_bad_one_is_named(
    write_lora, generator, tmp_path
):
    paths = [write_lora(pair("a", generator, rank=n), f"{n}.safetensors") for n in (4, 2, 3)]
    files = [(path, path.name, False) for path in (*paths, paths[0])]
    adapters = read_adapters(files)
    assert [adapter.modules["a"].rank for adapter in adapters] == [4, 2, 3, 4]
    assert adapters[0] is adapters[3]
    for path in paths[1:]:
        path.write_bytes(b"no")
    with pytest.raises(LoraFileError, match=r"2\.safetensors"):
        read_adapters(files)


def test_a_replaced_file_is_read_again(write_lora, generator):
    path = write_lora(pair("a", generator))
    before = read_adapter(path, "x")
    stamp = file_stamp(path)
    write_lora(pair("a", generator, rank=4))
    os.utime(path, ns=(stamp[1] + 1, stamp[1] + 1))
    after = read_adapter(path, "x")
    assert (before.modules["a"].rank, after.modules["a"].rank) == (3, 4)
    assert file_stamp(path) != stamp


def test_a_lora_in_use_does_not_change_when_its_file_is_overwritten(write_lora, generator):
    path = write_lora(pair("a", generator))
    adapter = read_adapter(path, "x")
    kept = low_rank(adapter, "a").up.clone()
    with open(path, "r+b") as file:
        file.write(bytes(path.stat().st_size))
    assert torch.equal(low_rank(adapter, "a").up, kept)


def test_metadata_comes_with_the_file(write_lora, generator):
    path = write_lora(pair("a", generator), metadata={"modelspec.title": "Rain"})
    assert read_adapter(path, "x").metadata == {"modelspec.title": "Rain"}


def test_the_cache_never_holds_more_than_its_limit():
    cache: BoundedCache[str, str] = BoundedCache(10)
    for key, size in (("a", 4), ("b", 4), ("c", 4), ("too large", 11)):
        cache.put(key, key, size)
        assert cache.used <= 10
    assert cache.get("a") is None
    assert cache.get("too large") is None
    assert (cache.get("b"), cache.get("c")) == ("b", "c")


def test_the_least_recently_used_entry_leaves_first():
    cache: BoundedCache[str, str] = BoundedCache(2)
    cache.put("a", "a", 1)
    cache.put("b", "b", 1)
    cache.get("a")
    cache.put("c", "c", 1)
    assert cache.get("b") is None
    assert cache.get("a") == "a"


class TestHeader:
    """What a header may not say, and what it may. The fuzzing finds the rest."""

    @staticmethod
    def write(path, header, body=b""):
        text = (header if isinstance(header, str) else json.dumps(header)).encode()
        path.write_bytes(len(text).to_bytes(8, "little") + text + body)
        return path

    @pytest.mark.parametrize(
        ("shape", "offsets", "message"),
        [
            ([2, 2], [0, 12], "are not those of 2 x 2 numbers of F32"),
            ([10**1500, 10**1500, 10**1500], [0, 16], "are not those of 1000"),
            ([0, 2**40, 2**40], [0, 0], "is absurd"),
            ([4], [4, 20], "claims the bytes 4 to 20 of 16"),
            ([True, 4], [0, 16], "no list of up to 8 sizes"),
            ([4], [0.0, 16.0], "not two whole numbers"),
            ([2], [8, 16], "leaves a gap after the start"),
            ([2], [0, 8], "8 of its 16 bytes of weights belong to no tensor"),
        ],
    )
    def test_a_tensor_that_lies_about_its_place_is_refused(self, shape, offsets, message, tmp_path):
        header = {"a.diff": {"dtype": "F32", "shape": shape, "data_offsets": offsets}}
        path = self.write(tmp_path / "x.safetensors", header, bytes(16))
        with pytest.raises(LoraFileError, match=message):
            read_tensors(path, "x")

    def test_overlapping_tensors_are_refused(self, tmp_path):
        half = {"dtype": "F32", "shape": [2]}
        header = {"a": {**half, "data_offsets": [0, 8]}, "b": {**half, "data_offsets": [4, 12]}}
        path = self.write(tmp_path / "x.safetensors", header, bytes(12))
        with pytest.raises(LoraFileError, match="'b' overlaps 'a'"):
            read_tensors(path, "x")

    @pytest.mark.parametrize(
        ("header", "message"),
        [
            ('{"a": 1, "a": 2}', "names 'a' twice"),
            ('{"a":' * 100_000, "nested too deeply|no JSON text"),
            ('{"__metadata__": {"a": 1}}', "'a' is of type int; only text is allowed"),
            ('{"__metadata__": {"a": "\\ud800"}}', "no valid Unicode"),
            ('{"' + "x" * 2_000_000 + '": {}}', r"'x+'\.\.\. \(2000000 characters\) is no name"),
            ("{" + '"a": [], ' * 600_000 + '"b": []}', "far more than any LoRA has"),
            ('{"__metadata__": {"a": "' + "\u96e8" * 6_000_000 + '"}}', "not plain ASCII"),
        ],
    )
    def test_a_header_that_is_none_is_refused(self, header, message, tmp_path):
        with pytest.raises(LoraFileError, match=message):
            read_tensors(self.write(tmp_path / "x.safetensors", header), "x")

    def test_large_metadata_is_read(self, tmp_path):
        said = {"ss_tag_frequency": json.dumps({"10_x": {f"tag {i}": i for i in range(99_999)}})}
        said |= {"modelspec.thumbnail": "data:image/png;base64," + "A" * 5_000_000, "w": "\u96e8"}
        path = self.write(tmp_path / "x.safetensors", {"__metadata__": said})
        assert read_tensors(path, "x") == ({}, said)

    def test_a_tensor_at_an_odd_place_is_read(self, tmp_path):
        header = {
            "a": {"dtype": "U8", "shape": [1], "data_offsets": [0, 1]},
            "b": {"dtype": "F32", "shape": [2], "data_offsets": [1, 9]},
        }
        body = b"\x07" + torch.tensor([1.5, -2.0]).numpy().tobytes()
        tensors, _ = read_tensors(self.write(tmp_path / "x.safetensors", header, body), "x")
        assert tensors["a"].tolist() == [7]
        assert tensors["b"].tolist() == [1.5, -2.0]


def test_a_file_that_was_checked_before_is_not_searched_again(write_lora, generator):
    tensors = pair("a", generator)
    tensors["a.lora_up.weight"][0, 0] = float("nan")
    path = write_lora(tensors)
    with pytest.raises(LoraFileError, match="NaN"):
        read_adapter(path, "x")
    assert read_adapter(path, "x", checked=True).modules["a"].rank == 3
