"""Merging against independent code: PEFT's and mergekit's own, sd-scripts' formulas written out again.

What is missing is skipped by name; CONTRIBUTING.md says how to have PEFT (0.21 or newer) and mergekit. Where one of them
computes something else than the paper, ours is pinned against float64 and the difference is said.
"""

from __future__ import annotations

from dataclasses import replace
from types import SimpleNamespace

import pytest
import torch
from torch.nn import Linear

from lora_core.algebra.factorspace import Factors, concat, decompose
from lora_core.merge import blends, sparse
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


@pytest.mark.parametrize(
    ("kind", "ours"), [("ties_svd", sparse.ties), ("magnitude_prune_svd", sparse.magnitude_prune)]
)
def test_pefts_svd_types_with_weights_of_one_are_ours_at_full_rank(kind, ours, peft_layer):
    """Of the whole adapters: PEFT's scaling is in the delta once, and at full rank nothing is cut."""
    model, terms = peft_layer
    model.add_weighted_adapter(
        ["a", "b"], [1.0, 1.0], "merged", combination_type=kind, svd_rank=36, density=0.4
    )
    theirs = model.base_model.model.layer.get_delta_weight("merged").detach()
    settings = Parameters(density=0.4, normalise=kind == "ties_svd")
    assert relative(formed(ours(weight(*terms), settings)), theirs) <= 1e-5


def test_pefts_linear_is_not_the_sum_and_ours_is(peft_layer, generator):
    """PEFT's linear sums the factors apart: cross terms. It wants equal ranks."""
    peft = pytest.importorskip("peft", reason="peft is not installed; it is needed here alone")
    model, terms = peft_layer
    model.add_adapter("c", peft.LoraConfig(r=8, lora_alpha=8, target_modules=["layer"]))
    layer = model.base_model.model.layer
    made = factors(generator, 48, 36, 8)
    layer.lora_B["c"].weight.data, layer.lora_A["c"].weight.data = made.up, made.down
    model.add_weighted_adapter(["a", "c"], [0.8, -0.5], "merged", combination_type="linear")
    theirs = layer.get_delta_weight("merged").detach()
    expected = 0.8 * exact(terms[0]) - 0.5 * exact(made)
    ours = weighted_sum(weight(terms[0], made, strengths=(0.8, -0.5)), Parameters()).delta
    assert relative(theirs, expected) > 0.3
    assert relative(ours, expected) <= 1e-6


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


def mergekits(consensus, sparsification, deltas, normalise=False, **per_row):
    """What mergekit's own method makes of a base of zeros and these task vectors, at STRENGTHS."""
    tasks = pytest.importorskip(
        "mergekit.merge_methods.generalized_task_arithmetic",
        reason="mergekit is not installed, or lacks what it imports",
    )
    sparsify = pytest.importorskip("mergekit.sparsify")
    method = tasks.GeneralizedTaskArithmeticMerge(
        consensus_method=consensus and tasks.ConsensusMethod(consensus),
        sparsification_method=sparsify.SparsificationMethod(sparsification),
        default_normalize=False,
        default_rescale=False,
        method_name="here",
        method_pretty_name=None,
        method_reference_url=None,
    )
    entries = [SimpleNamespace(tensor=delta, id=number) for number, delta in enumerate(deltas)]
    base = SimpleNamespace(tensor=torch.zeros_like(deltas[0]))
    settings = {
        "normalize": normalise, "rescale": False, "lambda": 1.0, "int8_mask": False,
        "weight": dict(enumerate(STRENGTHS)),
    }  # fmt: skip
    settings |= {name: dict.fromkeys(range(3), value) for name, value in per_row.items()}
    group = SimpleNamespace(base=base, non_base=entries)
    return method.merge_group(group, **settings)


def test_mergekits_ties_is_ours(generator):
    some = three(generator)
    theirs = mergekits("sum", "magnitude", [t.delta for t in some.terms], density=0.4)
    assert relative(formed(sparse.ties(some, Parameters(density=0.4))), theirs) <= 1e-6


