"""A scanned photo, read again: the same bytes as the scan saw, or an error that says otherwise."""

from __future__ import annotations

import hashlib

from PIL import Image

from tailorbird.dataset.samples import Sample
from tailorbird.errors import ImageError, UnreadableImage
from tailorbird.images import Pixels, ResizeRule, decode, read_bytes, resize


def picture_of(sample: Sample, at_least: int) -> Image.Image:
    """The photo upright, RGB, perhaps decoded smaller, but with sides of `at_least` pixels where it has them.

    Raises ImageError, with the photo's path, when it is not what the scan saw.
    """
    try:
        data = read_bytes(sample.path)
        if hashlib.sha256(data).digest() != bytes.fromhex(sample.digest):
            raise UnreadableImage("the file has changed since")
        return decode(data, at_least=at_least).image
    except ImageError as error:
        raise type(error)(
            f"{sample.path}: {error}; it was fine when the dataset was scanned; run again"
        ) from None


def pixels_of(sample: Sample, rule: ResizeRule) -> Pixels:
    """The photo as a model sees it, uint8 (S, S, 3). Raises what `picture_of` raises."""
    return resize(picture_of(sample, rule.least_side), rule)
