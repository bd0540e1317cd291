"""Every merge method against a plain dense float64 computation written from its paper."""

from __future__ import annotations

import math

import pytest
import torch

from lora_core.algebra.factorspace import Factors, product
from lora_core.errors import MergeError
from lora_core.merge import weight as weights
from lora_core.merge.choice import owner_of, parse_choices
from lora_core.merge.methods import METHODS
from lora_core.merge.thresholds import kth_largest
from lora_core.merge.weight import Parameters, RowBlocks, content, generator, row_slices
from tests.core.merge_rows import exact, factors, total, weight

# Taller than one block of rows, so that block by block is really so.
OUT, INNER = 300, 40
STRENGTHS = (1.0, 0.7, -0.4)


@pytest.fixture
def three(generator):
    """Rows of different ranks and signs."""
    terms = [factors(generator, OUT, INNER, rank) for rank in (4, 7, 3)]
    return weight(*terms, strengths=STRENGTHS)


def merged(method: str, of, **settings) -> torch.Tensor:
    """The method's whole result as a float64 matrix."""
    result = METHODS[method].run(of, Parameters(**settings))
    if isinstance(result, RowBlocks):
        return torch.cat([block for _, block in result]).double()
    return exact(result)


def in_factors(method: str, of, **settings) -> Factors:
    """The result of a method that stays low-rank."""
    result = METHODS[method].run(of, Parameters(**settings))
    assert isinstance(result, Factors)
    return result


def close(found: torch.Tensor, expected: torch.Tensor, tolerance: float = 1e-5) -> None:
    assert float((found - expected).norm()) <= tolerance * float(expected.norm())


def weighted_sum(deltas, strengths=STRENGTHS):
    return total(w * d for w, d in zip(strengths, deltas, strict=True))


def trimmed(delta: torch.Tensor, density: float) -> torch.Tensor:
    """TIES step 1: the largest density of all entries."""
    count = int(density * delta.numel())
    cut = delta.abs().flatten().sort(descending=True).values[count - 1]
    return delta * (delta.abs() >= cut)


def elected(deltas, strengths=STRENGTHS, normalise=False):
    """TIES steps 2 and 3 on trimmed deltas, entry by entry."""
    scaled = torch.stack([w * d for w, d in zip(strengths, deltas, strict=True)])
    sign = torch.where(scaled.sum(0) >= 0, 1.0, -1.0)
    agrees = (scaled.sign() == sign) & (scaled != 0)
    total = (scaled * agrees).sum(0)
    if not normalise:
        return total
    size = torch.tensor(strengths, dtype=torch.float64).abs()[:, None, None]
    return total / (size * agrees).sum(0).clamp(min=1e-30)


def deltas_of(of) -> list[torch.Tensor]:
    """As the methods see them: float32 products."""
    return [(term.up @ term.down).double() for term in of.terms]


def masks(of, keep) -> list[torch.Tensor]:
    """The methods' own random draws: one generator a row of the stack and block of matrix rows."""
    drawn = []
    for term, probability in zip(of.terms, keep, strict=True):
        blocks = [
            torch.rand(
                rows.stop - rows.start,
                INNER,
                generator=generator(of.seed, content(term), rows.start),
            )
            for rows in row_slices(OUT)
        ]
        drawn.append(torch.cat(blocks) < probability)
    return drawn


@pytest.mark.parametrize("method", ["concat", "svd"])
def test_the_sum_is_the_exact_weighted_sum(method, three):
    close(merged(method, three), weighted_sum(map(exact, three.terms)))
    assert in_factors(method, three).rank == 14


@pytest.mark.parametrize("normalise", [False, True])
@pytest.mark.parametrize("density", [0.2, 0.5, 1.0])
def test_ties_trims_elects_and_merges(three, density, normalise):
    kept = [trimmed(delta, density) for delta in deltas_of(three)]
    expected = elected(kept, normalise=normalise)
    close(merged("ties", three, density=density, normalise=normalise), expected)


