"""The points of a sweep as the host samples them: each is the stack at its strengths, and they share what can be shared."""

from __future__ import annotations

from dataclasses import replace

import comfy.model_management
import folder_paths
import pytest
import torch
from safetensors.torch import save_file
from sampling import sampled
from small_models import SAMPLED, kohya_lora, small_model

from lora_core.errors import SweepError
from lora_core.files import reader
from lora_core.host.contact import save_sheets
from lora_core.host.repatch import repatch
from lora_core.host.stacking import apply_stack
from lora_core.host.sweeping import Swept, sweep_stack
from lora_core.host.targets import model_targets
from lora_core.stack.blocktable import block_table
from lora_core.stack.interop import StackList
from lora_core.stack.rows import LoraStack, StackRow
from lora_core.sweep.points import AxisLabels, Point, Sweep
from lora_core.sweep.values import AxisOrder

pytestmark = pytest.mark.usefixtures("as_in_the_host")

NAMES = ("sweep_style.safetensors", "sweep_character.safetensors")
NONE = AxisOrder("y", "none")
STRENGTHS = AxisOrder("x", "strength", 1, values="0, 0.4, 1")


@pytest.fixture
def loras(tmp_path, monkeypatch):
    """Files for a model, in a loras folder of their own; gives (model) -> the stack of both."""
    _, extensions = folder_paths.folder_names_and_paths["loras"]
    monkeypatch.setitem(folder_paths.folder_names_and_paths, "loras", ([str(tmp_path)], extensions))

    def write(model, *strengths: float, **fields) -> StackList:
        shapes = dict(model_targets(model).shapes)
        rows = []
        for number, (name, strength) in enumerate(zip(NAMES, strengths, strict=False)):
            save_file(
                kohya_lora(shapes, rank=4, alpha=2.0, seed=number, scale=0.1), tmp_path / name
            )
            rows.append(StackRow(name, strength, 0.0, **fields))
        return StackList(LoraStack(tuple(rows)), [row.name for row in rows])

    return write


def single(model, stack: StackList, strength: float, mode: str):
    rows = stack.loom_stack.rows
    first = StackRow(rows[0].name, strength, 0.0)
    return apply_stack(LoraStack((first, *rows[1:])), model, None, "auto", mode).model


def weights(model) -> dict[str, torch.Tensor]:
    comfy.model_management.load_models_gpu([model], force_full_load=True)
    return {key: weight.clone() for key, weight in model.model.state_dict().items()}


@pytest.mark.parametrize("mode", ["baked", "live"])
@pytest.mark.parametrize("family", SAMPLED)
def test_every_point_samples_as_the_single_stack_does_to_the_bit(family, mode, loras):
    model = small_model(family, torch.float32)
    stack = loras(model, 0.8, 0.6)
    swept = sweep_stack(model, None, stack, STRENGTHS, NONE, "auto", mode)
    found = [sampled(each, family, steps=1) for each in swept.models]
    for strength, latent in zip((0.0, 0.4, 1.0), found, strict=True):
        expected = sampled(single(model, stack, strength, mode), family, steps=1)
        assert torch.equal(latent, expected), strength
    assert torch.equal(
        sampled(model, family, steps=1),
        sampled(small_model(family, torch.float32), family, steps=1),
    )


@pytest.mark.parametrize("family", SAMPLED)
def test_without_a_block_its_weights_are_the_base_to_the_bit_and_the_others_are_not(family, loras):
    model = small_model(family, torch.float16)
    base = weights(model)
    table = block_table(model_targets(model))
    block = table.numbered()[-1]
    stack = loras(model, 0.8)
    order = AxisOrder("x", "blocks: leave one out", 1, values=block)
    swept = sweep_stack(model, None, stack, order, NONE, "auto", "baked")
    whole, without = (weights(each) for each in swept.models)
    for key in base:
        if key in table.weights[block]:
            assert torch.equal(without[key], base[key])
        else:
            assert torch.equal(without[key], whole[key])
    assert any(not torch.equal(whole[key], base[key]) for key in table.weights[block])


