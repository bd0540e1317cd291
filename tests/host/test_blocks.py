"""Block strengths on the host's model classes: exact where they say nothing, bit-exact where they take away."""

from __future__ import annotations

from pathlib import Path

import comfy.lora
import comfy.model_management
import folder_paths
import pytest
import torch
from safetensors.torch import save_file
from small_models import ALL_BLOCKS, kohya_lora, small_model

from lora_core.adapters import AdapterFile
from lora_core.errors import StackError
from lora_core.files.parse import parse_state_dict
from lora_core.host.blocking import block_stack
from lora_core.host.patching import apply_patches
from lora_core.host.presets import block_presets, preset_stamp
from lora_core.host.stacking import apply_stack, stack_stamp
from lora_core.host.targets import model_targets
from lora_core.resolve import resolve
from lora_core.stack.blocktable import block_table
from lora_core.stack.interop import read_lora_stack
from lora_core.stack.rows import LoraStack, StackRow

pytestmark = pytest.mark.usefixtures("as_in_the_host")

ZEROED = {"SD1.5": "IN04", "SDXL": "IN04", "Flux": "D05"}
families = pytest.mark.parametrize("family", list(ZEROED))


@pytest.fixture(scope="module")
def models():
    made = {}

    def model(family: str):
        if family not in made:
            made[family] = small_model(family, torch.float32, **ALL_BLOCKS[family])
        return made[family]

    return model


def tensors_for(model) -> dict[str, torch.Tensor]:
    return kohya_lora(dict(model_targets(model).shapes), rank=3, alpha=2.0, seed=1)


def weights(model) -> dict[str, torch.Tensor]:
    comfy.model_management.load_models_gpu([model], force_full_load=True)
    return {key: weight.detach().cpu().clone() for key, weight in model.model.state_dict().items()}


def patched(model, tensors, blocks: str, strength: float = 0.8) -> dict[str, torch.Tensor]:
    row = StackRow("lora", strength, 0.0, blocks=blocks)
    resolved, account = resolve(
        [(row, parse_state_dict(tensors, "lora"))], model_targets(model), None, "strict"
    )
    assert account.rows[0].model.matched == account.rows[0].model.total
    return weights(apply_patches(model, None, resolved)[0])


def core_scaled(model, tensors, factors: dict[str, float], strength: float):
    """The same by core alone: each patch put on with the strength times its block's factor."""
    table = block_table(model_targets(model)).places
    key_map = comfy.lora.model_lora_keys_unet(model.model, {})
    clone = model.clone()
    for key, patch in comfy.lora.load_lora(dict(tensors), key_map).items():
        name = key if isinstance(key, str) else key[0]
        clone.add_patches({key: patch}, strength * factors.get(table[name].block, 1.0))
    return weights(clone)


@pytest.fixture
def listed(models) -> str:
    """The SDXL LoRA as a file that the host lists."""
    folder = Path(folder_paths.get_folder_paths("loras")[0])
    folder.mkdir(parents=True, exist_ok=True)
    save_file(tensors_for(models("SDXL")), folder / "blocks_test.safetensors")
    folder_paths.filename_list_cache.clear()
    return "blocks_test.safetensors"


@families
def test_zeroing_a_block_leaves_exactly_its_weights_as_they_were(family, models):
    model = models(family)
    tensors, table = tensors_for(model), block_table(model_targets(model))
    base, whole = weights(model), patched(model, tensors, "")
    found = patched(model, tensors, f"{ZEROED[family]}=0")
    inside = set(table.weights[ZEROED[family]])
    changed = 0
    for key, weight in found.items():
        assert torch.equal(weight, base[key] if key in inside else whole[key]), key
        changed += key in inside and not torch.equal(whole[key], base[key])
    assert changed > 5


@families
def test_all_ones_are_no_block_strengths_bit_for_bit(family, models):
    model = models(family)
    tensors = tensors_for(model)
    whole, ones = patched(model, tensors, ""), patched(model, tensors, "*=1; BASE=1")
    assert all(torch.equal(whole[key], ones[key]) for key in whole)


@families
def test_block_strengths_are_cores_patches_scaled_one_by_one(family, models):
    model = models(family)
    tensors = tensors_for(model)
    names = block_table(model_targets(model)).numbered()
    factors = {name: round(-0.5 + 0.1 * (place % 23), 2) for place, name in enumerate(names)}
    text = "; ".join(f"{name}={factor}" for name, factor in factors.items())
    mine = patched(model, tensors, text, strength=0.7)
    core = core_scaled(model, tensors, factors, strength=0.7)
    for key, expected in core.items():
        torch.testing.assert_close(mine[key], expected, rtol=2e-6, atol=2e-6, msg=key)


