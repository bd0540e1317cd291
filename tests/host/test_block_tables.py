"""Blocks of every family that the host loads, on its own model classes without memory."""

from __future__ import annotations

import re

import comfy.sdxl_clip
import comfy.supported_models
import comfy.text_encoders.hunyuan_video
import comfy.text_encoders.lumina2
import comfy.text_encoders.qwen_image
import comfy.text_encoders.sd3_clip
import comfy.text_encoders.wan
import pytest
import torch
from meta_models import SETTINGS, meta_model

from lora_core.adapters import AdapterFile, LowRank
from lora_core.host.targets import model_targets
from lora_core.resolve import resolve
from lora_core.stack.blockstrengths import block_strengths
from lora_core.stack.blocktable import BlockTable, block_table
from lora_core.stack.rows import StackRow
from lora_core.targets import TargetMap

# Blocks by family as its authors count them: prefix -> how many. "" where a family has no numbered blocks.
UNET_12 = {"IN": 12, "M": 1, "OUT": 12}
UNET_9 = {"IN": 9, "M": 1, "OUT": 9}
WRITTEN = {
    "SD15": UNET_12,
    "SD20": UNET_12,
    "SVD_img2vid": UNET_12,
    "SDXLRefiner": UNET_12,
    "SDXL": UNET_9,
    "Stable_Cascade_C": {"DOWN": 2, "UP": 2},
    "SD3": {"J": 24},
    "StableAudio": {"L": 24},
    "AuraFlow": {"D": 4, "S": 32},
    "PixArtSigma": {"B": 28},
    "HunyuanDiT": {"B": 40},
    "Flux": {"D": 19, "S": 38},
    "Flux2": {"D": 8, "S": 48},
    "GenmoMochi": {"B": 48},
    "LTXV": {"T": 28},
    "HunyuanVideo": {"ITR": 2, "D": 20, "S": 40},
    "CosmosT2V": {"B": 28},
    "CosmosT2IPredict2": {"B": 28},
    "ZImage": {"NR": 2, "CR": 2, "L": 30},
    "Lumina2": {"NR": 2, "CR": 2, "L": 26},
    "WAN21_T2V": {"B": 30},
    "WAN21_Vace": {"B": 30, "V": 15},
    "Hunyuan3Dv2": {"D": 16, "S": 32},
    "HiDream": {"D": 16, "S": 32},
    "Chroma": {"DG": 5, "D": 19, "S": 38},
    "ACEStep": {"T": 28, "E": 6},
    "Omnigen2": {"NR": 2, "RIR": 2, "CR": 2, "L": 32},
    "QwenImage": {"T": 60},
}


class _Patcher:
    """What model_targets asks of a MODEL."""

    def __init__(self, model: torch.nn.Module) -> None:
        self.model = model


class _Tables(dict[str, tuple[TargetMap, BlockTable]]):
    """Built when first asked for, so that a family which cannot be built fails alone."""

    def __missing__(self, family: str) -> tuple[TargetMap, BlockTable]:
        with torch.no_grad():
            targets = model_targets(_Patcher(meta_model(family)))
        self[family] = (targets, block_table(targets))
        return self[family]


@pytest.fixture(scope="module")
def tables() -> _Tables:
    return _Tables()


def test_no_family_of_the_host_is_left_out():
    """A newer host has families that this list lacks; the list never has one that the host lost."""
    known = {config.__name__ for config in comfy.supported_models.models}
    known.discard("ToySD15")  # ours, where another test has registered it
    assert set(SETTINGS) <= known
    if not hasattr(
        comfy.supported_models, "StableAudio3"
    ):  # 0.3.75, which the list was written for
        assert set(SETTINGS) == known


@pytest.mark.parametrize("family", SETTINGS)
def test_every_weight_belongs_to_exactly_one_block(tables, family):
    targets, table = tables[family]
    assert set(table.places) == set(targets.shapes)
    assert sum(len(keys) for keys in table.weights.values()) == len(targets.shapes)
    for key, place in table.places.items():
        assert place.block in table.blocks
        assert (place.block == "OTHER") == (not key.startswith("diffusion_model."))
        number = re.search(r"\d+$", place.block)
        if number and place.block != "M00":
            assert re.search(rf"[._](?:block)?{int(number.group())}\.", key), key


@pytest.mark.parametrize("family", SETTINGS)
def test_the_pieces_of_a_weight_cover_its_rows_once(tables, family):
    targets, table = tables[family]
    for key, place in table.places.items():
        if len(place.pieces) > 1:
            ends = [piece.start + piece.length for piece in place.pieces]
            assert [piece.start for piece in place.pieces] == [0, *ends[:-1]]
            assert ends[-1] == targets.shapes[key][0]


@pytest.mark.parametrize("family", SETTINGS)
def test_the_bulk_of_a_model_stands_in_numbered_blocks_and_has_parts(tables, family):
    targets, table = tables[family]
    numbered = set(table.numbered())
    sizes = {key: torch.Size(shape).numel() for key, shape in targets.shapes.items()}
    whole = sum(size for key, size in sizes.items() if table.places[key].block != "OTHER")
    inside = sum(size for key, size in sizes.items() if table.places[key].block in numbered)
    assert inside > 0.7 * whole
    common = {"attn", "ff", "norm", "mod", "proj", "conv"}
    told = sum(
        size
        for key, size in sizes.items()
        if table.places[key].block in numbered
        and any(piece.parts & common for piece in table.places[key].pieces)
    )
    assert told > 0.8 * inside


