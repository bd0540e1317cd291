"""What the functions behind the nodes refuse, in their words; all in this process, over the host's own classes."""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import comfy.model_management
import comfy.sd
import folder_paths
import pytest
import torch
from safetensors.torch import save_file
from small_models import kohya_lora, small_model

from lora_core.adapters import LowRank
from lora_core.errors import (
    DatasetError,
    LoraFileError,
    MergeError,
    PatchError,
    SaveError,
    StackError,
    SweepError,
    TrainError,
)
from lora_core.files.identity import real_stamp
from lora_core.files.parse import parse_state_dict
from lora_core.host import hashing, training_run
from lora_core.host.contact import save_sheets
from lora_core.host.datasets import make_dataset
from lora_core.host.extracting import NO_MODEL_FILE, Pair, extract_difference
from lora_core.host.interfering import Feeding, measure_stack
from lora_core.host.merging import resize_one
from lora_core.host.patching import StackAdapter, apply_patches
from lora_core.host.saving import NO_FILE, SaveOrder, save_lora
from lora_core.host.sweeping import sweep_stack
from lora_core.host.targets import clip_targets
from lora_core.host.training import NEW, TrainOrder, train_lora
from lora_core.host.training_branches import branches_of
from lora_core.host.training_data import Encoders, encode_all, encoded_text
from lora_core.merge.extract import ExtractOrder
from lora_core.merge.ranks import RankRule
from lora_core.resolve import PartPatches, ResolvedPatches, Term
from lora_core.stack.rows import StackRow
from lora_core.sweep.points import AxisLabels, Point, Sweep
from lora_core.sweep.values import AxisOrder
from lora_core.targets import Target
from lora_core.train.batch import read_batch
from lora_core.train.cache import RamStore
from lora_core.train.dataset import Dataset, DatasetSettings
from lora_core.train.samples import Plan
from lora_core.train.settings import SampleWish, TrainSettings
from tools.devkit.base_directory import TOY_MODEL

CPU = torch.device("cpu")
SETTINGS = TrainSettings(steps=2, rank=2, alpha=2.0, batch_size=1, samples=SampleWish(-1))


@pytest.fixture(autouse=True)
def own_folders(tmp_path, monkeypatch):
    """An index, a cache and jobs of its own; a checkpoints folder and a loras folder of this test."""
    monkeypatch.setattr(folder_paths, "get_system_user_directory", lambda name: str(tmp_path / name))  # fmt: skip
    monkeypatch.setattr(folder_paths, "user_directory", str(tmp_path / "user"))
    for kind in ("checkpoints", "loras"):
        (tmp_path / kind).mkdir()
        monkeypatch.setitem(
            folder_paths.folder_names_and_paths,
            kind,
            ([str(tmp_path / kind)], {".safetensors", ".sft"}),
        )
        folder_paths.filename_list_cache.pop(kind, None)
    yield
    for kind in ("checkpoints", "loras"):
        folder_paths.filename_list_cache.pop(kind, None)


@pytest.fixture(scope="module")
def toy():
    """MODEL, CLIP and VAE of the toy checkpoint."""
    import tools.toy_pack  # noqa: F401 - registers the toy with the host

    with torch.inference_mode():
        found = comfy.sd.load_checkpoint_guess_config(str(TOY_MODEL / "loom_toy.safetensors"))
    yield found[:3]
    comfy.model_management.unload_all_models()


def dataset(size: int = 64) -> Dataset:
    drawn = torch.rand(2, size, size, 3, generator=torch.Generator().manual_seed(1))
    return Dataset(read_batch(drawn, "a ring").images, DatasetSettings(resolution=size))


# Stacks, sweeps, saving


def test_nothing_to_do_is_said_with_what_to_connect():
    with pytest.raises(SweepError, match="nothing to sweep: the LORA_STACK has no rows"):
        sweep_stack(None, None, [], AxisOrder("x", "strength"), AxisOrder("y", "none"))
    with pytest.raises(MergeError, match="Nothing to resize: choose a LoRA file, or connect a"):
        resize_one(None, None, RankRule("rank", 4), "auto")
    with pytest.raises(StackError, match="A conditioning is connected and no MODEL"):
        measure_stack([], None, None, Feeding(positive=[[torch.zeros(1, 4, 8), {}]]))


@pytest.mark.parametrize(
    ("given", "name", "row", "said"),
    [
        (None, NO_FILE, None, "and neither is given"),
        ({"m": torch.ones(1)}, "a.safetensors", None, "or a file of the list, and both are given"),
        ({"m": torch.ones(1)}, "a.safetensors", StackRow("b.safetensors"), "and all are given"),
    ],
)
def test_exactly_one_lora_is_saved(given, name, row, said):
    with pytest.raises(SaveError, match=said):
        save_lora(given, name, SaveOrder("out"), row=row)


