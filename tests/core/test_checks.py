"""The checks on drawn pictures: each fires on what is bad, and stays silent on what only looks like it."""

from __future__ import annotations

import io
import random
from collections.abc import Callable

import numpy as np
import pytest
from PIL import Image, ImageDraw, ImageEnhance, ImageFilter, ImageOps

from lora_core.train.checks import CHECKS, findings
from lora_core.train.dataset import Dataset, DatasetSettings, TrainImage
from lora_core.train.measures import measure
from lora_core.train.pictures import Picture, from_array
from lora_core.train.samples import Plan
from lora_core.train.similarity import perceptual_hash
from tests.core.drawn import busy
from tools.toy_pictures import GROUNDS, SHAPES, draw, lay_stripes, placed_at_random
from tools.toy_pictures import Picture as Toy

Drawer = Callable[[], Image.Image]


def train_image(image: Image.Image, name: str, caption: str) -> TrainImage:
    pixels = np.asarray(image if image.mode == "RGBA" else image.convert("RGB"))
    return TrainImage(name, pixels, measure(from_array(pixels)), caption)


def plan_of(
    images: list[Image.Image], captions: list[str] | None = None, **settings: object
) -> Plan:
    captions = captions or [f"scene number {index}" for index in range(len(images))]
    options = {"trigger": "ohwx", "resolution": 256, **settings}
    listed = [
        train_image(image, f"{index}.png", caption)
        for index, (image, caption) in enumerate(zip(images, captions, strict=True))
    ]
    return Plan(Dataset(tuple(listed), DatasetSettings(**options)))


def fired(check: str, plan: Plan) -> list[tuple[int, ...]]:
    """The pictures that each finding of one check is about."""
    return [finding.images for finding in CHECKS[check](plan)]


@pytest.fixture(scope="module")
def good() -> list[Image.Image]:
    """Twelve pictures that no check has anything to say about."""
    return [busy(seed, [(320, 320), (300, 420), (420, 300)][seed % 3]) for seed in range(12)]


def test_a_good_dataset_has_no_findings(good):
    assert findings(plan_of(good)) == ()


def test_every_finding_names_its_check_and_pictures_and_says_why_and_what_to_do(good):
    bad = [
        *good[:3],
        good[0],
        good[1].filter(ImageFilter.GaussianBlur(6)),
        busy(50, (100, 90)),
        busy(51, (900, 256)),
    ]
    found = findings(plan_of(bad, ["same"] * 5 + ["", ""], trigger=""))
    assert {finding.check for finding in found} >= {
        "number", "duplicates", "small", "blurred", "aspect", "missing captions", "identical captions", "trigger",
    }  # fmt: skip
    for finding in found:
        assert all(
            text.endswith(".") and len(text) > 15
            for text in (finding.what, finding.why, finding.cure)
        )
        assert finding.text().startswith(f"{finding.check}: ")
        for index in finding.images[:8]:
            assert finding.check == "identical captions" or f"{index}.png" in finding.what


# ---- number


@pytest.mark.parametrize(
    ("count", "fires"), [(1, True), (9, True), (10, False), (30, False), (31, True)]
)
def test_number(count, fires):
    plan = plan_of([busy(seed, (64, 64), 6) for seed in range(count)])
    assert bool(fired("number", plan)) == fires


# ---- near-duplicates


def jpeg(image: Image.Image) -> Image.Image:
    stream = io.BytesIO()
    image.save(stream, "JPEG", quality=30)
    return Image.open(stream)


