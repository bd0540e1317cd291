"""The certificate says what is true, in words, in JSON and as a picture."""

from __future__ import annotations

import json
import math

import pytest
import torch

from lora_core.files.parse import parse_state_dict
from lora_core.merge.certificate import CERTIFICATE_FIELD, Certificate, LayerRecord, percent
from lora_core.merge.draw import WIDTH, draw_certificate
from lora_core.merge.merge import merge
from lora_core.merge.plan import Plan
from lora_core.merge.ranks import RankRule
from lora_core.merge.tensors import state_dict
from tests.core.lora_tensors import pair
from tests.core.merge_rows import delta, row, total


@pytest.fixture
def rows(generator):
    names = ("lora_unet_down_blocks_0_x", "lora_unet_mid_block_x")
    return [
        row(
            f"lora{i}",
            {
                k: t
                for name in names[: 2 - i]
                for k, t in pair(name, generator, out=40, inner=30, rank=5).items()
            }
            | {"strange": torch.ones(1)},
            0.8,
            metadata={"modelspec.trigger_phrase": f"word{i}", "ss_base_model_version": "sd_v1"},
        )
        for i in range(2)
    ]


def test_the_whole_error_is_that_of_all_layers_together(rows):
    merged = merge(rows, Plan("svd", RankRule("rank", 3), dtype=torch.float16))
    written = parse_state_dict(state_dict(merged.file), "x").modules
    off = size = 0.0
    for name in written:
        exact = total(0.8 * delta(file.modules[name]) for _, file in rows if name in file.modules)
        off += float((delta(written[name]) - exact).square().sum())
        size += float(exact.square().sum())
    assert merged.certificate.error == pytest.approx(math.sqrt(off / size), rel=1e-6)
    # What the ranks hold, without the rounding to half precision.
    assert merged.certificate.kept == pytest.approx(1 - off / size, abs=1e-5)


def test_the_text_names_rows_figures_worst_dropped_and_one_sided(rows):
    text = merge(rows, Plan("ties", RankRule("rank", 3))).certificate.text()
    for said in (
        "merge: ties, rank 3, float32",
        "row 2: lora1 (model 0.8, clip 1, free)",
        "layers: 2 written of 2, ranks 5 in, 3 out",
        "note: ties gives full matrices",
        "worst: lora_unet_down_blocks_0_x: error ",
        "only in lora0: lora_unet_mid_block_x",
        "dropped: lora1: strange: not a name that any LoRA format uses",
    ):
        assert said in text


def test_long_lists_are_cut_in_text_and_whole_in_json():
    layers = tuple(LayerRecord(f"layer{i}", (0,), (4,), 4, 1.0, 0.1, 1.0) for i in range(50))
    rows = (("a", 1.0, 1.0, "free"), ("b", 1.0, 1.0, "free"))
    whole = Certificate("merge", "svd", "all", "float16", rows, layers, 10, 5)
    assert "and 30 more like this" in whole.text()
    assert len(json.loads(whole.as_json())["layers"]) == 50


def test_the_json_is_in_the_files_metadata(rows):
    merged = merge(rows, Plan("svd", RankRule("rank", 3), seed=5))
    assert merged.file.metadata[CERTIFICATE_FIELD] == merged.certificate.as_json()
    document = json.loads(merged.certificate.as_json())
    assert document["rows"][0] == {"lora": "lora0", "model": 0.8, "clip": 1.0, "role": "free"}
    assert document["settings"] == {"seed": "5"}
    name, of, ranks_in, rank_out, *_ = document["layers"][0]
    assert (name, of, ranks_in, rank_out) == ("lora_unet_down_blocks_0_x", [1, 2], [5, 5], 3)
    assert merged.file.metadata["modelspec.trigger_phrase"] == "word0, word1"
    assert merged.file.metadata["ss_base_model_version"] == "sd_v1"


def test_worst_layers_come_worst_first_and_only_of_what_is_written():
    records = tuple(
        LayerRecord(str(i), (0,), (4,), 0 if i == 9 else 4, 1.0, i / 10, 1.0) for i in range(10)
    )
    found = Certificate("merge", "svd", "all", "float16", (), records, 1, 1).worst(3)
    assert [layer.name for layer in found] == ["8", "7", "6"]


def test_names_in_different_schemes_that_did_not_meet_are_said(generator):
    dotted = pair("transformer.x.to_q", generator, names=(".lora_B.weight", ".lora_A.weight"))
    merged = merge([row("a", pair("lora_unet_y", generator)), row("b", dotted)], Plan("concat"))
    assert any("Connect MODEL and CLIP" in note for note in merged.certificate.notes)
    assert any("no two rows have a weight in common" in n for n in merged.certificate.notes)


@pytest.mark.parametrize("layers", [0, 1, 3, 1500])
def test_the_chart_shows_any_number_of_layers(layers):
    records = tuple(
        LayerRecord(f"lora_unet_down_blocks_{i}", (0,), (4,), i % 5, 1.0, (i % 7) / 10, 1.0)
        for i in range(layers)
    )
    rows = tuple((f"folder/lora {i}.safetensors", 1.0, 1.0, "free") for i in range(9))
    chart = draw_certificate(Certificate("merge", "svd", "rank 4", "float16", rows, records, 1, 1))
    assert chart.width == WIDTH
    assert 512 <= chart.height <= 900
    colours = {colour for _, colour in chart.getcolors(1 << 20) or []}
    assert ((51, 101, 138) in colours) == (layers > 1)  # the bars of the ranks


def test_shares_are_said_shortly():
    assert [percent(x) for x in (0, 1.0, 0.5, 0.1234, 0.00031, 0.99999)] == [
        "0 %",
        "100.0 %",
        "50.0 %",
        "12.3 %",
        "0.031 %",
        "99.999 %",
    ]