def test_zeroing_q_of_fused_weights_leaves_exactly_its_rows(models):
    model = models("Flux")
    tensors = tensors_for(model)
    base, whole = weights(model), patched(model, tensors, "")
    found = patched(model, tensors, "D05.attn.q=0; S07.attn.q=0")
    width = 64
    for name in (
        "double_blocks.5.img_attn.qkv",
        "double_blocks.5.txt_attn.qkv",
        "single_blocks.7.linear1",
    ):
        key = f"diffusion_model.{name}.weight"
        assert torch.equal(found[key][:width], base[key][:width])
        torch.testing.assert_close(found[key][width:], whole[key][width:], rtol=1e-6, atol=1e-6)
        assert not torch.equal(whole[key][:width], base[key][:width])


@pytest.mark.parametrize(
    ("family", "text", "kept"),
    [("SD1.5", "SD-MIDALL", None), ("SDXL", "SDXL-MIDALL", "M00"), ("Flux", "FLUX-SINGLE-1to10", "S00-S09")],
)  # fmt: skip
def test_a_preset_keeps_its_blocks_on_the_real_layouts(family, text, kept, models):
    model = models(family)
    tensors = tensors_for(model)
    if kept is None:
        with pytest.raises(StackError, match="'SD-MIDALL' is neither a preset nor an entry"):
            patched(model, tensors, text)
        return
    preset = patched(model, tensors, text)
    by_name = patched(model, tensors, f"*=0; BASE=1; {kept}=1")
    assert all(torch.equal(preset[key], by_name[key]) for key in preset)


def test_a_lora_with_the_first_singles_alone_is_applied_where_the_vector_says(models):
    """19 of 19: other packs count the blocks of the file and apply none."""
    model = models("Flux")
    tensors = {
        key: tensor
        for key, tensor in tensors_for(model).items()
        if any(key.startswith(f"lora_unet_single_blocks_{index}_") for index in range(19))
    }
    base = weights(model)
    found = patched(model, tensors, ",".join(["0"] * 20 + ["1"] * 19 + ["0"] * 19))
    changed = {key.split(".")[2] for key in base if not torch.equal(base[key], found[key])}
    assert changed == {str(index) for index in range(19)}


def test_the_node_puts_blocks_onto_rows_that_travel_and_measures_and_draws_them(models, listed):
    model = models("SDXL")
    done = block_stack([(listed, 0.8, 0.8)], "IN04=0.5", 0, "auto", "SDXL-ALL", 0, model)
    assert type(done.stack) is not list
    assert list(done.stack) == [(listed, 0.8, 0.8)]
    assert all(type(row) is tuple and len(row) == 3 for row in done.stack)
    assert "IN04=0.5" in done.report
    assert "12 values in inspire's order" in done.report
    assert "other packs apply the rows without them" in done.report
    assert done.images.shape[0] == 1
    assert done.images.shape[2:] == (768, 3)
    applied = apply_stack(read_lora_stack(done.stack), model, None)
    assert applied.account is not None
    assert "% of its energy is left" in applied.account.report()
    by_hand = patched(model, tensors_for(model), "SDXL-ALL; IN04=0.5")
    found = weights(applied.model)
    assert all(torch.equal(found[key], by_hand[key]) for key in found)


def test_the_node_without_a_model_checks_the_form_and_says_what_to_connect(listed):
    rows = [(listed, 1.0, 1.0)]
    done = block_stack(rows, "IN04=0.5", 1, "auto", "none", 0)
    assert "Connect MODEL" in done.report
    with pytest.raises(StackError, match="line 2, column 2: 'high' is not a finite number"):
        block_stack(rows, "IN05=0\n IN04=high", 1, "auto", "none", 0)
    with pytest.raises(StackError, match="Row 2 is not there"):
        block_stack(rows, "IN04=1", 2, "auto", "none", 0)


def test_preset_files_in_the_users_folder_are_found(tmp_path, monkeypatch):
    own = tmp_path / "lora_loom"
    own.mkdir()
    (own / "lbwpresets.txt").write_text("MINE:" + ",".join("1" * 26), "utf-8")
    monkeypatch.setattr(folder_paths, "get_user_directory", lambda: str(tmp_path))
    assert block_presets()["MINE"].dialect == "hako"


def test_a_preset_file_that_changes_changes_what_names_its_presets(tmp_path, monkeypatch):
    own = tmp_path / "lora_loom"
    own.mkdir()
    monkeypatch.setattr(folder_paths, "get_user_directory", lambda: str(tmp_path))
    # Rows that came in memory have no file to look at.
    lora = AdapterFile("made here", {})
    texts = ("Mine; IN04=0", "IN04=0", "SD-ALL")
    stacks = [LoraStack((StackRow("made here", blocks=text, adapter=lora),)) for text in texts]

    def stamps(ratio: float) -> list[str]:
        (own / "lbwpresets.txt").write_text("MINE:" + ",".join([str(ratio)] * 26), "utf-8")
        return [*map(stack_stamp, stacks), *(preset_stamp("none", text) for text in texts)]

    before, after = stamps(1), stamps(0.5)
    assert [one == other for one, other in zip(before, after, strict=True)] == [
        False,
        True,
        True,
    ] * 2
