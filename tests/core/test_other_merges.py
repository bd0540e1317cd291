"""Merging against independent code: PEFT's and mergekit's own, LyCORIS' deltas, sd-scripts' formulas written out again.

PEFT (0.21 or newer), mergekit and lycoris-lora are needed by this file alone. To run it, make an environment with them
beside torch and run it with its Python; the parts whose package is missing are skipped by name.
"""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch.nn import Linear

from lora_core.adapters import LowRank
from lora_core.algebra import loha, lokr
from lora_core.algebra.factorspace import Factors, concat, decompose
from lora_core.files.parse import parse_state_dict
from lora_core.merge import sparse
from lora_core.merge.blends import weighted_sum
from lora_core.merge.ranks import RankRule
from lora_core.merge.weight import Parameters, Weight
from tests.core.merge_rows import exact, factors, total, weight

STRENGTHS = (1.0, 0.7, -0.4)


def relative(found: torch.Tensor, expected: torch.Tensor) -> float:
    return float((found.double() - expected.double()).norm() / expected.double().norm())


def three(generator) -> Weight:
    terms = [factors(generator, 48, 36, rank) for rank in (8, 8, 8)]
    return weight(*terms, strengths=STRENGTHS)


def formed(blocks) -> torch.Tensor:
    return torch.cat([block for _, block in blocks])


@pytest.fixture
def peft_layer(generator):
    """A PEFT LoRA layer with two adapters of unequal rank and alpha, and the same as our terms."""
    peft = pytest.importorskip("peft", reason="peft is not installed; it is needed here alone")
    model = torch.nn.Sequential()
    model.add_module("layer", Linear(36, 48, bias=False))
    terms = {}
    wrapped = None
    for name, rank, alpha in (("a", 8, 4), ("b", 6, 12)):
        config = peft.LoraConfig(r=rank, lora_alpha=alpha, target_modules=["layer"])
        if wrapped is None:
            wrapped = peft.PeftModel(model, config, adapter_name=name)
        else:
            wrapped.add_adapter(name, config)
        made = factors(generator, 48, 36, rank)
        layer = wrapped.base_model.model.layer
        layer.lora_B[name].weight.data, layer.lora_A[name].weight.data = made.up, made.down
        terms[name] = Factors(made.up * (alpha / rank), made.down)
    return wrapped, tuple(terms.values())


@pytest.mark.parametrize(("kind", "rank"), [("cat", None), ("svd", 5)])
def test_peft_cat_and_svd_are_ours(kind, rank, peft_layer):
    model, terms = peft_layer
    weights = [0.8, -0.5]
    model.add_weighted_adapter(
        ["a", "b"], weights, "merged", combination_type=kind, svd_rank=rank, svd_clamp=None
    )
    layer = model.base_model.model.layer
    theirs = layer.get_delta_weight("merged").detach()
    joint = concat(terms, weights)
    ours = joint if rank is None else decompose(joint).truncated(rank)
    assert relative(ours.delta, theirs) <= 1e-5


def test_ties_is_pefts_where_its_election_and_ours_mean_the_same(generator):
    """PEFT elects among unweighted deltas and divides by the count: with equal weights of 1 that is our sum or mean."""
    utils = pytest.importorskip("peft.utils.merge_utils", reason="peft is not installed")
    even = weight(*(factors(generator, 48, 36, 8) for _ in range(3)))
    deltas = [term.delta for term in even.terms]
    theirs = utils.ties(deltas, torch.ones(3), 0.4)
    ours = formed(sparse.ties(even, Parameters(density=0.4, normalise=True)))
    assert relative(ours, theirs) <= 1e-6


def test_with_unequal_weights_ours_is_the_papers_and_pefts_is_not(generator):
    """Yadav et al. 2023 weight before they elect; in float64 from the definition."""
    utils = pytest.importorskip("peft.utils.merge_utils", reason="peft is not installed")
    some = three(generator)
    deltas = [term.delta for term in some.terms]
    count = int(0.4 * deltas[0].numel())
    trimmed = []
    for delta in deltas:
        cut = delta.abs().flatten().kthvalue(delta.numel() - count + 1).values
        trimmed.append(torch.where(delta.abs() >= cut, delta, torch.zeros_like(delta)).double())
    weighted = [w * each for w, each in zip(STRENGTHS, trimmed, strict=True)]
    sign = total(weighted) >= 0
    expected = total([torch.where((each > 0) == sign, each, 0.0 * each) for each in weighted])
    ours = formed(sparse.ties(some, Parameters(density=0.4)))
    assert relative(ours, expected) <= 1e-6
    theirs = utils.ties(deltas, torch.tensor(STRENGTHS), 0.4)
    assert relative(theirs * 3, expected) > 0.1 < relative(theirs, expected)


@pytest.mark.parametrize("kind", ["dare_linear", "dare_ties"])
def test_dare_is_pefts_given_the_same_mask(kind, generator, monkeypatch):
    utils = pytest.importorskip("peft.utils.merge_utils", reason="peft is not installed")
    even = weight(*(factors(generator, 48, 36, 8) for _ in range(3)))
    settings = Parameters(density=0.4, normalise=True)
    masks = []
    for term in even.terms:
        ours = formed(sparse.dare_linear(weight(term), Parameters(density=0.4)))
        masks.append((ours != 0).float())
    given = iter(masks)
    monkeypatch.setattr(torch, "bernoulli", lambda *_, **__: next(given))
    theirs = getattr(utils, kind)([term.delta for term in even.terms], torch.ones(3), 0.4)
    ours = formed(getattr(sparse, kind)(replace(even, seed=weight(even.terms[0]).seed), settings))
    assert relative(ours, theirs) <= 1e-6


