"""What is doubtful about a dataset, before a step is spent on it: each finding names the pictures, why, and what to do.

Every check is a function of the plan (dataset and buckets) alone and returns its findings; CHECKS lists them.
Thresholds were set on drawn pictures, good and bad, in tests/core/test_checks.py.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

from .captions import dressed, has_words
from .dataset import TrainImage
from .samples import Plan
from .similarity import mean_difference, near_duplicates

FEWEST, MOST = 10, 30
LEAST_FILL = 0.5
BLURRED_FROM = 1.2
MOST_CUT, MOST_RATIO = 0.2, 2.5
FEWEST_LETTERS = 5
SAME_CAPTION_SHARE = 0.5
LEAST_DIFFERENCE = 14.0
LEAST_FOR_VARIETY = 5
MOST_TRANSPARENT = 0.5
_NAMED = 8


@dataclass(frozen=True)
class Finding:
    """One doubt. check: its name in CHECKS; images: indices of the pictures it is about, () for the whole dataset.

    what: what was found; why: why it matters; cure: what to do. All whole sentences.
    """

    check: str
    images: tuple[int, ...]
    what: str
    why: str
    cure: str

    def text(self) -> str:
        return f"{self.check}: {self.what} {self.why} {self.cure}"


Check = Callable[[Plan], Iterator[Finding]]


def findings(plan: Plan) -> tuple[Finding, ...]:
    """All findings of all checks, in the order of CHECKS."""
    return tuple(finding for check in CHECKS.values() for finding in check(plan))


def number(plan: Plan) -> Iterator[Finding]:
    """10 to 30 pictures are advised."""
    count = len(_concept(plan))
    if count == 1:
        yield Finding(
            "number",
            (),
            "There is one picture.",
            "Of one picture the model learns the picture, not the concept in it.",
            f"Add pictures: {FEWEST} to {MOST} that show the concept in different surroundings.",
        )
    elif count < FEWEST:
        yield Finding(
            "number",
            (),
            f"There are {count} pictures; {FEWEST} to {MOST} are advised.",
            "Few pictures are learned by heart, background and all.",
            "Add pictures, or train for fewer steps and watch the samples.",
        )
    elif count > MOST:
        yield Finding(
            "number",
            (),
            f"There are {count} pictures; {FEWEST} to {MOST} are enough for one concept.",
            "More pictures need more steps, and the weakest of them set the quality.",
            "Keep the best ones, unless each adds something new.",
        )


def duplicates(plan: Plan) -> Iterator[Finding]:
    """Near-duplicates, mirrored ones too."""
    indices = _concept(plan)
    for group in near_duplicates([_image(plan, i).measures.thumbnail for i in indices]):
        members = tuple(indices[place] for place in group)
        yield Finding(
            "duplicates",
            members,
            f"{_names(plan, members)} are nearly the same picture.",
            "It counts several times over, and what is in it by chance is learned with it.",
            "Keep the best of them; use repeats where a picture is meant to count more.",
        )


def small(plan: Plan) -> Iterator[Finding]:
    """Pictures with less than half the pixels that the resolution asks for, or that would be blown up."""
    side = plan.dataset.settings.resolution
    found = [
        i for i in _concept(plan) if _area(_image(plan, i).measures.size) < LEAST_FILL * side * side
    ]
    if found:
        smallest = min((_image(plan, i).measures.size for i in found), key=_area)
        yield Finding(
            "small",
            tuple(found),
            f"{_names(plan, found)}: smaller than the training resolution of {side}, down to "
            f"{smallest[0]} x {smallest[1]}.",
            "They hold less detail than the model draws, and the LoRA learns that lack.",
            "Replace them by larger originals, or lower the resolution; blowing them up adds no detail.",
        )


def blurred(plan: Plan) -> Iterator[Finding]:
    """Pictures whose sharpest edges are soft."""
    found = [i for i in _concept(plan) if (_image(plan, i).measures.edge_width or 0) > BLURRED_FROM]
    if found:
        yield Finding(
            "blurred",
            tuple(found),
            f"{_names(plan, found)}: even the sharpest edges are soft.",
            "Out of focus, shaken or blown up: the LoRA learns the softness as a part of the concept.",
            "Replace them, unless the softness is the style you teach.",
        )


def aspect(plan: Plan) -> Iterator[Finding]:
    """Very long pictures, and those of which much is cut off to fit their bucket."""
    found = [i for i in _concept(plan) if _long(plan, i) or plan.placements[i].kept < 1 - MOST_CUT]
    for i in found:
        (width, height), placement = _image(plan, i).measures.size, plan.placements[i]
        bucket = "{} x {}".format(*placement.bucket)
        yield Finding(
            "aspect",
            (i,),
            f"{_names(plan, [i])}: {width} x {height}; {1 - placement.kept:.0%} of it is cut off for the bucket "
            f"{bucket}.",
            "Long pictures are cut, perhaps through the concept, and stand alone in their bucket.",
            "Crop it yourself around what is to be learned.",
        )


def missing_captions(plan: Plan) -> Iterator[Finding]:
    """Pictures without a caption."""
    found = [i for i in _concept(plan) if not _image(plan, i).caption]
    if found:
        taught = dressed("", plan.dataset.settings)
        yield Finding(
            "missing captions",
            tuple(found),
            f"{_names(plan, found)}: no caption; taught as '{taught}'.",
            "What no caption names is tied to the trigger: the background, the pose, the light.",
            "Write a line for each in a .txt file of the same name, or in the captions widget.",
        )


def identical_captions(plan: Plan) -> Iterator[Finding]:
    """One caption for most of the pictures."""
    by_caption: dict[str, list[int]] = {}
    for i in _concept(plan):
        caption = _image(plan, i).caption.casefold()
        if caption:
            by_caption.setdefault(caption, []).append(i)
    total = sum(map(len, by_caption.values()))
    for same in by_caption.values():
        if len(same) > max(2, SAME_CAPTION_SHARE * total):
            yield Finding(
                "identical captions",
                tuple(same),
                f"{len(same)} of {total} captions are the same: '{_image(plan, same[0]).caption:.60}'.",
                "The model cannot tell what belongs to the concept and what only to one picture.",
                "Name in each caption what should stay free to change: clothes, place, light, view.",
            )


def trigger(plan: Plan) -> Iterator[Finding]:
    """No trigger word, or one that only some captions have."""
    word = plan.dataset.settings.trigger.strip()
    template = plan.dataset.settings.template
    if not word:
        yield Finding(
            "trigger",
            (),
            "There is no trigger word.",
            "Then the LoRA changes every prompt that resembles a caption, and cannot be called by name.",
            "Set a rare word that means nothing to the model, such as ohwx.",
        )
        return
    concept = _concept(plan)
    lacking = [i for i in concept if not has_words(_image(plan, i).caption, word)]
    if lacking and len(lacking) < len(concept) and not has_words(template, word):
        yield Finding(
            "trigger",
            tuple(lacking),
            f"'{word}' is in {len(concept) - len(lacking)} of {len(concept)} captions.",
            "It is put in front of the others, where it may read otherwise than in yours.",
            "Write it into all captions, or into the template and none.",
        )


def borders(plan: Plan) -> Iterator[Finding]:
    """One-colour bars or frames around the picture."""
    found = [i for i in _concept(plan) if any(_image(plan, i).measures.border)]
    if found:
        yield Finding(
            "borders",
            tuple(found),
            f"{_names(plan, found)}: bars of one colour at the edges.",
            "Bars and frames are learned sooner than anything else and come back in every picture.",
            "Crop them off, unless the frame is what you teach.",
        )


def writing(plan: Plan) -> Iterator[Finding]:
    """A modest guess: rows of letter-like marks."""
    found = [i for i in _concept(plan) if _image(plan, i).measures.letters >= FEWEST_LETTERS]
    if found:
        yield Finding(
            "writing",
            tuple(found),
            f"{_names(plan, found)}: perhaps text or a watermark (a guess from rows of letter-like marks).",
            "Text and watermarks come back as scribbles in every picture.",
            "Look at them; crop or paint it out, or name it in the caption.",
        )


def transparency(plan: Plan) -> Iterator[Finding]:
    """Pictures that are mostly transparent."""
    found = [i for i in _concept(plan) if _image(plan, i).measures.transparent > MOST_TRANSPARENT]
    if found:
        masked = plan.dataset.settings.masks != "off"
        yield Finding(
            "transparency",
            tuple(found),
            f"{_names(plan, found)}: mostly transparent; shown to the model on white.",
            "Little of the picture teaches."
            if masked
            else "The white ground is learned as a part of the concept.",
            "Crop closer around the subject, or put it before varied grounds.",
        )


def variety(plan: Plan) -> Iterator[Finding]:
    """All pictures look much the same."""
    thumbnails = [_image(plan, i).measures.thumbnail for i in _concept(plan)]
    if (
        len(thumbnails) >= LEAST_FOR_VARIETY
        and (difference := mean_difference(thumbnails)) < LEAST_DIFFERENCE
    ):
        yield Finding(
            "variety",
            (),
            f"The pictures differ little: {difference:.0f} of 255 levels on average.",
            "The same view, ground and light in all of them is learned as the concept.",
            "Add other views, distances, grounds and lights, or name in the captions what is always there.",
        )


CHECKS: dict[str, Check] = {
    "number": number,
    "duplicates": duplicates,
    "small": small,
    "blurred": blurred,
    "aspect": aspect,
    "missing captions": missing_captions,
    "identical captions": identical_captions,
    "trigger": trigger,
    "borders": borders,
    "writing": writing,
    "transparency": transparency,
    "variety": variety,
}


def _concept(plan: Plan) -> list[int]:
    """Indices of the pictures that show the concept, held-out ones too."""
    return [i for i, image in enumerate(plan.dataset.images) if not image.regularisation]


def _image(plan: Plan, index: int) -> TrainImage:
    return plan.dataset.images[index]


def _area(size: tuple[int, int]) -> int:
    return size[0] * size[1]


def _long(plan: Plan, index: int) -> bool:
    size = _image(plan, index).measures.size
    return max(size) > MOST_RATIO * min(size)


def _names(plan: Plan, indices: Sequence[int]) -> str:
    """The pictures by name, the first few."""
    names = [_image(plan, i).name for i in indices[:_NAMED]]
    more = f" and {len(indices) - _NAMED} more" if len(indices) > _NAMED else ""
    return ", ".join(names) + more
