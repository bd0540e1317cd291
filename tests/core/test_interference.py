"""Interference and balance in factor space against the formed matrices in float64, and what they say."""

from __future__ import annotations

import json
import math

import pytest
import torch

from lora_core.algebra.factorspace import Factors, energy
from lora_core.analysis.balance import balance, corrected, inner_products, within
from lora_core.analysis.draw_interference import heat_map
from lora_core.analysis.interference import Inputs, advice, interference
from lora_core.analysis.interference_words import as_json, blocks_text, report, sentence
from lora_core.analysis.overlap import directions_of, overlap_of
from lora_core.analysis.protection import Protection, applied, protect
from lora_core.errors import MergeError
from lora_core.merge.families import row_factors
from lora_core.merge.onbase import BaseModel
from lora_core.targets import Target, TargetMap
from tests.core.lora_tensors import pair
from tests.core.merge_rows import delta, exact, factors, row
from tools.family_formulas import expected
from tools.family_tensors import MAKERS, Draw, named

NAMES = ("lora_unet_input_blocks_4_1_proj_in", "lora_unet_output_blocks_3_1_proj_in")
KEYS = (
    "diffusion_model.input_blocks.4.1.proj_in.weight",
    "diffusion_model.output_blocks.3.1.proj_in.weight",
)
MODEL = TargetMap(
    {name: Target(key) for name, key in zip(NAMES, KEYS, strict=True)},
    {key: (24, 20) for key in KEYS}
    | {key.replace("proj_in", "proj_out"): (24, 24) for key in KEYS},
    "SD1.5",
)


def lora(generator, rank=4, names=NAMES, scale=1.0):
    tensors = {}
    for name in names:
        made = pair(name, generator, out=24, inner=20, rank=rank, alpha=float(rank))
        tensors |= {key: t if t.dim() == 0 else scale * t for key, t in made.items()}
    return tensors


def against(tensors, much, names):
    """A LoRA that is -much times another in some layers."""
    turned = {key: t for key, t in tensors.items() if key.startswith(names)}
    return {k: -much * t if k.endswith("lora_up.weight") else t for k, t in turned.items()}


@pytest.mark.parametrize("shape", [(40, 30), (12, 50)])
def test_shares_are_those_of_the_formed_matrices(shape, generator):
    a, b = (factors(generator, shape[0], shape[1], rank) for rank in (5, 8))
    found = overlap_of(directions_of(a), directions_of(b))
    first, second = exact(a), exact(b)
    outs = torch.linalg.svd(second)[0][:, :8]
    ins = torch.linalg.svd(second)[2][:8].T
    own = float(first.square().sum())
    assert found.a.own == pytest.approx(own, rel=1e-6)
    assert found.a.outward == pytest.approx(float((outs.T @ first).square().sum()), rel=1e-5)
    assert found.a.inward == pytest.approx(float((first @ ins).square().sum()), rel=1e-5)
    assert found.a.both == pytest.approx(float((outs.T @ first @ ins).square().sum()), rel=1e-5)
    assert found.b.written == pytest.approx(found.a.both, rel=1e-12)
    assert found.a.outward_chance == pytest.approx(own * 8 / shape[0])
    lengths = float(first.norm() * second.norm())
    assert found.cosine == pytest.approx(float((first * second).sum()) / lengths, abs=1e-6)
    joint = float((first + second).norm() / (first.norm() + second.norm()))
    assert found.joint == pytest.approx(joint, rel=1e-6)
    small = torch.minimum(first.abs(), second.abs())
    opposed = float(small[first * second < 0].sum() / small.sum())
    assert found.sign_conflict == pytest.approx(opposed, rel=1e-4)


