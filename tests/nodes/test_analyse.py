"""What the interference, balance and extract nodes hand to the core, and what they hand out."""

from __future__ import annotations

ROWS = [("style.safetensors", 0.8, 0.5)]


def test_interference_hands_stack_model_and_conditioning_over(pack):
    answer = pack.nodes["LoomInterference"]().measure(
        ROWS, model="M", positive="P", latent="L", steps=3, start_seed=9
    )
    assert pack.applied == [(ROWS, "M", None, ("P", None, "L", 3, 9))]
    assert answer["result"] == ("said", "drawn", "{}")
    assert answer["ui"] == {"text": ["said"], "loom_interference": [{"version": 1}]}


def test_balance_reads_percent_and_hands_a_stack_on(pack):
    answer = pack.nodes["LoomBalance"]().balance(
        ROWS, 40.0, "input", 90.0, "overlap", 1.5, clip="C"
    )
    stack, (strengths, budget, protection), model, clip = pack.applied[0]
    assert (stack, model, clip) == (ROWS, None, "C")
    assert (strengths, budget) == ("overlap", 1.5)
    assert (protection.much, protection.side, protection.directions) == (0.4, "input", 0.9)
    assert answer["result"] == (ROWS, "said", "drawn")


def test_extract_hands_rule_files_and_models_over(pack):
    none = "[the MODEL inputs]"
    answer = pack.nodes["LoomExtract"]().extract(
        "energy", 24, 0.9, 5.0, "fp16", none, none, "T", "B", base_clip="C"
    )
    order, tuned, base, models, clips = pack.applied[0]
    assert (order.rule.kind, order.rule.value, order.most) == ("energy", 0.9, 24)
    assert (tuned, base, models, clips) == (none, none, ("T", "B"), (None, "C"))
    assert answer["result"] == ({"x": 1}, "well", "a chart", "{}")
