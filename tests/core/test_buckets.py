"""Buckets and order: every picture in one bucket, batches of one bucket, everything a function of (seed, step)."""

from __future__ import annotations

import random
from collections import Counter

import pytest
import torch

from lora_core.errors import DatasetError
from lora_core.train.batch import read_batch
from lora_core.train.buckets import CROP_PLACES, MOST_ASPECT, Placement, place, place_all
from lora_core.train.counters import number_of, shuffled, uniform
from lora_core.train.dataset import Dataset, DatasetSettings
from lora_core.train.folder import read_folder
from lora_core.train.pixels import bucket_pixels
from lora_core.train.samples import Plan
from tests.core.drawn import busy, folder_of, save


@pytest.mark.parametrize(
    ("size", "bucket"),
    [
        ((1024, 1024), (512, 512)),
        ((512, 512), (512, 512)),
        ((3000, 2000), (576, 384)),
        ((2000, 3000), (384, 576)),
        ((1920, 1080), (640, 384)),
        ((8000, 400), (1024, 256)),
        ((400, 300), (384, 256)),
        ((64, 64), (64, 64)),
    ],
)
def test_known_sizes_find_their_bucket(size, bucket):
    assert place(size, 512, 64, False).bucket == bucket


@pytest.mark.parametrize(
    ("resolution", "step"), [(512, 64), (512, 8), (1024, 64), (768, 32), (500, 48)]
)
def test_buckets_hold_their_promises_for_any_size(resolution, step):
    rng = random.Random(resolution + step)
    for _ in range(60 if step > 8 else 6):
        size = (rng.randint(step, 3000), rng.randint(step, 3000))
        for upscale in (False, True):
            found = place(size, resolution, step, upscale)
            width, height = found.bucket
            assert width % step == height % step == 0
            assert width * height <= resolution**2
            assert max(width, height) <= MOST_ASPECT * min(width, height)
            assert upscale or (width <= size[0] and height <= size[1])
            if max(size) <= 3 * min(size) and min(size) >= 2 * resolution:
                # Large pictures of usual shapes lose little and fill their area.
                assert found.kept >= 0.78
                assert width * height >= 0.7 * resolution**2


def test_a_picture_smaller_than_the_smallest_bucket_is_refused_by_name_unless_upscaled():
    with pytest.raises(
        DatasetError, match=r"dot\.png: 1 x 1 pixels; the smallest bucket is 64 x 64"
    ):
        place_all([("dot.png", (1, 1))], 512, 64)
    assert place((1, 1), 512, 64, True).bucket == (512, 512)


def test_the_crop_keeps_the_aspect_and_lies_where_it_was_asked():
    placement = Placement((1000, 500), (256, 256))
    assert placement.box(0.0) == (0, 0, 500, 500)
    assert placement.box(0.5) == (250, 0, 750, 500)
    assert placement.box(1.0) == (500, 0, 1000, 500)
    assert placement.resized == (512, 256)
    assert placement.crop_corner(0.5) == (128, 0)
    assert placement.kept == 0.5


def test_cropped_pixels_are_those_of_the_box():
    pixels = torch.zeros(1, 64, 128, 3)
    pixels[:, :, 96:] = 1
    (image,) = read_batch(pixels, "a").images
    placement = place((128, 64), 64, 64, False)
    assert placement.bucket == (64, 64)
    assert bucket_pixels(image, placement, 0.0).max() == 0
    right = bucket_pixels(image, placement, 1.0)
    assert right[:, :32].max() == 0
    assert right[:, 32:].min() == 1
    assert torch.equal(bucket_pixels(image, placement, 1.0, mirrored=True), right.flip(1))


# ---- counters


def test_counters_are_the_same_on_every_machine():
    """Recorded values: a change of them would change every resumed run."""
    assert number_of("order", 1, 2, 3) == 4164086908374415547
    assert shuffled("abcdef", "tags", 7, 0) == ["a", "b", "d", "e", "f", "c"]


def test_counters_are_uniform_and_independent_of_each_other():
    values = [uniform("x", seed, index) for seed in range(4) for index in range(1000)]
    assert all(0 <= value < 1 for value in values)
    counts = Counter(int(value * 10) for value in values)
    # Four standard deviations of a count of 4000 in one of ten bins.
    assert all(abs(count - 400) < 4 * (4000 * 0.1 * 0.9) ** 0.5 for count in counts.values())
    assert number_of("a", 1, 23) != number_of("a", 12, 3)
    assert number_of("a", 1) != number_of("b", 1)


# ---- order


def images_of(sizes, repeats=1):
    return tuple(
        image
        for index, (width, height) in enumerate(sizes)
        for image in read_batch(
            torch.full((1, height, width, 3), index / 255), f"tag {index}", repeats
        ).images
    )


SIZES = [(128, 128)] * 7 + [(192, 96)] * 5 + [(96, 192)] * 4


