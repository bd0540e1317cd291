"""The order of training: which picture, crop, mirror and text at which step. Pure functions of (seed, step).

A sample is one showing of a picture: a picture with three repeats has three samples in each epoch. Nothing is
stored between steps, so a run that is resumed at step n goes on with the very batch it would have had.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

from ..errors import DatasetError
from .buckets import CROP_PLACES, Placement, Size, place_all
from .captions import taught_caption
from .counters import number_of, shuffled, uniform
from .dataset import Dataset

# Repeats multiply: by folder name and by the node. More than this is a slip of the keyboard.
MOST_SAMPLES = 1_000_000


@dataclass(frozen=True)
class Sample:
    """One showing. number: of the sample in the dataset; image: index into the dataset's images.

    place: where along the side that is too long the crop lies, 0 to 1. mirrored: left to right.
    weight: of its loss; below or above 1 only for regularisation pictures.
    """

    number: int
    image: int
    epoch: int
    place: float
    mirrored: bool
    caption: str
    weight: float


@dataclass(frozen=True)
class Batch:
    """Samples of one bucket. position: of the batch in its epoch. The last of a bucket may be smaller."""

    epoch: int
    position: int
    bucket: Size
    samples: tuple[Sample, ...]


@dataclass(frozen=True, eq=False)
class Plan:
    """A dataset in buckets of a batch size. Raises DatasetError.

    step: sides of buckets in pixels; None for the dataset's own setting (a model may need another).
    """

    dataset: Dataset
    batch_size: int = 1
    step: int | None = None

    def __post_init__(self) -> None:
        if self.batch_size < 1:
            raise DatasetError(f"batch size is {self.batch_size}; it must be 1 or more.")
        shown = sum(image.repeats for image in self.dataset.images)
        if shown > MOST_SAMPLES:
            raise DatasetError(
                f"The repeats make {shown} samples an epoch; at most {MOST_SAMPLES}. Lower repeats, or the number "
                "in front of the folder's name."
            )

    @cached_property
    def placements(self) -> tuple[Placement, ...]:
        """How each picture of the dataset fills its bucket, in the dataset's order."""
        settings = self.dataset.settings
        sizes = [(image.name, image.measures.size) for image in self.dataset.images]
        return place_all(sizes, settings.resolution, self.step or settings.step, settings.upscale)

    @cached_property
    def sample_images(self) -> tuple[int, ...]:
        """Which image each sample number shows; the concept's samples first, then regularisation.

        Each regularisation picture is shown its repeats, then over again until there are as many samples as the
        concept has.
        """
        images = self.dataset.images
        concept = [i for i in self.dataset.training for _ in range(images[i].repeats)]
        prior = [i for i in self.dataset.regularisation for _ in range(images[i].repeats)]
        missing = len(concept) - len(prior)
        again = [prior[i % len(prior)] for i in range(missing)] if prior else []
        return (*concept, *prior, *again)

    @cached_property
    def buckets(self) -> dict[Size, tuple[int, ...]]:
        """Sample numbers by bucket: each sample is in exactly one."""
        found: dict[Size, list[int]] = {}
        for number, image in enumerate(self.sample_images):
            found.setdefault(self.placements[image].bucket, []).append(number)
        return {bucket: tuple(found[bucket]) for bucket in sorted(found)}

    @property
    def steps_per_epoch(self) -> int:
        return sum(-(-len(numbers) // self.batch_size) for numbers in self.buckets.values())

    def batch_at(self, step: int) -> Batch:
        """The batch of a step of the whole run, counted from 0."""
        epoch, position = divmod(step, self.steps_per_epoch)
        bucket, numbers = self._epoch_order(epoch)[position]
        return Batch(epoch, position, bucket, tuple(self.sample(n, epoch) for n in numbers))

    def epoch(self, epoch: int) -> tuple[Batch, ...]:
        """All batches of one epoch, in order."""
        first = epoch * self.steps_per_epoch
        return tuple(self.batch_at(first + position) for position in range(self.steps_per_epoch))

    def sample(self, number: int, epoch: int) -> Sample:
        """The showing of a sample number in an epoch."""
        settings, image = self.dataset.settings, self.sample_images[number]
        counters = (settings.seed, number, epoch)
        crop = number_of("crop", *counters) % len(CROP_PLACES)
        prior = self.dataset.images[image].regularisation
        return Sample(
            number=number,
            image=image,
            epoch=epoch,
            place=CROP_PLACES[crop] if settings.crop == "random" else 0.5,
            mirrored=settings.flip and uniform("flip", *counters) < 0.5,
            caption=taught_caption(self.dataset.images[image], settings, number, epoch),
            weight=settings.prior_weight if prior else 1.0,
        )

    def _epoch_order(self, epoch: int) -> list[tuple[Size, tuple[int, ...]]]:
        """(bucket, sample numbers) of each batch of an epoch: shuffled inside the buckets, then as batches."""
        seed, batches = self.dataset.settings.seed, []
        for bucket, numbers in self.buckets.items():
            order = shuffled(numbers, "order", seed, epoch, *bucket)
            batches += [
                (bucket, tuple(order[i : i + self.batch_size]))
                for i in range(0, len(order), self.batch_size)
            ]
        return shuffled(batches, "batches", seed, epoch)
