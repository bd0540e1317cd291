"""The text-encoder half of a saved file in PEFT's and diffusers' own hands: the same deltas and the same features.

Needs the packages peft and diffusers, as test_other_readers.py does.
"""

from __future__ import annotations

from typing import Any

import pytest
import torch

pytest.importorskip("peft", reason="peft is not installed; it is needed by this test alone")
pytest.importorskip(
    "diffusers", reason="diffusers is not installed; it is needed by this test alone"
)

from diffusers.loaders.lora_pipeline import StableDiffusionLoraLoaderMixin as Mixin
from peft import LoraConfig, inject_adapter_in_model, set_peft_model_state_dict
from safetensors.torch import load_file
from transformers.models.clip import CLIPTextConfig, CLIPTextModel

from lora_core.algebra.lowrank import delta
from lora_core.files.convert import convert
from lora_core.files.parse import parse_state_dict
from lora_core.files.schemes import KEEP, KOHYA, PEFT
from lora_core.files.writer import write_lora
from lora_core.targets import Target, TargetMap
from tests.core.lora_tensors import low_rank, pair

# float32 sums in another order, relative to the delta of a weight and to the difference that the LoRA makes.
WEIGHTS, FEATURES = 1e-5, 1e-4
# (kohya's prefix, diffusers' prefix, the host's own) of one text encoder alone, and of the two of SDXL.
ENCODERS = {
    "one": (("lora_te_", "text_encoder", "clip_l"),),
    "two": (("lora_te1_", "text_encoder", "clip_l"), ("lora_te2_", "text_encoder_2", "clip_g")),
}


def text_encoder() -> CLIPTextModel:
    torch.manual_seed(0)
    config = CLIPTextConfig(
        vocab_size=99, hidden_size=16, intermediate_size=32, projection_dim=16,
        num_hidden_layers=2, num_attention_heads=4, max_position_embeddings=12,
        bos_token_id=0, eos_token_id=1,
    )  # fmt: skip
    return CLIPTextModel(config).eval()


def layers(encoder) -> dict[str, Any]:
    """Layer names as LoRA files have them: newer releases of transformers dropped text_model in front."""
    return {
        f"text_model.{name.removeprefix('text_model.')}": module
        for name, module in encoder.named_modules()
        if isinstance(module, torch.nn.Linear) and "encoder.layers" in name
    }


def names_of(which: str, encoder) -> TargetMap:
    """As the host's key map says them, for every text encoder that the model has."""
    names, shapes = {}, {}
    for kohya, diffusers, own in ENCODERS[which]:
        for name, module in layers(encoder).items():
            bare = f"{own}.transformer.{name}"
            target = Target(f"{bare}.weight")
            flat = name.replace(".", "_")
            names |= {f"{kohya}{flat}": target, f"{diffusers}.{name}": target}
            names[f"text_encoders.{bare}"] = target
            shapes[target.key] = tuple(module.weight.shape)
    return TargetMap(names, shapes)


def kohya_lora(which: str, encoder) -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(4)
    tensors = {}
    for prefix, _, _ in ENCODERS[which]:
        for index, (name, module) in enumerate(layers(encoder).items()):
            out, inner = module.weight.shape
            size = {"out": out, "inner": inner, "rank": 2 + index % 2, "alpha": 1.5}
            tensors |= pair(prefix + name.replace(".", "_"), generator, **size)
    return {key: t if t.dim() == 0 else 0.1 * t for key, t in tensors.items()}


@torch.no_grad()
def features(encoder) -> torch.Tensor:
    tokens = torch.tensor([[0, 5, 17, 42, 1], [0, 9, 9, 3, 1]])
    return encoder(input_ids=tokens).last_hidden_state


def by_diffusers(encoder, path, prefix: str) -> None:
    state, alphas = Mixin.lora_state_dict(str(path))
    Mixin.load_lora_into_text_encoder(state, alphas, encoder, prefix=prefix, adapter_name="saved")


def by_peft(encoder, path, prefix: str) -> None:
    flat = not hasattr(encoder, "text_model")
    state = {
        key.removeprefix(f"{prefix}.").removeprefix("text_model." if flat else ""): tensor
        for key, tensor in load_file(path).items()
        if key.startswith(f"{prefix}.")
    }
    ranks = {
        key.removesuffix(".lora_A.weight"): len(t) for key, t in state.items() if "lora_A" in key
    }
    config = LoraConfig(target_modules=list(ranks), rank_pattern=ranks, alpha_pattern=ranks)
    inject_adapter_in_model(config, encoder, adapter_name="saved")
    assert not set_peft_model_state_dict(encoder, state, adapter_name="saved").unexpected_keys


CASES = [
    pytest.param(PEFT, by_diffusers, "one", id="diffusers reads PEFT naming"),
    pytest.param(PEFT, by_diffusers, "two", id="diffusers reads PEFT naming, two text encoders"),
    pytest.param(KOHYA, by_diffusers, "one", id="diffusers reads kohya naming"),
    pytest.param(KEEP, by_diffusers, "two", id="diffusers reads a file kept as it was"),
    pytest.param(PEFT, by_peft, "two", id="PEFT reads PEFT naming, two text encoders"),
]


@pytest.mark.parametrize(("scheme", "load", "which"), CASES)
def test_text_encoder_keys_act_there_as_they_do_here(scheme, load, which, tmp_path):
    tensors, path = kohya_lora(which, text_encoder()), tmp_path / "x.safetensors"
    adapter = parse_state_dict(tensors, "x")
    converted = convert(tensors, adapter, scheme, None, names_of(which, text_encoder()))
    write_lora(converted.tensors, {}, path, replace=False)
    for kohya, prefix, _ in ENCODERS[which]:
        ours, theirs = text_encoder(), text_encoder()
        before, deltas = features(ours), {}
        for name, layer in layers(ours).items():
            deltas[name] = delta(low_rank(adapter, kohya + name.replace(".", "_")))
            layer.weight.data += deltas[name]
        load(theirs, path, prefix)
        adapted = {
            f"text_model.{name.removeprefix('text_model.')}": module
            for name, module in theirs.named_modules()
            if hasattr(module, "get_delta_weight")
        }
        assert adapted.keys() == deltas.keys()
        for name, expected in deltas.items():
            layer: Any = adapted[name]
            found = layer.get_delta_weight("saved").detach()
            assert float((found - expected).norm() / expected.norm()) < WEIGHTS, name
        change = (features(ours) - before).norm()
        assert float(change) > 0
        assert float((features(theirs) - features(ours)).norm() / change) < FEATURES
