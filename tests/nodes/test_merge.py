"""What the merge and resize nodes hand to the core, and what they hand out."""

from __future__ import annotations

import pytest

KEEP = {"keep": "energy", "rank": 8, "energy": 0.9, "ratio": 5.0, "size_mb": 3.0, "dtype": "fp16"}


def test_merge_hands_rows_plan_and_memory_over(pack):
    answer = pack.nodes["LoomMerge"]().merge(
        method="della",
        **KEEP,
        lora_stack=[("style.safetensors", 0.8, 0.5)],
        lora_model_2={"y": 2},
        strength_2=-0.3,
        density=0.4,
        mask_seed=9,
        blocks="te: 1",
        model="M",
    )
    stack, in_memory, plan, dtype, blocks, model, clip = pack.merged[0]
    assert [(row.name, row.model, row.clip) for row in stack.rows] == [
        ("style.safetensors", 0.8, 0.5)
    ]
    assert in_memory == ((None, 1.0), ({"y": 2}, -0.3))
    assert (plan.method, plan.rule.kind, plan.rule.value, plan.seed) == ("della", "energy", 0.9, 9)
    assert plan.parameters.density == 0.4
    assert (dtype, blocks, model, clip) == ("fp16", "te: 1", "M", None)
    assert answer["result"] == ({"x": 1}, "well", "a chart", "{}")
    assert answer["ui"]["text"] == ["well"]


@pytest.mark.parametrize(
    ("keep", "value"),
    [("all", 0), ("rank", 8), ("energy", 0.9), ("frobenius", 0.9), ("ratio", 5), ("size", 3)],
)
def test_each_rule_reads_its_own_widget(keep, value, pack):
    pack.nodes["LoomResize"]().resize("style.safetensors", **(KEEP | {"keep": keep}))
    name, tensors, rule, dtype = pack.merged[0]
    assert (name, tensors, dtype) == ("style.safetensors", None, "fp16")
    assert (rule.kind, rule.value) == (keep, value)


def test_resize_takes_a_lora_model_instead_of_a_file(pack):
    pack.nodes["LoomResize"]().resize("[the LORA_MODEL input]", **KEEP, lora_model={"x": 1})
    assert pack.merged[0][:2] == (None, {"x": 1})


def test_every_method_and_rule_of_the_core_is_on_the_list(pack):
    import sys

    core = "lora_loom.lora_core.merge"
    required = pack.nodes["LoomMerge"].INPUT_TYPES()["required"]
    assert required["method"][0] == list(sys.modules[f"{core}.methods"].METHODS)
    assert required["keep"][0] == list(sys.modules[f"{core}.ranks"].RULE_NAMES)


def test_a_missing_file_is_refused_before_the_graph_runs(pack):
    validate = pack.nodes["LoomResize"].VALIDATE_INPUTS
    assert validate("style.safetensors") is True
    assert "LoRA 'gone.safetensors' not found" in validate("gone.safetensors")
    assert validate("[the LORA_MODEL input]") is True
    assert pack.nodes["LoomResize"].IS_CHANGED("[the LORA_MODEL input]") == ""