def test_pictures_of_the_points_must_be_equally_many():
    axis = AxisLabels("strength", ("0", "1"))
    points = tuple(Point(n, 0, str(n), "", n == 0, ()) for n in range(2))
    images = [torch.rand(count, 16, 16, 3) for count in (1, 2)]
    with pytest.raises(SweepError, match=r"different numbers of pictures: \[1, 2\]"):
        save_sheets(images, Sweep(axis, AxisLabels("", ("",)), points), "loom/x", 64, "")


def test_a_file_that_goes_or_changes_between_reading_and_hashing_is_not_named_by_a_hash(tmp_path):
    path = tmp_path / "loras" / "a.safetensors"
    save_file({"m.diff": torch.ones(4)}, path)
    stamp = real_stamp(path)
    assert hashing.hashes_of({stamp: "SD1.5"})[stamp].autov3 is not None
    os.utime(path, ns=(1, 1))
    with pytest.raises(LoraFileError, match=r"a\.safetensors: the file changed while it was read"):
        hashing.hashes_of({stamp: None})
    gone = tmp_path / "loras" / "b.safetensors"
    save_file({"m.diff": torch.ones(4)}, gone)
    stamp = real_stamp(gone)
    gone.unlink()
    with pytest.raises(LoraFileError, match=r"b\.safetensors"):
        hashing.hashes_of({stamp: None})


# Patching


def adapter(out: int, inner: int) -> LowRank:
    (made,) = parse_state_dict(
        {"m.lora_up.weight": torch.ones(out, 2), "m.lora_down.weight": torch.ones(2, inner)}, "m"
    ).modules.values()
    assert isinstance(made, LowRank)
    return made


def patches(key: str, *adapters: LowRank) -> ResolvedPatches:
    return ResolvedPatches(
        PartPatches({Target(key): tuple(Term(0, each, 1.0) for each in adapters)})
    )


def test_a_weight_that_the_host_does_not_have_is_refused_by_name():
    model = small_model("SD1.5", torch.float32)
    before = dict(model.patches)
    with pytest.raises(PatchError, match=r"refused 1 of 1 patches, first diffusion_model\.nowhere"):
        apply_patches(model, None, patches("diffusion_model.nowhere.weight", adapter(4, 4)))
    assert model.patches == before


def test_steps_that_do_not_fit_the_weight_are_refused_with_both():
    (steps,) = patches("diffusion_model.x.weight", adapter(4, 4)).model.steps.values()
    made = StackAdapter({"diffusion_model.x.weight"}, (steps, False))
    with pytest.raises(
        PatchError, match=r"1 steps could not be carried out on a weight of shape \(3"
    ):
        made.calculate_weight(torch.zeros(3, 5), "x", 1.0, 1.0, None, lambda t: t)
    half = torch.zeros(4, 4, dtype=torch.float16)
    assert torch.equal(
        made.calculate_weight(half, "x", 1.0, 1.0, None, lambda t: t), torch.full_like(half, 2.0)
    )


def test_rows_that_are_rearranged_for_good_are_refused():
    (steps,) = patches("x", adapter(4, 4)).model.steps.values()
    multiplied = (*steps, ("ia3", (torch.ones(4),), (False, 1.0)))
    made = StackAdapter({"x"}, (multiplied, True))
    with pytest.raises(PatchError, match="rearranged in a way that cannot be turned back"):
        made.calculate_weight(
            torch.arange(16.0).view(4, 4), "x", 1.0, 1.0, None, lambda t: t.roll(1, 0)
        )


# Extraction


def test_two_models_of_one_kind_are_extracted():
    with pytest.raises(MergeError, match="Here 1 MODELs are connected and 0 files chosen"):
        extract_difference(ExtractOrder(), NO_MODEL_FILE, NO_MODEL_FILE, Pair(tuned=object()))
    tuned, base = (small_model(family, torch.float32) for family in ("SD1.5", "Flux"))
    with pytest.raises(MergeError, match=r"The tuned MODEL is SD1\.5, the base MODEL Flux: their"):
        extract_difference(ExtractOrder(), NO_MODEL_FILE, NO_MODEL_FILE, Pair(tuned, base))


def test_files_that_are_gone_or_hold_scaled_numbers_are_not_extracted(tmp_path):
    with pytest.raises(LoraFileError, match="'checkpoints/gone.safetensors' is not in the models"):
        extract_difference(ExtractOrder(), "checkpoints/gone.safetensors", "checkpoints/x", Pair())
    plain = {"model.diffusion_model.a.weight": torch.ones(4, 4)}
    scaled = {**plain, "model.diffusion_model.a.scale_weight": torch.ones(1)}
    for name, tensors in (("plain", plain), ("scaled", scaled)):
        save_file(tensors, tmp_path / "checkpoints" / f"{name}.safetensors")
    with pytest.raises(
        MergeError, match=r"scaled\.safetensors: its weights are quantised with scales"
    ):
        extract_difference(
            ExtractOrder(),
            "checkpoints/plain.safetensors",
            "checkpoints/scaled.safetensors",
            Pair(),
        )


