"""THE resize rule."""

from __future__ import annotations

import pytest
from PIL import Image

from support.data import encoded
from tailorbird.errors import ModelFileError, SettingsError
from tailorbird.images import ResizeRule, load

RULE = ResizeRule(64)


def test_tiny_and_extreme_pictures() -> None:
    for size in [(1, 1), (3000, 2), (2, 3000), (1, 40)]:
        assert load(encoded(Image.new("RGB", size, "green"), "PNG"), RULE).shape == (64, 64, 3)


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
