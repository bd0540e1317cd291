"""The contact sheet and the report: every picture, its caption and what is doubtful can be seen and read."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from PIL import Image, ImageDraw

from lora_core.train.batch import read_batch
from lora_core.train.checks import Finding, findings
from lora_core.train.dataset import Dataset, DatasetSettings
from lora_core.train.dataset_report import dataset_report
from lora_core.train.folder import read_folder
from lora_core.train.samples import Plan
from lora_core.train.sheet import MOST_SHOWN, WIDTH, contact_sheet
from tests.core.drawn import busy, folder_of
from tests.core.test_checks import plan_of

DOUBT = (196, 60, 30)


def has_colour(sheet: Image.Image, colour: tuple[int, int, int]) -> bool:
    return bool((np.asarray(sheet) == colour).all(axis=2).any())


@pytest.fixture
def texts(monkeypatch) -> list[str]:
    """All that is written on a sheet, in order."""
    drawn: list[str] = []
    text = ImageDraw.ImageDraw.text

    def remember(pen, place, words, *rest, **options):
        drawn.append(words)
        return text(pen, place, words, *rest, **options)

    monkeypatch.setattr(ImageDraw.ImageDraw, "text", remember)
    return drawn


def test_the_sheet_grows_with_the_pictures_and_stays_1024_wide():
    images = [busy(seed, (96, 96), 6) for seed in range(9)]
    sheets = [contact_sheet(plan_of(images[:count], step=32), ()) for count in (1, 4, 5, 9)]
    one, full, two, three = (sheet.height for sheet in sheets)
    assert {sheet.width for sheet in sheets} == {WIDTH} == {1024}
    assert one == full
    assert three - two == two - full > 250


def test_every_picture_has_its_name_bucket_caption_and_findings(texts):
    plan = plan_of([busy(0), busy(1), busy(2, (100, 90))], ["a ring", "", "a hat"], step=32)
    found = findings(plan)
    sheet = contact_sheet(plan, found)
    written = "\n".join(texts)
    for words in (
        "0.png",
        "256 x 256",
        "ohwx, a ring",
        "missing captions",
        "small",
        "trigger: ohwx",
    ):
        assert words in written
    assert "There are 3 pictures; 10 to 30 are advised." in written
    assert has_colour(sheet, DOUBT)


def test_a_sheet_without_findings_marks_nothing(texts):
    plan = plan_of([busy(seed) for seed in range(3)])
    assert not has_colour(contact_sheet(plan, ()), DOUBT)
    assert "0 findings" in texts[0]


def test_text_that_is_too_long_is_cut_with_dots_inside_its_cell(texts):
    plan = plan_of([busy(0)], ["word " * 100])
    contact_sheet(plan, ())
    pen = ImageDraw.Draw(Image.new("RGB", (8, 8)))
    long = [text for text in texts if text.endswith("...")]
    assert long
    assert all(pen.textlength(text, font_size=15) <= WIDTH // 4 for text in long)


def test_what_the_crop_cuts_off_is_dimmed():
    image = Image.new("RGB", (384, 256), (200, 0, 0))
    plan = plan_of([image], resolution=256, step=256)
    assert plan.placements[0].bucket == (256, 256)
    sheet = np.asarray(contact_sheet(plan, ()))
    red = (sheet == (200, 0, 0)).all(axis=2).sum()
    dimmed = ((sheet[..., 0] > 225) & (sheet[..., 1] > 150) & (sheet[..., 1] < 180)).sum()
    assert dimmed == pytest.approx(red / 2, rel=0.1)


def test_a_large_dataset_shows_the_doubtful_ones_and_says_how_many_are_not_drawn(texts):
    count = MOST_SHOWN + 5
    plan = plan_of([busy(0, (64, 64), 3)] * count)
    contact_sheet(plan, (Finding("small", (count - 1,), "What.", "Why.", "Cure."),))
    assert "5 more pictures are not drawn" in texts
    assert f"{count - 1}.png" in texts
    assert f"{count - 2}.png" not in texts


# ---- report


def test_the_report_says_what_will_be_trained_on(tmp_path):
    folder_of(tmp_path / "2_ring", 12, (96, 96))
    (tmp_path / "notes.pdf").write_bytes(b"x")
    found = read_folder(tmp_path)
    settings = DatasetSettings("ohwx", "ohwx drawing of {caption}", resolution=96, step=32)
    prior = read_folder(folder_of(tmp_path.with_name("prior"), 2, (96, 96)), regularisation=True)
    plan = Plan(Dataset((*found.images, *prior.images), settings, found.notes))
    report = dataset_report(plan, findings(plan))
    (held,) = plan.dataset.validation
    name = plan.dataset.images[held].name
    for line in (
        "12 pictures, 2 regularisation pictures, 44 samples an epoch",
        f"held out for validation: {name}",
        "buckets, with their pictures: 96 x 96 (14)",
        "note: Left aside, neither pictures nor captions of one: notes.pdf.",
        "checks: nothing doubtful",
        "01.png: a scene, number 1, wide view [regularisation]",
    ):
        assert line in report.splitlines()
    assert (
        f"{name}: ohwx drawing of a scene, number {int(name[-6:-4])}, wide view [2 repeats, held out]"
        in report
    )


def test_the_report_lists_every_finding():
    plan = Plan(Dataset(read_batch(torch.zeros(1, 64, 64, 3), "").images, DatasetSettings("")))
    found = findings(plan)
    report = dataset_report(plan, found)
    assert f"checks: {len(found)} findings" in report
    assert all(f"* {finding.text()}" in report for finding in found)
    assert "with 10 different pictures or more" in report