def test_a_style_that_writes_into_the_characters_directions_is_named_with_blocks_and_strength(
    generator,
):
    character = lora(generator)
    style = against(character, 0.6, NAMES[1]) | lora(generator, 2, NAMES[:1], 0.05)
    rows = [
        row("ink.safetensors", style, role="style"),
        row("leah.safetensors", character, role="character"),
    ]
    found = interference(rows, MODEL)
    told = advice(found)
    assert told is not None
    assert (told.taker, told.victim, told.blocks) == (0, 1, ("OUT03",))
    assert told.taken == pytest.approx(0.36, rel=1e-5)
    assert sentence(found) == "ink takes 36 % of leah's update in OUT03; try 0.5 there."
    assert blocks_text(found) == {"row": 0, "text": "OUT03=0.527"}
    assert report(found).startswith(sentence(found))
    assert found.pairs[0].cells["OUT03"].cosine == pytest.approx(-1, abs=1e-6)
    assert heat_map(found).width >= 768


def test_the_figures_are_json_of_the_documented_shape(generator):
    rows = [row("a", lora(generator)), row("b", lora(generator, names=NAMES[:1]))]
    said = json.loads(as_json(interference(rows, MODEL)))
    assert set(said) == {
        "version", "sentence", "blocks_text", "weighted", "rows", "blocks", "pairs", "not_measured",
    }  # fmt: skip
    (only,) = said["pairs"]
    assert said["blocks"] == ["IN04", "OUT03"]
    assert (only["a"], only["b"], only["cells"][1]) == (0, 1, None)
    assert set(only["cells"][0]) == {
        "weights", "cosine", "sign_conflict", "joint", "joint_unrelated", "a", "b",
    }  # fmt: skip
    assert set(only["whole"]["a"]) == {
        "share", "output", "input", "both", "output_unrelated", "input_unrelated",
        "both_unrelated", "takes", "takes_unrelated",
    }  # fmt: skip


def test_on_the_inputs_of_a_model_only_directions_that_are_fed_count(generator):
    """Two rows that read the same inputs conflict; where the model never feeds these, they do not."""
    character = lora(generator, 3, NAMES[:1])
    style = against(character, 1.0, NAMES[0])
    rows = [row("a", style), row("b", character)]
    down = character[f"{NAMES[0]}.lora_down.weight"]
    read = torch.linalg.svd(down, full_matrices=True)[2]
    seen, unseen = read[:3], read[3:]
    weighted = interference(rows, MODEL, inputs={KEYS[0]: Inputs(seen, 3.0)})
    assert weighted.weighted
    assert weighted.pairs[0].whole.cosine == pytest.approx(-1, abs=1e-6)
    silent = interference(rows, MODEL, inputs={KEYS[0]: Inputs(unseen, 17.0)})
    assert silent.pairs[0].whole.a.own <= 1e-10 * weighted.pairs[0].whole.a.own


def test_one_row_or_too_many_are_refused(generator):
    one = row("a", lora(generator))
    for rows in ([one], [one] * 17):
        with pytest.raises(MergeError, match="2 to 16"):
            interference(rows)


@pytest.mark.parametrize("side", ["joint", "input", "output"])
def test_full_protection_leaves_nothing_in_the_characters_directions(side, generator):
    style, character = (row(n, lora(generator), role=n) for n in ("style", "character"))
    (changed,) = protect([style, character], Protection(1.0, side, 1.0))
    after = applied(style[1], changed)
    for name in NAMES:
        kept = delta(after.modules[name])
        guarded, before = delta(character[1].modules[name]), delta(style[1].modules[name])
        scale = float(kept.norm() * guarded.norm())
        assert abs(float((kept * guarded).sum())) <= 1e-6 * scale
        outs, _, ins = torch.linalg.svd(guarded)
        q, p = outs[:, :4], ins[:4].T
        expected = {
            "joint": before - q @ q.T @ before @ p @ p.T,
            "input": before - before @ p @ p.T,
            "output": before - q @ q.T @ before,
        }[side]
        assert float((kept - expected).norm()) <= 2e-6 * float(before.norm())


def test_half_protection_takes_half_and_none_changes_nothing(generator):
    rows = [row(n, lora(generator), role=n) for n in ("style", "character")]
    assert protect(rows, Protection(0.0)) == []
    (half,) = protect(rows, Protection(0.5, "output", 1.0))
    (whole,) = protect(rows, Protection(1.0, "output", 1.0))
    before = delta(rows[0][1].modules[NAMES[0]])
    taken = [before - delta(each.adapters[NAMES[0]]) for each in (half, whole)]
    assert float((2 * taken[0] - taken[1]).norm()) <= 2e-6 * float(before.norm())
    assert 0 < whole.kept < half.kept < 1


