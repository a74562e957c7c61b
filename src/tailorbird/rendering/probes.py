"""Generated images on which two forms of a network are compared."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt


def probe_images(size: int, count: int = 8) -> npt.NDArray[np.uint8]:
    """Return varied random images, the same for every call.

    They consist of squares of random colours, from one square per image to one per pixel, and
    then again from the start.

    Args:
        size: S, the side in pixels.
        count: number of images.

    Returns:
        uint8 (count, S, S, 3).
    """
    generator = np.random.default_rng(0)
    images = []
    for number in range(count):
        fields = min(size, 2 ** (number % 8))
        coarse = generator.integers(0, 256, (fields, fields, 3), np.uint8)
        index = np.arange(size) * fields // size
        images.append(coarse[index][:, index])
    return np.stack(images)