def test_ties_elects_among_weighted_deltas():
    """A strong row must outvote two weak ones: the election is after the weighing."""
    ones = Factors(torch.ones(4, 1), torch.ones(1, 4))
    minus = Factors(-torch.ones(4, 1), torch.ones(1, 4))
    found = merged("ties", weight(ones, minus, minus, strengths=(1.0, 0.4, 0.4)), density=1.0)
    assert bool((found == 1).all())


def test_magnitude_prune_sums_what_the_trim_leaves(three):
    expected = weighted_sum([trimmed(delta, 0.3) for delta in deltas_of(three)])
    close(merged("magnitude_prune", three, density=0.3), expected)


def test_breadcrumbs_drops_both_tails(three):
    def middle(delta: torch.Tensor) -> torch.Tensor:
        order = delta.abs().flatten().argsort(descending=True)
        top, keep = int(0.05 * delta.numel()), int(0.4 * delta.numel())
        mask = torch.zeros(delta.numel(), dtype=torch.bool)
        mask[order[top : top + keep]] = True
        return delta * mask.reshape(delta.shape)

    expected = weighted_sum([middle(delta) for delta in deltas_of(three)])
    close(merged("breadcrumbs", three, density=0.4, outliers=0.05), expected)


def test_breadcrumbs_without_outliers_is_magnitude_prune(three):
    close(
        merged("breadcrumbs", three, density=0.4, outliers=0.0),
        merged("magnitude_prune", three, density=0.4),
        1e-12,
    )


def test_dare_drops_at_random_and_rescales(three):
    kept = [d * m / 0.4 for d, m in zip(deltas_of(three), masks(three, [0.4] * 3), strict=True)]
    close(merged("dare_linear", three, density=0.4), weighted_sum(kept))
    close(merged("dare_ties", three, density=0.4), elected(kept))
    shares = [float((k != 0).double().mean()) for k in kept]
    assert shares == pytest.approx([0.4] * 3, abs=0.02)


def test_della_keeps_by_rank_of_magnitude_within_a_row(three):
    def keep(delta: torch.Tensor) -> torch.Tensor:
        ranks = delta.abs().argsort(1).argsort(1).double()
        return 0.5 - 0.2 + 2 * 0.2 * ranks / (INNER - 1)

    deltas = deltas_of(three)
    probabilities = [keep(delta) for delta in deltas]
    kept = [
        d * m / p
        for d, m, p in zip(deltas, masks(three, probabilities), probabilities, strict=True)
    ]
    close(merged("della", three, density=0.5, epsilon=0.2), elected(kept))


def test_slerp_follows_the_great_circle(generator):
    a, b = (factors(generator, 30, 20, rank) for rank in (4, 6))
    x, y = exact(a), exact(b)
    angle = math.acos(float((x * y).sum() / (x.norm() * y.norm())))
    share = 0.3 / 0.9
    expected = (math.sin((1 - share) * angle) * x + math.sin(share * angle) * y) / math.sin(angle)
    mean = (0.6 * 0.6 + 0.3 * 0.3) / 0.9
    close(merged("slerp", weight(a, b, strengths=(0.6, 0.3))), mean * expected)


def test_slerp_of_one_row_with_itself_is_that_row_and_turns_with_the_sign(generator):
    a = factors(generator, 30, 20, 4)
    close(merged("slerp", weight(a, a)), exact(a))
    b = factors(generator, 30, 20, 4)
    minus = Factors(-b.up, b.down)
    close(merged("slerp", weight(a, b, strengths=(1.0, -1.0))), merged("slerp", weight(a, minus)))


def test_slerp_refuses_three_rows(three):
    with pytest.raises(MergeError, match="slerp blends two rows; 3 have .* Use karcher"):
        merged("slerp", three)