def test_free_rows_and_layers_without_the_character_keep_their_very_adapters(generator):
    style = row("style", lora(generator), role="style")
    free = row("free", lora(generator), role="free")
    character = row("character", lora(generator, names=NAMES[:1]), role="character")
    (changed,) = protect([style, free, character], Protection())
    assert changed.row == 0
    after = applied(style[1], changed)
    assert after.modules[NAMES[1]] is style[1].modules[NAMES[1]]
    assert set(changed.adapters) == {NAMES[0]}


def test_overlap_correction_gives_each_row_its_own_strength_in_its_own_direction(generator):
    """merge-maths: a pair with a common part, one of twice the length; near-duplicates stay bounded."""
    shared = torch.randn(30, generator=generator, dtype=torch.float64)
    other = torch.randn(30, generator=generator, dtype=torch.float64)
    a, b = shared, 2 * (0.5 * shared + other)
    table = torch.stack([torch.stack([x @ y for y in (a, b)]) for x in (a, b)])
    found = torch.tensor(corrected(table, [1.0, 1.0]), dtype=torch.float64)
    clamped = [value for value in found.tolist() if value in (0.25, 1.0)]
    gains = (table @ found) / table.diagonal()
    if not clamped:
        torch.testing.assert_close(gains, torch.ones(2, dtype=torch.float64), atol=5e-3, rtol=0)
    assert bool((gains <= ((table @ torch.ones(2).double()) / table.diagonal()) + 1e-9).all())
    twice = torch.tensor([[4.0, 4.0], [4.0, 4.0]], dtype=torch.float64)
    assert corrected(twice, [0.8, 0.8]) == pytest.approx([0.4, 0.4], abs=1e-3)
    opposed = torch.tensor([[1.0, -0.5], [-0.5, 1.0]], dtype=torch.float64)
    assert corrected(opposed, [0.8, 0.7]) == pytest.approx([0.8, 0.7])


def test_the_budget_holds_the_sum_and_spares_the_character(generator):
    vectors = torch.randn(3, 40, generator=generator, dtype=torch.float64)
    table = vectors @ vectors.T
    roles, strengths = ["style", "character", "free"], [0.9, 1.0, 0.7]
    found = within(table, strengths, roles, 1.1)
    assert found[1] == 1.0
    assert found[0] / 0.9 == pytest.approx(found[2] / 0.7)
    total = (torch.tensor(found, dtype=torch.float64)[:, None] * vectors).sum(0)
    assert float(total.norm()) == pytest.approx(1.1 * float(vectors[1].norm()))
    assert within(table, strengths, roles, 50.0) == strengths
    with pytest.raises(MergeError, match="above 0"):
        within(table, strengths, roles, 0.0)


def test_norms_match_in_every_block_and_keep_the_energy(generator):
    rows = [
        row("a", lora(generator, scale=0.5), 0.8, role="style"),
        row("b", lora(generator), role="character"),
    ]
    table = inner_products(rows, MODEL)
    done = balance([each for each, _ in rows], table, "norms")
    assert done.rows[1] == rows[1][0]
    after = inner_products([(done.rows[0], rows[0][1]), rows[1]], MODEL)
    lengths = {b: after.blocks[b].diagonal().sqrt().tolist() for b in after.blocks}
    ratios = [lengths[b][0] / lengths[b][1] for b in lengths]
    assert ratios[0] == pytest.approx(ratios[1], rel=2e-3)
    before = math.sqrt(sum(float(each[0, 0]) for each in table.blocks.values()))
    assert math.sqrt(sum(v[0] ** 2 for v in lengths.values())) == pytest.approx(before, rel=2e-3)
    with pytest.raises(MergeError, match="Connect MODEL"):
        balance([each for each, _ in rows], inner_products(rows), "norms")


