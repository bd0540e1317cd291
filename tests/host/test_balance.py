"""Interference, balance, extraction and baking on the toy model, in the host itself."""

from __future__ import annotations

import json
from pathlib import Path

import comfy.model_management
import comfy.sd
import folder_paths
import pytest
import safetensors.torch
import torch
from comfy_extras.nodes_model_merging import CheckpointSave, ModelSave
from safetensors import safe_open

from lora_core.algebra.steps import run, steps_of
from lora_core.analysis.protection import Protection
from lora_core.files.reader import read_adapter
from lora_core.host.balancing import BalanceOrder, balance_stack
from lora_core.host.extracting import NO_MODEL_FILE, Pair, extract_difference, model_files
from lora_core.host.interfering import Feeding, measure_stack
from lora_core.host.stacking import apply_stack
from lora_core.host.targets import model_targets
from lora_core.merge.extract import ExtractOrder
from lora_core.merge.ranks import RankRule
from lora_core.resolve import matches_of
from lora_core.stack.interop import StackList, read_lora_stack
from lora_core.stack.rows import LoraStack, StackRow
from tools import toy_balance, toy_conflict, toy_measure, toy_rates
from tools.devkit.base_directory import TOY_MODEL

# Of the 16 seeds of docs/benchmarks.md; the whole of them is `python -m tools.toy_balance`.
SEEDS = (1, 2, 4)


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    """MODEL, CLIP and VAE of the toy, with its LoRAs and the planted conflict where the host finds them."""
    import tools.toy_pack  # noqa: F401 - registers the toy with the host

    work = tmp_path_factory.mktemp("balance")
    toy_conflict.write(work / "loras" / toy_conflict.NAME)
    before = folder_paths.get_output_directory()
    toy_balance.listed([work / "loras", toy_conflict.CHARACTER.parent], work / "output")
    yield toy_measure.load_base(TOY_MODEL / "loom_toy.safetensors")
    folder_paths.set_output_directory(before)
    comfy.model_management.unload_all_models()


def seen(base, name: str) -> dict[str, float]:
    case = next(case for case in toy_balance.CASES if case.name == name)
    return toy_balance.measure(base, case, SEEDS)[0]


def test_a_planted_conflict_loses_the_character_and_balance_and_merges_bring_it_back(base):
    lost = seen(base, "stacked at full strength")
    assert (lost["style"], lost["character"]) == (1.0, 0.0)
    for name in (
        "Loom Balance, protection 100 %",
        "Loom Merge, knots_ties",
        "Loom Merge, orthogonal",
    ):
        assert seen(base, name)["both"] >= 2 / 3, name


def conflict():
    return toy_balance.stack_of(toy_balance.STYLE, toy_balance.CHARACTER)


def test_nothing_asked_for_hands_on_the_very_stack(base):
    stack = conflict()
    done = balance_stack(stack, BalanceOrder(protection=Protection(0.0)), base[0], base[1])
    assert done.stack is stack
    assert "Nothing is changed" in done.report


def test_protection_changes_only_the_style_and_says_where_it_lies(base):
    with torch.inference_mode():
        done = balance_stack(conflict(), BalanceOrder(), base[0], base[1])
    style, character = read_lora_stack(done.stack).rows
    assert style.name.startswith("loom/")
    assert character == read_lora_stack(conflict()).rows[1]
    assert f"written as {style.name}" in done.report
    assert "takes" in done.report.splitlines()[0]
    assert done.report.splitlines()[1].startswith("after: The rows keep out of each other's way")
    assert folder_paths.get_full_path("loras", style.name)


def test_the_baked_and_the_live_stack_are_the_same_after_balance(base):
    with torch.inference_mode():
        stack = balance_stack(conflict(), BalanceOrder(), base[0], base[1]).stack
        latents = [
            sampled(apply_stack(read_lora_stack(stack), base[0], base[1], mode=mode), base)
            for mode in ("baked", "live")
        ]
    assert float((latents[0] - latents[1]).norm()) <= 5e-3 * float(latents[0].norm())