COPIES: dict[str, Callable[[Image.Image], Image.Image]] = {
    "itself": lambda image: image,
    "jpeg": jpeg,
    "half the size": lambda image: image.resize((image.width // 2, image.height // 2)),
    "brighter": lambda image: ImageEnhance.Brightness(image).enhance(1.1),
    "mirrored": ImageOps.mirror,
    "slightly cropped": lambda image: image.crop((4, 4, image.width - 4, image.height - 4)),
    "grain": lambda image: Image.fromarray(
        (np.asarray(image) + np.random.default_rng(0).normal(0, 8, (image.height, image.width, 3)))
        .clip(0, 255).astype(np.uint8)
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", COPIES)
def test_copies_are_near_duplicates(good, name):
    assert fired("duplicates", plan_of([*good[:4], COPIES[name](good[2])])) == [(2, 4)]


def person(seed: int, same_ground: bool = True) -> Image.Image:
    """A head and shoulders before boxes: the ground of seed 0, pose and clothes of its own."""
    own, ground = random.Random(seed), random.Random(0 if same_ground else seed)
    image = Image.new("RGB", (320, 400), tuple(ground.randrange(60, 220) for _ in range(3)))
    pen = ImageDraw.Draw(image)
    for _ in range(8):
        x, y = ground.randrange(320), ground.randrange(400)
        box = (x, y, x + ground.randrange(20, 90), y + ground.randrange(20, 90))
        pen.rectangle(box, fill=tuple(ground.randrange(256) for _ in range(3)))
    x, y, k = 160 + own.randrange(-60, 60), 150 + own.randrange(-50, 50), own.uniform(0.5, 1.0)
    pen.ellipse((x - 70 * k, y - 90 * k, x + 70 * k, y + 90 * k), fill=(230, 190, 160))
    pen.pieslice((x - 80 * k, y - 110 * k, x + 80 * k, y + 40 * k), 180, 360, fill=(160, 40, 30))
    pen.rectangle(
        (x - 110 * k, y + 90 * k, x + 110 * k, 400),
        fill=tuple(own.randrange(256) for _ in range(3)),
    )
    return image


def toy(shape: str, ground: str, seed: int, colour: str | None = "red") -> Image.Image:
    return draw(placed_at_random(Toy(colour, shape, ground), random.Random(seed)), 192)


def test_pictures_that_only_resemble_each_other_are_no_duplicates():
    same_room = [person(seed) for seed in range(12)]
    toys = [toy(shape, ground, 3) for shape in SHAPES for ground in GROUNDS]
    recoloured = [toy("circle", "dark", 3, colour) for colour in ("red", "green", "blue")]
    assert fired("duplicates", plan_of([*same_room, *toys, *recoloured[1:]])) == []


def test_flat_pictures_of_different_colours_are_no_duplicates():
    flat = [Image.new("RGB", (256, 256), colour) for colour in ("red", "blue", "white")]
    assert fired("duplicates", plan_of(flat)) == []
    assert not perceptual_hash(np.asarray(flat[0])).any()


def test_copies_of_copies_are_one_group(good):
    assert fired("duplicates", plan_of([good[0], good[1], good[0], jpeg(good[0])])) == [(0, 2, 3)]


# ---- small, aspect


def test_small(good):
    # 256 x 256 asks for 65536 pixels; half of them is the limit.
    sizes = [(180, 180), (182, 182), (100, 500), (600, 40)]
    plan = plan_of([busy(i, size) for i, size in enumerate(sizes)], step=32)
    assert fired("small", plan) == [(0, 3)]


def test_aspect():
    sizes = [(256, 256), (512, 256), (640, 258), (660, 256), (256, 660), (96, 127)]
    plan = plan_of([busy(i, size) for i, size in enumerate(sizes)])
    assert fired("aspect", plan) == [(3,), (4,), (5,)]
    assert (
        "24% of it is cut off for the bucket 64 x 64" in [f.what for f in CHECKS["aspect"](plan)][2]
    )


# ---- blurred


def soft_ground(seed: int) -> Image.Image:
    """A sharp subject before a ground far out of focus: as it should be."""
    image = busy(seed, (512, 512)).filter(ImageFilter.GaussianBlur(15))
    pen = ImageDraw.Draw(image)
    pen.ellipse((200, 130, 340, 420), fill=(200, 160, 140))
    pen.rectangle((230, 220, 250, 240), fill=(20, 20, 30))
    return image.filter(ImageFilter.GaussianBlur(0.7))


BLURRED: dict[str, Drawer] = {
    "out of focus": lambda: busy(1, (512, 512)).filter(ImageFilter.GaussianBlur(2.5)),
    "out of focus, large": lambda: busy(1, (1200, 1200)).filter(ImageFilter.GaussianBlur(6)),
    "out of focus, faint": lambda: ImageEnhance.Contrast(busy(2, (512, 512))).enhance(0.4).filter(ImageFilter.GaussianBlur(3)),
    "blown up": lambda: busy(3, (112, 112)).resize((512, 512), Image.Resampling.BICUBIC),
    "soft behind bars": lambda: ImageOps.expand(busy(4, (512, 400)).filter(ImageFilter.GaussianBlur(3)), (0, 56), "black"),
}  # fmt: skip
SHARP: dict[str, Drawer] = {
    "a photo": lambda: busy(1, (512, 512)),
    "a large photo, a little soft at full size": lambda: busy(1, (1200, 1200)).filter(ImageFilter.GaussianBlur(1.6)),
    "a soft ground": lambda: soft_ground(1),
    "a faint photo": lambda: ImageEnhance.Contrast(busy(2, (512, 512))).enhance(0.25),
    "flat art": lambda: toy("star", "light", 1),
    "a small photo": lambda: busy(5, (200, 200)),
    "one colour": lambda: Image.new("RGB", (256, 256), "grey"),
    "a gradient": lambda: Image.linear_gradient("L").convert("RGB"),
    "blown up a little": lambda: busy(3, (300, 300)).resize((512, 512), Image.Resampling.BICUBIC),
}  # fmt: skip


@pytest.mark.parametrize("name", BLURRED)
def test_blurred_pictures_are_found(name):
    assert fired("blurred", plan_of([BLURRED[name]()])) == [(0,)]


@pytest.mark.parametrize("name", SHARP)
def test_sharp_pictures_are_not_called_blurred(name):
    assert fired("blurred", plan_of([SHARP[name]()])) == []


# ---- captions and trigger


def test_missing_captions(good):
    plan = plan_of(good[:3], ["a", "", "b"])
    assert fired("missing captions", plan) == [(1,)]
    assert "taught as 'ohwx'" in next(CHECKS["missing captions"](plan)).what


@pytest.mark.parametrize(
    ("captions", "found"),
    [
        (["a ring", "A Ring", "a ring", "a hat"], [(0, 1, 2)]),
        (["a ring", "a ring", "a hat", "a cat"], []),
        (["a ring", "a ring"], []),
        (["", "", "", "a ring"], []),
    ],
)
def test_identical_captions(good, captions, found):
    assert fired("identical captions", plan_of(good[: len(captions)], captions)) == found


@pytest.mark.parametrize(
    ("trigger", "template", "captions", "found"),
    [
        ("", "{caption}", ["a", "b"], [()]),
        ("ohwx", "{caption}", ["a", "b"], []),
        ("ohwx", "{caption}", ["ohwx a", "OHWX b"], []),
        ("ohwx", "{caption}", ["ohwx a", "b"], [(1,)]),
        ("ohwx", "an ohwx {caption}", ["ohwx a", "b"], []),
        ("ohwx", "{caption}", ["ohwx a", "ohwxy b"], [(1,)]),
    ],
)
def test_trigger(good, trigger, template, captions, found):
    assert (
        fired("trigger", plan_of(good[:2], captions, trigger=trigger, template=template)) == found
    )


# ---- borders


def toy_framed() -> Image.Image:
    return draw(Toy("red", "circle", "dark", styled=True), 256)


def landscape() -> Image.Image:
    image = Image.new("RGB", (384, 256), (140, 190, 240))
    pen = ImageDraw.Draw(image)
    pen.rectangle((0, 150, 384, 256), fill=(60, 120, 60))
    pen.polygon([(50, 150), (100, 60), (150, 150)], fill=(90, 90, 90))
    return image


BORDERED: dict[str, Drawer] = {
    "letterbox": lambda: ImageOps.expand(busy(1, (320, 240)), (0, 40), "black"),
    "pillarbox": lambda: ImageOps.expand(busy(2, (240, 320)), (40, 0), "white"),
    "frame": lambda: ImageOps.expand(busy(3, (280, 280)), 20, "white"),
    "thin frame": lambda: ImageOps.expand(busy(3, (300, 300)), 6, "black"),
    "jpeg frame": lambda: jpeg(ImageOps.expand(busy(3, (280, 280)), 20, "white")),
    "large frame": lambda: ImageOps.expand(busy(4, (800, 800)), 50, (240, 240, 235)),
    "drawn frame": toy_framed,
}  # fmt: skip
UNBORDERED: dict[str, Drawer] = {
    "photo": lambda: busy(1),
    "square on a plain ground": lambda: toy("square", "dark", 1),
    "circle on a plain ground": lambda: toy("circle", "light", 2),
    "landscape": landscape,
    "vignette": lambda: Image.composite(busy(5), Image.new("RGB", (320, 320)), ImageOps.invert(Image.radial_gradient("L").resize((320, 320)))),
    "one bar": lambda: ImageOps.expand(busy(6, (320, 280)), (0, 40, 0, 0), "black"),
    "one colour": lambda: Image.new("RGB", (256, 256), "grey"),
    "portrait before white": lambda: Image.composite(busy(7), Image.new("RGB", (320, 320), "white"), ellipse_mask()),
    "stripes": lambda: stripes(),
}  # fmt: skip


def ellipse_mask() -> Image.Image:
    mask = Image.new("L", (320, 320))
    ImageDraw.Draw(mask).ellipse((30, 20, 290, 300), fill=255)
    return mask


def stripes() -> Image.Image:
    image = Image.new("RGB", (320, 320), "white")
    lay_stripes(image, (30, 30, 30), 0.0, 24)
    return image


@pytest.mark.parametrize("name", BORDERED)
def test_borders_are_found(name):
    assert fired("borders", plan_of([BORDERED[name]()])) == [(0,)]


@pytest.mark.parametrize("name", UNBORDERED)
def test_pictures_without_borders_are_left_alone(name):
    assert fired("borders", plan_of([UNBORDERED[name]()])) == []


def test_a_border_is_measured():
    border = measure(Picture(ImageOps.expand(busy(1, (320, 240)), (0, 40), "black"))).border
    assert border == pytest.approx((0, 0.125, 0, 0.125), abs=0.005)


# ---- writing


def written(text: str, size: int, colour: str, seed: int = 1) -> Image.Image:
    image = busy(seed, (512, 512), 12)
    ImageDraw.Draw(image).text((40, 470 - size), text, fill=colour, font_size=size)
    return image


def watermarked() -> Image.Image:
    layer = Image.new("RGBA", (512, 512))
    ImageDraw.Draw(layer).text((60, 230), "STOCK PHOTO", fill=(255, 255, 255, 120), font_size=54)
    return Image.alpha_composite(soft_ground(8).convert("RGBA"), layer).convert("RGB")


def fence() -> Image.Image:
    image = Image.new("RGB", (512, 512), "white")
    for x in range(0, 512, 16):
        ImageDraw.Draw(image).rectangle((x, 200, x + 7, 230), fill="black")
    return image


def windows() -> Image.Image:
    rng, image = random.Random(5), Image.new("RGB", (512, 512), (120, 110, 100))
    for x in range(14, 512, 40):
        for y in range(14, 512, 54):
            box = (x, y, x + rng.randrange(12, 23), y + 33)
            ImageDraw.Draw(image).rectangle(box, fill=(30, 30, 50))
    return image


def checkers() -> Image.Image:
    board = np.indices((32, 32)).sum(axis=0) % 2 * 255
    return Image.fromarray(board.astype(np.uint8)).resize((512, 512), 0).convert("RGB")


def grass() -> Image.Image:
    rng, image = random.Random(2), busy(9, (512, 512))
    for _ in range(1200):
        x, y = rng.randrange(512), rng.randrange(200, 512)
        end = (x + rng.randrange(-6, 6), y - rng.randrange(8, 28))
        colour = (rng.randrange(60), rng.randrange(80, 200), 30)
        ImageDraw.Draw(image).line(((x, y), end), fill=colour, width=rng.choice((1, 2)))
    return image


def blobs() -> Image.Image:
    rng, image = random.Random(3), Image.new("RGB", (512, 512), "white")
    for _ in range(350):
        x, y = rng.randrange(512), rng.randrange(512)
        box = (x, y, x + rng.randrange(4, 15), y + rng.randrange(4, 15))
        ImageDraw.Draw(image).ellipse(box, fill="black")
    return image


def noise(size: int) -> Image.Image:
    pixels = np.random.default_rng(size).integers(0, 256, (size, size, 3), dtype=np.uint8)
    return Image.fromarray(pixels).resize((512, 512), Image.Resampling.BICUBIC)


WRITTEN: dict[str, Drawer] = {
    "credit": lambda: written("(c) studio name 2024", 18, "white"),
    "address": lambda: written("www.example.com", 24, "black", 2),
    "title": lambda: written("SAMPLE", 60, "white", 3),
    "signature": lambda: written("@artist_77", 22, "white", 4),
    "watermark": watermarked,
}  # fmt: skip
UNWRITTEN: dict[str, Drawer] = {
    "photo": lambda: busy(1, (512, 512), 150),
    "stripes": stripes,
    "fence": fence,
    "windows": windows,
    "checkers": checkers,
    "grass": grass,
    "blobs": blobs,
    "noise": lambda: noise(512),
    "leaves": lambda: noise(96),
    "flat art": lambda: toy("cross", "grey", 2),
    "a face": lambda: person(3),
}  # fmt: skip


@pytest.mark.parametrize("name", WRITTEN)
def test_writing_is_suspected(name):
    assert fired("writing", plan_of([WRITTEN[name]()])) == [(0,)]


@pytest.mark.parametrize("name", UNWRITTEN)
def test_patterns_are_not_taken_for_writing(name):
    assert fired("writing", plan_of([UNWRITTEN[name]()])) == []


def test_the_guess_says_that_it_is_one():
    assert "perhaps" in next(CHECKS["writing"](plan_of([watermarked()]))).what


# ---- transparency, variety


def test_transparency(good):
    mostly, hardly = good[0].convert("RGBA"), good[1].convert("RGBA")
    mostly.putalpha(ellipse_mask().resize(good[0].size).point(lambda level: 255 - level))
    hardly.putalpha(ellipse_mask().resize(good[1].size))
    plan = plan_of([good[2], mostly, hardly])
    assert fired("transparency", plan) == [(1,)]


def test_pictures_of_one_view_have_little_variety():
    dark = [toy("ring", "dark", seed, None) for seed in range(8)]
    assert fired("variety", plan_of(dark)) == [()]
    assert fired("variety", plan_of(dark[:4])) == []


def test_one_subject_in_one_room_or_on_many_grounds_has_variety_enough():
    assert fired("variety", plan_of([person(seed) for seed in range(8)])) == []
    assert (
        fired(
            "variety",
            plan_of([toy("ring", ground, s, None) for ground in GROUNDS for s in range(3)]),
        )
        == []
    )
