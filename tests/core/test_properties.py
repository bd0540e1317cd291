"""Laws that hold for every stack, block text, schedule, merge and name, tried on drawn examples.

Seeded: the same examples in every run; LOOM_FULL draws more of them.
"""

from __future__ import annotations

import contextlib
import json
import os
import string

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from lora_core.algebra.steps import run
from lora_core.errors import LoraError, LoraFileError, StackError
from lora_core.files.finding import listed_name
from lora_core.files.parse import parse_state_dict
from lora_core.merge.merge import merge
from lora_core.merge.plan import Plan
from lora_core.merge.ranks import RankRule
from lora_core.resolve import resolve
from lora_core.stack.blockpresets import BUILT_IN
from lora_core.stack.blockstrengths import block_strengths
from lora_core.stack.blocktable import block_table
from lora_core.stack.interop import StackList, read_lora_stack
from lora_core.stack.rows import LoraStack, StackRow
from lora_core.stack.rows_json import parse_rows
from lora_core.stack.rows_text import read_rows
from lora_core.stack.schedule import read_schedule
from lora_core.stack.tags import read_tags
from lora_core.targets import Target, TargetMap
from tests.core.model_names import FLUX, SD15
from tools.family_formulas import expected
from tools.family_tensors import MAKERS, SHAPES, Draw, named

EXAMPLES = 400 if os.environ.get("LOOM_FULL") else 25
lawful = settings(
    max_examples=EXAMPLES,
    derandomize=True,
    deadline=None,
    database=None,
    suppress_health_check=[HealthCheck.too_slow],
)

TARGET = Target("w.weight")
# Kinds whose delta does not depend on the weight: they may come in any order.
ADDITIVE = ("lora", "loha", "lokr_whole", "lokr_second", "lokr_both", "whole")
STRENGTHS = st.floats(-2, 2).map(lambda value: round(value, 2))
SEEDS = st.integers(0, 2**16)
NAMES = st.text(
    st.characters(exclude_characters="/\\\0", exclude_categories=["Cs", "Cc", "Z"]),
    min_size=1,
    max_size=12,
)
NAMES = NAMES.filter(lambda name: name.strip(". ") == name and ":" not in name)
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=20),
    lambda inner: (
        st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=8), inner, max_size=4)
    ),
    max_leaves=12,
)
FIELDS = (
    "lora",
    "model",
    "clip",
    "on",
    "role",
    "blocks",
    "schedule",
    "words",
    "sha256",
    "autov3",
    "accept",
    "size",
)
ROWS = st.lists(
    st.dictionaries(st.sampled_from(FIELDS) | st.text(max_size=5), JSON, max_size=6), max_size=3
)


def patched(weight: torch.Tensor, rows) -> torch.Tensor:
    """The weight in float64 after rows of (kind, seed, strength)."""
    shape = tuple(weight.shape)
    files = [
        (
            StackRow(str(index), strength),
            parse_state_dict(named("lora_unet_w", MAKERS[kind](shape, Draw(seed))), "x"),
        )
        for index, (kind, seed, strength) in enumerate(rows)
    ]
    targets = TargetMap({"lora_unet_w": TARGET}, {"w.weight": shape})
    steps = resolve(files, targets, None, "strict")[0].model.steps
    return run(weight.clone(), steps[TARGET]) if TARGET in steps else weight


additive_rows = st.lists(
    st.tuples(st.sampled_from(ADDITIVE), SEEDS, STRENGTHS), min_size=1, max_size=5
)
any_rows = st.lists(
    st.tuples(
        st.sampled_from([k for k in MAKERS if k not in ("lora_cp", "loha_tucker", "lokr_tucker")]),
        SEEDS,
        STRENGTHS,
    ),
    min_size=1,
    max_size=4,
)