def sampled(applied, base) -> torch.Tensor:
    node = toy_measure.node
    (positive,) = node("CLIPTextEncode").encode(applied.clip, toy_balance.PROMPT)
    (negative,) = node("CLIPTextEncode").encode(applied.clip, "")
    (empty,) = node("EmptyLatentImage").generate(64, 64, 1)
    (latent,) = node("KSampler").sample(
        applied.model, 3, 2, 4.0, "euler", "normal", positive, negative, empty
    )
    return latent["samples"]


def test_measuring_on_what_the_layers_are_fed_leaves_the_model_as_it_was(base):
    model, clip, _ = base
    with torch.inference_mode():
        (positive,) = toy_measure.node("CLIPTextEncode").encode(clip, toy_balance.PROMPT)
        feeding = Feeding(positive, None, {"samples": torch.zeros(1, 4, 16, 16)}, 1, 5)
        first, again = (measure_stack(conflict(), model, clip, feeding) for _ in range(2))
        by_weights = measure_stack(conflict(), model, clip)
    assert first.figures == again.figures != by_weights.figures
    assert first.document["weighted"]
    assert not by_weights.document["weighted"]
    assert not any(module._forward_pre_hooks for module in model.model.modules())
    assert first.heat_map.shape[-1] == 3


def test_a_baked_stack_is_saved_by_cores_nodes_as_base_plus_lora_to_one_rounding(base, tmp_path):
    model, clip, vae = base
    rows = LoraStack((StackRow(toy_conflict.CHARACTER.name, 0.9, 0.9),))
    folder_paths.set_output_directory(str(tmp_path))
    with torch.inference_mode():
        applied = apply_stack(rows, model, clip, mode="baked")
        CheckpointSave().save(applied.model, applied.clip, vae, "baked")
        ModelSave().save(applied.model, "only_model")
    (whole,) = tmp_path.glob("baked*.safetensors")
    (part,) = tmp_path.glob("only_model*.safetensors")
    before = safetensors.torch.load_file(TOY_MODEL / "loom_toy.safetensors")
    adapter = read_adapter(toy_conflict.CHARACTER, "character")
    matches = matches_of(adapter, model_targets(model), None)
    assert len(matches) >= 60
    with safe_open(whole, "pt") as saved, safe_open(part, "pt") as alone:
        for match in matches:
            key = f"model.{match.target.key}"
            plain = before[key].double()
            exact = run(plain.clone(), steps_of([(match.adapter, 0.9)]))
            # Of the change's own sums in float32, a dozen terms each.
            summed = 4 * torch.finfo(torch.float32).eps * float((exact - plain).abs().max())
            for found in (saved.get_tensor(key), alone.get_tensor(key)):
                half = torch.finfo(found.dtype).eps / 2
                allowed = half * exact.abs() * (1 + 1e-3) + summed
                assert bool(((found.double() - exact).abs() <= allowed).all()), key


def test_extraction_gives_the_stack_back_from_models_and_from_files(base, tmp_path):
    model, clip, vae = base
    rows = LoraStack((StackRow(toy_conflict.CHARACTER.name, 0.9, 0.9),))
    order = ExtractOrder(RankRule("energy", 0.9999), 16)
    with torch.inference_mode():
        applied = apply_stack(rows, model, clip, mode="baked")
        models, clips = Pair(applied.model, model), Pair(applied.clip, clip)
        answer = extract_difference(order, NO_MODEL_FILE, NO_MODEL_FILE, models, clips)
        back = comfy.sd.load_lora_for_models(model, clip, answer.lora_model, 1.0, 1.0)
        expected, found = sampled(applied, base), back[0]
        again = type(applied)(found, back[1], None, ())
        latent = sampled(again, base)
        plain = sampled(type(applied)(model, clip, None, ()), base)
    change = float((expected - plain).norm())
    assert float((latent - expected).norm()) <= 0.05 * change
    folder_paths.set_output_directory(str(tmp_path))
    with torch.inference_mode():
        CheckpointSave().save(applied.model, applied.clip, vae, "tuned")
    folder_paths.add_model_folder_path("checkpoints", str(tmp_path))
    (saved,) = (name for name in model_files() if "tuned" in name)
    by_file = extract_difference(order, saved, "checkpoints/loom_toy.safetensors", Pair())
    assert "only the" not in by_file.report.split("not compared")[0]
    names = {key.split(".lora_")[0] for key in by_file.lora_model if ".lora_" in key}
    assert {name for name in names if name.startswith("diffusion_model.")} == {
        key.split(".lora_")[0] for key in answer.lora_model
        if ".lora_" in key and key.startswith("diffusion_model.")
    }  # fmt: skip


