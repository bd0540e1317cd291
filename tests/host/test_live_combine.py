"""Rows that take turns and rows that are averaged, against models that hold one row each and are switched by hand."""

from __future__ import annotations

import comfy.model_management
import comfy.samplers
import pytest
import torch
from sampling import SAMPLERS, sampled, sigmas_of
from small_models import kohya_lora, small_model

from lora_core.errors import StackError
from lora_core.files.parse import parse_state_dict
from lora_core.host.stacking import apply_stack
from lora_core.host.targets import model_targets
from lora_core.stack.rows import LoraStack, StackRow
from lora_core.stack.schedulerows import with_schedule

pytestmark = pytest.mark.usefixtures("as_in_the_host")

STEPS = 4
STRENGTHS = (0.9, -0.7, 0.5)


@pytest.fixture(scope="module")
def model():
    return small_model("SD1.5", torch.float32)


def rows_for(model, count: int = 3) -> LoraStack:
    shapes = dict(model_targets(model).shapes)
    rows = []
    for number in range(count):
        tensors = kohya_lora(shapes, rank=2 + number, alpha=2.0, seed=number, scale=0.1)
        adapter = parse_state_dict(tensors, f"lora{number}")
        rows.append(StackRow(f"lora{number}", STRENGTHS[number], 0.0, adapter=adapter))
    return LoraStack(tuple(rows))


def live(stack: LoraStack, model):
    return apply_stack(stack, model, None, "auto", "live").model


def alone(stack: LoraStack, model) -> list:
    """A model for each row, with this row alone."""
    return [live(LoraStack((row,)), model) for row in stack.rows]


def by_hand(model, predict):
    """The model with every prediction of its conditionings made by `predict(calculate, sigma)`."""
    clone = model.clone()

    def function(named):
        def calculate(single):
            single.inject_model()
            try:
                return comfy.samplers.calc_cond_batch(
                    named["model"],
                    named["conds"],
                    named["input"],
                    named["sigma"],
                    named["model_options"],
                )
            finally:
                single.eject_model()

        return predict(calculate, float(named["sigma"][0]))

    clone.model_options["sampler_calc_cond_batch_function"] = function
    return clone


def step_of(sigma: float, sigmas: torch.Tensor) -> int:
    reached = [step for step, level in enumerate(sigmas[:-1].tolist()) if level * 1.00001 >= sigma]
    return max(reached, default=0)


@pytest.mark.parametrize("sampler", ["euler", "heun", "dpmpp_2m", "dpmpp_sde", "uni_pc", "lcm"])
@pytest.mark.parametrize("every", [1, 2])
def test_switch_runs_each_row_alone_in_its_steps(model, sampler, every):
    stack, sigmas = rows_for(model), sigmas_of(model, STEPS)
    singles = alone(stack, model)
    turns = []

    def predict(calculate, sigma):
        turns.append(step_of(sigma, sigmas) // every % len(singles))
        return calculate(singles[turns[-1]])

    expected = sampled(by_hand(model, predict), "SD1.5", sigmas=sigmas, sampler=sampler)
    switched = live(with_schedule(stack, "", combine="switch", every=every), model)
    found = sampled(switched, "SD1.5", sigmas=sigmas, sampler=sampler)
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-4)
    assert sorted(set(turns)) == list(range(min(3, STEPS // every)))
    assert not torch.allclose(
        found, sampled(live(stack, model), "SD1.5", sigmas=sigmas, sampler=sampler), atol=1e-3
    )


def test_two_rows_that_alternate_are_two_samplers_in_turns(model):
    stack, sigmas = rows_for(model, 2), sigmas_of(model, STEPS)
    latent = None
    for step in range(STEPS):
        single = alone(stack, model)[step % 2]
        latent = sampled(single, "SD1.5", sigmas=sigmas[step : step + 2], latent=latent)
    switched = live(with_schedule(stack, "", combine="switch"), model)
    found = sampled(switched, "SD1.5", sigmas=sigmas)
    torch.testing.assert_close(found, latent, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("sampler", SAMPLERS)
def test_composite_averages_each_rows_own_predictions_on_every_sampler(model, sampler):
    stack, sigmas = rows_for(model), sigmas_of(model, 3)
    singles = alone(stack, model)

    def predict(calculate, _):
        both = [calculate(single) for single in singles]
        return [sum(each) / len(both) for each in zip(*both, strict=True)]

    expected = sampled(by_hand(model, predict), "SD1.5", sigmas=sigmas, sampler=sampler)
    composed = live(with_schedule(stack, "", combine="composite"), model)
    found = sampled(composed, "SD1.5", sigmas=sigmas, sampler=sampler)
    torch.testing.assert_close(found, expected, rtol=1e-3, atol=1e-3)


def test_a_row_outside_of_the_composite_acts_in_all_of_its_calls(model):
    first, second, detail = rows_for(model).rows
    pair = with_schedule(LoraStack((first, second)), "", combine="composite")
    found = sampled(live(pair + LoraStack((detail,)), model), "SD1.5")
    singles = [live(LoraStack((row, detail)), model) for row in (first, second)]

    def predict(calculate, _):
        both = [calculate(single) for single in singles]
        return [sum(each) / 2 for each in zip(*both, strict=True)]

    torch.testing.assert_close(
        found, sampled(by_hand(model, predict), "SD1.5"), rtol=1e-4, atol=1e-4
    )


def test_a_composite_of_one_row_is_that_row(model):
    stack = rows_for(model, 1)
    composed = live(with_schedule(stack, "", combine="composite"), model)
    assert torch.equal(sampled(composed, "SD1.5"), sampled(live(stack, model), "SD1.5"))


def test_composites_that_disagree_are_refused_before_anything_runs(model):
    first, second, third = rows_for(model).rows
    pair = with_schedule(LoraStack((first, second)), "", combine="composite")
    trio = with_schedule(LoraStack((first, second, third)), "", combine="composite")
    with pytest.raises(StackError, match="disagree on how many"):
        live(LoraStack((pair.rows[0], trio.rows[1])), model)


def test_an_error_between_the_calls_of_a_composite_leaves_the_model_clean(model):
    plain = sampled(model, "SD1.5")
    composed = live(with_schedule(rows_for(model), "", combine="composite"), model)
    expected = sampled(composed, "SD1.5")
    calls = []

    def failing(apply_model, named):
        calls.append(1)
        if len(calls) == 5:  # the second of three calls in the second step
            raise RuntimeError("in the middle")
        return apply_model(named["input"], named["timestep"], **named["c"])

    broken = composed.clone()
    broken.set_model_unet_function_wrapper(failing)
    with pytest.raises(RuntimeError, match="in the middle"):
        sampled(broken, "SD1.5")
    assert torch.equal(sampled(model, "SD1.5"), plain)
    assert torch.equal(sampled(composed, "SD1.5"), expected)
