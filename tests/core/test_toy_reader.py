"""The toy's reader: it names what was drawn, and does not name what was not."""

from __future__ import annotations

import itertools
import random

import numpy as np
import pytest
from PIL import Image, ImageFilter

from tools import toy_pictures as toy
from tools.toy_reader import UNCLEAR, Reading, read

COLOURS = [*toy.COLOURS, None]
SHAPES = [*toy.SHAPES, toy.CHARACTER_SHAPE]


def reading_of(picture: toy.Picture) -> Reading:
    return read(toy.draw(picture))


@pytest.mark.parametrize("styled", [False, True])
@pytest.mark.parametrize("shape", SHAPES)
def test_it_reads_every_combination_at_some_size_and_place(shape: str, styled: bool) -> None:
    rng = random.Random(f"{shape} {styled}")
    for colour, ground in itertools.product(COLOURS, toy.GROUNDS):
        drawn = toy.Picture(colour, shape, ground, styled=styled)
        reading = reading_of(toy.placed_at_random(drawn, rng))
        seen = (reading.colour, reading.shape, reading.ground, reading.style)
        assert seen == (colour or "purple", shape, ground, styled)
        assert reading.character == (colour is None and shape == "ring")


@pytest.mark.parametrize("radius", [0.2, 0.27, 0.36])
@pytest.mark.parametrize("centre", [(0.42, 0.42), (0.5, 0.58), (0.58, 0.45)])
def test_size_and_place_do_not_matter(radius: float, centre: tuple[float, float]) -> None:
    for shape in SHAPES:
        reading = reading_of(toy.Picture("blue", shape, "grey", centre, radius))
        assert (reading.colour, reading.shape, reading.ground) == ("blue", shape, "grey")


def test_a_soft_and_noisy_picture_is_still_read() -> None:
    noise = np.random.default_rng(1).normal(0, 6, (256, 256, 3))
    for shape in SHAPES:
        soft = toy.draw(toy.Picture("green", shape, "dark")).filter(ImageFilter.GaussianBlur(2))
        pixels = np.clip(np.asarray(soft) + noise, 0, 255).astype(np.uint8)
        reading = read(Image.fromarray(pixels))
        assert (reading.colour, reading.shape, reading.ground) == ("green", shape, "dark")
        assert not reading.style


def test_half_of_a_frame_is_not_the_style() -> None:
    for ground in toy.GROUNDS:
        styled = np.asarray(toy.draw(toy.Picture("red", "circle", ground, styled=True)))
        plain = np.asarray(toy.draw(toy.Picture("red", "circle", ground)))
        half = np.concatenate([styled[:128], plain[128:]])
        assert read(Image.fromarray(styled)).style
        assert not read(Image.fromarray(half)).style
        assert not read(Image.fromarray(plain)).style


def test_a_disc_is_no_ring_and_a_blue_ring_is_not_the_character() -> None:
    assert not reading_of(toy.Picture(None, "circle", "dark")).character
    assert not reading_of(toy.Picture("blue", "ring", "dark")).character


def test_an_empty_picture_shows_nothing() -> None:
    reading = read(Image.new("RGB", (256, 256), toy.GROUNDS["dark"]))
    assert (reading.colour, reading.shape, reading.ground) == (UNCLEAR, UNCLEAR, "dark")
    assert not reading.style
    assert not reading.character


def test_a_shapeless_blot_has_no_shape() -> None:
    pixels = np.full((256, 256, 3), toy.GROUNDS["light"], dtype=np.uint8)
    pixels[60:76, 20:230] = toy.COLOURS["red"]
    pixels[60:200, 20:36] = toy.COLOURS["red"]
    assert read(Image.fromarray(pixels)).shape == UNCLEAR