def test_rates_are_read_from_the_same_seeds_as_the_docs():
    assert set(SEEDS) <= set(toy_rates.SEEDS)


def test_what_only_the_base_file_has_is_said(tmp_path, monkeypatch):
    monkeypatch.setitem(
        folder_paths.folder_names_and_paths, "checkpoints", ([str(tmp_path)], {".safetensors"})
    )
    weight = torch.arange(64.0).reshape(8, 8)
    tuned = {"model.diffusion_model.a.weight": weight}
    base = {"model.diffusion_model.a.weight": weight.T.contiguous()}
    safetensors.torch.save_file(tuned, tmp_path / "tuned.safetensors")
    safetensors.torch.save_file(
        base | {"model.diffusion_model.b.weight": weight, "first_stage_model.c": weight + 1},
        tmp_path / "base.safetensors",
    )
    tuned_name, base_name = "checkpoints/tuned.safetensors", "checkpoints/base.safetensors"
    report = extract_difference(ExtractOrder(), tuned_name, base_name, Pair()).report
    assert "model.diffusion_model.b.weight: only the base model has it" in report
    assert "first_stage_model.c" not in report


def test_alphas_that_stand_in_the_metadata_alone_stay_with_a_protected_row(tmp_path, monkeypatch):
    folders = ([str(tmp_path), str(tmp_path / "output" / "loras")], {".safetensors"})
    monkeypatch.setitem(folder_paths.folder_names_and_paths, "loras", folders)
    monkeypatch.setattr(folder_paths, "output_directory", str(tmp_path / "output"))
    draw = torch.Generator().manual_seed(0)

    def peft(*names: str) -> dict[str, torch.Tensor]:
        shapes = {".lora_A.weight": (4, 16), ".lora_B.weight": (16, 4)}
        return {
            f"unet.{name}{ending}": torch.randn(shape, generator=draw)
            for name in names
            for ending, shape in shapes.items()
        }

    said = {"lora_adapter_metadata": json.dumps({"unet.lora_alpha": 1.0})}
    safetensors.torch.save_file(peft("a", "b"), tmp_path / "style.safetensors", said)
    safetensors.torch.save_file(peft("a"), tmp_path / "character.safetensors", said)
    rows = tuple(StackRow(f"{role}.safetensors", role=role) for role in ("style", "character"))
    order = BalanceOrder(protection=Protection(1.0))
    style = balance_stack(list_of(rows), order).stack.loom_stack.rows[0]
    assert style.adapter is not None
    assert style.adapter.modules["unet.b"].alpha == 1.0
    again = read_adapter(Path(folder_paths.get_full_path("loras", style.name)), style.name)
    assert {name: module.alpha for name, module in again.modules.items()} == {
        name: module.alpha for name, module in style.adapter.modules.items()
    }
    # The same LoRA is the same file, in whatever order its metadata are written.
    assert balance_stack(list_of(rows), order).stack.loom_stack.rows[0].name == style.name


def list_of(rows: tuple[StackRow, ...]) -> StackList:
    return StackList(LoraStack(rows), [row.name for row in rows])
