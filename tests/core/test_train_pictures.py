"""What a training draws and notes besides learning: the loss as a picture, the sample sheet, TensorBoard, other optimizers."""

from __future__ import annotations

import sys
from dataclasses import replace

import numpy as np
import pytest
import torch
from PIL import Image

from lora_core.train import judging
from lora_core.train.chart import SIZE, loss_chart, running_mean
from lora_core.train.curve import Curve
from lora_core.train.estimate import Estimate, duration, in_words
from lora_core.train.log import training_log
from lora_core.train.loop import StepReport
from lora_core.train.sample_sheet import sample_sheet, strip, strip_file, strips_in
from tests.core.small_training import SETTINGS, run

GREEN, YELLOW = (64, 196, 170), (250, 184, 60)


def has(image: Image.Image, colour: tuple[int, int, int]) -> bool:
    return bool((np.asarray(image) == colour).all(-1).any())


def test_the_chart_shows_the_mean_and_the_held_out_loss_where_there_is_one():
    losses = [1 / step for step in range(1, 40)]
    alone, both = loss_chart(losses, (), 40), loss_chart(losses, [(10, 0.5), (20, 0.3)], 40)
    assert alone.size == both.size == SIZE
    assert (has(alone, GREEN), has(alone, YELLOW)) == (True, False)
    assert (has(both, GREEN), has(both, YELLOW)) == (True, True)
    empty = loss_chart([float("nan")], (), 40)
    assert not has(empty, GREEN)
    assert np.asarray(empty).std() > 0  # it says that no step was done


def test_the_running_mean_weighs_the_first_values_alike_and_then_forgets():
    assert running_mean([2.0, 4.0, 6.0]) == [2.0, 3.0, 4.0]
    assert running_mean([0.0] * 100 + [1.0])[-1] == pytest.approx(0.05)


def test_the_sample_sheet_has_a_row_for_each_step_and_a_column_for_each_prompt(tmp_path):
    red, blue = (Image.new("RGB", (64, 64), colour) for colour in ("red", "blue"))
    for step, pictures in ((0, (red, red)), (50, (red, blue))):
        strip(pictures).save(strip_file(tmp_path, step))
    strips = strips_in(tmp_path)
    assert {step: one.size for step, one in strips.items()} == {0: (128, 64), 50: (128, 64)}
    long = "a very long prompt that no column of the sheet could ever hold on one line \N{SNOWMAN}"
    sheet = np.asarray(sample_sheet(strips, ["", long]))
    blues = np.argwhere((sheet == (0, 0, 255)).all(-1))
    reds = np.argwhere((sheet == (255, 0, 0)).all(-1))
    # Blue is the lower right quarter alone.
    assert blues.min(0).tolist() > reds.min(0).tolist()
    assert abs(len(reds) / len(blues) - 3) < 0.01
    assert sheet.shape[0] < 2 * 256 + 100


def test_what_a_training_will_take_is_said_in_the_unit_that_fits():
    assert [duration(seconds) for seconds in (90, 600, 7201)] == ["90 s", "10 min", "2.0 h"]
    settings = replace(SETTINGS, accumulate=2, preserve=0.0)
    parameters = [torch.nn.Parameter(torch.zeros(1_000_000))]
    said = in_words(Estimate(0.5, 30_000_000), settings, 100, parameters)
    assert said.startswith("about 100 s (1 s a step)")
    assert "50 MB: 30 for backward, 20 for weights" in said


def test_a_curve_goes_on_from_what_a_state_knows():
    curve = Curve(10)
    curve.begin_with({"losses": [0.5, 0.4], "validation": [[2, 0.3]]})
    assert (curve.losses, curve.validation) == ([0.5, 0.4], [(2, 0.3)])
    curve.back_to(1)
    assert (curve.losses, curve.validation) == ([0.5], [])


def test_nothing_is_judged_without_measurements():
    assert judging.better_step([]) == (0, "")
    assert judging.warning([0.5] * 10, [(1, 0.5), (2, 0.4)]) == ""


def package(folder, monkeypatch, name: str, code: str) -> None:
    """An installed package of this name."""
    (folder / f"{name}.py").write_text(code, "utf-8")
    monkeypatch.syspath_prepend(str(folder))
    for module in [each for each in sys.modules if each.partition(".")[0] == name]:
        monkeypatch.delitem(sys.modules, module)


OPTIMIZER = """
import types, torch
asked = []
class Own(torch.optim.AdamW):
    def __init__(self, groups, **settings):
        asked.append(settings)
        super().__init__(groups, lr=settings["lr"], weight_decay=settings["weight_decay"])
"""


@pytest.mark.parametrize(
    ("name", "module", "path"),
    [
        ("Prodigy", "prodigyopt", "Prodigy = Own"),
        ("AdamW 8-bit", "bitsandbytes", "optim = types.SimpleNamespace(AdamW8bit=Own)"),
    ],
)
def test_optimizers_of_other_packages_are_used_where_they_are_installed(
    name, module, path, tmp_path, monkeypatch
):
    package(tmp_path, monkeypatch, module, OPTIMIZER + path)
    settings = replace(SETTINGS, optimizer=name, steps=3)
    reports, _ = run(None, settings)
    assert reports[-1].step == 3
    (asked,) = sys.modules[module].asked
    assert asked["lr"] == settings.rate


def test_tensorboard_is_told_what_is_measured_where_it_is_installed(tmp_path, monkeypatch):
    package(tmp_path, monkeypatch, "tensorboard", "")
    told = []

    class Writer:
        def __init__(self, folder: str, purge_step: int) -> None:
            told.append(("begun", purge_step))

        def add_scalar(self, name: str, value: float, step: int) -> None:
            told.append((name, step))

        def close(self) -> None:
            told.append(("closed", 0))

    class Board:
        SummaryWriter = Writer

    monkeypatch.setitem(sys.modules, "torch.utils.tensorboard", Board)
    with training_log(tmp_path, 4) as note:
        note(StepReport(5, 9, 0.5, validation=0.4))
        note(StepReport(3, 9, 0.5, note="went back"))
    assert told == [
        ("begun", 5),
        ("loss", 5),
        ("rate", 5),
        ("gradient norm", 5),
        ("validation", 5),
        ("closed", 0),
    ]
