"""Rows tied to a conditioning: it alone is predicted with them, on every sampler, with areas, masks and other guiders."""

from __future__ import annotations

import comfy.model_management
import comfy.samplers
import comfy_extras.nodes_custom_sampler
import pytest
import torch
from sampling import LATENTS, SAMPLERS, conditioning, sigmas_of
from small_models import kohya_lora, small_model

from lora_core.files.parse import parse_state_dict
from lora_core.host.regioning import region_stack
from lora_core.host.stacking import apply_stack
from lora_core.host.targets import model_targets
from lora_core.stack.interop import StackList
from lora_core.stack.rows import LoraStack, StackRow

pytestmark = pytest.mark.usefixtures("as_in_the_host")


@pytest.fixture(scope="module")
def models():
    return {family: small_model(family, torch.float32) for family in ("SD1.5", "Flux")}


@pytest.fixture(autouse=True)
def _names_are_not_looked_up(monkeypatch):
    """The rows are in memory; a LORA_STACK's names would be looked for among files."""
    monkeypatch.setattr(
        "lora_core.host.regioning.outgoing",
        lambda stack: StackList(stack, [row.name for row in stack.rows]),
    )


def row_on(model, seed: int = 1, strength: float = 0.9) -> StackRow:
    tensors = kohya_lora(dict(model_targets(model).shapes), rank=4, alpha=2.0, seed=seed, scale=0.1)
    adapter = parse_state_dict(tensors, f"lora{seed}")
    return StackRow(f"lora{seed}", strength, 0.0, adapter=adapter)


def live(stack, model):
    return apply_stack(stack, model, None, "auto", "live").model


def region(row: StackRow, positive, negative=None, mask=None):
    """The row's stack tied to the conditionings, and these."""
    stack = StackList(LoraStack((row,)), [row.name])
    done = region_stack(stack, positive, 0, negative, mask)
    return done.stack.loom_stack, done.positive, done.negative


def guided(model, family, positive, negative, sampler="euler", steps=2, cfg=3.0):
    shape = (2, *LATENTS[family])
    noise = torch.randn(shape, generator=torch.Generator().manual_seed(7))
    guider = comfy.samplers.CFGGuider(model)
    guider.set_conds(positive, negative)
    guider.set_cfg(cfg)
    return guider.sample(
        noise,
        torch.zeros(shape),
        comfy.samplers.sampler_object(sampler),
        sigmas_of(model, steps),
        disable_pbar=True,
        seed=7,
    )


def by_hand(model, weights):
    """Every conditioning predicted alone, and mixed by hand.

    weights: for each side a list of (model for this conditioning, its weight over the picture).
    """
    clone = model.clone()

    def function(named):
        def predicted(single, conds):
            single.inject_model()
            try:
                rest = named["input"], named["sigma"], named["model_options"]
                return comfy.samplers.calc_cond_batch(named["model"], [conds], *rest)[0]
            finally:
                single.eject_model()

        out = []
        for conds, places in zip(named["conds"], weights, strict=True):
            found = [
                predicted(
                    single,
                    [{**cond, "mask": torch.ones_like(cond["mask"])} if "mask" in cond else cond],
                )
                for cond, (single, _) in zip(conds, places, strict=True)
            ]
            total = sum(weight for _, weight in places)
            mixed = sum(each * weight for each, (_, weight) in zip(found, places, strict=True))
            out.append(mixed / total)
        return out

    clone.model_options["sampler_calc_cond_batch_function"] = function
    return clone


