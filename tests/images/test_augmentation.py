"""Augmented views."""

from __future__ import annotations

import numpy as np
import pytest
from PIL import Image

from support.data import picture
from tailorbird.errors import SettingsError
from tailorbird.images import (
    GREY,
    Augmentation,
    ResizeRule,
    draw_view,
    picture_for_views,
    resize,
    view_random,
    warp,
)

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


def test_erasing_makes_a_rectangle_grey_with_its_probability() -> None:
    white = Image.new("RGB", (64, 64), (255, 255, 255))
    erasing = Augmentation(brightness=0.0, erase=0.5)
    erased = 0
    for number in range(60):
        view = warp(white, RULE, erasing, view_random(b"x", number))
        rows, columns = np.nonzero(view[..., 0] == GREY)
        assert set(np.unique(view)) <= {GREY, 255}
        if len(rows):
            erased += 1
            box = (np.ptp(rows) + 1) * (np.ptp(columns) + 1)
            assert box == len(rows) and 0.015 <= box / 64**2 <= 0.36
    assert 18 <= erased <= 42
    plain = warp(white, RULE, Augmentation(brightness=0.0), view_random(b"x", 0))
    assert (plain == 255).all()


def test_a_view_is_the_picture_under_its_map() -> None:
    """Each pixel of a smooth picture is found where the map says."""
    rows, columns = np.mgrid[:96, :96].astype(np.float64)
    smooth = np.stack([rows, columns, rows + columns], axis=2) + 20
    image = Image.fromarray(smooth.astype(np.uint8))
    augmentation = Augmentation(brightness=0.0, shift=0.0, zoom=0.3)
    for number in range(8):
        view = draw_view(RULE, augmentation, view_random(b"x", number))
        picture = np.asarray(picture_for_views(image, RULE, augmentation), np.float64)
        assert picture.shape == (view.side, view.side, 3)
        pixels = warp(image, RULE, augmentation, view_random(b"x", number))
        for y, x in ((20, 20), (32, 40), (44, 24)):
            column, row = view.map @ (x + 0.5, y + 0.5, 1) - 0.5
            expected = picture[round(row), round(column)]
            assert np.abs(pixels[y, x] - expected).max() <= 2


def test_invalid_ranges_are_refused_together() -> None:
    with pytest.raises(SettingsError) as raised:
        Augmentation(
            zoom=1.0, rotation=float("nan"), shear=-1.0, shift=float("inf"), brightness=2, erase=1.5
        )
    for said in (
        "zoom is 1.0; it must be between 0 and 0.9",
        "rotation is nan",
        "shear is -1.0",
        "shift is inf",
        "brightness is 2",
        "erase is 1.5",
    ):
        assert said in str(raised.value)
