"""From the caption as written to the text that is taught. Pure functions of (settings, sample, epoch).

How many tokens a text has is the tokenizer's matter, so the host checks the length.
"""

from __future__ import annotations

import re

from .counters import shuffled, uniform
from .dataset import PLACEHOLDER, DatasetSettings, TrainImage

_SEPARATOR = ", "


def taught_caption(image: TrainImage, settings: DatasetSettings, sample: int, epoch: int) -> str:
    """The text for one showing of a picture: tags shuffled, template, trigger, or nothing at all by dropout.

    sample: the sample's number in the dataset (buckets.py); the same number and epoch give the same text.
    """
    if uniform("dropout", settings.seed, sample, epoch) < settings.dropout:
        return ""
    caption = image.caption
    if settings.shuffle:
        caption = _shuffled_tags(caption, settings, sample, epoch)
    return dressed(caption, settings, image.regularisation)


def plain_caption(image: TrainImage, settings: DatasetSettings) -> str:
    """The text without shuffling and dropout: for validation, samples and the report."""
    return dressed(image.caption, settings, image.regularisation)


def dressed(caption: str, settings: DatasetSettings, regularisation: bool = False) -> str:
    """Template around the caption, then the trigger in front where it is still missing.

    An empty caption becomes the trigger alone. Regularisation pictures keep their caption as it is: they
    must not be tied to the trigger.
    """
    if regularisation:
        return caption
    if not caption and settings.trigger.strip():
        return settings.trigger.strip()
    text = settings.template.replace(PLACEHOLDER, caption).strip().strip(",").strip()
    return text if has_words(text, settings.trigger) else _joined(settings.trigger.strip(), text)


def has_words(text: str, words: str) -> bool:
    """Whether the text has these words, whole and in any case. No words are always there."""
    wanted = words.strip()
    if not wanted:
        return True
    return re.search(rf"(?<!\w){re.escape(wanted)}(?!\w)", text, re.IGNORECASE) is not None


def _joined(*parts: str) -> str:
    return _SEPARATOR.join(part for part in parts if part)


def _shuffled_tags(caption: str, settings: DatasetSettings, sample: int, epoch: int) -> str:
    """Comma-separated tags in another order; the first kept_tags, and tags with the trigger, stay in front."""
    tags = [tag.strip() for tag in caption.split(",") if tag.strip()]
    front, rest = tags[: settings.kept_tags], tags[settings.kept_tags :]
    if settings.trigger.strip():
        front += [tag for tag in rest if has_words(tag, settings.trigger)]
        rest = [tag for tag in rest if not has_words(tag, settings.trigger)]
    return _joined(*front, *shuffled(rest, "tags", settings.seed, sample, epoch))