@lawful
@given(additive_rows, st.sampled_from(sorted(SHAPES)), SEEDS)
def test_a_stack_is_the_sum_of_its_rows_in_any_order(rows, layer, seed):
    weight = Draw(seed)(*SHAPES[layer], spread=1.0).double()
    total = weight.clone()
    for kind, file_seed, strength in rows:
        tensors = MAKERS[kind](SHAPES[layer], Draw(file_seed))
        total += strength * (expected(kind, weight, tensors) - weight)
    there, back = patched(weight, rows), patched(weight, rows[::-1])
    assert float((there - total).norm()) <= 1e-5 * float(total.norm() + 1)
    assert float((there - back).norm()) <= 1e-5 * float(total.norm() + 1)


@lawful
@given(any_rows, any_rows, SEEDS)
def test_a_stack_is_its_beginning_and_then_its_end(first, second, seed):
    """For every family, in order: no row reaches over another."""
    weight = Draw(seed)(*SHAPES["Linear"], spread=1.0).double()
    at_once, in_turn = patched(weight, first + second), patched(patched(weight, first), second)
    assert float((at_once - in_turn).norm()) <= 1e-4 * float(in_turn.norm() + 1)


@lawful
@given(st.lists(st.tuples(NAMES, STRENGTHS, STRENGTHS), max_size=6))
def test_a_lora_stack_goes_out_and_comes_back_as_it_was(rows):
    stack = LoraStack(tuple(StackRow(f"{name}.safetensors", *both) for name, *both in rows))
    sent = StackList(stack, [row.name for row in stack.rows])
    assert all(len(item) == 3 for item in sent)
    assert read_lora_stack(sent) == stack
    assert read_lora_stack([tuple(item) for item in sent]).rows == stack.rows


TABLES = {"SD1.5": block_table(SD15), "Flux": block_table(FLUX)}
PLACES = st.sampled_from(
    [*TABLES["SD1.5"].blocks, *TABLES["Flux"].blocks, "IN*", "OUT0*", "*", "M00.cross"]
)
ENTRIES = st.tuples(PLACES, STRENGTHS).map(lambda entry: f"{entry[0]}?={entry[1]}")
VECTORS = st.sampled_from([12, 17, 20, 26, 61]).flatmap(
    lambda length: st.lists(STRENGTHS, min_size=length, max_size=length)
)
VECTORS = VECTORS.map(lambda values: ",".join(map(str, values)))
BLOCK_TEXTS = st.lists(ENTRIES | VECTORS | st.sampled_from(sorted(BUILT_IN)), max_size=4).map(
    "\n".join
)


@lawful
@given(BLOCK_TEXTS | st.text(max_size=40), st.sampled_from(sorted(TABLES)))
def test_a_block_text_gives_every_weight_a_factor_or_is_refused(text, family):
    table = TABLES[family]
    try:
        strengths = block_strengths(text, table)
    except StackError:
        return
    for key, shape in (SD15 if family == "SD1.5" else FLUX).shapes.items():
        shares = strengths.shares(Target(key))
        assert all(abs(share.factor) < 1e6 for share in shares), (key, shape)


@lawful
@given(st.lists(ENTRIES, max_size=6))
def test_what_comes_later_wins_and_what_is_said_twice_is_said_once(entries):
    table = TABLES["SD1.5"]
    once, twice = ("\n".join(lines) for lines in (entries, entries + entries))
    found = [block_strengths(text, table) for text in (once, twice, twice + "\n*=1")]
    for block in table.blocks:
        assert found[0].of_block(block) == found[1].of_block(block)
        assert found[2].of_block(block) == (1.0, 1.0)


@lawful
@given(
    st.lists(
        st.tuples(STRENGTHS, st.integers(0, 100)), min_size=1, max_size=6, unique_by=lambda f: f[1]
    ),
    st.sampled_from(["linear", "cosine", "step"]),
    st.integers(1, 60),
)
def test_a_schedule_never_leaves_the_span_of_its_keyframes(frames, curve, steps):
    frames = sorted(frames, key=lambda frame: frame[1])
    text = ",".join(f"{value}@{place / 100}" for value, place in frames)
    schedule = read_schedule(f"{text}:curve={curve}" if len(frames) > 1 else text)
    assert schedule is not None
    low, high = min(value for value, _ in frames), max(value for value, _ in frames)
    for step in range(steps):
        assert low - 1e-9 <= schedule.strength(0.8, step, steps) <= high + 1e-9


