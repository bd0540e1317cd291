"""The axes and points of a sweep, and that bad input is said with its token and place."""

from __future__ import annotations

import pytest

from lora_core.errors import LoraError, StackError, SweepError
from lora_core.files.parse import parse_state_dict
from lora_core.resolve import resolve
from lora_core.stack.rows import LoraStack, StackRow
from lora_core.sweep.axes import Scene
from lora_core.sweep.energy import energy_meter
from lora_core.sweep.points import AXES, AxisLabels, Sweep, plan_sweep, point_of, stack_of
from lora_core.sweep.values import MOST_POINTS, AxisOrder, numbers
from tests.core.lora_tensors import pair
from tests.core.model_names import CLIP_L, SD15, WIDTH

NAME = "lora_unet_{}_0_in_layers_2"
TE = "lora_te_text_model_encoder_layers_3_mlp_fc1"
NONE = AxisOrder("y", "none")


def row(generator, name: str, blocks: tuple[str, ...], encoder: bool = False, **fields) -> StackRow:
    tensors = {}
    for block in blocks:
        name_of = NAME.format(block)
        tensors |= pair(
            name_of, generator, out=WIDTH, inner=WIDTH, rank=2, kernel=(3, 3), alpha=2.0
        )
    if encoder:
        tensors |= pair(TE, generator, out=WIDTH, inner=WIDTH, rank=2, alpha=2.0)
    return StackRow(name, **fields, adapter=parse_state_dict(tensors, name))


@pytest.fixture
def scene(generator) -> Scene:
    """A style on IN04 and OUT05 and the text encoder, and a character on IN04 and M00's neighbour OUT03."""
    style = row(
        generator, "dir/style.safetensors", ("input_blocks_4", "output_blocks_5"), True, model=0.8, clip=0.4
    )  # fmt: skip
    character = row(
        generator, "character.safetensors", ("input_blocks_4", "output_blocks_3"), model=0.9, clip=0.9
    )  # fmt: skip
    return Scene(LoraStack((style, character)), SD15, CLIP_L)


def stacks(scene: Scene, x: AxisOrder, y: AxisOrder = NONE) -> dict[str, LoraStack]:
    """Label -> the stack of that point."""
    _, _, steps = plan_sweep(x, y, scene)
    return {
        f"{a.label}{b.label and ', '}{b.label}": stack_of((a, b), scene.stack) for a, b in steps
    }


def strengths(stack: LoraStack) -> list[tuple[float, float]]:
    return [(each.model, each.clip) for each in stack.rows]


def touched(stack: LoraStack) -> set[str]:
    """The weights that a stack changes."""
    rows = [(each, each.adapter) for each in stack.active.rows if each.adapter is not None]
    resolved, _ = resolve(rows, SD15, CLIP_L)
    keys = [target.key for target in (*resolved.model.steps, *resolved.clip.steps)]
    return {key.split(".")[1] + "." + key.split(".")[2] for key in keys}


def test_tenths_are_eleven_round_numbers_with_both_ends():
    found = numbers(AxisOrder("x", "strength", low=0.0, high=1.0, step=0.1))
    assert found == [0.0, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 1.0]
    assert numbers(AxisOrder("x", "strength", low=-1, high=0.5, step=0.5)) == [-1, -0.5, 0, 0.5]
    assert numbers(AxisOrder("x", "strength", low=0.3, high=0.3)) == [0.3]
    assert numbers(AxisOrder("x", "strength", values="0, 0.25,\n1.2")) == [0, 0.25, 1.2]


