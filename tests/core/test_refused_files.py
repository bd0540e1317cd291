"""What files are refused for beside being cut short, each with the words that name it and the way out."""

from __future__ import annotations

import io
import json
import os

import pytest
import torch

from lora_core.adapters import Difference
from lora_core.errors import LoraFileError, LoraKeyError
from lora_core.files import reader
from lora_core.files.header import HEADER_LIMIT, Unreadable, read_header
from lora_core.files.identity import hash_file
from lora_core.files.parse import parse_state_dict
from lora_core.files.reader import read_adapter, read_tensors
from lora_core.files.tensorfile import open_tensors
from lora_core.files.writer import write_by_content
from tests.core.lora_tensors import low_rank, pair


class Trickle(io.BytesIO):
    """A file that gives a few bytes at a time, as a network folder may."""

    def read(self, size: int | None = -1) -> bytes:
        return super().read(min(3, size if size is not None and size >= 0 else 3))


def file_of(header: object, body: bytes = b"") -> bytes:
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    return len(text).to_bytes(8, "little") + text + body


ONE = {"x.diff": {"dtype": "F32", "shape": [1], "data_offsets": [0, 4]}}


@pytest.mark.parametrize(
    ("data", "said"),
    [
        (file_of(b"not JSON"), "where its header should be, there is something else"),
        (file_of({"__metadata__": [1]}), "its metadata is no JSON object"),
        (file_of({"x": {"dtype": "F32"}}), "'x' does not say its dtype, shape and data_offsets"),
        (
            file_of({"x": {"dtype": "F7", "shape": [], "data_offsets": [0, 0]}}),
            "'x' has the unknown dtype 'F7'",
        ),
    ],
    ids=["no object", "metadata", "no shape", "dtype"],
)
def test_a_header_that_makes_no_sense_is_said_with_the_tensor(data, said):
    with pytest.raises(Unreadable) as failure:
        read_header(io.BytesIO(data), len(data))
    assert str(failure.value) == said


def test_a_header_above_the_limit_is_not_read():
    with pytest.raises(Unreadable, match=f"{HEADER_LIMIT} are the most"):
        read_header(io.BytesIO((HEADER_LIMIT + 1).to_bytes(8, "little")), 4 * HEADER_LIMIT)


def test_a_file_that_comes_in_pieces_is_read_whole_and_one_that_ends_is_refused():
    data = file_of(ONE, bytes(4))
    assert [entry.name for entry in read_header(Trickle(data), len(data)).entries] == ["x.diff"]
    with pytest.raises(Unreadable, match="it ended 5 bytes early while it was read"):
        read_header(Trickle(data[:-9]), len(data))


def test_a_file_that_gets_shorter_under_the_reader_is_refused(tmp_path, monkeypatch):
    path = tmp_path / "shrinks.safetensors"
    path.write_bytes(file_of(ONE, bytes(4)))
    real = reader.read_header

    def cut_after_header(file, size):
        found = real(file, size)
        os.truncate(path, size - 3)
        return found

    monkeypatch.setattr(reader, "read_header", cut_after_header)
    with pytest.raises(LoraFileError, match="ended 3 bytes early while it was read"):
        read_tensors(path, path.name)


def test_a_file_that_is_replaced_while_it_is_read_is_not_used(write_lora, generator, monkeypatch):
    path = write_lora(pair("m", generator), "busy.safetensors")

    def overtaken(path, label):
        os.utime(path, ns=(1, 1))
        return read_tensors(path, label)

    monkeypatch.setattr(reader, "read_tensors", overtaken)
    with pytest.raises(LoraFileError, match=r"busy\.safetensors: the file changed while it was"):
        read_adapter(path, path.name)


def test_weights_that_memory_cannot_hold_are_said_with_their_size(write_lora, monkeypatch):
    path = write_lora({"x.diff": torch.zeros(1_000_000)}, "large.safetensors")

    def no_room(*_, **__):
        raise RuntimeError("DefaultCPUAllocator: not enough memory")

    monkeypatch.setattr(reader.torch, "empty", no_room)
    with pytest.raises(LoraFileError, match=r"need 0\.0 GB of memory.*Is it a LoRA, not a model"):
        read_tensors(path, path.name)


def test_what_cannot_be_opened_is_not_hashed(tmp_path):
    (tmp_path / "folder.safetensors").mkdir()
    with pytest.raises(LoraFileError, match=r"folder\.safetensors: cannot be read \("):
        hash_file(tmp_path / "folder.safetensors", "folder.safetensors")


def test_a_checkpoint_in_another_format_is_not_opened_for_its_tensors(tmp_path):
    path = tmp_path / "model.ckpt"
    path.write_bytes(bytes(100))
    with pytest.raises(LoraFileError, match="can carry code and are not opened; load it with a"):
        open_tensors(path, path.name)


def test_two_keys_for_one_side_of_a_weight_are_refused():
    tensors = {"m.diff": torch.ones(2, 2), "m.set_weight": torch.ones(2, 2)}
    with pytest.raises(
        LoraKeyError, match=r"'m\.diff' and 'm\.set_weight' both say what the weight"
    ):
        parse_state_dict(tensors, "twice")


def test_a_low_rank_bias_belongs_to_a_low_rank_module(generator):
    names = (".lora_B.weight", ".lora_A.weight")
    well = pair("m", generator, names=names) | {"m.lora_B.bias": torch.ones(6)}
    assert parse_state_dict(well, "well").differences["m", "bias"].scale == 1.0
    for twin in ({**well, "m.diff_b": torch.ones(6)}, {"m.lora_B.bias": torch.ones(6)}):
        with pytest.raises(LoraKeyError, match=r"'m\.lora_B\.bias' is the bias of a low-rank"):
            parse_state_dict(twin, "odd")


def test_flux_processors_and_whole_norms_are_read_by_their_own_names(generator):
    endings = (".up.weight", ".down.weight")
    tensors = {}
    for stream in ("qkv_lora1", "proj_lora2"):
        name = f"double_blocks.3.processor.{stream}"
        tensors |= pair(name, generator, names=endings)
    tensors["single_blocks.7.norm.key_norm.scale"] = torch.full((4,), 2.0)
    file = parse_state_dict(tensors, "flux")
    assert set(file.modules) == {
        "double_blocks.3.img_attn.qkv",
        "double_blocks.3.txt_attn.proj",
    }
    assert low_rank(file, "double_blocks.3.img_attn.qkv").rank == 3
    (whole,) = file.differences.values()
    assert isinstance(whole, Difference)
    assert whole.replaces
    assert not file.leftovers


def test_the_same_lora_gets_the_same_name_by_its_content(tmp_path, generator):
    tensors = pair("m", generator)
    first = write_by_content(tensors, tmp_path)
    written = first.stat().st_mtime_ns
    assert write_by_content(dict(tensors), tmp_path) == first
    assert first.stat().st_mtime_ns == written
    other = write_by_content({key: 2 * t for key, t in tensors.items()}, tmp_path)
    assert other != first
    assert set(read_adapter(other, "other").modules) == {"m"}
