"""Names, folders, sizes and settings of other people's machines."""

from __future__ import annotations

import errno
import json
import locale
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from lora_core.errors import LoraFileError, SaveError
from lora_core.files import index as index_module
from lora_core.files.facts import gather
from lora_core.files.finding import listed_name
from lora_core.files.identity import FileHashes, hash_file, real_stamp
from lora_core.files.index import IndexRow, read_index, update_index
from lora_core.files.reader import read_adapter
from lora_core.files.writer import write_lora
from lora_core.stack.rows_json import parse_rows
from lora_core.stack.tags import read_tags
from tests.core.lora_tensors import pair

ROOT = Path(__file__).resolve().parents[2]
# Latin with accents, Cyrillic, Chinese, Arabic, Devanagari, an emoji of two code points, and signs that shells fear.
SCRIPTS = (
    "Caf\u00e9 \u00e0 la cr\u00e8me",
    "\u0441\u0442\u0438\u043b\u044c",
    "\u6c34\u58a8\u753b",
    "\u0646\u0645\u0637",
    "\u0936\u0948\u0932\u0940",
    "\U0001f469\u200d\U0001f3a8 art",
    "a b; $(c) & 'd' %20 #e",
    "e\u0301 decomposed",
)


@pytest.mark.parametrize("stem", SCRIPTS)
def test_a_file_name_in_any_script_is_written_read_named_and_kept(stem, tmp_path, generator):
    path = tmp_path / stem / f"{stem}.safetensors"
    path.parent.mkdir()
    write_lora(pair("lora_unet_a", generator), {"ss_output_name": stem}, path, replace=False)
    assert set(read_adapter(path, path.name).modules) == {"lora_unet_a"}
    path.with_suffix(".txt").write_text(stem, encoding="utf-8")
    said = gather({}, path).description
    assert said is not None
    assert said.source == f"{stem}.txt"
    listed = f"{stem}/{stem}.safetensors"
    assert listed_name(stem, [listed]) == listed
    assert listed_name(listed.replace("/", "\\"), [listed]) == listed
    (row,) = parse_rows(json.dumps([{"lora": listed}], ensure_ascii=False)).rows
    assert row == parse_rows(json.dumps([{"lora": listed}])).rows[0]
    stamp, hashes = hash_file(path, path.name)
    assert update_index(tmp_path / "index.json", {stamp: IndexRow(hashes.sha256)}) is None
    assert list(read_index(tmp_path / "index.json")) == [stamp]


@pytest.mark.parametrize(
    "name", ["people\\leah.safetensors", "people\\leah", "loras\\people\\leah.safetensors"]
)
def test_paths_as_windows_writes_them_in_json_mean_the_same_file(name):
    rows = json.dumps({"rows": [{"lora": name}], "locks": {name: {"sha256": "a" * 64}}})
    (row,) = parse_rows(rows).rows
    assert row.sha256 == "a" * 64
    assert listed_name(row.name, ["people/leah.safetensors"]) == "people/leah.safetensors"
    forward = json.dumps(
        {"rows": [{"lora": name.replace("\\", "/")}], "locks": {name: {"sha256": "a" * 64}}}
    )
    assert parse_rows(forward).rows[0].sha256 == "a" * 64


def test_a_disk_that_refuses_the_index_is_said_once_and_stops_nothing(tmp_path, monkeypatch):
    def refuse(data: bytes, path: Path) -> None:
        raise OSError(errno.EROFS, os.strerror(errno.EROFS))

    monkeypatch.setattr(index_module, "write_bytes", refuse)
    monkeypatch.setattr(index_module, "_PAUSE", 0)
    said = update_index(tmp_path / "index.json", {("x", 1, 2): IndexRow("a" * 64)})
    assert said is not None
    assert "Read-only file system" in said
    assert "hashed again in every run" in said
    assert read_index(tmp_path / "index.json") == {}


@pytest.mark.parametrize("fault", [errno.EROFS, errno.ENOSPC, errno.EACCES])
def test_a_disk_that_refuses_a_lora_leaves_nothing_behind(fault, tmp_path, monkeypatch, generator):
    real = os.replace

    def refuse(source, target, **more):
        if str(target).endswith(".safetensors"):
            raise OSError(fault, os.strerror(fault))
        return real(source, target, **more)

    monkeypatch.setattr(os, "replace", refuse)
    monkeypatch.setattr(os, "link", refuse)
    path = tmp_path / "x.safetensors"
    with pytest.raises((SaveError, LoraFileError), match=r"x\.safetensors"):
        write_lora(pair("lora_unet_a", generator), {}, path, replace=True)
    assert list(tmp_path.iterdir()) == []