def test_mergekits_sign_masks_are_ours(generator):
    ties = pytest.importorskip(
        "mergekit.merge_methods.generalized_task_arithmetic",
        reason="mergekit is not installed, or lacks what it imports",
    )
    some = three(generator)
    kept = [sparse.largest(term.delta, 0.4) for term in some.terms]
    weighted = torch.stack([w * each for w, each in zip(STRENGTHS, kept, strict=True)])
    mask = ties.get_mask(weighted, method="sum", mask_dtype=torch.float32)
    theirs = (weighted * mask).sum(0)
    ours = formed(sparse.ties(some, Parameters(density=0.4)))
    assert relative(ours, theirs) <= 1e-6


def test_mergekits_magnitude_trim_is_ours(generator):
    sparsify = pytest.importorskip("mergekit.sparsify", reason="mergekit is not installed")
    delta = factors(generator, 48, 36, 8).delta
    theirs = sparsify.magnitude(delta, density=0.4, rescale_norm=None)
    assert torch.equal(theirs, sparse.largest(delta, 0.4))


def test_sd_scripts_svd_merge_with_nothing_clamped_is_ours(generator):
    """svd_merge_lora: sum of ratio * alpha / r * up @ down, full SVD, U S and V cut to the rank."""
    some = three(generator)
    dense = total([w * exact(t) for w, t in zip(STRENGTHS, some.terms, strict=True)])
    u, s, vh = torch.linalg.svd(dense)
    theirs = (u[:, :6] * s[:6]) @ vh[:6]
    ours = decompose(weighted_sum(some, Parameters())).truncated(6).delta
    assert relative(ours, theirs) <= 2e-6


def test_sd_scripts_add_of_factors_is_not_the_sum_and_ours_is(generator):
    """merge_lora: ups and downs are added apart, each times sqrt-less ratio: cross terms, and the ratio squared."""
    a, b = (factors(generator, 48, 36, 8) for _ in range(2))
    expected = 0.5 * exact(a) + 0.5 * exact(b)
    theirs = (0.5 * a.up + 0.5 * b.up) @ (0.5 * a.down + 0.5 * b.down)
    ours = weighted_sum(weight(a, b, strengths=(0.5, 0.5)), Parameters()).delta
    assert relative(theirs, expected) > 0.5
    assert relative(ours, expected) <= 1e-6


@pytest.mark.parametrize(("rule", "value"), [("ratio", 4.0), ("frobenius", 0.9), ("energy", 0.81)])
def test_resize_ranks_are_the_minimal_ones_of_sd_scripts_rules(rule, value, generator):
    """resize_lora's index_sv_ratio, index_sv_fro: theirs is one more than needed, ours is the least that fits."""
    s = decompose(factors(generator, 48, 36, 16)).s
    squares = s.square().cumsum(0) / s.square().sum()
    expected = {
        "ratio": int((s > s[0] / value).sum()),
        "frobenius": int((squares < value**2).sum()) + 1,
        "energy": int((squares < value).sum()) + 1,
    }[rule]
    assert RankRule(rule, value).rank(s, float(s.square().sum())) == expected


def test_lycoris_deltas_of_loha_and_lokr_are_ours(generator):
    functional = pytest.importorskip("lycoris.functional", reason="lycoris-lora is not installed")

    def some(*shape):
        return torch.randn(shape, generator=generator)

    parts = [some(4, 36), some(48, 4), some(4, 36), some(48, 4)]
    names = ("hada_w1_b", "hada_w1_a", "hada_w2_b", "hada_w2_a")
    tensors = {f"lora_unet_x.{n}": t for n, t in zip(names, parts, strict=True)}
    tensors["lora_unet_x.alpha"] = torch.tensor(2.0)
    adapter = parse_state_dict(tensors, "x").modules["lora_unet_x"]
    assert isinstance(adapter, loha.LoHa)
    theirs = functional.loha.diff_weight(*parts, None, None, gamma=0.5)
    assert relative(loha.delta(adapter), theirs) <= 1e-5
    w1, w2a, w2b = some(6, 6), some(8, 3), some(3, 6)
    kron = {"lora_unet_x.lokr_w1": w1, "lora_unet_x.lokr_w2_a": w2a, "lora_unet_x.lokr_w2_b": w2b}
    kron["lora_unet_x.alpha"] = torch.tensor(1.5)
    product = parse_state_dict(kron, "x").modules["lora_unet_x"]
    assert isinstance(product, lokr.LoKr)
    dense = functional.lokr.diff_weight(w1, None, None, None, w2a, w2b, None, gamma=0.5)
    assert relative(lokr.delta(product), dense) <= 1e-5


def test_what_is_written_reads_back_as_the_delta(generator):
    made = factors(generator, 48, 36, 8)
    adapter = LowRank(made.up, made.down, alpha=8.0)
    assert adapter.scale == 1.0
