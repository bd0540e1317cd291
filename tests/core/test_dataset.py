"""Folder or IMAGE batch -> dataset: captions, repeats, masks, split; and what is refused by name."""

from __future__ import annotations

import io
import json
import random
import struct
import zlib

import numpy as np
import pytest
import torch
from PIL import Image

from lora_core.errors import DatasetError
from lora_core.train.batch import read_batch
from lora_core.train.buckets import place
from lora_core.train.captions import dressed, taught_caption
from lora_core.train.dataset import Dataset, DatasetSettings
from lora_core.train.folder import folder_stamp, parse_edited, read_folder
from lora_core.train.measures import measure
from lora_core.train.pictures import open_picture
from lora_core.train.pixels import bucket_pixels, bucket_weight
from tests.core.drawn import busy, folder_of, save

SMALL = (96, 96)


def pictures(folder, **options):
    """The pictures of a folder by name."""
    return {image.name: image for image in read_folder(folder, **options).images}


def write(path, text, encoding="utf-8"):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(text.encode(encoding))


def test_captions_come_from_the_graph_then_sidecar_then_metadata_then_the_folder_name(tmp_path):
    folder = tmp_path / "4_zwx ring"
    for name in "abcde":
        save(folder, f"{name}.png", busy(ord(name), SMALL))
    write(folder / "a.txt", "from the sidecar")
    write(folder / "b.txt", "from the\n  sidecar")
    write(folder / "c.caption", "from .caption")
    lines = [{"file_name": f"{name}.png", "text": "from metadata"} for name in "abcd"]
    write(tmp_path / "4_zwx ring" / "metadata.jsonl", "\n".join(map(json.dumps, lines)) + "\n")
    found = pictures(tmp_path, edited=parse_edited("a.png: from: the graph\n"))
    assert {image.caption: image.origin for image in found.values()} == {
        "from: the graph": "graph",
        "from the sidecar": "sidecar",
        "from .caption": "sidecar",
        "from metadata": "metadata",
        "zwx ring": "folder name",
    }
    assert {image.repeats for image in found.values()} == {4}


def test_sub_folders_are_read_and_repeats_multiply(tmp_path):
    for name in (
        "top.png",
        "5_cat/cat.png",
        "5_cat/close/eye.png",
        "plain/dog.jpg",
        ".hidden/x.png",
    ):
        save(tmp_path, name, busy(len(name), SMALL))
    found = pictures(tmp_path, repeats=2)
    assert {name: image.repeats for name, image in found.items()} == {
        "top.png": 2,
        "5_cat/cat.png": 10,
        "5_cat/close/eye.png": 10,
        "plain/dog.jpg": 2,
    }


def test_metadata_of_a_sub_folder_names_its_own_pictures(tmp_path):
    save(tmp_path, "sub/deep/a.png", busy(1, SMALL))
    write(tmp_path / "sub" / "metadata.jsonl", '{"file_name": "deep\\\\a.png", "caption": "seen"}')
    assert pictures(tmp_path)["sub/deep/a.png"].caption == "seen"


@pytest.mark.parametrize(
    "name", ["../other.png", "/etc/passwd", "C:\\\\x.png", "a/../../b.png", "\\\\\\\\srv\\\\x"]
)
def test_a_name_in_metadata_that_leaves_the_folder_is_refused(tmp_path, name):
    save(tmp_path, "a.png", busy(1, SMALL))
    write(
        tmp_path / "metadata.jsonl",
        f'{{"file_name": "a.png", "text": "x"}}\n{{"file_name": "{name}", "text": "y"}}',
    )
    with pytest.raises(DatasetError, match=r"metadata.jsonl, line 2: .*points outside its folder"):
        read_folder(tmp_path)


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("{broken", "line 1: not JSON"),
        ("[1, 2]", "line 1: must be a JSON object"),
        ('{"text": "x"}', "line 1: has none of the fields file_name"),
        ('{"file_name": "a.png"}', "line 1: has none of the fields text"),
        ('{"file_name": "a.png", "text": 3}', "line 1: 'text' must be text; found 3"),
        ('{"file_name": "a.png", "text": "x"}\n{"file_name": "a.png", "text": "y"}', "line 2: 'a.png' is named a second time"),
    ],
)  # fmt: skip
def test_broken_metadata_is_refused_with_its_line(tmp_path, line, message):
    save(tmp_path, "a.png", busy(1, SMALL))
    write(tmp_path / "metadata.jsonl", line)
    with pytest.raises(DatasetError) as error:
        read_folder(tmp_path)
    assert message in str(error.value)