def test_a_lora_of_four_gigabytes_that_is_not_there_is_refused_without_the_memory(tmp_path):
    """A sparse file: the header claims 4 GB of weights under an offset that overlaps; nothing of them is read."""
    header = json.dumps(
        {
            "a.lora_up.weight": {"dtype": "F16", "shape": [1 << 30], "data_offsets": [0, 1 << 31]},
            "b.lora_up.weight": {
                "dtype": "F16",
                "shape": [1 << 30],
                "data_offsets": [1 << 30, 3 << 30],
            },
        }
    ).encode()
    path = tmp_path / "huge.safetensors"
    with path.open("wb") as file:
        file.write(len(header).to_bytes(8, "little") + header)
        file.truncate(4 << 30)
    with pytest.raises(LoraFileError, match=r"huge\.safetensors"):
        read_adapter(path, path.name)


def test_a_sound_lora_of_four_gigabytes_is_parsed_or_said_to_need_memory(tmp_path):
    """Offsets beyond 32 bits. In a process of its own, with the memory of the sparse file's one true tensor only."""
    size = 1 << 32
    header = json.dumps(
        {
            "lora_unet_a.lora_up.weight": {
                "dtype": "F32",
                "shape": [4, 2],
                "data_offsets": [size, size + 32],
            },
            "lora_unet_a.lora_down.weight": {
                "dtype": "F32",
                "shape": [2, 4],
                "data_offsets": [size + 32, size + 64],
            },
            "filler": {"dtype": "U8", "shape": [size], "data_offsets": [0, size]},
        }
    ).encode()
    path = tmp_path / "large.safetensors"
    with path.open("wb") as file:
        file.write(len(header).to_bytes(8, "little") + header)
        file.truncate(8 + len(header) + size)
        file.seek(8 + len(header) + size)
        file.write(torch.arange(16, dtype=torch.float32).numpy().tobytes())
    limit = 3 << 30
    code = (
        "import resource, sys, pathlib; from lora_core.files.reader import read_adapter; "
        "from lora_core.errors import LoraFileError; "
        f"resource.setrlimit(resource.RLIMIT_AS, ({limit} + (6 << 30), {limit} + (6 << 30)))\n"
        "resource.setrlimit(resource.RLIMIT_DATA, (3 << 30, 3 << 30))\n"
        "try: read_adapter(pathlib.Path(sys.argv[1]), 'large.safetensors')\n"
        "except LoraFileError as error: print(error)\n"
        "else: print('read')"
    )
    pytest.importorskip("resource", reason="memory limits are set by the resource module")
    done = subprocess.run(
        [sys.executable, "-c", code, str(path)],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert (
        "its weights need 4.3 GB of memory, which is not there" in done.stdout
        or done.stdout == "read\n"
    )
    assert real_stamp(path)[2] > size


@pytest.fixture
def decimal_comma():
    """A locale that writes 0,8, where the machine has one; the code must not read or write numbers by it."""
    before = locale.setlocale(locale.LC_ALL)
    for name in ("de_DE.UTF-8", "de_DE.utf8", "fr_FR.UTF-8", "ru_RU.UTF-8", "German"):
        try:
            locale.setlocale(locale.LC_ALL, name)
            break
        except locale.Error:
            continue
    yield locale.localeconv()["decimal_point"]
    locale.setlocale(locale.LC_ALL, before)


def test_numbers_are_read_and_said_with_a_point_under_any_locale(
    decimal_comma, tmp_path, generator
):
    (row,) = read_tags("<lora:a:0.8:0.5>", lambda name: name).stack.rows
    assert (row.model, row.clip) == (0.8, 0.5)
    assert (
        parse_rows('[{"lora": "a", "model": 0.25, "schedule": "0.5@0,1@0.5"}]').rows[0].model
        == 0.25
    )
    path = tmp_path / "x.safetensors"
    write_lora(
        pair("lora_unet_a", generator, alpha=1.5), {"ss_network_alpha": "1.5"}, path, replace=False
    )
    assert read_adapter(path, "x").modules["lora_unet_a"].alpha == 1.5
    assert f"{row.model:g}" == "0.8"


def test_no_shipped_line_formats_numbers_by_the_locale():
    """What a machine without such a locale cannot show: the 'n' format and the locale module are never used."""
    for path in [*ROOT.glob("lora_core/**/*.py"), *ROOT.glob("nodes/*.py")]:
        text = path.read_text("utf-8")
        assert "import locale" not in text, path
        assert ":n}" not in text, path


def test_a_strength_with_a_comma_is_refused_with_the_way_to_write_it():
    with pytest.raises(Exception, match="0,8"):
        read_tags("<lora:a:0,8>", lambda name: name)


def test_a_hash_is_of_the_bytes_whatever_the_name(tmp_path):
    (tmp_path / "a").write_bytes(b"same")
    (tmp_path / "b").write_bytes(b"same")
    found = {hash_file(tmp_path / name, name)[1] for name in "ab"}
    assert len(found) == 1
    assert isinstance(found.pop(), FileHashes)


def test_a_written_file_is_read_by_the_safetensors_library(tmp_path, generator):
    tensors = pair("lora_unet_a", generator)
    write_lora(tensors, {}, tmp_path / "x.safetensors", replace=False)
    assert set(load_file(tmp_path / "x.safetensors")) == set(tensors)
