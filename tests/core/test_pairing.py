"""Which modules meet: other spellings, fused and split weights, what cannot be paired."""

from __future__ import annotations

import torch

from lora_core.files.parse import parse_state_dict
from lora_core.merge.pairing import pair
from lora_core.targets import Target, TargetMap
from tests.core.lora_tensors import pair as tensors_of

PEFT = (".lora_B.weight", ".lora_A.weight")


def files(generator: torch.Generator, *names: tuple[str, ...]):
    """A file for each tuple of module names, in PEFT's endings where the names are dotted."""
    return [
        parse_state_dict(
            {
                key: tensor
                for name in group
                for key, tensor in tensors_of(
                    name,
                    generator,
                    names=PEFT if "." in name else (".lora_up.weight", ".lora_down.weight"),
                ).items()
            },
            f"file {index}",
        )
        for index, group in enumerate(names, 1)
    ]


def names_of(pairing) -> list[tuple[str, tuple[int, ...]]]:
    return [(group.name, group.rows) for group in pairing.groups]


def test_spellings_of_one_weight_meet_without_a_model(generator):
    kohya = "lora_unet_down_blocks_0_attentions_0_transformer_blocks_0_attn1_to_q"
    dotted = "unet.down_blocks.0.attentions.0.transformer_blocks.0.attn1.to_q"
    found = pair(files(generator, (dotted,), (kohya,), (f"base_model.model.{dotted[5:]}",)))
    assert names_of(found) == [(kohya, (0, 1, 2))]


def test_text_encoders_and_comfyui_names_meet_kohyas(generator):
    first = (
        "text_encoder.text_model.encoder.layers.0.mlp.fc1",
        "text_encoder_2.text_model.encoder.layers.0.mlp.fc1",
        "diffusion_model.double_blocks.0.img_attn.qkv",
    )
    second = (
        "lora_te1_text_model_encoder_layers_0_mlp_fc1",
        "lora_te2_text_model_encoder_layers_0_mlp_fc1",
        "lora_unet_double_blocks_0_img_attn_qkv",
    )
    assert names_of(pair(files(generator, first, second))) == [(name, (0, 1)) for name in second]


def test_other_names_stay_apart(generator):
    found = pair(files(generator, ("lora_unet_a",), ("lora_unet_b",)))
    assert names_of(found) == [("lora_unet_a", (0,)), ("lora_unet_b", (1,))]


QKV = "lora_unet_double_blocks_0_img_attn_qkv"
SPLIT = "transformer.transformer_blocks.0.attn.to_{}"
FLUX = TargetMap(
    {QKV: Target("qkv.weight")}
    | {SPLIT.format(p): Target("qkv.weight", (0, 6 * i, 6)) for i, p in enumerate("qkv")},
    {"qkv.weight": (18, 5)},
)


def test_split_and_fused_spellings_meet_through_the_models_map(generator):
    split = files(generator, tuple(SPLIT.format(p) for p in "qkv"))
    fused = parse_state_dict(tensors_of(QKV, generator, out=18), "fused")
    (group,) = pair([*split, fused], FLUX).groups
    assert (group.name, group.rows, group.whole) == (QKV, (0, 1), (18, 5))
    assert [member.slice for member in group.members] == [(0, 0, 6), (0, 6, 6), (0, 12, 6), None]
    apart = pair([*split, *split], FLUX).groups
    assert [(g.name, g.rows, g.whole) for g in apart] == [
        (SPLIT.format(p), (0, 1), None) for p in "qkv"
    ]


def test_names_that_the_model_lacks_are_paired_by_spelling_and_said(generator):
    found = pair(files(generator, ("lora_unet_new",), ("lora_unet_new",)), FLUX)
    assert names_of(found) == [("lora_unet_new", (0, 1))]
    assert found.by_name == ("lora_unet_new",)


def test_a_second_module_for_one_weight_and_leftovers_are_listed(generator):
    twice = TargetMap({"lora_unet_a": Target("w.weight"), "lora_unet_b": Target("w.weight")})
    twice = TargetMap(twice.names, {"w.weight": (6, 5)})
    tensors = tensors_of("lora_unet_a", generator) | tensors_of("lora_unet_b", generator)
    tensors["lora_unet_c.strange"] = torch.ones(1)
    found = pair([parse_state_dict(tensors, "x")], twice)
    assert names_of(found) == [("lora_unet_a", (0,))]
    assert [(item.key, item.reason) for item in found.lost] == [
        ("x: lora_unet_c.strange", "not a name that any LoRA format uses"),
        ("x: lora_unet_b", "another module of the same file already feeds this weight"),
    ]


def test_a_delta_that_the_model_rearranges_is_not_mixed_with_one_it_does_not(generator):
    names = {
        "lora_unet_a": Target("w.weight"),
        "transformer.a": Target("w.weight", None, lambda delta: delta.flip(0)),
    }
    found = pair(
        files(generator, ("lora_unet_a",), ("transformer.a",)),
        TargetMap(names, {"w.weight": (6, 5)}),
    )
    assert names_of(found) == [("lora_unet_a", (0,))]
    assert "rearranges" in found.lost[0].reason