@lawful
@given(st.text(st.sampled_from(string.digits + "@.,:%=-curvestopa "), max_size=30))
def test_a_schedule_text_is_understood_or_refused(text):
    try:
        schedule = read_schedule(text)
    except StackError:
        return
    if schedule is not None:
        values = [schedule.strength(1.0, step, 7) for step in range(7)]
        assert all(abs(value) < float("inf") for value in values)


@lawful
@given(
    ROWS | JSON,
    st.sampled_from(["{}", '{{"version": 1, "rows": {}}}', '{{"rows": {}, "locks": {{}}}}']),
)
def test_rows_of_any_json_are_read_or_refused(document, frame):
    try:
        stack = parse_rows(frame.format(json.dumps(document)))
    except StackError:
        return
    assert all(row.name and abs(row.model) < float("inf") for row in stack.rows)


@lawful
@given(st.text(max_size=80) | JSON.map(json.dumps) | ROWS.map(json.dumps))
def test_a_rows_box_with_anything_in_it_is_read_or_refused(text):
    with contextlib.suppress(LoraError):
        read_rows(text, lambda name: listed_name(name, ["a.safetensors"]))


@lawful
@given(
    st.text(st.sampled_from("<lora:a.1,>[]()\\= \n|-e9x"), max_size=60),
    st.sampled_from(["comfyui", "a1111"]),
)
def test_a_prompt_with_broken_tags_is_read_or_refused_and_keeps_its_words(text, dialect):
    try:
        read = read_tags(text, lambda name: name, dialect, "skip")
    except LoraError:
        return
    assert "<lora:" not in read.text or not read.stack.rows
    if "<" not in text:
        assert read.text.split() == text.split()


@lawful
@given(st.lists(st.lists(NAMES, min_size=1, max_size=3), min_size=1, max_size=6, unique_by=tuple))
def test_a_listed_name_means_itself_in_the_separators_of_any_system(paths):
    listed = ["/".join(parts) + ".safetensors" for parts in paths]
    for name in listed:
        assert listed_name(name, listed) == name
        assert listed_name(name.replace("/", "\\"), listed) == name


@lawful
@given(st.lists(NAMES, min_size=1, max_size=5, unique=True), NAMES)
def test_a_name_is_found_as_one_of_the_list_or_not_at_all(bases, wanted):
    listed = [f"{base}.safetensors" for base in bases]
    try:
        assert listed_name(wanted, listed) in (wanted, f"{wanted}.safetensors")
    except LoraFileError:
        assert wanted not in bases


@lawful
@given(
    st.lists(st.tuples(SEEDS, STRENGTHS.filter(lambda s: s != 0)), min_size=1, max_size=4),
    st.sampled_from(["svd", "concat"]),
)
def test_a_merge_is_the_stack_that_it_came_from(rows, method):
    shape = SHAPES["Linear"]
    files = [
        (
            StackRow(str(index), strength, strength),
            parse_state_dict(named("lora_unet_w", MAKERS["lora"](shape, Draw(seed))), "x"),
        )
        for index, (seed, strength) in enumerate(rows)
    ]
    merged = merge(files, Plan(method=method, rule=RankRule("all")))
    weight = torch.zeros(shape, dtype=torch.float64)
    exact = patched(weight, [("lora", seed, strength) for seed, strength in rows])
    targets = TargetMap({"lora_unet_w": TARGET}, {"w.weight": shape})
    (module,) = merged.file.modules.values()
    steps = resolve([(StackRow("m"), merged.file)], targets, None, "strict")[0].model.steps
    again = run(weight, steps[TARGET])
    assert module.rank is not None
    assert float((again - exact).norm()) <= 1e-5 * float(exact.norm() + 1)


@pytest.mark.parametrize("kind", ADDITIVE)
def test_zero_strength_gives_the_very_weight_back(kind):
    weight = Draw(3)(*SHAPES["Linear"], spread=1.0)
    assert torch.equal(patched(weight, [(kind, 1, 0.0)]), weight)