def close(found, expected):
    torch.testing.assert_close(found, expected, rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize("sampler", SAMPLERS)
def test_on_every_sampler_only_its_conditioning_is_predicted_with_the_row(models, sampler):
    model = models["SD1.5"]
    row = row_on(model)
    here, there, negative = (conditioning("SD1.5", seed) for seed in (1, 3, 2))
    stack, marked, _ = region(row, here)
    found = guided(live(stack, model), "SD1.5", marked + there, negative, sampler)
    on = live(LoraStack((row,)), model)
    hand = by_hand(model, [[(on, 1.0), (model, 1.0)], [(model, 1.0)]])
    close(found, guided(hand, "SD1.5", here + there, negative, sampler))
    everywhere = guided(on, "SD1.5", here + there, negative, sampler)
    assert not torch.allclose(found, everywhere, atol=1e-2)


@pytest.mark.parametrize("family", ["SD1.5", "Flux"])
@pytest.mark.parametrize("apart", [False, True])
def test_in_one_call_or_in_calls_of_their_own_it_is_the_same(models, family, apart, monkeypatch):
    """Two regions with a row each, and a conditioning of neither, all batched by the host or kept apart."""
    if apart:
        monkeypatch.setattr("lora_core.host.live_run._SAMPLES_OUTERMOST", ())
    model = models[family]
    left, right = row_on(model, 1), row_on(model, 5, -0.6)
    one, two, three, negative = (conditioning(family, seed) for seed in (1, 3, 4, 2))
    first, one_marked, negative_marked = region(left, one, negative)
    second, two_marked, _ = region(right, two)
    whole = first + second
    found = guided(live(whole, model), family, one_marked + two_marked + three, negative_marked)
    on_left, on_right = live(LoraStack((left,)), model), live(LoraStack((right,)), model)
    hand = by_hand(model, [[(on_left, 1.0), (on_right, 1.0), (model, 1.0)], [(on_left, 1.0)]])
    close(found, guided(hand, family, one + two + three, negative))


def test_a_mask_keeps_the_row_to_its_place(models):
    model = models["SD1.5"]
    row = row_on(model)
    here, there, negative = (conditioning("SD1.5", seed) for seed in (1, 3, 2))
    mask = torch.zeros(1, 8, 8)
    mask[:, :, :4] = 1.0
    stack, marked, _ = region(row, here, mask=mask)
    outside = [[there[0][0], {**there[0][1], "mask": 1 - mask}]]
    found = guided(live(stack, model), "SD1.5", marked + outside, negative)
    on = live(LoraStack((row,)), model)
    hand = by_hand(model, [[(on, mask), (model, 1 - mask)], [(model, 1.0)]])
    close(found, guided(hand, "SD1.5", marked + outside, negative))


def test_the_copy_of_a_negative_for_an_areas_sake_is_no_part_of_the_region(models):
    """The host gives the negative side a conditioning of the same area, which has the region's uuid."""
    model = models["SD1.5"]
    row = row_on(model)
    here, there, negative = (conditioning("SD1.5", seed) for seed in (1, 3, 2))
    here[0][1]["area"] = (4, 4, 0, 0)
    stack, marked, _ = region(row, here)
    seen = []

    def watch(apply_model, named):
        options = named["c"]["transformer_options"]
        seen.append((len(set(options["uuids"])), named["cond_or_uncond"]))
        return apply_model(named["input"], named["timestep"], **named["c"])

    on_region = live(stack, model)
    on_region.set_model_unet_function_wrapper(watch)
    found = guided(on_region, "SD1.5", marked + there, negative, cfg=2.0)
    shared = [number for number, sides in seen if len(sides) > number]
    assert shared  # the two sides share a uuid in one call
    both_stack, both, both_negative = region(row, here, negative)
    on_both = guided(live(both_stack, model), "SD1.5", both + there, both_negative, cfg=2.0)
    assert not torch.allclose(found, on_both, atol=1e-2)
    without = row_on(model, 1, 1e-9)
    plain_stack, plain_marked, _ = region(without, here)
    plain = guided(live(plain_stack, model), "SD1.5", plain_marked + there, negative, cfg=2.0)
    assert not torch.allclose(found, plain, atol=1e-3)


def test_a_schedule_and_a_region_go_together_and_other_guiders_follow(models):
    model = models["SD1.5"]
    row = row_on(model)
    here = conditioning("SD1.5", 1)
    stack, marked, _ = region(row, here)
    timed = LoraStack(
        tuple(StackRow(**{**vars(each), "schedule": "1@0,0@0.5:curve=step"}) for each in stack.rows)
    )

    def basic(model, positive):
        guider = comfy_extras.nodes_custom_sampler.Guider_Basic(model)
        guider.set_conds(positive)
        noise = torch.randn(2, 4, 8, 8, generator=torch.Generator().manual_seed(7))
        return guider.sample(
            noise,
            torch.zeros_like(noise),
            comfy.samplers.sampler_object("euler"),
            sigmas_of(model, 4),
            disable_pbar=True,
            seed=7,
        )

    expected = LoraStack((StackRow(**{**vars(row), "schedule": "1@0,0@0.5:curve=step"}),))
    close(basic(live(timed, model), marked), basic(live(expected, model), here))
    assert torch.equal(basic(live(timed, model), here), basic(model, here))
    assert not torch.allclose(basic(live(timed, model), marked), basic(model, here), atol=1e-3)


def test_a_marked_conditioning_on_a_model_without_the_stack_is_an_ordinary_one(models):
    model = models["SD1.5"]
    here, negative = conditioning("SD1.5", 1), conditioning("SD1.5", 2)
    _, marked, _ = region(row_on(model), here)
    plain = guided(model, "SD1.5", here, negative)
    assert torch.equal(guided(model, "SD1.5", marked, negative), plain)


def test_baked_says_that_a_region_has_no_effect(models):
    model = models["SD1.5"]
    stack, _, _ = region(row_on(model), conditioning("SD1.5", 1))
    account = apply_stack(stack, model, None, "auto", "baked").account
    assert account is not None
    assert account.warnings == ("lora1: its region has no effect, the mode is baked",)
    auto = apply_stack(stack, model, None).account
    assert auto is not None
    assert "lora1: for one conditioning only" in auto.report()