@pytest.mark.parametrize(
    ("order", "message"),
    [
        (AxisOrder("x", "strength", low=1, high=0), "The range of x is empty: from 1 to 0"),
        (AxisOrder("y", "strength", step=0), "y_step is 0; it must be above 0"),
        (AxisOrder("x", "strength", low=float("nan")), "x_from is nan; it must be a finite number"),
        (AxisOrder("x", "strength", high=float("inf")), "x_to is inf"),
        (AxisOrder("x", "strength", step=1e-6), "steps of 1e-06 are 1000001 points; at most 1000"),
        (AxisOrder("x", "strength", values="0.1, nan"), "x_values, line 1, column 6: 'nan' is not"),
        (AxisOrder("x", "strength", values="0,\n 1, two"), "x_values, line 2, column 5: 'two' is"),
        (AxisOrder("x", "strength", values="0," * 1001), "x_values are 1001 points"),
        (AxisOrder("x", "strength", row=3), "Row 3 is not there: the stack has 2 rows"),
        (AxisOrder("x", "blocks: leave one out", values="IN04, IN77"), "column 7: this model has no block 'IN77'"),
        (AxisOrder("x", "blocks: only one", values="OUT05-OUT03"), "column 1: the range OUT05-OUT03 is empty"),
        (AxisOrder("x", "blocks: only one", values="IN04=0.5"), "says more than a block; write IN04"),
        (AxisOrder("x", "blocks: leave one out", values="IN04.nose"), "touches nothing"),
        (AxisOrder("x", "merge method", values="ties, blend"), "column 7: no merge method 'blend'"),
        (AxisOrder("x", "strength", values=" , "), "x_values holds nothing between its commas"),
        (AxisOrder("x", "blocks: only one", values=";"), "x_values holds nothing between its commas"),
        (AxisOrder("x", "colour"), "No axis 'colour'; choose from strength, "),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)  # fmt: skip
def test_bad_input_is_one_error_that_names_the_axis_the_token_and_the_column(scene, order, message):
    with pytest.raises(LoraError) as failure:
        plan_sweep(order, NONE, scene)
    assert message in str(failure.value)


def test_two_axes_together_have_a_limit_too(scene):
    many = AxisOrder("x", "strength", high=1, step=0.01)
    with pytest.raises(
        SweepError, match=f"101 by 101 steps are 10201 points; at most {MOST_POINTS}"
    ):
        plan_sweep(many, AxisOrder("y", "strength", 2, high=1, step=0.01), scene)


def test_a_strength_moves_its_row_alone_and_clip_keeps_its_proportion(scene):
    found = stacks(scene, AxisOrder("x", "strength", 1, values="0, 0.4, 1"))
    assert strengths(found["0.4"]) == [(0.4, pytest.approx(0.2)), (0.9, 0.9)]
    assert strengths(found["1"]) == [(1.0, pytest.approx(0.5)), (0.9, 0.9)]
    assert strengths(found["0"]) == [(0.0, 0.0), (0.9, 0.9)]
    only_model = stacks(scene, AxisOrder("x", "model strength", 1, values="0.3"))
    assert strengths(only_model["0.3"]) == [(0.3, 0.4), (0.9, 0.9)]
    only_clip = stacks(scene, AxisOrder("x", "clip strength", 2, values="0.3"))
    assert strengths(only_clip["0.3"]) == [(0.8, 0.4), (0.9, 0.3)]


def test_row_0_multiplies_every_rows_own_strength(scene):
    found = stacks(scene, AxisOrder("x", "strength", 0, values="0.5"))
    assert strengths(found["0.5"]) == [(0.4, 0.2), (0.45, 0.45)]


def test_two_rows_against_each_other_are_all_pairs_line_by_line(scene):
    x, y = (
        AxisOrder("x", "strength", 1, values="0, 1"),
        AxisOrder("y", "strength", 2, values="0.2, 0.6"),
    )
    across, down, steps = plan_sweep(x, y, scene)
    assert across == AxisLabels("style: strength", ("0", "1"))
    assert down == AxisLabels("character: strength", ("0.2", "0.6"))
    assert [(a.label, b.label) for a, b in steps] == [("0", "0.2"), ("1", "0.2"), ("0", "0.6"), ("1", "0.6")]  # fmt: skip
    assert [each.model for each in stacks(scene, x, y)["1, 0.6"].rows] == [1.0, 0.6]


def test_leaving_a_block_out_takes_away_that_block_of_that_row_alone(scene):
    found = stacks(scene, AxisOrder("x", "blocks: leave one out", 1))
    assert list(found) == ["all", "no IN04", "no OUT05", "no TE"]
    both, without = touched(found["all"]), touched(found["no OUT05"])
    assert both - without == {"output_blocks.5"}
    assert touched(found["no IN04"]) == both  # the character has it too
    assert both - touched(found["no TE"]) == {"transformer.text_model"}


def test_only_one_block_leaves_nothing_else_of_that_row(scene):
    alone = Scene(LoraStack(scene.stack.rows[:1]), SD15, CLIP_L)
    found = stacks(alone, AxisOrder("x", "blocks: only one", 1))
    assert list(found) == ["none", "IN04", "OUT05", "TE"]
    assert [touched(each) for each in found.values()] == [
        set(), {"input_blocks.4"}, {"output_blocks.5"}, {"transformer.text_model"},
    ]  # fmt: skip


@pytest.mark.parametrize("blocks", ["IN04=0.5", '{"IN04": 0.5}'])
def test_block_strengths_that_a_row_has_are_kept(scene, blocks):
    first = scene.stack.rows[0]
    own = StackRow(first.name, 0.8, 0.4, blocks=blocks, adapter=first.adapter)
    with_own = Scene(LoraStack((own,)), SD15, CLIP_L)

    def factor(stack: LoraStack) -> float | None:
        found, _ = resolve(
            [(each, each.adapter) for each in stack.rows if each.adapter], SD15, CLIP_L
        )
        terms = {t.key.split(".")[2]: term for t, (term,) in found.model.terms.items()}
        return terms["4"].factor if "4" in terms else None

    left_out = stacks(with_own, AxisOrder("x", "blocks: leave one out", 1))
    assert factor(left_out["no OUT05"]) == 0.5
    assert factor(left_out["no IN04"]) is None
    alone = stacks(with_own, AxisOrder("x", "blocks: only one", 1))
    assert factor(alone["IN04"]) == 0.5


def test_written_blocks_are_steps_as_they_stand_and_each_is_every_block_on_its_own(scene):
    order = AxisOrder("x", "blocks: leave one out", 1, values="IN*, each OUT03-OUT05, OUT05.conv")
    assert list(stacks(scene, order)) == ["all", "no IN*", "no OUT03", "no OUT04", "no OUT05", "no OUT05.conv"]  # fmt: skip


def test_parts_alone_are_refused_where_the_row_has_strengths_of_its_own(scene):
    first = scene.stack.rows[0]
    own = StackRow(first.name, blocks="IN04=0.5", adapter=first.adapter)
    with pytest.raises(SweepError, match="has block strengths of its own"):
        plan_sweep(
            AxisOrder("x", "blocks: only one", 1, values="IN04.conv"),
            NONE,
            Scene(LoraStack((own,)), SD15, CLIP_L),
        )


def test_rows_are_left_out_or_alone_by_name(scene):
    out = stacks(scene, AxisOrder("x", "rows: leave one out"))
    assert {label: strengths(stack) for label, stack in out.items()} == {
        "all": [(0.8, 0.4), (0.9, 0.9)],
        "no style": [(0, 0), (0.9, 0.9)],
        "no character": [(0.8, 0.4), (0, 0)],
    }
    alone = stacks(scene, AxisOrder("x", "rows: only one"))
    assert strengths(alone["none"]) == [(0, 0), (0, 0)]
    assert strengths(alone["style"]) == [(0.8, 0.4), (0, 0)]


def test_merge_methods_are_an_axis_that_comes_after_the_strengths(scene):
    x = AxisOrder("x", "merge method", values="concat, ties")
    y = AxisOrder("y", "model strength", 1, values="0, 1")
    found = stacks(scene, x, y)
    assert list(found) == [
        "stack, 0", "concat, 0", "ties, 0", "stack, 1", "concat, 1", "ties, 1",
    ]  # fmt: skip
    (merged,) = found["concat, 1"].rows
    assert (merged.model, merged.clip) == (1.0, 1.0)
    assert touched(found["concat, 1"]) == touched(found["stack, 1"])
    assert "output_blocks.5" not in touched(found["concat, 0"])
    every = stacks(scene, AxisOrder("x", "merge method"))
    assert "slerp" in every
    assert "blockwise" not in every


def test_every_axis_of_the_table_makes_steps(scene):
    for kind, axis in AXES.items():
        values = "concat" if kind == "merge method" else ""
        assert len(plan_sweep(AxisOrder("x", kind, 1, values=values), NONE, scene)[2]) >= 2
        assert axis.words


def test_points_know_their_place_their_rows_and_what_they_are_compared_with(scene):
    x = AxisOrder("x", "blocks: leave one out", 1)
    y = AxisOrder("y", "strength", 2, values="0, 1")
    across, down, steps = plan_sweep(x, y, scene)
    points = [point_of(i, 4, pair, scene.stack, None) for i, pair in enumerate(steps)]
    sweep = Sweep(across, down, tuple(points))
    last = points[-1]
    assert (last.col, last.row, last.label) == (3, 1, "no TE, 1")
    assert all(each.adapter is None for each in last.rows)
    assert last.rows[0].blocks == "TE=0"
    assert sweep.reference_of(last) is points[4]
    turned = plan_sweep(
        AxisOrder("x", "strength", 2, values="0, 1"), AxisOrder("y", "rows: only one"), scene
    )
    found = [point_of(i, 2, pair, scene.stack, None) for i, pair in enumerate(turned[2])]
    assert Sweep(turned[0], turned[1], tuple(found)).reference_of(found[-1]) is found[1]


def test_the_energy_of_blocks_adds_up_to_that_of_the_row(scene):
    found = stacks(scene, AxisOrder("x", "blocks: leave one out", 1))
    measure = energy_meter(scene, 1)
    whole = measure(found["all"])
    parts = [measure(stack) for label, stack in found.items() if label != "all"]
    assert whole is not None
    assert sum(whole - part for part in parts if part is not None) == pytest.approx(whole)
    of_both = energy_meter(scene, 0)(found["all"])
    assert of_both is not None
    assert of_both > whole


def test_an_unknown_preset_in_a_row_is_still_the_rows_own_error(scene):
    bad = StackRow("x", blocks="NOSUCH", adapter=scene.stack.rows[0].adapter)
    with pytest.raises(StackError, match="'NOSUCH' is neither a preset nor an entry"):
        plan_sweep(
            AxisOrder("x", "blocks: only one", 1), NONE, Scene(LoraStack((bad,)), SD15, CLIP_L)
        )
