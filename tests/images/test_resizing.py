"""THE resize rule."""

from __future__ import annotations

import io
import json
from typing import Any

import numpy as np
import pytest
from PIL import Image

from support.data import encoded, picture
from tailorbird.errors import ModelFileError, SettingsError
from tailorbird.images import (
    FILTERS,
    Augmentation,
    ResizeRule,
    from_array,
    load,
    picture_for_views,
    resize,
)

RULE = ResizeRule(64)
CROP = ResizeRule(64, keep_aspect=True, share=0.875, filter="bicubic")
OTHERS = [
    CROP,
    ResizeRule(64, keep_aspect=True),
    ResizeRule(64, share=0.9, filter="bicubic"),
    ResizeRule(64, filter="bicubic"),
    ResizeRule(60, keep_aspect=True, share=0.95, filter="bilinear"),
]


def test_tiny_and_extreme_pictures() -> None:
    for size in [(1, 1), (3000, 2), (2, 3000), (1, 40), (60_000, 1)]:
        for rule in (RULE, *OTHERS):
            found = load(encoded(Image.new("RGB", size, "green"), "PNG"), rule)
            assert found.shape == (rule.size, rule.size, 3) and (found == (0, 128, 0)).all()


def test_the_resize_rule_reads_back_and_refuses_the_unknown() -> None:
    assert ResizeRule.from_dict(RULE.as_dict()) == RULE
    for wrong in (
        {"mode": "crop", "size": 64},
        {"mode": "squash"},
        None,
        {"mode": "squash", "size": "64"},
        {"mode": "squash", "size": True},
    ):
        with pytest.raises(ModelFileError, match="is unknown to this version of tailorbird"):
            ResizeRule.from_dict(wrong)
    for size in (-1, 4, 2049, 10**30):
        with pytest.raises(ModelFileError, match="must be between 8 and 2048 pixels"):
            ResizeRule.from_dict({"mode": "squash", "size": size})
    with pytest.raises(
        SettingsError, match="image size is 4; it must be between 8 and 2048 pixels"
    ):
        ResizeRule(4)
    assert ResizeRule(64).key != ResizeRule(65).key


def test_the_default_rule_is_described_as_in_older_files() -> None:
    assert RULE.as_dict() == {
        "mode": "squash",
        "size": 64,
        "filter": "bilinear, antialiased (Pillow BILINEAR)",
    }
    assert RULE.squashes and RULE.key == "squash-64-bilinear-from-56-v2"
    assert RULE.region(300, 200) == (0, 0, 300, 200)


@pytest.mark.parametrize("rule", OTHERS, ids=lambda rule: rule.key)
def test_other_rules_read_back_and_have_keys_of_their_own(rule: ResizeRule) -> None:
    stated = json.loads(json.dumps(rule.as_dict()))
    assert ResizeRule.from_dict(stated) == rule and not rule.squashes
    assert stated["mode"] == "resize-crop", "older versions know only squash, and refuse this"
    assert rule.at(96).size == 96 and rule.at(96).at(rule.size) == rule
    assert len({one.key for one in (RULE, *OTHERS, *(one.at(80) for one in OTHERS))}) == 11
    assert str(rule.resized) in rule.sentence() and rule.filter in rule.sentence()


@pytest.mark.parametrize(
    "wrong",
    [
        {"share": 0.0},
        {"share": -1},
        {"share": 1.5},
        {"share": float("nan")},
        {"share": float("inf")},
        {"share": None},
        {"share": "1"},
        {"keep_aspect": 1},
        {"keep_aspect": None},
        {"filter": "lanczos"},
        {"filter": None},
        {"size": 4},
        {"size": None},
        {"size": 64.0},
        {"mode": ["squash"]},
    ],
    ids=str,
)
def test_damaged_rules_are_refused(wrong: dict[str, Any]) -> None:
    with pytest.raises(ModelFileError, match="the resize rule "):
        ResizeRule.from_dict({**CROP.as_dict(), **wrong})


def test_settings_outside_their_range_are_named() -> None:
    with pytest.raises(SettingsError, match=r"share of a picture to keep is 1\.2; it must be betw"):
        ResizeRule(64, share=1.2)
    with pytest.raises(SettingsError, match="unknown filter 'box'; valid: bilinear, bicubic"):
        ResizeRule(64, filter="box")


@pytest.mark.parametrize("rule", OTHERS, ids=lambda rule: rule.key)
@pytest.mark.parametrize("size", [(300, 200), (200, 301), (640, 640), (90, 50), (40, 700), (33, 5)])
def test_pixels_are_those_of_resizing_and_then_cutting_the_middle(
    rule: ResizeRule, size: tuple[int, int]
) -> None:
    """Step by step as torchvision does: Resize(resized), then CenterCrop(size).

    Pillow rounds between columns and rows, which it may take in another order.
    """
    rough = from_array(np.random.default_rng(1).integers(0, 256, (9, 9, 3), np.uint8))
    image = rough.resize(size, FILTERS["bicubic"])
    width, height = size
    before = (rule.resized, rule.resized)
    if rule.keep_aspect and width > height:
        before = (int(rule.resized * width / height), rule.resized)
    elif rule.keep_aspect:
        before = (rule.resized, int(rule.resized * height / width))
    whole = image.resize(before, FILTERS[rule.filter])
    left, top = (round((side - rule.size) / 2) for side in before)
    expected = np.asarray(whole.crop((left, top, left + rule.size, top + rule.size))).astype(int)
    assert np.abs(resize(image, rule) - expected).max() <= 1


def test_views_are_made_of_what_the_rule_keeps() -> None:
    """The ends of a long photo, which the model never sees, are not in its augmented views."""
    pixels = np.full((100, 300, 3), 200, np.uint8)
    pixels[:, :100], pixels[:, 200:] = (255, 0, 0), (0, 0, 255)
    image, augmentation = from_array(pixels), Augmentation(zoom=0.5)
    kept = picture_for_views(image, ResizeRule(64, keep_aspect=True), augmentation)
    assert kept.size == (96, 96) and (np.asarray(kept)[:, 2:-2] == 200).all()
    squashed = np.asarray(picture_for_views(image, RULE, augmentation))
    assert tuple(squashed[50, 3]) == (255, 0, 0) and tuple(squashed[50, -3]) == (0, 0, 255)


def test_a_large_jpeg_is_not_decoded_smaller_than_it_is_resized() -> None:
    data = encoded(picture("disc", 1, (1200, 900)), quality=95)
    for rule in (RULE, *OTHERS):
        full = resize(Image.open(io.BytesIO(data)).convert("RGB"), rule)
        assert np.abs(load(data, rule).astype(int) - full).mean() < 1.5
    assert CROP.least_side == CROP.resized == 73 and RULE.least_side == 56
