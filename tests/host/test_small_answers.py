"""What is said and done where there is little to do; all in this process, over the host's own classes."""

from __future__ import annotations

from dataclasses import replace
from types import SimpleNamespace

import folder_paths
import numpy as np
import pytest
import torch

from lora_core.analysis.balance import OVERLAP
from lora_core.analysis.protection import Protection
from lora_core.errors import StackError
from lora_core.files.parse import parse_state_dict
from lora_core.host import presets
from lora_core.host.balancing import BalanceOrder, balance_stack
from lora_core.host.stacking import outgoing
from lora_core.host.training_data import Encoders, batch_of
from lora_core.stack.blockpresets import BUILT_IN
from lora_core.stack.interop import StackList
from lora_core.stack.rows import LoraStack, StackRow
from lora_core.train.batch import read_batch
from lora_core.train.cache import RamStore
from lora_core.train.dataset import Dataset, DatasetSettings
from lora_core.train.samples import Plan

NAME = "lora_unet_input_blocks_4_1_proj_in"


def row(name: str, role: str = "free", seed: int = 1, model: float = 1.0) -> StackRow:
    """A row that carries its LoRA: one matrix of rank 2."""
    generator = torch.Generator().manual_seed(seed)
    tensors = {
        f"{NAME}.lora_up.weight": torch.randn(8, 2, generator=generator),
        f"{NAME}.lora_down.weight": torch.randn(2, 8, generator=generator),
        f"{NAME}.alpha": torch.tensor(2.0),
    }
    return StackRow(name, model, model, role, adapter=parse_state_dict(tensors, name))


def stack(*rows: StackRow) -> StackList:
    return outgoing(LoraStack(rows))


@pytest.fixture(autouse=True)
def own_output(tmp_path, monkeypatch):
    monkeypatch.setattr(folder_paths, "output_directory", str(tmp_path / "output"))
    monkeypatch.setattr(folder_paths, "user_directory", str(tmp_path / "user"))
    monkeypatch.setitem(
        folder_paths.folder_names_and_paths,
        "loras",
        ([str(tmp_path / "output" / "loras")], {".safetensors"}),
    )
    folder_paths.filename_list_cache.pop("loras", None)
    yield
    folder_paths.filename_list_cache.pop("loras", None)


# Balance


def test_a_lone_row_has_nothing_to_be_compared_with():
    given = stack(row("a", "style"))
    done = balance_stack(given, BalanceOrder())
    assert done.stack is given
    assert "before: 1 rows are switched on; rows are compared from 2 to" in done.report
    assert "protection has nothing to protect: give a row the role character" in done.report
    assert done.images.shape[0] == 2


@pytest.mark.parametrize(
    ("roles", "said"),
    [
        (("free", "free"), "protection has nothing to protect: give a row the role character"),
        (("character", "free"), "protection has no row to keep off: give one the role style or"),
    ],
)
def test_strengths_are_changed_and_why_protection_did_nothing_is_said(roles, said):
    given = stack(*(row(name, role) for name, role in zip("ab", roles, strict=True)))
    done = balance_stack(given, BalanceOrder(OVERLAP))
    # The rows are the same: each is met with twice its strength.
    assert [model for _, model, _ in done.stack] == pytest.approx([0.5, 0.5], abs=2e-3)
    assert said in done.report
    assert "a: model strength 1 -> 0.5" in done.report
    bare = balance_stack(given, BalanceOrder(OVERLAP, protection=Protection(0.0)))
    assert "protection" not in bare.report


def test_rows_without_a_common_weight_need_no_protection():
    other = row("b", "character", 2).adapter
    assert other is not None
    moved = {"lora_unet_output_blocks_3_1_proj_in": next(iter(other.modules.values()))}
    character = StackRow("b", 1.0, 1.0, "character", adapter=replace(other, modules=moved))
    done = balance_stack(stack(row("a", "style"), character), BalanceOrder())
    assert "protection changes nothing: the rows have no weight in common" in done.report


# Presets, masks


def test_a_preset_file_that_cannot_be_read_leaves_the_built_in_ones_to_the_page(monkeypatch):
    def broken():
        raise StackError("The preset file mine.txt cannot be read")

    monkeypatch.setattr(presets, "block_presets", broken)
    assert presets.editor_data() == presets.editor_tables(BUILT_IN)


def test_a_mask_is_shrunk_to_the_latents_and_pictures_without_one_learn_everywhere():
    images = torch.rand(2, 64, 64, 3, generator=torch.Generator().manual_seed(1))
    masks = torch.ones(2, 64, 64)
    masks[0, :, :32] = 0
    plan = Plan(
        Dataset(read_batch(images, "a ring", 1, masks).images, DatasetSettings(resolution=64))
    )
    vae = SimpleNamespace(encode=lambda pixels: torch.ones(1, 4, 8, 8))
    encoders = Encoders(
        vae, None, lambda latent: latent, torch.device("cpu"), RamStore(1 << 20), "v", "c", True
    )
    samples = tuple(plan.sample(number, 0) for number in range(2))
    made = batch_of(plan, samples, encoders)
    assert made.masks is not None
    assert made.masks.shape == (2, 1, 8, 8)
    by_image = {sample.image: mask[0] for sample, mask in zip(samples, made.masks, strict=True)}
    left = by_image[0].mean(0)
    assert np.allclose(by_image[1], by_image[1].max())
    assert left[:4].max() < left[4:].min()
