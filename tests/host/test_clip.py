"""The text encoder of the toy checkpoint, through the host's own loader: names, weights, and nothing left behind."""

from __future__ import annotations

import comfy.model_management
import comfy.sd
import pytest
import torch

from lora_core.files.parse import parse_state_dict
from lora_core.host.stacking import apply_stack
from lora_core.host.targets import clip_targets
from lora_core.stack.rows import LoraStack, StackRow
from tools.devkit.base_directory import TOY_MODEL

LAYER = "clip_l.transformer.text_model.encoder.layers.0."
# (module as the scheme says it, endings of its halves, the layer it means)
SCHEMES = {
    "kohya": ("lora_te_text_model_encoder_layers_0_mlp_fc1", ("lora_up", "lora_down"), "mlp.fc1"),
    "kohya, SDXL's first": (
        "lora_te1_text_model_encoder_layers_0_mlp_fc1",
        ("lora_up", "lora_down"),
        "mlp.fc1",
    ),
    "diffusers, PEFT": (
        "text_encoder.text_model.encoder.layers.0.self_attn.q_proj",
        ("lora_B", "lora_A"),
        "self_attn.q_proj",
    ),
    "diffusers, old": (
        "text_encoder.text_model.encoder.layers.0.self_attn.q_proj",
        ("lora_linear_layer.up", "lora_linear_layer.down"),
        "self_attn.q_proj",
    ),
    "diffusers, oldest": (
        "text_encoder.text_model.encoder.layers.0.self_attn.to_out_lora",
        ("up", "down"),
        "self_attn.out_proj",
    ),
    "PEFT alone": (
        "base_model.model.text_model.encoder.layers.0.mlp.fc2",
        ("lora_B", "lora_A"),
        "mlp.fc2",
    ),
    "ComfyUI": (
        "text_encoders.clip_l.transformer.text_model.encoder.layers.0.mlp.fc2",
        ("lora_up", "lora_down"),
        "mlp.fc2",
    ),
    "ComfyUI without prefix": (
        "clip_l.transformer.text_model.encoder.layers.0.mlp.fc2",
        ("lora_up", "lora_down"),
        "mlp.fc2",
    ),
}


@pytest.fixture(scope="module")
def toy():
    """MODEL and CLIP of the toy checkpoint."""
    import tools.toy_pack  # noqa: F401 - registers the toy with the host

    with torch.inference_mode():
        model, clip, *_ = comfy.sd.load_checkpoint_guess_config(
            str(TOY_MODEL / "loom_toy.safetensors"), output_vae=False
        )
    yield model, clip
    comfy.model_management.unload_all_models()


def halves(
    module: str, endings: tuple[str, str], shape: tuple[int, ...], seed: int = 0
) -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    up, down = endings
    return {
        f"{module}.{up}.weight": torch.randn(shape[0], 3, generator=generator) * 0.1,
        f"{module}.{down}.weight": torch.randn(3, shape[1], generator=generator) * 0.1,
    }


def loaded(clip) -> dict[str, torch.Tensor]:
    """The weights of a CLIP as they are when it encodes."""
    comfy.model_management.load_models_gpu([clip.patcher], force_full_load=True)
    # The toy's text projection is in no checkpoint: its numbers are whatever the memory held, NaN among them.
    return {
        key: weight.detach().cpu().clone().nan_to_num()
        for key, weight in clip.cond_stage_model.state_dict().items()
    }


def row_of(tensors: dict[str, torch.Tensor], strength: float = 0.7, name: str = "x") -> StackRow:
    return StackRow(name, 0.0, strength, adapter=parse_state_dict(tensors, name))


@pytest.mark.parametrize("scheme", SCHEMES)
def test_a_text_encoder_module_is_found_under_every_scheme(scheme, toy):
    _, clip = toy
    module, endings, layer = SCHEMES[scheme]
    key = f"{LAYER}{layer}.weight"
    tensors = halves(module, endings, clip_targets(clip).shapes[key])
    _, patched, account = _applied(tensors, clip)
    before, after = loaded(clip), loaded(patched)
    assert account.rows[0].clip.matched == 1
    assert [name for name in before if not torch.equal(before[name], after[name])] == [key]


def _applied(tensors, clip):
    with torch.inference_mode():
        applied = apply_stack(LoraStack((row_of(tensors),)), None, clip, "strict")
    assert applied.account is not None
    return applied.model, applied.clip, applied.account


def test_a_stack_gives_cores_text_encoder_and_leaves_the_one_that_came_in(toy):
    _, clip = toy
    shapes = clip_targets(clip).shapes
    files = []
    for seed in range(2):
        tensors = {}
        for layer in ("self_attn.q_proj", "self_attn.out_proj", "mlp.fc1", "mlp.fc2"):
            name = f"lora_te_text_model_encoder_layers_0_{layer.replace('.', '_')}"
            tensors |= halves(
                name, ("lora_up", "lora_down"), shapes[f"{LAYER}{layer}.weight"], seed
            )
            tensors[f"{name}.alpha"] = torch.tensor(1.5)
        files.append(tensors)
    before, patches = loaded(clip), dict(clip.patcher.patches)
    with torch.inference_mode():
        stack = LoraStack(
            tuple(row_of(tensors, 0.7 - 0.3 * i, f"lora{i}") for i, tensors in enumerate(files))
        )
        ours = apply_stack(stack, None, clip).clip
        core = clip
        for row, tensors in zip(stack.rows, files, strict=True):
            _, core = comfy.sd.load_lora_for_models(None, core, tensors, 0.0, row.clip)
    expected, mine = loaded(core), loaded(ours)
    assert sum(not torch.equal(before[key], expected[key]) for key in before) == 4
    for key, weight in expected.items():
        unit = 2**-10 if weight.dtype == torch.float16 else 2**-22
        assert bool(
            (
                (mine[key].double() - weight.double()).abs() <= unit * weight.double().abs() + 2e-7
            ).all()
        ), key
    again = loaded(clip)
    assert all(torch.equal(before[key], again[key]) for key in before)
    assert dict(clip.patcher.patches) == patches


def test_model_and_text_encoder_of_one_file_go_onto_both(toy):
    model, clip = toy
    tensors = halves(
        "lora_te_text_model_encoder_layers_0_mlp_fc1",
        ("lora_up", "lora_down"),
        clip_targets(clip).shapes[f"{LAYER}mlp.fc1.weight"],
    )
    key, shape = next(
        (k, tuple(v.shape))
        for k, v in model.model.state_dict().items()
        if k.endswith("to_q.weight")
    )
    tensors |= halves(
        "lora_unet_" + key[len("diffusion_model.") : -len(".weight")].replace(".", "_"),
        ("lora_up", "lora_down"),
        shape,
    )
    row = StackRow("both", 0.5, 0.5, adapter=parse_state_dict(tensors, "both"))
    with torch.inference_mode():
        applied = apply_stack(LoraStack((row,)), model, clip, "strict")
    assert applied.model is not model
    assert applied.clip is not clip
    assert list(applied.model.patches) == [key]
    assert list(applied.clip.patcher.patches) == [f"{LAYER}mlp.fc1.weight"]
    assert not model.patches
