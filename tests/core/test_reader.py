"""Reading files: bad ones end in a message, good ones are read once and owned."""

from __future__ import annotations

import os

import pytest
import torch

from lora_core.errors import LoraFileError
from lora_core.files.cache import BoundedCache
from lora_core.files.reader import file_stamp, read_adapter
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