@pytest.mark.parametrize("family", WRITTEN)
def test_blocks_are_those_that_the_family_is_known_to_have(tables, family):
    _, table = tables[family]
    found: dict[str, int] = {}
    for block in table.numbered():
        found[block.rstrip("0123456789")] = found.get(block.rstrip("0123456789"), 0) + 1
    assert found == WRITTEN[family]


def lora_on(targets: TargetMap) -> AdapterFile:
    """Rank 1 on every whole matrix and convolution that the host has a name for; next to no memory."""
    modules, seen = {}, set()
    for name, target in targets.names.items():
        shape = targets.shapes.get(target.key, ())
        if target.offset is None and len(shape) >= 2 and target.key not in seen:
            seen.add(target.key)
            up, down = torch.ones(1, 1), torch.ones(1, *(1,) * (len(shape) - 1))
            modules[name] = LowRank(up.expand(shape[0], 1), down.expand(1, *shape[1:]), 1.0)
    return AdapterFile("every weight", modules)


def scales(targets: TargetMap, file: AdapterFile, blocks: str) -> dict[str, float]:
    """Weight -> what multiplies the delta on it, of a row at 0.8."""
    row = StackRow("every weight", 0.8, 0.0, blocks=blocks)
    resolved, _ = resolve([(row, file)], targets, None, "partial")
    return {
        target.key: sum(term.strength * term.factor for term in terms)
        for target, terms in resolved.model.terms.items()
    }


@pytest.mark.parametrize("family", [family for family in SETTINGS if WRITTEN.get(family)])
def test_on_every_family_a_block_takes_its_strength_times_the_rows_and_no_other_block_does(
    tables, family
):
    """A weight without a patch is the base's own, to the bit."""
    targets, table = tables[family]
    file = lora_on(targets)
    plain = scales(targets, file, "")
    assert set(plain.values()) == {0.8}
    assert scales(targets, file, "*=1") == plain
    block = next(each for each in table.numbered() if set(table.weights[each]) & set(plain))
    inside = set(table.weights[block]) & set(plain)
    without = scales(targets, file, f"{block}=0")
    assert without == {key: scale for key, scale in plain.items() if key not in inside}
    weak = scales(targets, file, f"{block}=0.25")
    assert {key for key in plain if weak[key] != plain[key]} == inside
    assert {weak[key] for key in inside} == {0.2}


@pytest.mark.parametrize("family", SETTINGS)
def test_q_k_v_can_be_said_of_every_family(tables, family):
    _, table = tables[family]
    for role in "qkv":
        assert block_strengths(f"*.attn.{role}=0", table).touched


@pytest.mark.parametrize(
    "family", ["SD15", "SDXL", "PixArtSigma", "HunyuanDiT", "LTXV", "CosmosT2V", "WAN21_T2V", "ACEStep"]
)  # fmt: skip
def test_cross_attention_is_told_from_self_attention(tables, family):
    _, table = tables[family]
    for kind in ("self", "cross"):
        assert block_strengths(f"*.{kind}.q=0", table).touched


@pytest.mark.parametrize(
    "family", ["SD3", "Flux", "QwenImage", "HiDream", "AuraFlow", "GenmoMochi"]
)
def test_the_two_streams_of_a_block_are_told_apart(tables, family):
    _, table = tables[family]
    for stream in ("img", "txt"):
        assert block_strengths(f"*.{stream}.attn.q=0", table).touched


ENCODERS = {
    "SDXL": (lambda d: comfy.sdxl_clip.SDXLClipModel(device=d), {"CLIPL": 12, "CLIPG": 32}),
    "SD3": (
        lambda d: comfy.text_encoders.sd3_clip.SD3ClipModel(device=d),
        {"CLIPL": 12, "CLIPG": 32, "T5XXL": 24},
    ),
    "Lumina2": (lambda d: comfy.text_encoders.lumina2.LuminaModel(device=d), {"GEMMA22B": 26}),
    "Qwen-Image": (
        lambda d: comfy.text_encoders.qwen_image.QwenImageTEModel(device=d),
        {"QWEN257B": 28},
    ),
    "Wan": (lambda d: comfy.text_encoders.wan.WanT5Model(device=d), {"UMT5XXL": 24}),
    "HunyuanVideo": (
        lambda d: comfy.text_encoders.hunyuan_video.HunyuanVideoClipModel(device=d),
        {"CLIPL": 12, "LLAMA": 32},
    ),
}


@pytest.mark.parametrize("family", ENCODERS)
def test_text_encoders_have_a_block_a_layer(family):
    build, written = ENCODERS[family]
    shapes = {key: tuple(t.shape) for key, t in build("meta").state_dict().items()}
    table = block_table(None, TargetMap({}, shapes))
    assert set(table.places) == set(shapes)
    for encoder, layers in written.items():
        numbered = [b for b in table.groups[encoder] if re.fullmatch(rf"{encoder}_?\d+", b)]
        assert len(numbered) == layers
    assert block_strengths("TE.attn.q=0", table).touched
