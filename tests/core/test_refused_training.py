"""Pictures, captions, caches and trainings that are refused, each with the file or setting and the way out."""

from __future__ import annotations

import os
import sys
from dataclasses import replace

import numpy as np
import pytest
import torch
from PIL import Image
from torch.nn import Conv2d, Linear

from lora_core.errors import DatasetError, LoraFileError, TrainError
from lora_core.files.parse import parse_state_dict
from lora_core.train import folder, pictures, text_files
from lora_core.train.acting import attached
from lora_core.train.adapters import continued, new_branches, parameters_of, trainable_layers
from lora_core.train.batch import read_batch
from lora_core.train.cache import DiskStore, text_key
from lora_core.train.choosing import PARTS, chosen_layers
from lora_core.train.folder import folder_stamp, parse_edited, read_folder
from lora_core.train.log import NAME, training_log
from lora_core.train.loop import StepReport, train
from lora_core.train.pictures import open_picture
from lora_core.train.sample_sheet import strips_in
from lora_core.train.state import load_latest, save_state
from lora_core.train.text_files import read_caption
from tests.core.drawn import busy, save
from tests.core.lora_tensors import pair
from tests.core.small_training import LEVELS, SETTINGS, Tiny, batch_at, branches_of, run

SMALL = (96, 96)


# Pictures and captions


def test_a_folder_with_far_too_many_files_or_pictures_is_refused(tmp_path, monkeypatch):
    for number in range(4):
        save(tmp_path / "set", f"{number}.png", busy(number, SMALL))
    monkeypatch.setattr(folder, "MOST_PICTURES", 3)
    with pytest.raises(DatasetError, match="'set' has 4 pictures; at most 3 are read. Is it the"):
        read_folder(tmp_path / "set")
    monkeypatch.setattr(folder, "MOST_FILES", 3)
    with pytest.raises(DatasetError, match="'set' has more than 3 files in it and below. Choose"):
        folder_stamp(tmp_path / "set")


@pytest.mark.parametrize("count", ["0", "000", "12345"])
def test_a_folder_name_asks_for_one_to_9999_repeats(tmp_path, count):
    save(tmp_path / f"{count}_ring", "a.png", busy(1, SMALL))
    with pytest.raises(
        DatasetError, match=f"'{count}_ring' asks for {count} repeats; use 1 to 9999"
    ):
        read_folder(tmp_path)


def test_at_most_ten_files_with_faults_are_listed(tmp_path):
    for number in range(13):
        (tmp_path / f"{number:02}.png").write_bytes(b"no picture")
    with pytest.raises(DatasetError) as failure:
        read_folder(tmp_path)
    lines = str(failure.value).splitlines()
    assert lines[-1] == "and 3 more files with faults."
    assert lines[0].startswith("00.png: ")


def test_lines_without_words_are_skipped_in_typed_captions():
    assert parse_edited("a.png: one\n\n  \nb.png: two\n") == {"a.png": "one", "b.png": "two"}


def test_a_picture_file_above_the_limit_is_not_opened(tmp_path, monkeypatch):
    path = save(tmp_path, "a.png", busy(1, SMALL))
    monkeypatch.setattr(pictures, "MAX_BYTES", 1000)
    with pytest.raises(
        DatasetError, match=r"a\.png: \d+ MB; more than 0 MB are not opened. Save it"
    ):
        open_picture(path, "a.png")


def test_pixels_of_32_bits_have_no_known_range(tmp_path):
    values = np.full((96, 96), 70_000, dtype=np.int32)
    Image.fromarray(values).save(tmp_path / "wide.tif")
    with pytest.raises(
        DatasetError, match="32-bit pixels, whose range is not known. Save it as PNG"
    ):
        open_picture(tmp_path / "wide.tif", "wide.tif")


def test_transparency_that_is_nowhere_leaves_the_picture_as_it_is(tmp_path):
    drawn = busy(3, SMALL)
    path = save(tmp_path, "a.png", drawn.convert("RGBA"))
    opened = open_picture(path, "a.png")
    assert opened.rgb.tobytes() == drawn.tobytes()
    assert opened.alpha is None


def test_a_caption_file_that_is_too_long_or_cannot_be_read_is_refused(tmp_path, monkeypatch):
    path = tmp_path / "a.txt"
    path.write_text("x" * 101)
    monkeypatch.setattr(text_files, "_MOST_CAPTION_BYTES", 100)
    with pytest.raises(
        DatasetError, match=r"a\.txt: 101 bytes; a file of this kind has at most 100"
    ):
        read_caption(path, "a.txt")
    (tmp_path / "b.txt").mkdir()
    monkeypatch.setattr(text_files, "_MOST_CAPTION_BYTES", 1 << 20)
    with pytest.raises(DatasetError, match=r"b\.txt: cannot be read \("):
        read_caption(tmp_path / "b.txt", "b.txt")


def test_masks_are_one_or_as_many_as_the_pictures():
    images = torch.rand(3, 96, 96, 3)
    with pytest.raises(DatasetError, match=r"shape \(1 or 3, height, width\); found \(2, 96, 96\)"):
        read_batch(images, "a ring", masks=torch.ones(2, 96, 96))