def plan_of(batch_size=3, repeats=2, **settings):
    options = {"resolution": 128, "step": 32, "validation": 0.0, **settings}
    return Plan(Dataset(images_of(SIZES, repeats), DatasetSettings(**options)), batch_size)


def test_an_epoch_shows_every_sample_once_in_batches_of_one_bucket():
    plan = plan_of()
    for epoch in range(3):
        batches = plan.epoch(epoch)
        assert len(batches) == plan.steps_per_epoch == 5 + 4 + 3
        shown = Counter(sample.image for batch in batches for sample in batch.samples)
        assert shown == {index: 2 for index in range(len(SIZES))}
        for batch in batches:
            assert 1 <= len(batch.samples) <= 3
            assert {plan.placements[sample.image].bucket for sample in batch.samples} == {
                batch.bucket
            }


def test_buckets_take_turns_in_an_order_of_each_epoch():
    orders = [tuple(batch.bucket for batch in plan_of(1).epoch(epoch)) for epoch in range(4)]
    assert len(set(orders)) == 4
    changes = sum(one != other for one, other in zip(orders[0], orders[0][1:], strict=False))
    assert changes > 5


def test_any_step_can_be_asked_for_without_those_before_it():
    plan = plan_of(flip=True, crop="random", shuffle=True, dropout=0.3)
    whole = [plan.batch_at(step) for step in range(30)]
    fresh = plan_of(flip=True, crop="random", shuffle=True, dropout=0.3)
    assert fresh.batch_at(29) == whole[29]
    assert [fresh.batch_at(step) for step in range(30)] == whole
    assert [(batch.epoch, batch.position) for batch in whole[11:13]] == [(0, 11), (1, 0)]


def test_epochs_and_seeds_have_orders_of_their_own():
    def order(plan, epoch):
        return [sample.number for batch in plan.epoch(epoch) for sample in batch.samples]

    orders = [order(plan_of(seed=seed), epoch) for seed in (0, 1) for epoch in (0, 1)]
    assert len(set(map(tuple, orders))) == 4


def test_flip_and_random_crops_vary_from_showing_to_showing_and_are_off_by_default():
    def all_samples(plan):
        return [
            sample for epoch in range(20) for batch in plan.epoch(epoch) for sample in batch.samples
        ]

    plain = all_samples(plan_of())
    assert {(sample.place, sample.mirrored) for sample in plain} == {(0.5, False)}
    varied = all_samples(plan_of(flip=True, crop="random"))
    assert {sample.place for sample in varied} == set(CROP_PLACES)
    mirrored = sum(sample.mirrored for sample in varied)
    # Four standard deviations of a fair coin.
    assert abs(mirrored - len(varied) / 2) < 2 * len(varied) ** 0.5


def test_regularisation_pictures_are_shown_as_often_as_the_concept(tmp_path):
    folder_of(tmp_path / "concept", 7, (96, 96))
    folder_of(tmp_path / "prior", 3, (96, 96))
    concept = read_folder(tmp_path / "concept").images
    prior = read_folder(tmp_path / "prior", regularisation=True).images
    settings = DatasetSettings(resolution=96, step=32, prior_weight=0.5)
    plan = Plan(Dataset((*concept, *prior), settings), 2)
    shown = Counter(sample.image for batch in plan.epoch(0) for sample in batch.samples)
    assert sum(shown[index] for index in range(7)) == 7
    assert [shown[index] for index in range(7, 10)] == [3, 2, 2]
    weights = {
        sample.weight for batch in plan.epoch(0) for sample in batch.samples if sample.image >= 7
    }
    assert weights == {0.5}


def test_held_out_pictures_are_never_shown(tmp_path):
    folder_of(tmp_path, 12, (96, 96))
    dataset = Dataset(
        read_folder(tmp_path).images, DatasetSettings(resolution=96, step=32, validation=0.25)
    )
    shown = {sample.image for batch in Plan(dataset, 4).epoch(0) for sample in batch.samples}
    assert len(dataset.validation) == 3
    assert shown == set(range(12)) - set(dataset.validation)


def test_the_models_own_step_goes_before_the_datasets():
    dataset = Dataset(images_of([(200, 200)]), DatasetSettings(resolution=200, step=64))
    assert Plan(dataset).placements[0].bucket == (192, 192)
    assert Plan(dataset, step=8).placements[0].bucket == (200, 200)


def test_a_plan_that_makes_no_sense_is_refused(tmp_path):
    save(tmp_path / "9999_x", "a.png", busy(1, (96, 96)))
    dataset = Dataset(read_folder(tmp_path, repeats=1000).images)
    with pytest.raises(DatasetError, match="9999000 samples an epoch"):
        Plan(dataset)
    with pytest.raises(DatasetError, match="batch size is 0"):
        Plan(Dataset(images_of([(200, 200)])), 0)
