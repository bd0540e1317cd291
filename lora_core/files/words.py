"""Trigger words: split from what people write, and worked out from the captions where nobody names any."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping

from .lenient import MOST_LISTED, WORD, Unreadable, dig, json_of, number_of, text_of
from .said import Said

# A trigger text may hold whole tags; those load files and are no words.
_TAG = re.compile(r"<(?:lora|lyco|hypernet):[^<>]*>", re.IGNORECASE)
# On nearly all pictures of many sets, and therefore nobody's trigger.
_COMMON = {
    "1girl",
    "1boy",
    "solo",
    "masterpiece",
    "best quality",
    "high quality",
    "highres",
    "absurdres",
}
_COMMON |= {"simple background", "white background", "looking at viewer", "no humans"}
_COMMON |= {"realistic", "photorealistic", "photo", "a photo", "a woman", "a man"}
_LONGEST = WORD * MOST_LISTED
_NEARLY_ALL = 0.9
_FEWEST_IMAGES = 5


def words_of(value: object) -> list[str]:
    """The words of a comma-separated phrase, of a JSON list, or of a list. Commas inside brackets do not split."""
    return _split(value)[0]


def said_words(value: object, source: str) -> tuple[tuple[Said[str], ...], tuple[str, ...]]:
    """The words with their source, and a note where some were left out."""
    words, left_out = _split(value)
    note = f"{source}: {left_out} of the words left out, too long or too many to be trigger words"
    return tuple(Said(word, source) for word in words), (note,) if left_out else ()


def _split(value: object) -> tuple[list[str], int]:
    """The words, and how many were left out: longer than WORD characters, or past the first MOST_LISTED."""
    if isinstance(value, str) and value.lstrip().startswith("["):
        listed = json_of(value)
        value = listed if isinstance(listed, list) else value
    phrases = value if isinstance(value, list) else [value]
    words, left_out = [], max(0, len(phrases) - MOST_LISTED)
    for phrase in phrases[:MOST_LISTED]:
        if not isinstance(phrase, str):
            continue
        left_out += len(phrase) > _LONGEST
        for part in filter(str.strip, _parts(_TAG.sub("", phrase[:_LONGEST]))):
            text = text_of(part, WORD)
            if text and len(part) <= WORD and len(words) < MOST_LISTED:
                words.append(text)
            else:
                left_out += bool(text)
    return words, left_out


def _parts(phrase: str) -> Iterable[str]:
    depth, start = 0, 0
    for place, char in enumerate(phrase):
        if char in "([{":
            depth += 1
        elif char in ")]}":
            depth = max(0, depth - 1)
        elif char in ",\n" and depth == 0:
            yield phrase[start:place]
            start = place + 1
    yield phrase[start:]


def derived_words(metadata: Mapping[str, str]) -> tuple[Said[str], ...]:
    """The one tag that stands in nearly all captions, as kohya's ss_tag_frequency counts them, said as worked out.

    Nothing where the number of images is not known, where they are few, or where only everyday tags are that common.
    """
    frequency = _json(metadata.get("ss_tag_frequency"))
    counts: dict[str, float] = {}
    for folder in frequency.values():
        for tag, count in folder.items() if isinstance(folder, dict) else ():
            number = number_of(count)
            if isinstance(tag, str) and number is not None and number > 0:
                counts[tag] = counts.get(tag, 0) + number
    images = _images(metadata, list(frequency))
    if images is None or images < _FEWEST_IMAGES:
        return ()
    often = [tag for tag, count in counts.items() if _NEARLY_ALL * images <= count <= images]
    own = [tag for tag in often if tag.strip().lower().replace("_", " ") not in _COMMON]
    if not own:
        return ()
    best = max(own, key=lambda tag: counts[tag])  # of equals the first: captions begin with it
    text = text_of(best, WORD)
    source = f"worked out from ss_tag_frequency: in {counts[best]:g} of {images:g} captions"
    return (Said(text, source),) if text and len(best) <= WORD else ()


def _images(metadata: Mapping[str, str], folders: list[str]) -> float | None:
    """How many different images were trained on, or None where the file does not say."""
    listed = _json(metadata.get("ss_dataset_dirs"))
    counts = [number_of(dig(listed, folder, "img_count")) for folder in folders]
    known = [count for count in counts if count is not None]
    if known and len(known) == len(folders):
        return sum(known)
    repeats = re.match(r"(\d{1,6})_", folders[0]) if len(folders) == 1 else None
    seen = number_of(metadata.get("ss_num_train_images"))
    if repeats is None or seen is None or int(repeats[1]) == 0:
        return None
    return seen / int(repeats[1])


def _json(value: object) -> dict[str, object]:
    parsed = json_of(value) if isinstance(value, str) else None
    return parsed if isinstance(parsed, dict) and not isinstance(parsed, Unreadable) else {}