def test_a_cache_entry_that_cannot_be_read_names_the_folder(tmp_path):
    store = DiskStore(tmp_path / "cache", 1 << 20)
    key = text_key("a ring", "clip")
    (tmp_path / "cache" / f"{key}.safetensors").mkdir(parents=True)
    with pytest.raises(
        DatasetError, match="cannot be read .* Check the folder 'cache', or keep the"
    ):
        store.get(key)


# Trainings


def test_a_family_or_rank_that_cannot_be_trained_is_refused():
    layers = trainable_layers(Tiny())
    with pytest.raises(
        TrainError, match="'OFT' is not trained; choose one of LoRA, DoRA, LoHa, LoKr"
    ):
        new_branches(layers, 4, 4.0, 1, family="OFT")
    with pytest.raises(TrainError, match="rank is 0; it must be 1 or more"):
        new_branches(layers, 0, 4.0, 1)


def test_only_layers_that_have_ranks_get_branches_at_their_own():
    layers = trainable_layers(Tiny())
    (made,) = new_branches(layers, 4, 4.0, 1, ranks={"first": (2, 1.0)})
    assert (made.path, made.alpha) == ("first", 1.0)
    assert min(made.parameters[0].shape[:1] + made.parameters[1].shape[1:2]) == 2


def test_branches_of_another_model_do_not_act():
    branches = [replace(branch, path="elsewhere") for branch in branches_of(Tiny())]
    network = Tiny()
    with pytest.raises(TrainError, match="The model has no layer elsewhere to train"), attached(network, branches):  # fmt: skip
        pytest.fail("entered")
    assert "forward" not in network.first.__dict__


def test_training_does_not_go_on_from_what_cannot_be_trained():
    network = Tiny()
    odd = parse_state_dict({"words.oft_blocks": torch.zeros(2, 3, 3)} | pair("nowhere", torch.Generator()), "odd")  # fmt: skip
    with pytest.raises(TrainError) as failure:
        continued(branches_of(network), trainable_layers(network), odd)
    said = str(failure.value)
    assert "training cannot go on from it, because 2 of its parts are no LoRA" in said
    assert "nowhere (no such layer to train)" in said
    assert "words (" in said
    shapes = {"a1": (4, 2), "a2": (2, 4), "b1": (6, 2), "b2": (2, 4)}
    named = {f"words.{part}.weight": torch.ones(shape) for part, shape in shapes.items()}
    with pytest.raises(TrainError, match=r"because 1 of its parts .*: words \(GLoRA\)\. Put it on"):
        continued(branches_of(network), trainable_layers(network), parse_state_dict(named, "glora"))


def test_a_saved_state_of_other_layers_is_refused(tmp_path):
    run(tmp_path, replace(SETTINGS, steps=2))
    state = load_latest(tmp_path, "job")
    assert state is not None
    other = branches_of(Tiny(), replace(SETTINGS, rank=2))
    with pytest.raises(
        TrainError, match="saved state is of other layers or another rank than this"
    ):
        list(train(Tiny(), batch_at, parameters_of(other), LEVELS, SETTINGS, state=state))
    save_state(state, tmp_path / "again", "job", 1)
    assert load_latest(tmp_path / "again", "job") is not None


def test_attention_alone_leaves_convolutions_and_embeddings():
    class Net(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.time_embed = Linear(4, 4)
            inner = torch.nn.ModuleDict(
                {
                    "proj_in": Linear(4, 4),
                    "emb_layers": Linear(4, 4),
                    "conv": Conv2d(4, 4, 3),
                }
            )
            self.input_blocks = torch.nn.ModuleList([inner])

    assert list(chosen_layers(Net(), PARTS[0])) == ["input_blocks.0.proj_in"]
    assert list(chosen_layers(Net(), PARTS[1])) == ["input_blocks.0.proj_in", "input_blocks.0.conv"]
    assert len(chosen_layers(Net(), PARTS[2])) == 4
    # A transformer has no such names: there it is all that is no convolution.
    plain = torch.nn.ModuleDict({"blocks": torch.nn.ModuleList([torch.nn.ModuleDict({"attn": Linear(4, 4), "conv": Conv2d(4, 4, 3)})])})  # fmt: skip
    assert list(chosen_layers(plain, PARTS[0])) == ["blocks.0.attn"]


def test_a_sample_picture_that_is_damaged_is_named(tmp_path):
    (tmp_path / "sample-00000010.png").write_bytes(b"cut short")
    with pytest.raises(LoraFileError, match=r"sample-00000010\.png: .*Delete it to go on"):
        strips_in(tmp_path)


@pytest.mark.skipif(sys.platform == "win32", reason="no limits on the size of files there")
def test_a_log_that_cannot_be_written_is_said(tmp_path):
    import resource

    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    with training_log(tmp_path, 0) as note:
        note(StepReport(1, 4, 0.5))
        size = os.path.getsize(tmp_path / NAME)
        try:
            resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
            with pytest.raises(LoraFileError, match=rf"{NAME}: writing failed \("):
                note(StepReport(2, 4, 0.4))
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, before)
