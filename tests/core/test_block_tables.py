"""Blocks by the model's own names: every weight in one, parts by name, lists that nobody wrote down before."""

from __future__ import annotations

import pytest

from lora_core.stack.blocktable import BlockTable, block_table
from lora_core.targets import TargetMap
from tests.core.model_names import CLIP_L, FLUX, SD15, SDXL

MODEL = "diffusion_model."


def table_of(*keys: str, shape: tuple[int, ...] = (4, 4)) -> BlockTable:
    return block_table(TargetMap({}, {MODEL + key: shape for key in keys}))


def parts(table: BlockTable, key: str) -> list[frozenset[str]]:
    return [piece.parts for piece in table.places[key].pieces]


@pytest.mark.parametrize(
    ("model", "blocks"),
    [
        (
            SD15,
            ["BASE", *(f"IN{i:02}" for i in range(12)), "M00", *(f"OUT{i:02}" for i in range(12))],
        ),
        (
            SDXL,
            ["BASE", *(f"IN{i:02}" for i in range(9)), "M00", *(f"OUT{i:02}" for i in range(9))],
        ),
        (FLUX, ["IN", *(f"D{i:02}" for i in range(19)), *(f"S{i:02}" for i in range(38)), "OUT"]),
    ],
    ids=["SD1.5", "SDXL", "Flux"],
)
def test_blocks_have_their_real_numbers_in_the_order_of_the_model(model, blocks):
    assert list(block_table(model).blocks) == blocks


@pytest.mark.parametrize("model", [SD15, SDXL, FLUX])
def test_every_weight_belongs_to_exactly_one_block(model):
    table = block_table(model, CLIP_L)
    assert set(table.places) == set(model.shapes) | set(CLIP_L.shapes)
    listed = [key for keys in table.weights.values() for key in keys]
    assert sorted(listed) == sorted(table.places)
    assert set(table.weights) == set(table.blocks)


def test_a_block_is_where_its_name_says():
    table = block_table(SD15)
    assert table.places[MODEL + "input_blocks.4.1.proj_in.weight"].block == "IN04"
    assert table.places[MODEL + "middle_block.2.in_layers.2.weight"].block == "M00"
    assert table.places[MODEL + "output_blocks.11.0.in_layers.2.weight"].block == "OUT11"
    assert table.places[MODEL + "time_embed.0.weight"].block == "BASE"


def test_text_encoders_have_blocks_of_their_own_and_groups():
    table = block_table(SD15, CLIP_L)
    assert (
        table.places["clip_l.transformer.text_model.encoder.layers.3.mlp.fc1.weight"].block
        == "CLIPL03"
    )
    layers = [f"CLIPL{i:02}" for i in range(12)]
    assert set(table.groups["TE"]) == set(table.groups["CLIP"]) == {*layers, "CLIPL_BASE"}
    assert set(table.groups["BASE"]) == {"BASE", *layers, "CLIPL_BASE"}
    assert not set(table.numbered()) & set(layers)


@pytest.mark.parametrize(
    ("key", "block"),
    [
        ("joint_blocks.3.x_block.attn.qkv", "J03"),
        ("transformer_blocks.7.attn.to_q", "T07"),
        ("layers.2.attention.qkv", "L02"),
        ("blocks.11.self_attn.q", "B11"),
        ("noise_refiner.0.attention.qkv", "NR00"),
        ("double_stream_blocks.4.block.attn1.to_q", "D04"),
        ("blocks.block5.blocks.0.block.attn.to_q.0", "B05"),
        ("txt_in.individual_token_refiner.blocks.1.self_attn.qkv", "ITR01"),
        ("a_list_nobody_has_seen.13.some.layer", "ALNHS13"),
    ],
)
def test_a_list_of_blocks_is_named_by_its_own_words(key, block):
    first = key.replace(f".{int(block[-2:])}.", ".0.", 1).replace("block5", "block0")
    sibling = first.rpartition(".")[0].rpartition(".")[0] + ".other.linear"
    table = table_of(f"{key}.weight", f"{first}.weight", f"{sibling}.weight")
    assert table.places[f"{MODEL}{key}.weight"].block == block


def test_a_row_of_layers_that_are_no_blocks_is_outside():
    table = table_of(
        "time_embedding.0.weight", "time_embedding.2.weight", "caption.0.linear.weight",
        "caption.1.linear.weight", "final_layer.adaLN_modulation.1.weight", "img_in.weight",
    )  # fmt: skip
    assert table.blocks == ("IN", "BASE", "OUT") or set(table.blocks) == {"BASE", "IN", "OUT"}


def test_two_lists_with_the_same_letters_keep_apart():
    table = table_of(
        *(
            f"{path}.0.{layer}.weight"
            for path in ("layers", "deep.layers")
            for layer in ("a.q", "b.f")
        )
    )
    names = {place.block for place in table.places.values()}
    assert len(names) == 2
    assert "L00" in names


def test_what_is_no_part_of_the_diffusion_model_is_other():
    table = block_table(TargetMap({}, {"model_sampling.sigmas": (1000,)}))
    assert table.places["model_sampling.sigmas"].block == "OTHER"


