"""The resize rule: turn a picture of any shape into the square input of a backbone.

Training and serving share this one rule. Arrays are uint8 (H, W, 3), RGB, 0 to 255.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Any, Final

import numpy as np
import numpy.typing as npt
from PIL import Image

from tailorbird.errors import ModelFileError, SettingsError, UnreadableImage

Pixels = npt.NDArray[np.uint8]
"""uint8 (H, W, 3), RGB, 0 to 255."""


DECODING: Final = 2
"""Increased whenever decoding gives other pixels, so that older cached features are not used."""

FILTERS: Final = {
    "bilinear": Image.Resampling.BILINEAR,
    "bicubic": Image.Resampling.BICUBIC,
}
"""Pillow's filters by name; both widen when they shrink, so that nothing aliases."""

LEAST_SHARE: Final = 0.1

_MODES: Final = {True: "squash", False: "resize-crop"}
"""Names of the default rule and of all others, which older versions do not know and refuse."""


@dataclass(frozen=True)
class ResizeRule:
    """Turn a picture of any shape into `size` x `size` pixels.

    The default squashes the whole picture, which keeps all of the object in view, as the usual
    Keras loaders do. Other rules are those of timm and torchvision: the picture is resized to
    floor(size / share) pixels, and the middle `size` x `size` are cut out.

    Attributes:
        size: side of the result in pixels, 8 to 2048.
        keep_aspect: whether the shorter side is resized and the longer one in proportion, so that
            the ends of the longer one are cut off; otherwise both sides are.
        share: of the shorter side (of both without `keep_aspect`) that is kept; 0.1 to 1.
        filter: a key of FILTERS.

    Raises SettingsError for a value outside its range.
    """

    size: int
    keep_aspect: bool = False
    share: float = 1.0
    filter: str = "bilinear"

    def __post_init__(self) -> None:
        if not 8 <= self.size <= 2048:
            raise SettingsError(f"image size is {self.size}; it must be between 8 and 2048 pixels")
        if not LEAST_SHARE <= self.share <= 1:
            raise SettingsError(
                f"the share of a picture to keep is {self.share}; it must be between "
                f"{LEAST_SHARE} and 1"
            )
        if self.filter not in FILTERS:
            raise SettingsError(f"unknown filter {self.filter!r}; valid: {', '.join(FILTERS)}")

    @property
    def squashes(self) -> bool:
        """Whether this is the default: the whole picture, squashed with a bilinear filter."""
        return self == ResizeRule(self.size)

    @property
    def resized(self) -> int:
        """Pixels of the shorter side (of both without `keep_aspect`) before the cut."""
        return math.floor(self.size / self.share)

    @property
    def least_side(self) -> int:
        """Fewest pixels a side that a JPEG may be decoded to.

        For the default, 7/8 of `size`: enlarging by at most 8/7 after decoding at half the size
        costs a third of decoding in full; on a frozen MobileNetV2 the scores of five-fold
        cross-validation were the same (benchmarks/README.md). Other rules never enlarge what was
        decoded smaller.
        """
        return self.size * 7 // 8 if self.squashes else self.resized

    @property
    def key(self) -> str:
        """Short name of the rule, for cache keys; it changes whenever the resulting pixels do."""
        if self.squashes:
            return f"squash-{self.size}-bilinear-from-{self.least_side}-v{DECODING}"
        kind = "aspect" if self.keep_aspect else "squash"
        return f"{kind}-{self.size}-{self.share!r}-{self.filter}-from-{self.least_side}-v{DECODING}"

    def at(self, size: int) -> ResizeRule:
        """Return the same rule for another size."""
        return replace(self, size=size)

    def region(self, width: int, height: int) -> tuple[float, float, float, float]:
        """Return what is kept of a picture: (left, top, right, bottom) in its pixels.

        The sides before the cut, and the place of the cut, are rounded as torchvision rounds them
        (`Resize`, `CenterCrop`).
        """
        before = [self.resized, self.resized]
        if self.keep_aspect:
            longer = int(self.resized * max(width, height) / min(width, height))
            before = [longer, self.resized] if width > height else [self.resized, longer]
        starts = [round((side - self.size) / 2) for side in before]
        (left, right), (top, bottom) = (
            (start * whole / side, min(whole, (start + self.size) * whole / side))
            for start, side, whole in zip(starts, before, (width, height), strict=True)
        )
        return left, top, right, bottom

    def sentence(self) -> str:
        """Return the rule in words."""
        if self.squashes:
            return f"squashed to {self.size} x {self.size}"
        sides = "the shorter side" if self.keep_aspect else "both sides"
        return (
            f"{sides} resized to {self.resized} ({self.filter}), the middle {self.size} x "
            f"{self.size} cut out"
        )

    def as_dict(self) -> dict[str, Any]:
        """Return the rule as a model file's metadata holds it."""
        stated: dict[str, Any] = {
            "mode": _MODES[self.squashes],
            "size": self.size,
            "filter": f"{self.filter}, antialiased (Pillow {self.filter.upper()})",
        }
        if self.squashes:
            return stated
        return {**stated, "keep_aspect": self.keep_aspect, "share": self.share}

    @classmethod
    def from_dict(cls, value: object) -> ResizeRule:
        """Read `as_dict` back. Raises ModelFileError for a rule this version does not know."""
        stated = value if isinstance(value, dict) else {}
        size, mode = stated.get("size"), stated.get("mode")
        aspect: Any = False
        share: Any = 1.0
        words = "bilinear"
        if mode == _MODES[False]:
            aspect, share = stated.get("keep_aspect"), stated.get("share")
            words = str(stated.get("filter")).partition(",")[0]
        known = (
            mode in _MODES.values()
            and isinstance(size, int)
            and isinstance(aspect, bool)
            and isinstance(share, int | float)
            and not isinstance(size, bool)
            and words in FILTERS
        )
        if not known or size is None:
            raise ModelFileError(
                f"the resize rule {value!r} is unknown to this version of tailorbird; "
                "upgrade tailorbird"
            )
        try:
            return cls(int(size), aspect, float(share), words)
        except SettingsError as problem:
            raise ModelFileError(f"the resize rule of the file is invalid: {problem}") from None


def resize(image: Image.Image, rule: ResizeRule) -> Pixels:
    """Resize a picture by the rule: uint8 (size, size, 3).

    Raises UnreadableImage when memory does not suffice.
    """
    try:
        return np.asarray(resized(image, rule, rule.size))
    except MemoryError:
        width, height = image.size
        raise UnreadableImage(f"not enough memory to resize {width} x {height} pixels") from None


def resized(image: Image.Image, rule: ResizeRule, side: int) -> Image.Image:
    """Return what the rule keeps of a picture as `side` x `side` pixels."""
    region = rule.region(*image.size)
    if image.size == (side, side) and region == (0, 0, side, side):
        return image
    # The filter sees what lies around the region, so that the pixels are those of resizing the
    # whole picture and cutting afterwards, which a long thin picture might not have the memory for.
    return image.resize((side, side), FILTERS[rule.filter], box=region)
