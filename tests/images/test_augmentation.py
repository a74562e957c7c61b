"""Augmented views."""

from __future__ import annotations

import numpy as np
import pytest
from PIL import Image

from support.data import picture
from tailorbird.errors import SettingsError
from tailorbird.images import Augmentation, ResizeRule, resize, view_random, warp

RULE = ResizeRule(64)


def test_views_are_seeded_per_photo_and_view() -> None:
    image = picture("cross", 9)
    a = Augmentation()

    def view(digest: bytes, number: int) -> np.ndarray:
        return warp(image, RULE, a, view_random(digest, number))

    assert np.array_equal(view(b"one", 1), view(b"one", 1))
    assert not np.array_equal(view(b"one", 1), view(b"one", 2))
    assert not np.array_equal(view(b"one", 1), view(b"two", 1))


def test_a_view_without_change_is_nearly_the_plain_picture() -> None:
    image = picture("disc", 4, (128, 128))
    still = Augmentation(flip=False, zoom=0.0, rotation=0.0, shear=0.0, shift=0.0, brightness=0.0)
    same = warp(image, RULE, still, view_random(b"x", 1))
    assert np.abs(same.astype(int) - resize(image, RULE)).mean() < 3
    assert still.key != Augmentation().key


def test_flips_and_brightness_stay_in_their_ranges() -> None:
    image = Image.fromarray(
        np.concatenate(
            [np.full((64, 32, 3), 40, np.uint8), np.full((64, 32, 3), 200, np.uint8)], axis=1
        )
    )
    flips = Augmentation(zoom=0.0, rotation=0.0, shear=0.0, shift=0.0, brightness=0.0)
    lefts = [int(warp(image, RULE, flips, view_random(b"x", i))[32, 8, 0]) for i in range(40)]
    assert 8 <= sum(value > 150 for value in lefts) <= 32, "about half are mirrored"
    bright = Augmentation(flip=False, zoom=0.0, rotation=0.0, shear=0.0, shift=0.0, brightness=0.3)
    values = [int(warp(image, RULE, bright, view_random(b"x", i))[32, 8, 0]) for i in range(40)]
    assert (
        min(values) < 36
        and max(values) > 44
        and min(values) >= 40 * 0.69
        and max(values) <= 40 * 1.31
    )


def test_wide_ranges_show_the_border_where_the_picture_ends() -> None:
    """A white picture stays white in every view: nothing outside it is black."""
    white = Image.new("RGB", (64, 48), (255, 255, 255))
    wide = Augmentation(zoom=0.9, rotation=180.0, shear=60.0, shift=0.9, brightness=0.0)
    for number in range(60):
        assert warp(white, RULE, wide, view_random(b"x", number)).min() == 255


def test_invalid_ranges_are_refused_together() -> None:
    with pytest.raises(SettingsError) as raised:
        Augmentation(zoom=1.0, rotation=float("nan"), shear=-1.0, shift=float("inf"), brightness=2)
    for said in (
        "zoom is 1.0; it must be between 0 and 0.9",
        "rotation is nan",
        "shear is -1.0",
        "shift is inf",
        "brightness is 2",
    ):
        assert said in str(raised.value)