def test_nothing_is_left_aside_in_silence(tmp_path):
    save(tmp_path, "a.png", busy(1, SMALL), "with caption")
    write(tmp_path / "lost.txt", "no such picture")
    write(tmp_path / "photo.heic", "not read")
    write(tmp_path / "metadata.jsonl", '{"file_name": "gone.png", "text": "x"}')
    notes = "\n".join(read_folder(tmp_path).notes)
    assert "metadata.jsonl names 'gone.png', which is not in the folder" in notes
    assert "lost.txt, photo.heic" in notes
    assert "a.txt" not in notes


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "utf-32"])
def test_captions_in_unicode_encodings_are_read(tmp_path, encoding):
    save(tmp_path, "a.png", busy(1, SMALL))
    write(tmp_path / "a.txt", "caf\u00e9 \u732b", encoding)
    assert pictures(tmp_path)["a.png"].caption == "caf\u00e9 \u732b"


@pytest.mark.parametrize(
    ("encoding", "message"), [("cp1252", "not UTF-8 text"), ("utf-16-le", "control characters")]
)
def test_captions_in_other_encodings_are_refused_by_name(tmp_path, encoding, message):
    save(tmp_path, "a.png", busy(1, SMALL))
    write(tmp_path / "a.txt", "caf\u00e9" if encoding == "cp1252" else "cafe", encoding)
    with pytest.raises(DatasetError, match=rf"a\.txt: .*{message}.*UTF-8"):
        read_folder(tmp_path)


def test_an_edited_caption_must_name_one_picture(tmp_path):
    save(tmp_path, "x/a.png", busy(1, SMALL))
    save(tmp_path, "y/a.png", busy(2, SMALL))
    assert pictures(tmp_path, edited=parse_edited("x/a.png: mine"))["x/a.png"].caption == "mine"
    for text, message in (
        ("b.png: x", "is no picture of the folder"),
        ("a: x", "stands for 2 pictures"),
    ):
        with pytest.raises(DatasetError, match=message):
            read_folder(tmp_path, parse_edited(text))
    with pytest.raises(DatasetError, match="Captions, line 2: 'just words' names no file"):
        parse_edited("a.png: fine\njust words")


# ---- pixels