def test_a_hundred_blocks_take_three_digits():
    table = table_of(
        *(f"blocks.{i}.{layer}.weight" for i in range(101) for layer in ("a.q", "b.f"))
    )
    assert table.blocks[0] == "B000"
    assert table.blocks[-1] == "B100"


@pytest.mark.parametrize(
    ("key", "said", "not_said"),
    [
        ("attn1.to_q", {"attn", "self", "q"}, {"cross", "ff"}),
        ("attn1.to_out.0", {"attn", "self", "out"}, {"proj"}),
        ("attn2.to_k", {"attn", "cross", "k"}, {"self", "v"}),
        ("ff.net.0.proj", {"ff"}, {"attn", "proj"}),
        ("norm1", {"norm"}, {"attn"}),
    ],
)
def test_parts_of_a_unet_block(key, said, not_said):
    table = block_table(SD15)
    path = f"{MODEL}input_blocks.4.1.transformer_blocks.0.{key}.weight"
    (found,) = parts(table, path)
    assert said <= found
    assert not not_said & found


def test_parts_of_residual_halves():
    table = block_table(SD15)
    block = f"{MODEL}input_blocks.4.0"
    assert "conv" in parts(table, f"{block}.in_layers.2.weight")[0]
    assert "norm" in parts(table, f"{block}.in_layers.0.weight")[0]
    assert "mod" in parts(table, f"{block}.emb_layers.1.weight")[0]
    assert "proj" in parts(table, f"{MODEL}input_blocks.4.1.proj_in.weight")[0]


def test_the_middle_block_is_one_and_its_three_halves_have_numbers():
    table = block_table(SD15)
    for index in "012":
        path = f"{MODEL}middle_block.{index}."
        keys = [key for key in table.places if key.startswith(path)]
        assert keys
        assert all(index in parts(table, key)[0] for key in keys)


def test_the_rows_of_a_fused_weight_are_its_q_k_and_v():
    table = block_table(FLUX)
    place = table.places[f"{MODEL}double_blocks.5.img_attn.qkv.weight"]
    rows = [(piece.start, piece.length) for piece in place.pieces]
    assert rows == [(0, 4), (4, 4), (8, 4)]
    for piece, role in zip(place.pieces, "qkv", strict=True):
        assert {"attn", "img", role} <= piece.parts
        assert not {"q", "k", "v"} - {role} & piece.parts
    assert len(table.places[f"{MODEL}double_blocks.5.img_attn.qkv.bias"].pieces) == 3


def test_a_single_block_of_flux_has_its_feed_forward_in_the_same_weight():
    place = block_table(FLUX).places[f"{MODEL}single_blocks.2.linear1.weight"]
    assert [(p.start, p.length) for p in place.pieces] == [(0, 4), (4, 4), (8, 4), (12, 16)]
    assert "ff" in place.pieces[3].parts
    assert "attn" not in place.pieces[3].parts


def test_fused_weights_are_cut_by_their_widths_where_the_host_names_no_slices():
    """24 heads read, 8 shared heads are k and v: Lumina 2's shape."""
    shapes = {
        f"{MODEL}layers.0.attention.qkv.weight": (20, 12),
        f"{MODEL}layers.0.attention.out.weight": (12, 12),
        f"{MODEL}layers.0.feed_forward.w1.weight": (8, 12),
        f"{MODEL}layers.0.cross_attn.kv_linear.weight": (24, 12),
    }
    table = block_table(TargetMap({}, shapes))
    qkv = table.places[f"{MODEL}layers.0.attention.qkv.weight"]
    assert [(p.start, p.length) for p in qkv.pieces] == [(0, 12), (12, 4), (16, 4)]
    kv = table.places[f"{MODEL}layers.0.cross_attn.kv_linear.weight"]
    assert [(p.start, p.length) for p in kv.pieces] == [(0, 12), (12, 12)]
    assert all("cross" in piece.parts for piece in kv.pieces)


def test_an_attention_that_reads_another_width_is_cross_attention_whatever_its_name():
    shapes = {
        f"{MODEL}blocks.0.attn.to_q.weight": (8, 8),
        f"{MODEL}blocks.0.attn.to_k.weight": (8, 3),
        f"{MODEL}blocks.0.attn.to_out.0.weight": (8, 8),
        f"{MODEL}blocks.0.mlp.fc1.weight": (8, 8),
    }
    table = block_table(TargetMap({}, shapes))
    for role in ("to_q", "to_k", "to_out.0"):
        assert "cross" in parts(table, f"{MODEL}blocks.0.attn.{role}.weight")[0]


def test_a_name_that_no_pattern_knows_is_a_part_in_its_own_words():
    table = table_of("blocks.0.gizmo.turbo.weight", "blocks.0.other.thing.weight")
    assert {"gizmo", "turbo"} <= parts(table, f"{MODEL}blocks.0.gizmo.turbo.weight")[0]


def test_without_a_model_the_table_says_so():
    assert not block_table(None, CLIP_L).complete
    assert block_table(SD15).complete
