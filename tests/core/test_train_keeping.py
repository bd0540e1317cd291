"""When a run ends, which weights come out, and what is known of it: stop, best, patience, optimizers, log, estimate."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest
import torch
from torch.nn import Linear

from lora_core.errors import TrainError
from lora_core.train import judging, optimizers
from lora_core.train.blocks import blocks_of, wrapped_blocks
from lora_core.train.chart import SIZE, loss_chart
from lora_core.train.curve import Curve, thinned
from lora_core.train.estimate import measured
from lora_core.train.log import NAME, training_log
from lora_core.train.loop import batch_loss
from lora_core.train.optimizers import OPTIMIZERS
from lora_core.train.preserve import other_texts, text_for, without
from lora_core.train.settings import SampleWish, TrainSettings
from lora_core.train.state import load_latest
from tests.core.small_training import (
    LEVELS,
    SETTINGS,
    Tiny,
    attached,
    batch,
    batch_at,
    branches_of,
    parameters_of,
    result_bytes,
    run,
)

BUILT_IN = ("AdamW", "Adafactor", "Muon", "schedule-free AdamW")


def test_a_wish_to_stop_ends_after_the_step_and_keeps_state_and_weights(tmp_path):
    asked = []

    def stop():
        asked.append(1)
        return len(asked) == 5

    settings = replace(SETTINGS, save_every=20, ema=0.0)
    reports, branches = run(tmp_path, settings, stop=stop)
    last = reports[-1]
    assert (last.is_last, last.step) == (True, 5)
    assert "on your wish" in last.note
    for kept, parameter in zip(last.weights, parameters_of(branches), strict=True):
        assert torch.equal(kept, parameter)
    state = load_latest(tmp_path, "job")
    assert state is not None
    assert state.step == 5
    # Going on from there ends as a run that was never stopped.
    assert result_bytes(*run(tmp_path, settings)) == result_bytes(*run(None, settings))


@pytest.mark.parametrize("name", BUILT_IN)
def test_every_optimizer_learns_and_is_resumed_to_the_same_bytes(tmp_path, name):
    settings = replace(SETTINGS, optimizer=name, steps=30, validate_every=10, save_every=7)

    class Left(Exception):
        pass

    def leaving(number):
        if number == 11:
            raise Left
        return batch_at(number)

    with pytest.raises(Left):
        run(tmp_path, settings, batch_at=leaving)
    resumed, whole = run(tmp_path, settings), run(None, settings)
    assert result_bytes(*resumed) == result_bytes(*whole)
    found = [report.validation for report in whole[0] if report.validation is not None]
    assert found[-1] < found[0]


def test_an_optimizer_whose_package_is_missing_is_named(monkeypatch):
    monkeypatch.setattr(optimizers.importlib.util, "find_spec", lambda name: None)
    for name, package in (("Prodigy", "prodigyopt"), ("AdamW 8-bit", "bitsandbytes")):
        with pytest.raises(TrainError, match=f"needs the package {package}"):
            run(None, replace(SETTINGS, optimizer=name))


def test_an_optimizer_that_this_torch_lacks_is_named(monkeypatch):
    monkeypatch.delattr(torch.optim, "Muon")
    with pytest.raises(TrainError, match="Muon is not in torch"):
        run(None, replace(SETTINGS, optimizer="Muon"))


def test_rates_are_shares_of_the_settings_rate():
    """LoRA+, and text encoders with a rate of their own."""
    network = Tiny()
    parameters = parameters_of(branches_of(network))
    (made,) = OPTIMIZERS["AdamW"](
        [{"params": parameters[:1], "lr": 1.0, "share": 4.0}, {"params": parameters[1:]}], SETTINGS
    )
    assert [group["lr"] for group in made.param_groups] == [1.0, SETTINGS.rate]
    still, _ = run(None, replace(SETTINGS, ema=0.0), rates=[0.0] * len(parameters))
    for before, after in zip(parameters, still[-1].weights, strict=True):
        assert torch.equal(before, after)


def turning(number):
    """Pictures of one kind for eight steps, then of another, which the held-out ones are not."""
    found = batch_at(number)
    return found if number < 8 else replace(found, latents=4 - 3 * found.latents)


TURNING = replace(SETTINGS, ema=0.0, validate_every=1, rate=0.05, schedule="constant", warmup=0.0)


def test_the_weights_of_the_lowest_validation_come_out_where_the_last_are_worse():
    reports, _ = run(None, TURNING, batch_at=turning)
    found = [(report.step, report.validation) for report in reports if report.validation]
    best = min(found, key=lambda each: each[1])[0]
    assert found[-1][1] > 1.02 * min(value for _, value in found)
    assert f"kept are the weights of step {best}," in reports[-1].note
    until, _ = run(None, replace(TURNING, steps=best, keep_best=False), batch_at=turning)
    # The schedule is constant, so the shorter run is the beginning of the longer one.
    for kept, then in zip(reports[-1].weights, until[-1].weights, strict=True):
        assert torch.equal(kept, then)
    last, _ = run(None, replace(TURNING, keep_best=False), batch_at=turning)
    assert not all(map(torch.equal, last[-1].weights, reports[-1].weights))


def test_patience_ends_a_run_that_learns_no_more():
    reports, _ = run(None, replace(TURNING, patience=3), batch_at=turning)
    assert reports[-1].step < TURNING.steps
    assert "did not fall for 3 measurements" in reports[-1].note


def test_learning_by_heart_is_said_in_words():
    falling = [1.0 - 0.01 * step for step in range(60)]
    rising = [(10, 0.9), (20, 0.5), (30, 0.6), (40, 0.7)]
    assert judging.warning(falling, rising).startswith("Overfit: since step 20")
    assert judging.warning(falling, [(10, 0.9), (20, 0.8), (30, 0.7)]) == ""
    assert judging.warning([1.0] * 60, rising) == ""


def test_preserved_samples_are_taught_what_the_network_answered_before():
    network = Tiny()
    branches = branches_of(network)
    one = batch(1, 2)
    kept = replace(one, preserved=(True, False))
    with attached(network, branches):
        plain = batch_loss(network, one, LEVELS, SETTINGS)
        found = batch_loss(network, kept, LEVELS, SETTINGS, before=network)
    # Before the first step the network answers as it did: nothing is to be learned of the first.
    assert float(found[0].detach()) == 0.0
    assert float(found[1].detach()) == float(plain[1].detach())


def test_a_run_with_preserved_samples_stays_nearer_to_what_it_was():
    """The same pictures under other words: the answer for those words moves less."""

    def moved(share):
        def some(number):
            made = batch_at(number)
            return replace(made, preserved=(False, True)) if share else made

        network = Tiny()
        branches = branches_of(network)
        other = batch(1, 3, 5, 7)
        noisy, sigmas = other.latents, torch.full((4,), 2.0)
        before = network(noisy, sigmas, other.conditioning)
        reports, trained = run(None, replace(SETTINGS, ema=0.0, steps=100), batch_at=some)
        with torch.no_grad():
            for mine, theirs in zip(parameters_of(branches), parameters_of(trained), strict=True):
                mine.copy_(theirs)
        with attached(network, branches):
            return float((network(noisy, sigmas, other.conditioning) - before).detach().norm())

    assert moved(True) < 0.85 * moved(False)


def test_texts_of_preservation_have_no_trigger_and_are_drawn_by_counters():
    texts = other_texts(["zwx on a dark ground", "ZWX, in snow"], "zwx", 3)
    assert texts == other_texts(["zwx on a dark ground", "ZWX, in snow"], "zwx", 3)
    assert not any("zwx" in text.lower() for text in texts)
    assert any(text.endswith("on a dark ground") for text in texts)
    assert "" in texts
    found = [text_for(0.3, texts, 0, number, 0) for number in range(2000)]
    assert 0.25 < sum(text is not None for text in found) / 2000 < 0.35
    assert without("a zwx, in snow", "zwx") == "a , in snow"
    assert without("snow", "") == "snow"


def test_the_log_has_a_line_a_step_and_drops_what_comes_after_a_resume(tmp_path):
    reports, _ = run(None, replace(SETTINGS, steps=6, validate_every=3))
    with training_log(tmp_path, 0) as note:
        for report in reports[:-1]:
            note(report)
    (tmp_path / NAME).open("a").write('{"step": 7, "lo')
    with training_log(tmp_path, 4) as note:
        note(reports[4])
    lines = [json.loads(line) for line in (tmp_path / NAME).read_text().splitlines()]
    assert [line["step"] for line in lines] == [1, 2, 3, 4, 5]
    assert "validation" in lines[2]


def test_the_estimate_leaves_nothing_behind():
    network = Tiny()
    branches = branches_of(network)
    parameters = parameters_of(branches)
    with attached(network, branches):
        found = measured(network, batch(1, 2), LEVELS, SETTINGS, parameters, network)
    assert found.seconds > 0
    assert found.kept > batch(1, 2).latents.nbytes
    assert all(p.grad is None for p in parameters)


class Blocks(torch.nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.first = Linear(4, 4)
        self.blocks = torch.nn.ModuleList(
            [torch.nn.Sequential(Linear(4, 16), Linear(16, 4)), Linear(4, 4)]
        )  # fmt: skip

    def forward(self, x):
        x = self.first(x)
        for block in self.blocks:
            x = torch.tanh(block(x))
        return x


def test_blocks_that_are_computed_again_change_no_gradient():
    torch.manual_seed(0)
    network = Blocks()
    assert list(blocks_of(network)) == ["blocks.0.0", "blocks.0.1", "blocks.1"]
    x = torch.randn(3, 4)
    plain = torch.autograd.grad(network(x).square().sum(), list(network.parameters()))
    with wrapped_blocks(network, again=True):
        again = torch.autograd.grad(network(x).square().sum(), list(network.parameters()))
    for one, other in zip(plain, again, strict=True):
        assert torch.equal(one, other)
    assert not any("forward" in vars(module) for module in network.modules())


def test_a_curve_is_short_and_ends_with_the_last_step():
    points = thinned([float(n) for n in range(1501)], 400)
    assert len(points) <= 400
    assert points[-1][0] == 1501
    curve = Curve(10, [1.0, 2.0], [(1, 0.5), (2, 0.4)])
    curve.back_to(1)
    assert (curve.told()["step"], curve.told()["validation"]) == (1, [[1, 0.5]])
    assert Curve(10).told()["loss"] == []


@pytest.mark.parametrize(
    "bad", [{"optimizer": "x"}, {"plus_ratio": 0.0}, {"preserve": 1.0}, {"patience": -1}]
)
def test_settings_of_the_loop_that_make_no_sense_are_refused(bad):
    with pytest.raises(TrainError):
        TrainSettings(**bad)


def test_sample_pictures_are_due_and_decide_nothing():
    assert [step for step in range(1, 11) if SampleWish(every=4).is_due(step, 10)] == [4, 8, 10]
    assert not SampleWish(every=-1).is_due(10, 10)
    assert (
        TrainSettings(samples=SampleWish(3), keep=5, checkpointing=True).deciding
        == TrainSettings().deciding
    )


@pytest.mark.parametrize("odd", [float("nan"), float("inf")])
def test_a_validation_loss_that_is_no_number_neither_breaks_the_chart_nor_the_page(odd):
    validation = [(1, 0.5), (2, odd)]
    assert loss_chart([1.0, 0.9], validation, 10).size == SIZE
    told = Curve(10, [1.0, 0.9], validation).told()
    assert json.loads(json.dumps(told, allow_nan=False))["validation"] == [[1, 0.5]]