def png_of(width: int, height: int) -> bytes:
    """A PNG that only claims its size."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return (
            struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))
        )

    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return (
        b"\x89PNG\r\n\x1a\n"
        + chunk(b"IHDR", header)
        + chunk(b"IDAT", zlib.compress(b""))
        + chunk(b"IEND", b"")
    )


def file_bytes(image: Image.Image, kind: str, **options: object) -> bytes:
    stream = io.BytesIO()
    image.save(stream, kind, **options)
    return stream.getvalue()


BAD_PICTURES = {
    "bomb.png": (png_of(50_000, 50_000), "too large to open safely"),
    "large.png": (png_of(9_000, 9_000), "too large to open safely (9000 x 9000 pixels"),
    "empty.png": (b"", "the file is empty"),
    "page.jpg": (b"<html>not found</html>", "not a picture in a format that is read"),
    "script.png": (b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n", "not a picture in a format that is read"),
    "cut.png": (file_bytes(busy(1, SMALL), "PNG")[:900], "damaged or cut short"),
    "cut.jpg": (file_bytes(busy(1, SMALL), "JPEG")[:900], "damaged or cut short"),
    "moving.gif": (
        file_bytes(busy(1, SMALL), "GIF", save_all=True, append_images=[busy(2, SMALL)]),
        "an animation or a file of 2 pages",
    ),
    "pages.tif": (
        file_bytes(busy(1, SMALL), "TIFF", save_all=True, append_images=[busy(2, SMALL)]),
        "an animation or a file of 2 pages",
    ),
    "float.tif": (file_bytes(Image.new("F", SMALL, 0.5), "TIFF"), "pixels of mode F"),
}  # fmt: skip


@pytest.mark.parametrize("name", BAD_PICTURES)
def test_a_bad_picture_is_refused_by_name(tmp_path, name):
    data, message = BAD_PICTURES[name]
    save(tmp_path, "good.png", busy(1, SMALL))
    (tmp_path / name).write_bytes(data)
    with pytest.raises(DatasetError) as error:
        read_folder(tmp_path)
    assert name in str(error.value)
    assert message in str(error.value)


@pytest.mark.filterwarnings("ignore::UserWarning")
def test_whatever_the_bytes_a_picture_is_read_or_refused_by_name(tmp_path):
    rng, path, outcomes = random.Random(11), tmp_path / "x.bin", set()
    image = busy(1, (40, 40), 8)
    kinds = [
        kind for kind in ("PNG", "JPEG", "WEBP", "GIF", "TIFF", "BMP", "AVIF") if kind in Image.SAVE
    ]
    whole = [file_bytes(image, kind) for kind in kinds]
    for _ in range(150):
        data = bytearray(rng.choice(whole))
        for _ in range(rng.choice((1, 4, 20))):
            data[rng.randrange(min(len(data), rng.choice((120, len(data)))))] = rng.randrange(256)
        path.write_bytes(data[: rng.randrange(len(data))] if rng.random() < 0.3 else data)
        try:
            outcomes.add(measure(open_picture(path, "x.bin")).letters >= 0)
        except DatasetError as error:
            outcomes.add("x.bin" in str(error))
    assert outcomes == {True}


def test_all_bad_pictures_are_named_at_once(tmp_path):
    for name in ("a.png", "b.png"):
        (tmp_path / name).write_bytes(b"")
    with pytest.raises(DatasetError, match=r"(?s)a\.png.*b\.png"):
        read_folder(tmp_path)


def test_colour_modes_become_8_bit_rgb(tmp_path):
    ramp = np.linspace(0, 65535, 64 * 64).reshape(64, 64).astype(np.uint16)
    drawn = {
        "grey16.png": Image.fromarray(ramp),
        "cmyk.jpg": Image.new("CMYK", SMALL, (0, 255, 255, 0)),
        "palette.png": Image.new("RGB", SMALL, (200, 30, 40)).quantize(),
        "grey.png": Image.new("L", SMALL, 90),
        "bits.png": Image.new("1", SMALL, 1),
    }
    opened = {}
    for name, image in drawn.items():
        image.save(tmp_path / name)
        opened[name] = open_picture(tmp_path / name, name)
        assert opened[name].rgb.mode == "RGB"
        assert opened[name].alpha is None
    grey = np.asarray(opened["grey16.png"].rgb)[..., 0].astype(int)
    assert np.abs(grey - ramp / 257).max() <= 0.5
    assert np.allclose(np.asarray(opened["palette.png"].rgb), (200, 30, 40), atol=2)
    assert np.asarray(opened["cmyk.jpg"].rgb)[0, 0, 0] > 200
    assert np.asarray(opened["cmyk.jpg"].rgb)[0, 0, 1] < 60


def test_exif_rotation_is_applied(tmp_path):
    image = busy(3, (120, 80))
    exif = Image.Exif()
    exif[0x0112] = 6  # turn by 90 degrees clockwise
    image.save(tmp_path / "turned.png", exif=exif)
    upright = open_picture(tmp_path / "turned.png", "turned.png").rgb
    assert upright.size == (80, 120)
    assert np.array_equal(np.asarray(upright), np.rot90(np.asarray(image), -1))


def test_transparent_parts_stand_on_white_and_alpha_is_kept(tmp_path):
    image = Image.new("RGBA", SMALL, (10, 20, 30, 0))
    image.paste((200, 0, 0, 255), (0, 0, 48, 96))
    image.save(tmp_path / "a.png")
    found = open_picture(tmp_path / "a.png", "a.png")
    assert found.rgb.getpixel((80, 50)) == (255, 255, 255)
    assert found.rgb.getpixel((10, 50)) == (200, 0, 0)
    assert found.alpha is not None
    assert found.alpha.getextrema() == (0, 255)
    assert pictures(tmp_path)["a.png"].measures.transparent == 0.5


def test_the_same_pixels_have_the_same_hash_whatever_the_file(tmp_path):
    save(tmp_path, "a.png", busy(1, SMALL))
    save(tmp_path, "b.bmp", busy(1, SMALL))
    save(tmp_path, "c.png", busy(2, SMALL))
    found = pictures(tmp_path)
    assert found["a.png"].measures.sha256 == found["b.bmp"].measures.sha256
    assert found["a.png"].measures.sha256 != found["c.png"].measures.sha256


def test_a_replaced_file_is_noticed(tmp_path):
    save(tmp_path, "a.png", busy(1, SMALL))
    before, image = folder_stamp(tmp_path), pictures(tmp_path)["a.png"]
    placement = place(image.measures.size, 64, 32, False)
    assert bucket_pixels(image, placement).shape == (64, 64, 3)
    save(tmp_path, "a.png", busy(2, SMALL), "and a caption")
    assert folder_stamp(tmp_path) != before
    with pytest.raises(DatasetError, match=r"a\.png: the file changed after the dataset was read"):
        bucket_pixels(image, placement)


# ---- masks


def weight_of(image, placement, settings, **options) -> torch.Tensor:
    """The weights of a picture that has some."""
    weight = bucket_weight(image, placement, settings, **options)
    assert weight is not None
    return weight


def half_mask(size=SMALL):
    mask = Image.new("L", size, 0)
    mask.paste(255, (0, 0, size[0] // 2, size[1]))
    return mask


@pytest.mark.parametrize("name", ["a-masklabel.png", "a_mask.png", "masks/a.jpg"])
def test_a_mask_beside_a_picture_weighs_the_loss(tmp_path, name):
    save(tmp_path, "a.png", busy(1, SMALL))
    save(tmp_path, name, half_mask((48, 48)))
    (image,) = read_folder(tmp_path).images
    placement = place(SMALL, 64, 32, False)
    settings = DatasetSettings(outside=0.25)
    weight = weight_of(image, placement, settings)
    assert weight.shape == (64, 64)
    assert weight[:, :24].min() > 0.95
    assert weight[:, 40:].max() < 0.3
    mirrored = weight_of(image, placement, settings, mirrored=True)
    assert torch.equal(mirrored, weight.flip(1))
    assert bucket_weight(image, placement, DatasetSettings(masks="off")) is None


def test_a_picture_that_is_named_like_a_mask_of_nothing_is_a_picture(tmp_path):
    save(tmp_path, "carnival_mask.png", busy(1, SMALL))
    assert set(pictures(tmp_path)) == {"carnival_mask.png"}


def test_alpha_weighs_the_loss_too_and_opaque_pictures_have_no_weight(tmp_path):
    shown = busy(1, SMALL).convert("RGBA")
    shown.putalpha(half_mask())
    save(tmp_path, "a.png", shown)
    save(tmp_path, "b.png", busy(2, SMALL))
    found, placement = pictures(tmp_path), place(SMALL, 64, 32, False)
    assert weight_of(found["a.png"], placement, DatasetSettings())[0, 60] < 0.2
    assert bucket_weight(found["b.png"], placement, DatasetSettings()) is None


@pytest.mark.parametrize(
    ("mask", "message"),
    [
        (Image.new("L", (96, 40), 255), r"a_mask\.png: the mask is 96 x 40, its picture 96 x 96"),
        (Image.new("L", SMALL, 0), r"a_mask\.png: the mask is black throughout"),
    ],
)
def test_a_mask_that_cannot_be_meant_is_refused(tmp_path, mask, message):
    save(tmp_path, "a.png", busy(1, SMALL))
    save(tmp_path, "a_mask.png", mask)
    with pytest.raises(DatasetError, match=message):
        read_folder(tmp_path)


# ---- IMAGE batches


def test_a_batch_takes_one_caption_a_line_and_is_not_changed(generator):
    images = torch.rand(3, 40, 50, 3, generator=generator)
    before = images.clone()
    first = read_batch(images[:2], "\nc\n").images
    assert [image.caption for image in first] == ["", "c"]
    found = read_batch(images, "a\n\nc\n").images
    assert [(image.name, image.caption) for image in found] == [
        ("image 1", "a"),
        ("image 2", ""),
        ("image 3", "c"),
    ]
    assert found[0].measures.size == (50, 40)
    pixels = bucket_pixels(found[1], place((50, 40), 64, 10, False))
    assert pixels.dtype == torch.float32
    assert torch.allclose(pixels, images[1], atol=0.51 / 255)
    assert torch.equal(images, before)


def test_one_caption_serves_a_whole_batch_and_masks_go_with_it():
    images, mask = torch.full((2, 32, 32, 3), 0.5), torch.zeros(1, 32, 32)
    mask[:, :, :16] = 1
    found = read_batch(images, "a ring", repeats=3, masks=mask).images
    assert [(image.caption, image.repeats) for image in found] == [("a ring", 3)] * 2
    weight = weight_of(found[1], place((32, 32), 32, 32, False), DatasetSettings(outside=0.0))
    assert (weight[:, :16] == 1).all()
    assert (weight[:, 16:] == 0).all()


@pytest.mark.parametrize(
    ("images", "captions", "message"),
    [
        (torch.zeros(3, 8, 8, 3), "a\nb", "2 captions for 3 pictures"),
        (torch.zeros(8, 8, 3), "a", "must have the shape"),
        (torch.zeros(0, 8, 8, 3), "a", "must have the shape"),
        (torch.full((1, 8, 8, 3), float("nan")), "a", "image 1: holds NaN"),
    ],
)
def test_a_batch_that_makes_no_sense_is_refused(images, captions, message):
    with pytest.raises(DatasetError, match=message):
        read_batch(images, captions)


# ---- captions as they are taught


@pytest.mark.parametrize(
    ("caption", "template", "trigger", "taught"),
    [
        ("a ring", "{caption}", "", "a ring"),
        ("a ring", "{caption}", "ohwx", "ohwx, a ring"),
        ("an OHWX ring", "{caption}", "ohwx", "an OHWX ring"),
        ("ohwxy", "{caption}", "ohwx", "ohwx, ohwxy"),
        ("a ring", "ohwx illustration of {caption}", "ohwx", "ohwx illustration of a ring"),
        ("", "ohwx illustration of {caption}", "ohwx", "ohwx"),
        ("", "{caption}, in oil", "", "in oil"),
        ("{x} \\1", "a {caption}", "z.w", "z.w, a {x} \\1"),
    ],
)
def test_template_and_trigger(caption, template, trigger, taught):
    assert dressed(caption, DatasetSettings(trigger, template)) == taught


def test_tags_are_shuffled_with_kept_ones_and_the_trigger_in_front():
    (image,) = read_batch(torch.zeros(1, 8, 8, 3), "1girl, a, b, c, d, zwx hat, e, f").images
    settings = DatasetSettings("zwx", shuffle=True, kept_tags=1, dropout=0.0)
    texts = [
        taught_caption(image, settings, sample, epoch) for sample in range(5) for epoch in range(4)
    ]
    assert all(text.startswith("1girl, zwx hat, ") for text in texts)
    assert {frozenset(text.split(", ")) for text in texts} == {frozenset(image.caption.split(", "))}
    assert len(set(texts)) > 15
    assert texts == [
        taught_caption(image, settings, sample, epoch) for sample in range(5) for epoch in range(4)
    ]


def test_dropout_has_its_rate_and_another_seed_drops_others():
    (image,) = read_batch(torch.zeros(1, 8, 8, 3), "a ring").images
    drops = [
        [
            taught_caption(image, DatasetSettings("o", dropout=0.2, seed=seed), sample, 3) == ""
            for sample in range(4000)
        ]
        for seed in (0, 1)
    ]
    # Four standard deviations of a binomial count of 4000 at 0.2.
    assert all(abs(sum(dropped) - 800) < 4 * (4000 * 0.2 * 0.8) ** 0.5 for dropped in drops)
    assert drops[0] != drops[1]


def test_regularisation_pictures_keep_their_captions(tmp_path):
    save(tmp_path, "a.png", busy(1, SMALL), "a ring")
    (image,) = read_folder(tmp_path, regularisation=True).images
    assert (
        taught_caption(image, DatasetSettings("ohwx", "ohwx {caption}", dropout=0.0), 0, 0)
        == "a ring"
    )


# ---- the dataset


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"template": "ohwx"}, r"has no \{caption\}"),
        ({"dropout": 1.5}, "dropout is 1.5; it must be from 0 to 1"),
        ({"dropout": float("nan")}, "dropout is nan"),
        ({"validation": 0.9}, "validation is 0.9"),
        ({"resolution": 32}, "resolution is 32; it must be from 64"),
        ({"crop": "left"}, "crop is 'left'; choose one of centre, random"),
    ],
)
def test_settings_that_make_no_sense_are_refused(settings, message):
    with pytest.raises(DatasetError, match=message):
        DatasetSettings(**settings)


def test_an_empty_folder_is_refused(tmp_path):
    write(tmp_path / "note.txt", "no pictures")
    with pytest.raises(DatasetError, match="has no pictures"):
        read_folder(tmp_path)
    with pytest.raises(DatasetError, match="no pictures to learn from"):
        Dataset(())


def test_the_split_is_seeded_by_content_and_keeps_copies_together(tmp_path):
    folder_of(tmp_path, 20, SMALL)
    save(tmp_path, "copy of 03.png", busy(3, SMALL))
    dataset = Dataset(read_folder(tmp_path).images, DatasetSettings(validation=0.2))

    def names(which):
        return {which.images[index].name for index in which.validation}

    assert len(dataset.validation) == 4
    assert names(dataset) == names(Dataset(tuple(reversed(dataset.images)), dataset.settings))
    splits = [names(dataset.with_settings(seed=seed)) for seed in range(12)]
    assert len(set(map(frozenset, splits))) > 8
    assert all(("03.png" in held) == ("copy of 03.png" in held) for held in splits)
    assert set(dataset.training) | set(dataset.validation) == set(range(21))
    assert names(dataset.with_settings(validation=0.0)) == set()


def test_no_more_than_the_share_is_held_out_for_the_sake_of_copies(tmp_path):
    folder_of(tmp_path, 6, SMALL)
    for copy in range(6):
        save(tmp_path, f"copy {copy}.png", busy(0, SMALL))
    dataset = Dataset(read_folder(tmp_path).images)
    splits = [dataset.with_settings(seed=seed).validation for seed in range(8)]
    assert all(len(held) == 1 for held in splits)
    assert all(
        dataset.images[held].name in {f"{n:02}.png" for n in range(1, 6)} for (held,) in splits
    )


def test_few_pictures_are_not_split(tmp_path):
    folder_of(tmp_path, 9, (64, 64))
    assert Dataset(read_folder(tmp_path).images).validation == ()


def test_the_fingerprint_is_of_all_that_training_sees_and_of_nothing_else(tmp_path):
    for folder in ("one", "two"):
        save(tmp_path / folder, f"{folder}.png", busy(1, SMALL), "a ring")
    one, two = (Dataset(read_folder(tmp_path / folder).images) for folder in ("one", "two"))
    assert one.fingerprint == two.fingerprint
    others = [
        one.with_settings(seed=1),
        one.with_settings(resolution=576),
        Dataset(read_folder(tmp_path / "one", {"one.png": "other"}).images),
        Dataset(read_folder(tmp_path / "one", repeats=2).images),
    ]
    save(tmp_path / "two", "two_mask.png", half_mask())
    others.append(Dataset(read_folder(tmp_path / "two").images))
    assert len({one.fingerprint, *(other.fingerprint for other in others)}) == 6