def test_the_karcher_mean_has_no_pull_left(three):
    """sum p_i log_x(u_i) = 0 in the full space, and the length is the mean length."""
    found = merged("karcher", three)
    p = torch.tensor([abs(w) for w in STRENGTHS]).double()
    p = p / p.sum()
    flat = [
        math.copysign(1, w) * exact(t).flatten()
        for w, t in zip(STRENGTHS, three.terms, strict=True)
    ]
    x = found.flatten() / found.norm()
    pull = torch.zeros_like(x)
    for share, delta in zip(p, flat, strict=True):
        unit = delta / delta.norm()
        angle = torch.acos((unit @ x).clamp(-1, 1))
        pull += share * angle / torch.sin(angle) * (unit - (unit @ x) * x)
    assert float(pull.norm()) <= 1e-5
    length = sum(share * delta.norm() for share, delta in zip(p, flat, strict=True))
    mean = sum(share * abs(w) for share, w in zip(p, STRENGTHS, strict=True))
    assert float(found.norm()) == pytest.approx(float(mean * length), rel=1e-5)


def test_karcher_says_when_rows_cancel(generator):
    a = factors(generator, 20, 10, 3)
    with pytest.raises(MergeError, match="The rows cancel"):
        merged("karcher", weight(a, a, strengths=(1.0, -1.0)))


def test_knots_ties_is_ties_in_the_shared_basis(three):
    """The dense form: one SVD of the deltas side by side, TIES over the rows' shares of V."""
    deltas = [exact(term) for term in three.terms]
    u, s, vh = torch.linalg.svd(torch.cat(deltas, 1), full_matrices=False)
    u, s, vh = u[:, :14], s[:14], vh[:14]
    shares = [s[:, None] * part for part in vh.split(INNER, 1)]
    expected = u @ elected([trimmed(share, 0.3) for share in shares])
    close(merged("knots_ties", three, density=0.3), expected, 1e-4)
    assert in_factors("knots_ties", three).rank == 14


def test_tsv_m_makes_the_rows_directions_orthogonal(three):
    def polar(matrix: torch.Tensor) -> torch.Tensor:
        u, _, vh = torch.linalg.svd(matrix, full_matrices=False)
        return u @ vh

    parts = [torch.linalg.svd(exact(term), full_matrices=False) for term in three.terms]
    ranks = [term.rank for term in three.terms]
    u = polar(torch.cat([p[0][:, :r] for p, r in zip(parts, ranks, strict=True)], 1))
    v = polar(torch.cat([p[2][:r].T for p, r in zip(parts, ranks, strict=True)], 1))
    s = torch.cat([w * p[1][:r] for w, p, r in zip(STRENGTHS, parts, ranks, strict=True)])
    close(merged("tsv_m", three), u @ torch.diag(s) @ v.T)


def test_tsv_m_gives_each_row_its_share_of_a_small_matrix(generator):
    terms = [factors(generator, 8, 12, 6) for _ in range(2)]
    assert in_factors("tsv_m", weight(*terms)).rank == 8


@pytest.mark.parametrize("much", [0.0, 0.5, 1.0])
def test_orthogonal_takes_the_styles_part_in_the_characters_subspace(generator, much):
    style, character = factors(generator, 60, INNER, 5), factors(generator, 60, INNER, 6)
    both = weight(style, character, strengths=(0.9, 0.8), roles=("style", "character"))
    u, _, vh = torch.linalg.svd(exact(character), full_matrices=False)
    q, p = u[:, :6], vh[:6].T
    off = exact(style) - much * q @ q.T @ exact(style) @ p @ p.T
    close(merged("orthogonal", both, protection=much), 0.9 * off + 0.8 * exact(character))
    if much == 1.0:
        assert abs(float((off * exact(character)).sum())) <= 1e-9 * float(off.norm())


def test_orthogonal_protects_the_first_row_where_no_role_says_otherwise(generator):
    terms = [factors(generator, 60, INNER, 5) for _ in range(2)]
    found = in_factors("orthogonal", weight(*terms))
    assert product(found, terms[0]) == pytest.approx(product(terms[0], terms[0]), rel=1e-5)


def test_zipper_gives_each_column_to_one_row(three):
    deltas = [exact(term) for term in three.terms]
    shares = [
        w**2 * d.square().sum(0) / d.square().sum() for w, d in zip(STRENGTHS, deltas, strict=True)
    ]
    owner = torch.stack(shares).argmax(0)
    expected = weighted_sum([d * (owner == i) for i, d in enumerate(deltas)])
    close(merged("zipper", three), expected)
    assert len(set(owner.tolist())) == 3


