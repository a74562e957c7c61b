"""The resize rule: turn a picture of any shape into the square input of a backbone.

Training and serving share this one rule. Arrays are uint8 (H, W, 3), RGB, 0 to 255.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Final

import numpy as np
import numpy.typing as npt
from PIL import Image

from tailorbird.errors import ModelFileError, SettingsError, UnreadableImage

Pixels = npt.NDArray[np.uint8]
"""uint8 (H, W, 3), RGB, 0 to 255."""


DECODING: Final = 2
"""Increased whenever decoding gives other pixels, so that older cached features are not used."""


@dataclass(frozen=True)
class ResizeRule:
    """Squash a picture to `size` x `size` pixels, whatever its shape.

    Squashing keeps the whole object in view, as the usual Keras loaders do. The filter is Pillow's
    BILINEAR, a triangle filter that widens when it shrinks, so that nothing aliases.
    """

    size: int

    def __post_init__(self) -> None:
        if not 8 <= self.size <= 2048:
            raise SettingsError(f"image size is {self.size}; it must be between 8 and 2048 pixels")

    @property
    def least_side(self) -> int:
        """Fewest pixels a side that a JPEG may be decoded to: 7/8 of `size`.

        Enlarging by at most 8/7 after decoding at half the size costs a third of decoding in full;
        on a frozen MobileNetV2 the scores of five-fold cross-validation were the same
        (benchmarks/README.md).
        """
        return self.size * 7 // 8

    @property
    def key(self) -> str:
        """Short name of the rule, for cache keys; it changes whenever the resulting pixels do."""
        return f"squash-{self.size}-bilinear-from-{self.least_side}-v{DECODING}"

    def as_dict(self) -> dict[str, Any]:
        """Return the rule as a model file's metadata holds it."""
        return {
            "mode": "squash",
            "size": self.size,
            "filter": "bilinear, antialiased (Pillow BILINEAR)",
        }

    @classmethod
    def from_dict(cls, value: object) -> ResizeRule:
        """Read `as_dict` back. Raises ModelFileError for a rule this version does not know."""
        size = value.get("size") if isinstance(value, dict) else None
        known = isinstance(value, dict) and value.get("mode") == "squash"
        if not known or not isinstance(size, int) or isinstance(size, bool):
            raise ModelFileError(
                f"the resize rule {value!r} is unknown to this version of tailorbird; "
                "upgrade tailorbird"
            )
        if not 8 <= size <= 2048:
            raise ModelFileError(
                f"the resize rule has size {size}; it must be between 8 and 2048 pixels"
            )
        return cls(size=size)


def resize(image: Image.Image, rule: ResizeRule) -> Pixels:
    """Resize a picture by the rule: uint8 (size, size, 3).

    Raises UnreadableImage when memory does not suffice.
    """
    try:
        if image.size != (rule.size, rule.size):
            image = image.resize((rule.size, rule.size), Image.Resampling.BILINEAR)
        return np.asarray(image)
    except MemoryError:
        width, height = image.size
        raise UnreadableImage(f"not enough memory to resize {width} x {height} pixels") from None
