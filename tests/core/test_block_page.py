"""What the page's block editor is told of models, presets and energies."""

from __future__ import annotations

import json

import pytest

from lora_core.analysis.block_page import block_names, editor_tables, energy_shares
from lora_core.analysis.energy import BlockEnergy, Energies
from lora_core.stack.blockpresets import BUILT_IN
from lora_core.stack.blocktable import block_table
from tests.core.model_names import CLIP_L, FLUX, SD15


def test_a_models_blocks_are_told_in_its_own_order_and_names():
    assert block_names(block_table(SD15, CLIP_L)) == "BASE TE:CLIPL IN00-IN11 M00 OUT00-OUT11"
    assert block_names(block_table(FLUX)) == "BASE IN D00-D18 S00-S37 OUT"


def test_families_are_those_of_the_vectors_and_all_is_plain_json():
    told = editor_tables(BUILT_IN)
    assert json.loads(json.dumps(told)) == told
    assert list(told["families"]) == [
        "SD1.5, 16 blocks",
        "SD1.5, 25 blocks",
        "SDXL, 11 blocks",
        "SDXL, 19 blocks",
        "Flux, 57 blocks",
    ]
    assert told["families"]["Flux, 57 blocks"] == "BASE TE:TE IN D00-D18 S00-S37 OUT"
    assert {len(layout.split()) for layout in told["layouts"]["SD1.5"]} == {17, 26, 27}
    assert told["presets"].keys() == BUILT_IN.keys()


def test_the_layers_of_a_text_encoder_have_one_share_together():
    table = block_table(SD15, CLIP_L)
    energies = [("CLIPL00", 1.0), ("CLIPL03", 2.0), ("IN04", 5.0)]
    found = Energies(tuple(BlockEnergy(name, energy, energy, 1) for name, energy in energies))
    assert energy_shares(found, table) == pytest.approx({"CLIPL": 0.375, "IN04": 0.625})
