"""The toy's drawings: what is drawn is inside the frame, antialiased, repeatable."""

from __future__ import annotations

import random

import numpy as np
import pytest

from tools import toy_pictures as toy

SIZE = 128


def test_the_same_seed_draws_the_same_picture() -> None:
    plain = toy.Picture("red", "star", "dark", styled=True)
    first = toy.placed_at_random(plain, random.Random(4))
    again = toy.placed_at_random(plain, random.Random(4))
    other = toy.placed_at_random(plain, random.Random(5))
    assert toy.draw(first, SIZE).tobytes() == toy.draw(again, SIZE).tobytes()
    assert toy.draw(first, SIZE).tobytes() != toy.draw(other, SIZE).tobytes()


@pytest.mark.parametrize("shape", [*toy.SHAPES, toy.CHARACTER_SHAPE])
def test_a_shape_stays_inside_the_frame_wherever_it_lands(shape: str) -> None:
    rng = random.Random(shape)
    for _ in range(20):
        picture = toy.placed_at_random(toy.Picture("red", shape, "light"), rng)
        pixels = np.asarray(toy.draw(picture, SIZE))
        frame = np.concatenate([pixels[0], pixels[-1], pixels[:, 0], pixels[:, -1]])
        assert (frame == toy.GROUNDS["light"]).all()
        assert (pixels != toy.GROUNDS["light"]).any()


def test_edges_are_antialiased() -> None:
    pixels = np.asarray(toy.draw(toy.Picture("red", "circle", "dark"), SIZE)).reshape(-1, 3)
    between = {tuple(pixel) for pixel in pixels} - {toy.COLOURS["red"], toy.GROUNDS["dark"]}
    assert len(between) > 8


def test_the_ring_has_a_hole_and_the_style_has_ink() -> None:
    ring = np.asarray(toy.draw(toy.Picture(None, "ring", "grey"), SIZE))
    assert tuple(ring[SIZE // 2, SIZE // 2]) == toy.GROUNDS["grey"]
    styled = np.asarray(toy.draw(toy.Picture(None, "ring", "grey", styled=True), SIZE))
    colours = {tuple(pixel) for pixel in styled.reshape(-1, 3)}
    wanted = {toy.GROUNDS["grey"], toy.INK["grey"], toy.CHARACTER_COLOUR}
    assert wanted <= colours
    assert tuple(styled[0, 0]) == tuple(styled[-1, SIZE // 2]) == toy.INK["grey"]


def test_captions_leave_out_what_is_left_to_chance() -> None:
    assert toy.caption("red", "circle", "dark") == "red circle on a dark ground"
    assert toy.caption(None, "circle", None) == "circle"
    assert toy.caption("red", None, "light") == "red on a light ground"
    assert toy.caption(None, None, None) == ""


def test_an_unknown_shape_is_refused_by_name() -> None:
    with pytest.raises(ValueError, match="hexagon"):
        toy.outline("hexagon")