@pytest.mark.parametrize("kind", ["dora_output", "oft", "glora"])
def test_a_row_that_depends_on_the_weight_is_measured_on_the_connected_model(kind, generator):
    """Against float64 with full matrices: its update is W' - W, its own directions the strongest, as many as its rank."""
    weights = {key: torch.randn(24, 20, generator=generator) for key in KEYS}
    odd = named(NAMES[0], MAKERS[kind]((24, 20), Draw(4)))
    plain = row("plain", lora(generator, names=NAMES[:1]), 0.8)
    rows = [row("odd", odd), plain]
    left_out = interference(rows, MODEL)
    assert any("depends on the base model's weight" in item for item in left_out.not_measured)
    found = interference(rows, MODEL, base=BaseModel(weights.__getitem__))
    assert not found.not_measured
    (cell,) = found.pairs[0].cells.values()
    weight = weights[KEYS[0]]
    change = expected(kind, weight, MAKERS[kind]((24, 20), Draw(4))) - weight.double()
    other = 0.8 * delta(plain[1].modules[NAMES[0]])
    lengths = float(change.norm() * other.norm())
    assert cell.cosine == pytest.approx(float((change * other).sum()) / lengths, abs=1e-5)
    assert cell.a.own == pytest.approx(float(change.square().sum()), rel=1e-5)
    joint = float((change + other).norm() / (change.norm() + other.norm()))
    assert cell.joint == pytest.approx(joint, rel=1e-5)
    u, _, vh = torch.linalg.svd(change)
    count = 20 if kind == "oft" else 2
    inside = u[:, :count].T @ other @ vh[:count].T
    assert cell.b.both == pytest.approx(float(inside.square().sum()), rel=1e-3)
    outs, _, ins = torch.linalg.svd(other)
    part = outs[:, :4].T @ change @ ins[:4].T
    assert cell.a.both == pytest.approx(float(part.square().sum()), rel=1e-4)
    small = torch.minimum(change.abs(), other.abs())
    opposed = float(small[change * other < 0].sum() / small.sum())
    assert cell.sign_conflict == pytest.approx(opposed, rel=1e-3)


def test_two_rows_that_depend_on_the_weight_are_each_measured_alone(generator):
    """Not after one another as in the stack: a row and itself lie in one direction."""
    weights = {key: torch.randn(24, 20, generator=generator) for key in KEYS}
    odd = named(NAMES[0], MAKERS["dora_output"]((24, 20), Draw(4)))
    found = interference([row("a", odd), row("b", odd)], MODEL, base=BaseModel(weights.__getitem__))
    assert found.pairs[0].whole.cosine == pytest.approx(1, abs=1e-6)
    assert found.pairs[0].whole.joint == pytest.approx(1, abs=1e-6)


def test_on_the_inputs_of_a_model_a_row_that_depends_on_the_weight_counts_by_what_is_fed(generator):
    weights = {key: torch.randn(24, 20, generator=generator) for key in KEYS}
    odd = named(NAMES[0], MAKERS["dora_output"]((24, 20), Draw(4)))
    samples = torch.randn(30, 20, generator=generator)
    rows = [row("odd", odd), row("plain", lora(generator, names=NAMES[:1]))]
    fed = {KEYS[0]: Inputs(samples, 12.0)}
    found = interference(rows, MODEL, inputs=fed, base=BaseModel(weights.__getitem__))
    weight = weights[KEYS[0]]
    change = expected("dora_output", weight, MAKERS["dora_output"]((24, 20), Draw(4))) - weight
    own = float((change @ samples.double().T).square().sum())
    assert found.pairs[0].whole.a.own == pytest.approx(own, rel=1e-4)


def test_a_lora_of_another_kind_is_left_out_and_said(generator):
    odd = {f"{NAMES[0]}.w_norm": torch.ones(24)}
    found = interference([row("a", lora(generator) | odd), row("b", lora(generator))])
    assert any("norm or bias" in item for item in found.not_measured)
    assert energy(Factors(torch.ones(2, 1), torch.ones(1, 2))) == pytest.approx(4)
    assert row_factors(row("b", lora(generator))[1].modules[NAMES[0]]).rank == 4
