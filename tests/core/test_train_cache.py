"""The cache of latents and conditioning: keyed by content, computed once, bounded, never half-written."""

from __future__ import annotations

import os

import pytest
import torch

from lora_core.errors import DatasetError
from lora_core.train.batch import read_batch
from lora_core.train.buckets import Placement
from lora_core.train.cache import DiskStore, RamStore, Store, latent_key, once, text_key

ENTRY = 4 * 1000  # bytes of one thousand floats


def tensors(value: float) -> dict[str, torch.Tensor]:
    return {"samples": torch.full((1000,), float(value))}


@pytest.fixture(params=["ram", "disk"])
def make_store(request, tmp_path):
    def make(limit=1 << 20):
        return RamStore(limit) if request.param == "ram" else DiskStore(tmp_path / "cache", limit)

    return make


def kept(store: Store, name: str) -> torch.Tensor:
    """What the store has under a key."""
    found = store.get(name)
    assert found is not None
    return found["samples"]


def key(number: int) -> str:
    return text_key(f"caption {number}", "clip")


def test_what_was_encoded_once_is_not_encoded_again(make_store):
    store, calls = make_store(), []

    def encode():
        calls.append(1)
        return {
            "cond": torch.arange(6.0, requires_grad=True).view(2, 3).T,
            "pooled": torch.ones(2, dtype=torch.bfloat16),
        }

    first, second = once(store, key(1), encode), once(store, key(1), encode)
    assert len(calls) == 1
    for found in (first, second):
        assert torch.equal(found["cond"], torch.arange(6.0).view(2, 3).T)
        assert found["pooled"].dtype == torch.bfloat16
        assert not found["cond"].requires_grad


def test_an_entry_is_a_copy_of_what_encode_gave(make_store):
    store, mine = make_store(), torch.zeros(3)
    once(store, key(1), lambda: {"x": mine})
    mine.add_(1)
    assert once(store, key(1), dict)["x"].sum() == 0


def test_a_failed_encode_leaves_no_entry(make_store):
    store = make_store()
    with pytest.raises(ValueError, match="out of memory"):
        once(store, key(1), lambda: (_ for _ in ()).throw(ValueError("out of memory")))
    assert store.get(key(1)) is None


def test_the_bytes_are_bounded_and_the_least_recently_used_leave(make_store, tmp_path):
    store = make_store(limit=3 * ENTRY + 1000)
    for number in range(3):
        store.put(key(number), tensors(number))
        if isinstance(store, DiskStore):  # the file's time is the time of use; make it clear-cut
            os.utime(store.folder / f"{key(number)}.safetensors", (number, number))
    assert store.get(key(0)) is not None
    store.put(key(3), tensors(3))
    left = [number for number in range(4) if store.get(key(number)) is not None]
    assert left == [0, 2, 3]
    assert store.used <= 3 * ENTRY + 1000


def test_what_is_larger_than_the_cache_is_used_but_not_kept(make_store):
    store = make_store(limit=100)
    assert once(store, key(1), lambda: tensors(1))["samples"].sum() == 1000
    assert store.get(key(1)) is None
    assert store.used == 0


def test_an_entry_put_again_is_counted_once(make_store):
    store = make_store(limit=2 * ENTRY + 1000)
    store.put(key(1), tensors(1))
    store.put(key(2), tensors(2))
    store.put(key(2), tensors(2))
    assert store.get(key(1)) is not None


def test_the_disk_cache_outlives_the_run(tmp_path):
    DiskStore(tmp_path, 1 << 20).put(key(1), tensors(5))
    assert torch.equal(kept(DiskStore(tmp_path, 1 << 20), key(1)), tensors(5)["samples"])


@pytest.mark.parametrize("damage", [b"", b"{}", None])
def test_an_unreadable_entry_is_made_again(tmp_path, damage):
    store = DiskStore(tmp_path, 1 << 20)
    store.put(key(1), tensors(1))
    (file,) = tmp_path.glob("*.safetensors")
    file.write_bytes(file.read_bytes()[:200] if damage is None else damage)
    assert once(store, key(1), lambda: tensors(2))["samples"][0] == 2
    assert kept(store, key(1))[0] == 2


def test_a_failed_write_leaves_nothing_and_names_the_way_out(tmp_path, monkeypatch):
    store = DiskStore(tmp_path, 1 << 20)

    def full(descriptor):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(DatasetError, match=r"No space left on device.*keep the cache in RAM"):
        store.put(key(1), tensors(1))
    assert list(tmp_path.iterdir()) == []


def test_what_a_killed_run_left_is_removed_but_not_what_is_being_written(tmp_path):
    for name, age in ((".old.tmp", 7200), (".new.tmp", 0)):
        (tmp_path / name).write_bytes(b"half")
        now = os.stat(tmp_path / name).st_mtime
        os.utime(tmp_path / name, (now - age, now - age))
    DiskStore(tmp_path, 1 << 20)
    assert [file.name for file in tmp_path.iterdir()] == [".new.tmp"]


def test_a_latents_key_names_pixels_bucket_crop_mirror_and_vae(generator):
    one, other = read_batch(torch.rand(2, 64, 96, 3, generator=generator), "a").images
    (renamed,) = read_batch(torch.from_numpy(one.source)[None] / 255, "another caption").images
    placement = Placement((96, 64), (64, 64))
    keys = [
        latent_key(one, placement, 0.5, False, "vae"),
        latent_key(other, placement, 0.5, False, "vae"),
        latent_key(one, Placement((96, 64), (32, 32)), 0.5, False, "vae"),
        latent_key(one, placement, 0.0, False, "vae"),
        latent_key(one, placement, 0.5, True, "vae"),
        latent_key(one, placement, 0.5, False, "another vae"),
    ]
    assert len(set(keys)) == len(keys)
    assert latent_key(renamed, placement, 0.5, False, "vae") == keys[0]


def test_a_texts_key_names_caption_and_text_encoder():
    keys = [
        text_key("a", "clip"),
        text_key("b", "clip"),
        text_key("a", "other"),
        text_key('a", "clip', ""),
    ]
    assert len(set(keys)) == 4
