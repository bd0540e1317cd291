"""Loom Sweep, its grid and its map as shells: what they hand over and in what form they answer."""

from __future__ import annotations

X = {"x": "strength", "x_row": 1, "x_from": 0.0, "x_to": 1.0, "x_step": 0.1, "x_values": ""}
Y = {"y": "none", "y_row": 2, "y_from": 0.0, "y_to": 1.0, "y_step": 0.1, "y_values": ""}


def test_sweep_gives_lists_and_the_sweep_itself_once(pack):
    node = pack.nodes["LoomSweep"]
    answer = node().sweep("model", ["rows"], **X, **Y, clip="clip", mode="live")
    models, clips, sweep, labels, count, report = answer["result"]
    assert (models, clips, labels) == (["model 0", "model 1"], ["clip 0", "clip 1"], ["0", "0.5"])
    assert (count, report) == (2, "2 points")
    assert len(sweep.points) == 2
    assert node.OUTPUT_IS_LIST == (True, True, False, True, False, False)
    model, clip, rows, across, down, matching, mode = pack.applied[-1]
    assert (model, clip, rows, matching, mode) == ("model", "clip", ["rows"], "auto", "live")
    assert (across.name, across.kind, across.row, across.step) == ("x", "strength", 1, 0.1)
    assert (down.name, down.kind) == ("y", "none")


def test_without_a_clip_whoever_reads_it_is_told(pack):
    (clip,) = pack.nodes["LoomSweep"]().sweep("model", [], **X, **Y)["result"][1]
    assert "Loom Sweep has no CLIP connected" in clip.message


def test_the_grid_reads_its_single_values_off_the_lists(pack):
    node = pack.nodes["LoomSweepGrid"]
    answer = node().grid(
        ["a", "b"], ["sweep"], ["loom/x"], [256], ["words"], [{"1": {}}], [{"workflow": 1}], ["9"]
    )
    assert answer == {"ui": {"images": ["a sheet"]}, "result": ("sheets", "{}")}
    expected = (["a", "b"], "sweep", "loom/x", 256, "words", {"1": {}}, "9", {"workflow": 1})
    assert pack.applied[-1] == expected
    node().grid(["a"], ["sweep"], ["loom/x"], [256])
    assert pack.applied[-1][4:] == ("", None, None, None)
    assert node.INPUT_IS_LIST
    assert node.OUTPUT_NODE


def test_the_map_hands_pictures_and_latents_on_and_shows_its_figures(pack):
    node = pack.nodes["LoomBlockMap"]
    answer = node().map(["sweep"], ["a", "b"], [{"samples": 1}, {"samples": 2}])
    assert answer["result"] == ("chart", "D05 matters", "{}")
    assert answer["ui"]["text"] == ["D05 matters"]
    assert pack.applied[-1] == ("sweep", ["a", "b"], [{"samples": 1}, {"samples": 2}])
