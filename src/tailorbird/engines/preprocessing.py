"""Preprocessing of pixels 0 to 255: one table of scales and offsets, and its application."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

_MEAN, _DEVIATION = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)  # of ImageNet, pixels 0 to 1

PREPROCESS: dict[str, tuple[tuple[float, ...], tuple[float, ...], bool]] = {
    "tf": ((1 / 127.5,) * 3, (-1.0,) * 3, False),
    "caffe": ((1.0,) * 3, (-103.939, -116.779, -123.68), True),
    "torch": (
        tuple(1 / 255 / deviation for deviation in _DEVIATION),
        tuple(-mean / deviation for mean, deviation in zip(_MEAN, _DEVIATION, strict=True)),
        False,
    ),
    "unit": ((1 / 255,) * 3, (0.0,) * 3, False),
    "none": ((1.0,) * 3, (0.0,) * 3, False),
    "bgr": ((1.0,) * 3, (0.0,) * 3, True),
}
"""(scale, offset, whether RGB is reversed to BGR first); the result is pixels * scale + offset.

tf, caffe and torch are the modes of keras.applications.imagenet_utils.preprocess_input; `unit`
divides by 255, `none` leaves 0 to 255, and so does `bgr` in the order of Azure Custom Vision.
"""

ALIASES = {"imagenet": "torch"}
"""Other names of preprocessings that users of every framework may give."""


def prepare(images: npt.NDArray[np.generic], preprocess: str) -> npt.NDArray[np.float32]:
    """Return RGB images (N, S, S, 3), 0 to 255, prepared as float32 of the same shape."""
    scale, offset, bgr = PREPROCESS[preprocess]
    values = images[..., ::-1] if bgr else images
    factors, offsets = np.asarray(scale, np.float32), np.asarray(offset, np.float32)
    return values.astype(np.float32) * factors + offsets
