"""The sheet, what its JSON says, what the graph tells of prompt and seed, and the chart of effects."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch
from PIL import Image

from lora_core.analysis.draw import WIDTH
from lora_core.errors import SweepError
from lora_core.stack.rows import StackRow
from lora_core.sweep.draw_effect import effect_chart
from lora_core.sweep.effect import effect_json, effect_table, effects
from lora_core.sweep.points import AxisLabels, Point, Sweep
from lora_core.sweep.record import GraphWords, graph_words, sheet_record
from lora_core.sweep.sheet import draw_sheet


def sweep_of(labels: list[str], lines: tuple[str, ...] = ("",), energies=None) -> Sweep:
    """A sweep whose first column is the reference where energies are given."""
    points = tuple(
        Point(
            col, row, x, y, energies is not None and col == 0, (StackRow("a.safetensors", 0.8),),
            None if energies is None else energies[col],
        )
        for row, y in enumerate(lines)
        for col, x in enumerate(labels)
    )  # fmt: skip
    down = AxisLabels("b: strength" if lines != ("",) else "", lines)
    return Sweep(
        AxisLabels("a: strength", tuple(labels)), down, points, {"a.safetensors": "f" * 64}
    )


def colours(count: int, size: tuple[int, int] = (64, 48)) -> list[Image.Image]:
    return [Image.new("RGB", size, (7 * n + 20, 200 - 5 * n, 90)) for n in range(count)]


@pytest.mark.parametrize(
    ("labels", "lines", "columns"),
    [(11, ("",), 11), (17, ("",), 9), (3, ("0.5", "1"), 3), (30, ("0", "1"), 30)],
)
def test_every_picture_stands_whole_in_its_box_in_the_order_of_the_points(labels, lines, columns):
    sweep = sweep_of([f"{n / 10:g}" for n in range(labels)], lines)
    pictures = colours(len(sweep.points))
    sheet = draw_sheet(sweep, pictures, 0, "a fox\nseed 7")
    tops = [box[1] for box in sheet.boxes]
    assert tops.count(tops[0]) == columns
    for picture, box in zip(pictures, sheet.boxes, strict=True):
        assert np.array_equal(np.asarray(sheet.image.crop(box)), np.asarray(picture))
    assert len(set(sheet.boxes)) == len(pictures)
    assert max(box[2] for box in sheet.boxes) <= sheet.image.width
    assert max(box[3] for box in sheet.boxes) <= sheet.image.height


def test_labels_and_words_are_drawn_and_change_with_what_they_say():
    pictures = colours(2)

    def above(sweep: Sweep, words: str) -> bytes:
        sheet = draw_sheet(sweep, pictures, 0, words)
        return sheet.image.crop((0, 0, sheet.image.width, sheet.boxes[0][1])).tobytes()

    first = above(sweep_of(["0", "1"]), "a fox")
    assert above(sweep_of(["0", "1"]), "a cat") != first
    assert above(sweep_of(["0.5", "1"]), "a fox") != first
    long = draw_sheet(sweep_of(["0", "1"]), pictures, 0, "word " * 3000)
    assert long.image.height < 600


def test_cell_makes_pictures_smaller_never_larger():
    sweep = sweep_of(["0", "1"])
    small = draw_sheet(sweep, colours(2, (400, 300)), 100, "")
    assert [(right - left, bottom - top) for left, top, right, bottom in small.boxes] == [
        (100, 75)
    ] * 2
    kept = draw_sheet(sweep, colours(2, (40, 30)), 100, "")
    assert kept.boxes[0][2] - kept.boxes[0][0] == 40


def test_a_sheet_that_nothing_could_open_is_refused_with_the_way_out():
    picture = Image.new("RGB", (4096, 4096))
    with pytest.raises(SweepError, match="Make cell smaller than 4096"):
        draw_sheet(sweep_of([str(n) for n in range(12)]), [picture] * 12, 0, "")


def test_the_json_says_axes_points_boxes_and_rows_that_loom_stack_reads():
    sweep = sweep_of(["0", "1"], ("0.5", "0.9"))
    sheet = draw_sheet(sweep, colours(4), 0, "a fox")
    said = json.loads(sheet_record(sweep, sheet.boxes, "x.png", "a fox", GraphWords("a fox", 7)))
    assert (said["version"], said["picture"], said["seed"], said["prompt"]) == (
        1,
        "x.png",
        7,
        "a fox",
    )
    assert said["x"] == {"title": "a: strength", "labels": ["0", "1"]}
    assert said["y"]["labels"] == ["0.5", "0.9"]
    last = said["points"][3]
    assert (last["col"], last["row"], last["x"], last["y"]) == (1, 1, "1", "0.9")
    assert last["box"] == list(sheet.boxes[3])
    (lora,) = last["loras"]
    assert (lora["lora"], lora["model"], lora["sha256"]) == ("a.safetensors", 0.8, "f" * 64)


KSAMPLER = {
    "1": {"class_type": "LoomSweep", "inputs": {"x": "strength"}},
    "2": {"class_type": "CLIPTextEncode", "inputs": {"text": "a fox", "clip": ["1", 1]}},
    "3": {"class_type": "CLIPTextEncode", "inputs": {"text": "blurry", "clip": ["1", 1]}},
    "4": {
        "class_type": "KSampler",
        "inputs": {"negative": ["3", 0], "positive": ["2", 0], "seed": 7, "model": ["1", 0]},
    },
    "5": {"class_type": "VAEDecode", "inputs": {"samples": ["4", 0]}},
    "9": {"class_type": "LoomSweepGrid", "inputs": {"images": ["5", 0], "sweep": ["1", 2]}},
}  # fmt: skip
CUSTOM = {
    "1": {"class_type": "PrimitiveInt", "inputs": {"value": 11}},
    "2": {"class_type": "RandomNoise", "inputs": {"noise_seed": ["1", 0]}},
    "3": {"class_type": "CLIPTextEncodeFlux", "inputs": {"clip_l": "a fox", "t5xxl": "a fox"}},
    "4": {"class_type": "BasicGuider", "inputs": {"conditioning": ["3", 0]}},
    "5": {"class_type": "SamplerCustomAdvanced", "inputs": {"noise": ["2", 0], "guider": ["4", 0]}},
    "9": {"class_type": "LoomSweepGrid", "inputs": {"images": ["5", 0]}},
}  # fmt: skip


def test_prompt_and_seed_are_those_of_the_sampler_above():
    assert graph_words(KSAMPLER, "9") == GraphWords("a fox", 7)
    assert graph_words(KSAMPLER, "9").text == "a fox\nseed 7"
    assert graph_words(CUSTOM, "9") == GraphWords("a fox", 11)


@pytest.mark.parametrize("prompt", [None, {}, [], {"9": {"inputs": {}}}, {"9": None}, {"9": {"inputs": {"images": ["9", 0]}}}])  # fmt: skip
def test_a_graph_that_does_not_tell_gives_no_words(prompt):
    assert graph_words(prompt, "9") == GraphWords()


ENERGY = [10.0, 6.0, 9.0]


def test_effects_are_distances_to_the_reference_and_shares_of_the_energy():
    sweep = sweep_of(["all", "no A", "no B"], energies=ENERGY)
    images = [torch.full((1, 4, 4, 3), value) for value in (0.5, 0.75, 0.5)]
    latents = [torch.full((1, 4, 2, 2), value) for value in (2.0, 2.0, 3.0)]
    found = effects(sweep, images, latents)
    assert (found.title, found.against) == ("a: strength", "all")
    first, second = found.steps
    assert (first.label, first.picture, first.latent, first.energy) == ("no A", 0.25, 0.0, 0.4)
    assert (second.picture, second.latent, second.energy) == (0.0, 0.5, pytest.approx(0.1))
    assert json.loads(effect_json(found))["steps"][0]["picture"] == 0.25
    assert effect_table(found).splitlines()[2].split()[:3] == ["no", "A", "25.00"]


def test_lines_and_batches_are_averaged_and_a_single_batch_is_taken_apart():
    sweep = sweep_of(["all", "no A"], ("1", "2"), energies=ENERGY)
    values = [(0.0, 0.0), (0.1, 0.3), (0.5, 0.5), (0.5, 0.9)]
    images = [torch.tensor(pair).reshape(2, 1, 1, 1).expand(2, 2, 2, 3) for pair in values]
    (step,) = effects(sweep, images).steps
    assert step.picture == pytest.approx(0.2)
    assert step.latent is None
    together = torch.cat([image[:1] for image in images])
    assert effects(sweep, [together]).steps[0].picture == pytest.approx(0.05)


def test_what_cannot_be_compared_is_refused_in_words():
    images = [torch.zeros(1, 2, 2, 3)] * 2
    with pytest.raises(SweepError, match="no point to compare the others with"):
        effects(sweep_of(["0", "1"]), images)
    with pytest.raises(SweepError, match="The sweep has 2 points, and 1 pictures came"):
        effects(sweep_of(["all", "no A"], energies=ENERGY), images[:1])
    with pytest.raises(SweepError, match="different sizes"):
        effects(sweep_of(["all", "no A"], energies=ENERGY), [images[0], torch.zeros(1, 4, 4, 3)])


def test_the_chart_has_a_line_a_step_and_bars_as_long_as_the_figures():
    sweep = sweep_of(["all", "no A", "no B"], energies=ENERGY)
    images = [torch.full((1, 4, 4, 3), value) for value in (0.5, 0.9, 0.7)]
    chart = np.asarray(effect_chart(effects(sweep, images)))
    assert chart.shape[1] == WIDTH
    teal = (chart == (64, 196, 170)).all(axis=2)
    lengths = [int(line.sum()) for line in teal[90:]]
    first, second = max(lengths[:18]), max(lengths[18:])
    assert second / first == pytest.approx(0.5, abs=0.03)
    assert not (chart == (120, 160, 255)).all(axis=2)[90:].any()  # no latents, no bars


def test_steps_of_one_label_are_steps_of_their_own():
    """Two LoRAs of the same file name lie in two folders."""
    sweep = sweep_of(["all", "no style", "no style"], energies=ENERGY)
    images = [torch.full((1, 4, 4, 3), value) for value in (0.5, 0.75, 0.5)]
    assert [step.picture for step in effects(sweep, images).steps] == [0.25, 0.0]


def test_a_step_called_as_its_reference_is_still_a_step_of_that_axis():
    sweep = sweep_of(["none", "none"], ("0", "1"), energies=ENERGY)
    images = [torch.full((1, 4, 4, 3), value) for value in (0.5, 0.75, 0.5, 0.75)]
    found = effects(sweep, images)
    assert (found.title, [step.label for step in found.steps]) == ("a: strength", ["none"])
