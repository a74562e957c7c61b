"""Read a scanned photo again; a file that changed since the scan is an error."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
from PIL import Image

from tailorbird import parallel
from tailorbird.dataset.samples import Sample
from tailorbird.errors import ImageError, UnreadableImage
from tailorbird.images import Pixels, ResizeRule, decode, read_bytes, resize


def picture_of(sample: Sample, at_least: int) -> Image.Image:
    """Return the photo upright and RGB, perhaps decoded smaller, but no smaller than `at_least`.

    Raises:
        ImageError: with the photo's path; it cannot be read, or has changed since the scan.
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
    """Return the photo resized for a model, uint8 (S, S, 3). Raises as `picture_of`."""
    return resize(picture_of(sample, rule.least_side), rule)


def stacked_pixels(samples: Sequence[Sample], rule: ResizeRule) -> npt.NDArray[np.uint8]:
    """Decode and resize photos on all cores; return uint8 (N, S, S, 3). Raises as `pixels_of`."""
    return np.stack(list(parallel.ordered(lambda sample: pixels_of(sample, rule), samples)))
