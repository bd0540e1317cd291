"""Other prompts stay as they are: some samples are taught with a text that has nothing to do with the concept.

The network is asked to answer it as it did before the first step (its own answer is the target), on the noised picture
of the concept. That keeps a LoRA of few pictures from putting its concept under every prompt, without any
regularisation picture: prior preservation (Ruiz et al. 2022) with the base as its own teacher.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import replace

from .captions import plain_caption
from .counters import number_of, uniform
from .samples import Plan, Sample
from .settings import TrainSettings

# What the texts speak of: common words that any base knows, of many kinds, so that what is learned of the words in
# between holds for words that are not here.
_COLOURS = (
    "red", "orange", "yellow", "green", "blue", "purple", "pink", "brown", "black", "white", "grey",
    "golden", "silver", "dark", "bright",
)  # fmt: skip
_THINGS = (
    "man", "woman", "girl", "boy", "face", "dog", "cat", "bird", "horse", "fish", "tree", "flower",
    "leaf", "apple", "house", "tower", "bridge", "street", "room", "chair", "table", "lamp", "cup",
    "bottle", "book", "car", "train", "boat", "ball", "box", "wheel", "stone", "mountain", "river",
    "sea", "sky", "cloud", "sun", "moon", "fire", "hat", "dress", "shoe", "sword", "robot", "dragon",
    "circle", "square", "triangle", "star", "heart", "cross", "cube", "spiral", "arrow", "letter",
)  # fmt: skip
_PLACES = ("", "in a room", "in a forest", "at the sea", "on a table", "in the city", "at night")


# How many texts there are: all are encoded before the first step, and kept. Each so many-th is empty: what a sampler
# with CFG leads away from must stay what it was too.
_TEXTS, _EMPTY = 160, 8


def other_texts(captions: Sequence[str], trigger: str, seed: int) -> tuple[str, ...]:
    """Texts without the trigger: common words, every other time in front of a caption's own without it; and none."""
    own = sorted({without(caption, trigger) for caption in captions} - {""})
    found = []
    for number in range(_TEXTS):
        if number % _EMPTY == 0:
            found.append("")
            continue
        thing = (
            f"{_one_of(_COLOURS, seed, number, 'colour')} {_one_of(_THINGS, seed, number, 'thing')}"
        )
        ends = own if own and number % 2 else _PLACES
        found.append(f"{thing} {_one_of(ends, seed, number, 'end')}".strip())
    return tuple(found)


def preserving_texts(plan: Plan, settings: TrainSettings) -> tuple[str, ...]:
    """Those of a training; none where nothing is to be preserved."""
    images, trigger = plan.dataset.images, plan.dataset.settings.trigger
    captions = [images[index].caption for index in plan.dataset.training]
    return other_texts(captions, trigger, settings.seed) if settings.preserve else ()


def shown_at(
    plan: Plan, settings: TrainSettings, texts: Sequence[str], number: int
) -> tuple[tuple[Sample, ...], tuple[bool, ...]]:
    """The samples of a micro-step with the texts that they are shown with, and whether each preserves.

    texts: of preserving_texts.
    """
    samples, images = plan.batch_at(number).samples, plan.dataset.images
    if not texts:
        return samples, (False,) * len(samples)
    said = [
        None if images[s.image].regularisation else _other(plan, settings, texts, s)
        for s in samples
    ]
    pairs = zip(samples, said, strict=True)
    shown = tuple(s if text is None else replace(s, caption=text) for s, text in pairs)
    return shown, tuple(text is not None for text in said)


def _other(plan: Plan, settings: TrainSettings, texts: Sequence[str], sample: Sample) -> str | None:
    """The text of a sample that preserves; "" for a dropped caption: without words the model is to stay what it was."""
    if not sample.caption and plain_caption(
        plan.dataset.images[sample.image], plan.dataset.settings
    ):
        return ""
    return text_for(settings.preserve, texts, settings.seed, sample.number, sample.epoch)


def text_for(share: float, texts: Sequence[str], seed: int, *key: int | str) -> str | None:
    """The text of a showing that is to stay as it is; None for one that teaches the concept. By counters alone."""
    if uniform("preserve", seed, *key) >= share:
        return None
    return texts[number_of("preserve text", seed, *key) % len(texts)]


def without(caption: str, trigger: str) -> str:
    """A caption without the trigger's words."""
    words = trigger.strip()
    if not words:
        return caption
    bare = re.sub(rf"(?<!\w){re.escape(words)}(?!\w)", " ", caption, flags=re.IGNORECASE)
    return re.sub(r"\s+", " ", bare).strip(" ,")


def _one_of(words: Sequence[str], seed: int, number: int, stream: str) -> str:
    return words[number_of(f"preserve {stream}", seed, number) % len(words)]