def test_files_are_read_once_for_all_points_and_the_models_share_the_weights(loras, monkeypatch):
    model = small_model("SD1.5", torch.float32)
    stack = loras(model, 0.8, 0.6)
    read, opened = reader.read_tensors, []
    monkeypatch.setattr(
        reader, "read_tensors", lambda path, label: opened.append(label) or read(path, label)
    )
    swept = sweep_stack(
        model, None, stack, STRENGTHS, AxisOrder("y", "strength", 2, values="0.2, 0.9")
    )
    assert sorted(opened) == sorted(NAMES)
    assert len(swept.models) == 6
    assert {id(each.model) for each in swept.models} == {id(model.model)}
    assert swept.sweep.hashes.keys() == set(NAMES)


def test_points_that_need_the_same_model_are_the_same_model(loras):
    model = small_model("SD1.5", torch.float32)
    swept: Swept = sweep_stack(
        model, None, loras(model, 0.8), AxisOrder("x", "clip strength", 1), NONE
    )
    assert len(swept.models) == 11
    assert len({id(each) for each in swept.models}) == 1


def test_a_sweep_over_blocks_reloads_nothing_after_its_first_point(loras):
    model = small_model("SD1.5", torch.float32)
    order = AxisOrder("x", "blocks: leave one out", 1)
    swept = sweep_stack(model, None, loras(model, 0.8), order, NONE, "auto", "baked")
    comfy.model_management.load_models_gpu([swept.models[0]], force_full_load=True)
    assert len(swept.models) > 5
    for each in swept.models[1:]:
        assert repatch(each)


def test_merge_methods_sample_as_the_stack_does_where_they_are_exact(loras):
    model = small_model("SD1.5", torch.float32)
    order = AxisOrder("x", "merge method", values="concat, ties")
    swept = sweep_stack(model, None, loras(model, 0.8, 0.6), order, NONE)
    stacked, concat, ties = (sampled(each, "SD1.5", steps=1) for each in swept.models)
    torch.testing.assert_close(concat, stacked, rtol=1e-3, atol=1e-3)
    assert (ties - stacked).norm() > 10 * (concat - stacked).norm()
    assert [point.merge for point in swept.sweep.points] == ["", "concat", "ties"]


def test_rows_that_act_in_other_regions_are_other_models(loras):
    """Of one file and one strength, so that only the region tells them apart."""
    model = small_model("SD1.5", torch.float32)
    (first,) = loras(model, 0.8).loom_stack.rows
    rows = tuple(replace(first, regions=(mark,)) for mark in ("left", "right"))
    stack = StackList(LoraStack(rows), [row.name for row in rows])
    swept = sweep_stack(model, None, stack, AxisOrder("x", "rows: only one"), NONE)
    assert len({id(each) for each in swept.models}) == 3


@pytest.fixture
def output(tmp_path, monkeypatch):
    monkeypatch.setattr(folder_paths, "output_directory", str(tmp_path / "out"))
    monkeypatch.setattr(folder_paths, "temp_directory", str(tmp_path / "temp"))
    return tmp_path / "out"


def saved(prefix: str):
    sweep = Sweep(
        AxisLabels("a: strength", ("1",)),
        AxisLabels("", ("",)),
        (Point(0, 0, "1", "", False, ()),),
    )
    return save_sheets([torch.zeros(1, 8, 8, 3)], sweep, prefix, 0, "")


@pytest.mark.parametrize("prefix", ["sheets/one", "sheets/"])
def test_a_sheet_never_takes_the_place_of_another(output, prefix):
    files = [saved(prefix).ui["images"][0]["filename"] for _ in range(3)]
    assert len(set(files)) == 3
    assert len(list(output.rglob("*.png"))) == len(list(output.rglob("*.json"))) == 3


@pytest.mark.parametrize("prefix", ["../out2/x", "/etc/x", "a\0b", "a/" + "x" * 300, "\ud800"])
def test_a_place_outside_the_output_folder_or_no_place_at_all_is_refused(output, prefix):
    with pytest.raises(SweepError, match="is no place in the output folder"):
        saved(prefix)
    assert not output.exists()
