"""The values that stand for what is learned from: pictures with captions, and how they are to be used."""

from __future__ import annotations

import hashlib
from dataclasses import asdict, dataclass, field, replace
from functools import cached_property
from pathlib import Path

import numpy as np

from ..errors import DatasetError
from .counters import number_of
from .measures import Measures
from .similarity import near_duplicates

CROPS = ("centre", "random")
MASKS = ("alpha and mask files", "off")
PLACEHOLDER = "{caption}"
# Below this many pictures each one is worth more as a teacher than as an examiner.
LEAST_FOR_VALIDATION = 10

Source = Path | np.ndarray


@dataclass(frozen=True, eq=False)
class TrainImage:
    """One picture to learn from.

    name: what messages call it: the path inside the dataset folder, or "image 3".
    source: its file, or its pixels as (H, W, 3 or 4) uint8.
    measures: what was measured when it was first decoded; its size and content hash among them.
    caption: as written by the user, before template and trigger; "" where there is none.
    repeats: how often it is shown in one epoch.
    mask: a picture of where to learn (white) and where not (black), of any size; None for no such picture.
    origin: where the caption comes from: "graph", "sidecar", "metadata", "folder name" or "" for none.
    regularisation: shows what the base should keep; taught without template and trigger.
    """

    name: str
    source: Source
    measures: Measures
    caption: str = ""
    repeats: int = 1
    mask: Source | None = None
    origin: str = ""
    regularisation: bool = False


@dataclass(frozen=True)
class Found:
    """What a reader found: the pictures, and in words what it left aside."""

    images: tuple[TrainImage, ...]
    notes: tuple[str, ...] = ()


@dataclass(frozen=True)
class DatasetSettings:
    """How the pictures are used. Checked on creation: raises DatasetError.

    trigger: the word (or words) that calls the concept; added to captions that lack it. "" for none.
    template: the text around each caption, with {caption} in it.
    resolution: side in pixels of the square whose area a bucket fills at most.
    step: sides of buckets are multiples of this many pixels.
    upscale: whether pictures smaller than their bucket are blown up.
    flip: whether a picture is mirrored at random, left to right.
    crop: "centre", or "random" for one of five places along the side that is too long.
    shuffle, kept_tags: whether the comma-separated tags change order, and how many at the front stay.
    dropout: share of the samples that are taught without any caption, 0 to 1.
    validation: share of the pictures that are held out to measure progress, 0 to 0.5.
    masks: "alpha and mask files" weigh the loss, or "off".
    outside: weight of the loss where a mask is black, 0 to 1; it is 1 where the mask is white.
    prior_weight: weight of the loss of regularisation pictures.
    seed: decides split, order, shuffling, dropout, flips and crops.
    """

    trigger: str = ""
    template: str = PLACEHOLDER
    resolution: int = 512
    step: int = 64
    upscale: bool = False
    flip: bool = False
    crop: str = "centre"
    shuffle: bool = False
    kept_tags: int = 1
    dropout: float = 0.05
    validation: float = 0.1
    masks: str = MASKS[0]
    outside: float = 0.1
    prior_weight: float = 1.0
    seed: int = 0

    def __post_init__(self) -> None:
        if PLACEHOLDER not in self.template:
            raise DatasetError(
                f"The caption template '{self.template}' has no {PLACEHOLDER} in it. Write it like "
                f"'ohwx illustration of {PLACEHOLDER}', or {PLACEHOLDER} alone for the captions as they are."
            )
        _among("crop", self.crop, CROPS)
        _among("masks", self.masks, MASKS)
        _between("dropout", self.dropout, 0, 1)
        _between("validation", self.validation, 0, 0.5)
        _between("outside", self.outside, 0, 1)
        _between("prior_weight", self.prior_weight, 0, 100)
        _between("kept_tags", self.kept_tags, 0, 1000)
        _between("step", self.step, 1, 1024)
        _between("resolution", self.resolution, self.step, 16384)


@dataclass(frozen=True, eq=False)
class Dataset:
    """Pictures and settings. Raises DatasetError where there is nothing to learn from.

    notes: what the reader met and left aside, in words: nothing is dropped in silence.
    """

    images: tuple[TrainImage, ...]
    settings: DatasetSettings = field(default_factory=DatasetSettings)
    notes: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if all(image.regularisation for image in self.images):
            raise DatasetError(
                "The dataset has no pictures to learn from. Give a folder with 10 to 30 pictures, or connect IMAGE."
            )

    @cached_property
    def held_out(self) -> frozenset[int]:
        """Indices of the pictures that are only used for validation."""
        return _held_out(self.images, self.settings)

    @property
    def training(self) -> tuple[int, ...]:
        """Indices of the pictures of the concept that are learned from."""
        chosen = enumerate(self.images)
        return tuple(
            i for i, image in chosen if not image.regularisation and i not in self.held_out
        )

    @property
    def validation(self) -> tuple[int, ...]:
        """Indices of the pictures that are held out, in order."""
        return tuple(sorted(self.held_out))

    @property
    def regularisation(self) -> tuple[int, ...]:
        return tuple(i for i, image in enumerate(self.images) if image.regularisation)

    @cached_property
    def fingerprint(self) -> str:
        """sha256 of all that training sees: pixels, masks, captions, repeats, settings; not file names."""
        digest = hashlib.sha256(repr(sorted(asdict(self.settings).items())).encode())
        for image in self.images:
            mask = "" if image.mask is None else _mask_digest(image.mask)
            facts = (image.measures.sha256, mask, image.caption, image.repeats)
            digest.update(repr((*facts, image.regularisation)).encode())
        return digest.hexdigest()

    def with_settings(self, **changes: object) -> Dataset:
        """The same pictures under changed settings."""
        return replace(self, settings=replace(self.settings, **changes))


def _held_out(images: tuple[TrainImage, ...], settings: DatasetSettings) -> frozenset[int]:
    """The split: drawn by content, so that one more picture, or another name, moves no other picture.

    Near-duplicates stay on one side: a copy would examine what it has taught.
    """
    concept = [index for index, image in enumerate(images) if not image.regularisation]
    if len(concept) < LEAST_FOR_VALIDATION or settings.validation == 0:
        return frozenset()
    wanted, chosen = max(1, round(settings.validation * len(concept))), set()
    alike = near_duplicates([images[index].measures.thumbnail for index in concept])
    together = [tuple(concept[place] for place in group) for group in alike]
    alone = [(index,) for index in concept if not any(index in group for group in together)]
    for group in sorted([*together, *alone], key=lambda group: _draw(images, group, settings.seed)):
        if len(chosen) + len(group) <= wanted:
            chosen.update(group)
    return frozenset(chosen)


def _draw(images: tuple[TrainImage, ...], group: tuple[int, ...], seed: int) -> tuple[int, str]:
    content = min(images[index].measures.sha256 for index in group)
    return number_of("split", seed, content), content


def _mask_digest(mask: Source) -> str:
    data = (
        mask.read_bytes() if isinstance(mask, Path) else repr(mask.shape).encode() + mask.tobytes()
    )
    return hashlib.sha256(data).hexdigest()


def _among(name: str, value: str, choices: tuple[str, ...]) -> None:
    if value not in choices:
        raise DatasetError(f"{name} is {value!r}; choose one of {', '.join(choices)}.")


def _between(name: str, value: float, low: float, high: float) -> None:
    if not low <= value <= high:
        raise DatasetError(f"{name} is {value!r}; it must be from {low:g} to {high:g}.")