def test_blockwise_takes_the_owners_alone(three):
    named = parse_choices("output_blocks_1: 2, *: all", ("free",) * 3)
    close(merged("blockwise", three, choices=named), 0.7 * exact(three.terms[1]))
    other = parse_choices("output_blocks_2: 2", ("free",) * 3)
    close(merged("blockwise", three, choices=other), weighted_sum(map(exact, three.terms)))


def test_a_choice_names_whole_blocks_by_number_or_role():
    roles = ("style", "character")
    choices = parse_choices("output_blocks_1.1: style\noutput_blocks_1: character; te: 2", roles)
    found = [
        owner_of(f"lora_{name}", choices)
        for name in ("unet_output_blocks_1_1_x", "unet_output_blocks_1_0_x", "te_text_model_x")
    ]
    assert found == ["style", "character", "2"]
    assert owner_of("lora_unet_output_blocks_11_0_x", choices) == "all"
    for text, said in (
        ("output_blocks_1", "is not 'block: row'"),
        ("mid: detail", "no row has that role"),
        ("mid: 3", "there is no such row"),
    ):
        with pytest.raises(MergeError, match=said):
            parse_choices(text, roles)


@pytest.mark.parametrize("method", METHODS)
def test_the_same_rows_give_the_same_bytes(method, three):
    of = three if method != "slerp" else weight(*three.terms[:2])
    first, again = merged(method, of), merged(method, of)
    assert torch.equal(first, again)


@pytest.mark.parametrize("method", ["dare_linear", "dare_ties", "della"])
def test_random_masks_follow_the_row_and_the_seed_not_the_order(method, three):
    turned = weight(*three.terms[::-1], strengths=STRENGTHS[::-1])
    close(merged(method, turned), merged(method, three), 1e-6)
    other = weight(*three.terms, strengths=STRENGTHS, seed=12)
    assert float((merged(method, other) - merged(method, three)).norm()) > 0.1


@pytest.mark.parametrize("method", METHODS)
def test_a_row_of_another_strength_counts_by_it(method, three):
    """No method ignores the strengths: turned round, the first row's part changes its sign."""
    of = three if method != "slerp" else weight(*three.terms[:2])
    flipped = weight(*of.terms, strengths=(-of.strengths[0], *of.strengths[1:]))
    difference = merged(method, of) - merged(method, flipped)
    assert float((difference * exact(of.terms[0])).sum()) > 0


def test_the_kth_largest_is_exact_over_blocks(generator):
    values = torch.randn(70, 50, generator=generator) * 10 ** torch.randn(
        70, 50, generator=generator
    )
    values[0] = 0.5
    falling = values.abs().flatten().sort(descending=True).values
    for k in (1, 2, 999, 1500, 3499, 3500):
        assert kth_largest(lambda: values.split(16), k) == float(falling[k - 1])


@pytest.mark.parametrize(
    ("method", "settings", "said"),
    [
        ("ties", {"density": 0.0}, "'density' is 0; it must be above 0"),
        ("orthogonal", {"protection": 1.5}, "'protection' is 1.5"),
        ("della", {"density": 0.9, "epsilon": 0.2}, "'epsilon' is 0.2; it must be 0 to 0.1"),
        ("breadcrumbs", {"density": 0.9, "outliers": 0.2}, "'outliers' is 0.2"),
    ],
)
def test_settings_that_make_no_sense_are_refused(method, settings, said, three):
    with pytest.raises(MergeError, match=said):
        merged(method, three, **settings)


def test_a_block_is_a_part_of_the_whole(three):
    result = METHODS["ties"].run(three, Parameters())
    assert isinstance(result, RowBlocks)
    sizes = [rows.stop - rows.start for rows, _ in result]
    assert sizes == [weights.BLOCK_ROWS, OUT - weights.BLOCK_ROWS]