# Datasets and trainings


def test_pictures_come_from_one_place(tmp_path):
    images, masks = torch.rand(1, 64, 64, 3), torch.ones(1, 64, 64)
    with pytest.raises(DatasetError, match="Both IMAGE is connected and the folder 'set' is named"):
        make_dataset(DatasetSettings(), "set", "", "", 1, images)
    with pytest.raises(DatasetError, match="MASK goes with IMAGE. With a folder put masks beside"):
        make_dataset(DatasetSettings(), "set", "", "", 1, None, masks)
    with pytest.raises(DatasetError, match="There is nothing to learn from. Name a folder inside"):
        make_dataset(DatasetSettings(), " ", "", "", 1)


def test_a_training_needs_model_clip_vae_and_a_dataset():
    order = TrainOrder(SETTINGS, "x")
    with pytest.raises(TrainError, match="Loom Train needs MODEL, VAE: connect the checkpoint"):
        train_lora(None, object(), None, dataset(), order)
    with pytest.raises(TrainError, match="dataset must come from Loom Dataset"):
        train_lora(None, None, None, {"pictures": []}, order)  # pyright: ignore[reportArgumentType]


def test_a_vae_or_text_encoder_that_training_cannot_keep_is_refused():
    broken = SimpleNamespace(encode=lambda pixels: torch.full((1, 4, 8, 8), float("nan")))
    encoders = Encoders(broken, None, lambda latent: latent, CPU, RamStore(1 << 20), "vae", "clip")
    with pytest.raises(
        TrainError, match=r"image \d: the VAE made NaN of it. Run the VAE in float32"
    ):
        encode_all(Plan(dataset()), encoders, lambda done: None)
    hooked = SimpleNamespace(
        tokenize=lambda caption: caption,
        encode_from_tokens=lambda tokens, **_: {"cond": torch.ones(1), "hooks": object()},
    )
    with pytest.raises(TrainError, match="The text encoder gives hooks besides tensors"):
        encoded_text(hooked, "a ring")


def test_a_lora_with_a_text_encoders_part_needs_text_encoders_that_learn(toy, tmp_path):
    model, clip, _ = toy
    name = "text_encoders.clip_l.transformer.text_model.encoder.layers.0.mlp.fc1"
    known = clip_targets(clip)
    out, inner = known.shapes[known.names[name].key]
    tensors = {
        f"{name}.lora_up.weight": torch.ones(out, 2),
        f"{name}.lora_down.weight": torch.ones(2, inner),
        f"{name}.alpha": torch.tensor(2.0),
    }
    save_file(tensors, Path(tmp_path, "loras", "words.safetensors"))
    folder_paths.filename_list_cache.pop("loras", None)
    with pytest.raises(TrainError, match=r"words\.safetensors: \d of its tensors are for the text"):
        branches_of(model, clip, SETTINGS, "words.safetensors")
    both = branches_of(model, clip, replace(SETTINGS, text_rate=0.5), "words.safetensors")
    assert any(torch.equal(p.cpu(), torch.ones(out, 2)) for b in both.text for p in b.parameters)


def test_too_little_memory_is_said_with_what_to_lower(toy, monkeypatch):
    def full(*_):
        raise comfy.model_management.OOM_EXCEPTION("no memory")

    monkeypatch.setattr(training_run, "followed", full)
    model, clip, vae = toy
    order = TrainOrder(SETTINGS, "full", existing=NEW)
    with torch.inference_mode(), pytest.raises(TrainError, match="memory"):
        train_lora(model, clip, vae, dataset(), order)


def test_a_lora_for_every_weight_of_a_small_model_is_taken():
    """The other side of the refusals above: what fits is on, all of it."""
    model = small_model("SD1.5", torch.float32)
    shapes = {k: tuple(t.shape) for k, t in model.model.state_dict().items()}
    file = parse_state_dict(kohya_lora(shapes, rank=2, alpha=2.0, seed=1), "all")
    (name,) = [n for n in file.modules if n.endswith("input_blocks_0_0")]
    key = "diffusion_model.input_blocks.0.0.weight"
    low = file.modules[name]
    assert isinstance(low, LowRank)
    patched, _ = apply_patches(model, None, patches(key, low))
    assert list(patched.patches) == [key]
    assert not model.patches