def test_mergekit_divides_by_signed_weights_and_ours_by_their_sizes(generator):
    """With a negative weight mergekit's divisor may be small or negative: its mean is up to many times too large."""
    some = three(generator)
    deltas = [term.delta for term in some.terms]
    theirs = mergekits("sum", "magnitude", deltas, normalise=True, density=0.4)
    kept = [sparse.largest(delta, 0.4).double() for delta in deltas]
    weighted = [w * each for w, each in zip(STRENGTHS, kept, strict=True)]
    sign = total(weighted) >= 0
    agrees = [(each != 0) & ((each > 0) == sign) for each in weighted]
    share = total([abs(w) * a.double() for w, a in zip(STRENGTHS, agrees, strict=True)])
    summed = total([torch.where(a, e, 0.0 * e) for a, e in zip(agrees, weighted, strict=True)])
    expected = summed / share.where(share > 0, torch.ones_like(share))
    ours = formed(sparse.ties(some, Parameters(density=0.4, normalise=True)))
    assert relative(ours, expected) <= 1e-6
    assert relative(theirs, expected) > 0.1
    positive = replace(some, strengths=(1.0, 0.7, 0.4))
    normalised = formed(sparse.ties(positive, Parameters(density=0.4, normalise=True)))
    assert float(normalised.abs().max()) <= max(float(d.abs().max()) for d in deltas) + 1e-6


def test_mergekits_breadcrumbs_are_ours(generator):
    some = three(generator)
    deltas = [term.delta for term in some.terms]
    theirs = mergekits(None, "magnitude_outliers", deltas, density=0.4, gamma=0.02)
    ours = formed(sparse.breadcrumbs(some, Parameters(density=0.4, outliers=0.02)))
    assert relative(ours, theirs) <= 1e-6


def test_mergekits_della_keeps_with_our_probabilities_and_given_one_mask_gives_our_sum(
    generator, monkeypatch
):
    """Ours divides by the probability, as the paper does; mergekit rescales by a norm, or not at all as here."""
    some = three(generator)
    deltas = [term.delta for term in some.terms]
    settings = Parameters(density=0.4, epsilon=0.15)
    kept = [formed(sparse.della(weight(term), settings)) for term in some.terms]
    asked, masks = [], iter([(each != 0).float() for each in kept])
    monkeypatch.setattr(torch, "bernoulli", lambda p, **_: asked.append(p) or next(masks))
    theirs = mergekits("sum", "della_magprune", deltas, density=0.4, epsilon=0.15)
    divided = [k / d.where(d != 0, torch.ones_like(d)) for k, d in zip(kept, deltas, strict=True)]
    for chance, scale in zip(asked, divided, strict=True):
        there = scale != 0
        torch.testing.assert_close(scale[there], 1 / chance[there], rtol=2e-5, atol=0)
    plain = [torch.where(k != 0, d, 0.0 * d) for k, d in zip(kept, deltas, strict=True)]
    ours = sparse.elected_sum(plain, STRENGTHS, normalise=False)
    assert relative(ours, theirs) <= 1e-6


def test_mergekits_magnitude_trim_is_ours(generator):
    sparsify = pytest.importorskip("mergekit.sparsify", reason="mergekit is not installed")
    delta = factors(generator, 48, 36, 8).delta
    theirs = sparsify.magnitude(delta, density=0.4, rescale_norm=None)
    assert torch.equal(theirs, sparse.largest(delta, 0.4))


@pytest.mark.parametrize("method", ["slerp", "karcher"])
def test_mergekits_blends_along_the_sphere_are_ours(method, generator):
    """Strengths .6 and .4 are mergekit's t = .4, or its weights, and a size of their own mean, .52."""
    named = f"mergekit.merge_methods.{method}"
    theirs = pytest.importorskip(
        named, reason="mergekit is not installed, or lacks what it imports"
    )
    a, b = (factors(generator, 48, 36, 8) for _ in range(2))
    blended = {
        "slerp": lambda: theirs.slerp(torch.tensor([0.4]), a.delta[None], b.delta[None])[0],
        "karcher": lambda: theirs.karcher_merge_tensors([a.delta, b.delta], [0.6, 0.4]),
    }[method]()
    ours = getattr(blends, method)(weight(a, b, strengths=(0.6, 0.4)), Parameters()).delta
    assert relative(ours, 0.52 * blended) <= 1e-4


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
