"""Thumbnails and heat maps laid over photos."""

from __future__ import annotations

import io

import numpy as np
import pytest
from PIL import Image

from support.data import encoded, picture
from tailorbird.images import ResizeRule
from tailorbird.rendering import overlays


def test_the_colour_map_is_plasma_and_grows_lighter() -> None:
    matplotlib = pytest.importorskip("matplotlib")
    theirs = matplotlib.colormaps["plasma"](np.linspace(0, 1, 256))[:, :3] * 255
    assert np.abs(overlays.COLOURS - theirs).max() < 5
    light = overlays.COLOURS @ np.array([0.2126, 0.7152, 0.0722])
    assert (np.diff(light) > 0).all(), "it reads as a ramp in grey too"


def test_an_overlay_changes_the_photo_where_the_heat_is() -> None:
    photo = Image.new("RGB", (120, 80), (128, 128, 128))
    heat = np.zeros((7, 7), np.float32)
    heat[1, 5] = 3.5
    found = np.asarray(overlays.overlay(photo, heat)).astype(int)
    assert found.shape == (80, 120, 3)
    change = np.abs(found - 128).sum(axis=2)
    y, x = np.unravel_index(int(change.argmax()), change.shape)
    assert abs((x + 0.5) / 120 - 5.5 / 7) < 0.05 and abs((y + 0.5) / 80 - 1.5 / 7) < 0.05
    assert change[40:, :60].max() <= 3, "cold places keep their pixels"
    assert np.array_equal(np.asarray(overlays.overlay(photo, heat, alpha=0.0)), np.asarray(photo))
    assert np.array_equal(
        np.asarray(overlays.overlay(photo, heat)), np.asarray(overlays.overlay(photo, heat * 1e6))
    )
    for nothing in (np.zeros((3, 3), np.float32), np.full((3, 3), np.nan, np.float32)):
        assert np.abs(np.asarray(overlays.overlay(photo, nothing)).astype(int) - 128).max() <= 1


def test_shown_photos_carry_pixels_only() -> None:
    exif = Image.Exif()
    exif[0x010F] = "a maker"
    exif.get_ifd(0x8825)[2] = (52.0, 31.0, 12.0)  # GPS latitude
    data = encoded(
        picture("disc", 1), exif=exif.tobytes(), comment=b"secret", icc_profile=b"not a profile"
    )
    with Image.open(io.BytesIO(data)) as image:
        image.load()
        small = Image.open(io.BytesIO(overlays.jpeg(overlays.thumbnail(image, 48))))
    assert (
        max(small.size) == 48
        and not small.getexif()
        and "comment" not in small.info
        and "icc_profile" not in small.info
    )


@pytest.mark.parametrize(("size", "place"), [((300, 100), (100, 0)), ((100, 300), (0, 100))])
def test_a_heat_map_covers_what_the_resize_rule_keeps(
    size: tuple[int, int], place: tuple[int, int]
) -> None:
    """Of three squares in a row, a rule that cuts out the middle keeps the second."""
    photo, heat = Image.new("RGB", size, (128, 128, 128)), np.ones((7, 7), np.float32)
    rule = ResizeRule(64, keep_aspect=True)
    change = np.abs(np.asarray(overlays.overlay(photo, heat, rule)).astype(int) - 128).sum(axis=2)
    left, top = place
    inside = change[top : top + 100, left : left + 100]
    assert inside.min() > 60 and change.sum() - inside.sum() < 0.01 * inside.sum()
    everywhere = np.asarray(overlays.overlay(photo, heat, ResizeRule(64))).astype(int)
    assert np.abs(everywhere - 128).sum(axis=2).min() > 60
