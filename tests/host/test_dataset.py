"""LoomDataset on a running host: drawn pictures in, report and contact sheet out; bad folders fail on the node."""

from __future__ import annotations

import io
import random

import numpy as np
import pytest
from PIL import Image

from tools.devkit.host_client import PromptFailed, PromptRefused
from tools.toy_pictures import CHARACTER_SHAPE, GROUNDS, Picture, draw, placed_at_random

WIDGETS = {
    "folder": "",
    "trigger": "zwx",
    "template": "zwx drawing of {caption}",
    "resolution": 128,
}


def dataset(**inputs):
    """LoomDataset with its sheet previewed."""
    return {
        "1": {"class_type": "LoomDataset", "inputs": {**WIDGETS, **inputs}},
        "2": {"class_type": "PreviewImage", "inputs": {"images": ["1", 2]}},
    }


def ring(seed: int) -> Image.Image:
    ground = list(GROUNDS)[seed % len(GROUNDS)]
    return draw(placed_at_random(Picture(None, CHARACTER_SHAPE, ground), random.Random(seed)), 128)


@pytest.fixture(scope="module")
def rings(host):
    """Twelve rings with captions in input/rings, four of them in a kohya folder."""
    folder = host.base / "input" / "rings"
    for seed in range(12):
        path = folder / ("3_zwx ring" if seed >= 8 else "") / f"ring {seed:02}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        ring(seed).save(path)
        path.with_suffix(".txt").write_text(f"a ring, number {seed}", encoding="utf-8")
    return folder


def report_of(client, prompt) -> str:
    (report,) = client.run(prompt).outputs["1"]["text"]
    return report


def test_a_folder_gives_a_report_and_a_contact_sheet(client, rings):
    finished = client.run(dataset(folder="rings", captions="ring 00.png: the first one"))
    (report,) = finished.outputs["1"]["text"]
    assert report.startswith("12 pictures, ")
    assert "buckets, with their pictures: 128 x 128 (12)" in report
    assert "ring 00.png: zwx drawing of the first one" in report
    assert "3_zwx ring/ring 09.png: zwx drawing of a ring, number 9 [3 repeats" in report
    (view,) = finished.images("2")
    sheet = np.asarray(Image.open(io.BytesIO(client.fetch_image(view))).convert("RGB"))
    assert sheet.shape[1] == 1024
    # The drawn purple of the rings is on the sheet.
    assert ((sheet.astype(int) - (138, 52, 184)) ** 2).sum(axis=2).min() < 30


def test_an_absolute_path_that_was_typed_is_read(client, rings):
    typed, relative = (report_of(client, dataset(folder=name)) for name in (str(rings), "rings"))
    assert typed == relative


def test_an_absolute_path_that_comes_by_a_link_is_refused(client, rings):
    prompt = dataset(folder=["3", 0])
    prompt["3"] = {"class_type": "PrimitiveString", "inputs": {"value": str(rings)}}
    with pytest.raises(
        PromptFailed, match="an absolute path that came from another node"
    ) as failure:
        client.run(prompt)
    assert failure.value.node_type == "LoomDataset"
    prompt["3"]["inputs"]["value"] = "rings"
    assert report_of(client, prompt).startswith("12 pictures, ")


def test_a_batch_of_images_with_captions(client, rings):
    prompt = dataset(images=["4", 0], captions="a red square\na blue square")
    for node, colour in (("5", 0xFF0000), ("6", 0x0000FF)):
        size = {"width": 192, "height": 128, "batch_size": 1, "color": colour}
        prompt[node] = {"class_type": "EmptyImage", "inputs": size}
    prompt["4"] = {"class_type": "ImageBatch", "inputs": {"image1": ["5", 0], "image2": ["6", 0]}}
    report = report_of(client, prompt)
    assert "image 1: zwx drawing of a red square" in report
    assert "image 2: zwx drawing of a blue square" in report
    assert "There are 2 pictures" in report


def test_a_changed_caption_file_is_read_again_and_an_unchanged_folder_is_not(client, rings):
    prompt = dataset(folder="rings")
    client.run(prompt)
    assert client.run(prompt).executed == ()
    (rings / "ring 03.txt").write_text("another text", encoding="utf-8")
    assert "ring 03.png: zwx drawing of another text" in report_of(client, prompt)


def test_regularisation_pictures_are_told_apart(client, host, rings):
    folder = host.base / "input" / "prior"
    folder.mkdir(exist_ok=True)
    draw(Picture("red", "circle", "dark"), 128).save(folder / "circle.png")
    report = report_of(client, dataset(folder="rings", regularisation="prior"))
    assert "12 pictures, 1 regularisation pictures" in report
    assert "circle.png:  [regularisation]" in report


BAD_INPUTS = {
    "no folder at all": ({}, "There is nothing to learn from"),
    "a template without place": ({"folder": "rings", "template": "zwx"}, "has no {caption}"),
    "captions that name no file": ({"folder": "rings", "captions": "words"}, "Captions, line 1"),
    "an empty folder": ({"folder": "nothing"}, "The folder 'nothing' has no pictures"),
    "a broken picture": ({"folder": "broken"}, "cut.png: damaged or cut short"),
    "a name outside": ({"folder": "outside"}, "metadata.jsonl, line 1: '../rings/ring 00.png' points outside"),
}  # fmt: skip


@pytest.mark.parametrize("case", BAD_INPUTS)
def test_bad_input_fails_on_the_node(client, host, rings, case):
    inputs, message = BAD_INPUTS[case]
    base = host.base / "input"
    for name in ("nothing", "broken", "outside"):
        (base / name).mkdir(exist_ok=True)
    picture = (rings / "ring 00.png").read_bytes()
    (base / "broken" / "cut.png").write_bytes(picture[: len(picture) // 2])
    (base / "outside" / "a.png").write_bytes(picture)
    (base / "outside" / "metadata.jsonl").write_text(
        '{"file_name": "../rings/ring 00.png", "text": "x"}'
    )
    with pytest.raises(PromptFailed) as failure:
        client.run(dataset(**inputs))
    assert failure.value.node_type == "LoomDataset"
    assert message in failure.value.message


@pytest.mark.parametrize("folder", ["gone", "../output", "rings/../../output", "C:pictures"])
def test_a_folder_that_is_not_there_or_outside_is_refused_before_the_graph_runs(
    client, rings, folder
):
    with pytest.raises(
        PromptRefused, match="There is no folder|points outside ComfyUI's input folder"
    ):
        client.run(dataset(folder=folder))
