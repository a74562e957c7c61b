"""Convert decoded pictures of any mode to RGB uint8: 16-bit scaling, transparency, strips.

Large pictures are converted in strips, because several whole copies, some of eight bytes a value,
would be most of the memory that decoding takes.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from typing import Any, Final

import numpy as np
import numpy.typing as npt
from PIL import Image

_STRIP_PIXELS: Final = 1 << 18
_DEPTHS: Final = (8, 10, 12, 14, 16, 24, 32)
"""Bits per value of the sensors and files in use."""

_WHITE: Final = (255, 255, 255, 255)


def full_scale(highest: int, bits: int | None) -> int:
    """Return the value that stands for white in 16-bit data.

    Cameras and microscopes store 10- and 12-bit values in 16-bit files, some without scaling them.

    Args:
        highest: the largest value in the picture.
        bits: significant bits according to the file, used where the values agree with it. None
            takes the smallest usual depth that holds `highest`.
    """
    if bits is not None and bits < 16 and highest < 1 << bits:
        return (1 << bits) - 1
    return next(((1 << depth) - 1 for depth in _DEPTHS if highest < 1 << depth), highest)


def scale_table(white: int) -> npt.NDArray[np.uint8]:
    """Return the 8-bit value of each 16-bit one, uint8 (65536,), so that `white` becomes 255."""
    scaled = np.rint(np.arange(65536) * (255.0 / white))
    table: npt.NDArray[np.uint8] = scaled.clip(0, 255).astype(np.uint8)
    return table


def as_rgb(image: Image.Image, *, bits: int | None = None, inverted: bool = False) -> Image.Image:
    """Convert a loaded picture to RGB: more than 8 bits scaled, transparency over white.

    Args:
        bits: significant bits of a picture with more than 8; see `full_scale`.
        inverted: 0 is white in a picture with more than 8 bits.
    """
    if image.mode in ("I", "F") or image.mode.startswith("I;16"):
        return _from_deep_grey(image, bits, inverted)
    if not image.has_transparency_data:
        return image if image.mode == "RGB" else image.convert("RGB")
    whole = Image.new("RGB", image.size)
    for box in _boxes(image):
        rgba = image.crop(box).convert("RGBA")
        white = Image.new("RGBA", rgba.size, _WHITE)
        whole.paste(Image.alpha_composite(white, rgba).convert("RGB"), box)
    return whole


def low_byte_rawmode(image: Image.Image) -> str | None:
    """Return the raw mode with which Pillow decodes the low bytes of a 16-bit colour picture.

    Pillow keeps the high bytes only. Decoding the same data in the other byte order gives the low
    ones. Returns None for all other pictures. `image` must not be loaded yet.
    """
    if len(image.tile) == 0 or image.mode not in ("RGB", "RGBA"):  # type: ignore[attr-defined]
        return None
    args = image.tile[0].args  # type: ignore[attr-defined]
    name = args[0] if isinstance(args, tuple) else args
    if not isinstance(name, str) or name[:-1] not in ("RGB;16", "RGBA;16", "RGBX;16"):
        return None
    little = name[-1] == "L" or (name[-1] == "N" and sys.byteorder == "little")
    return name[:-1] + ("B" if little else "L")


def uses_high_bits(image: Image.Image) -> bool:
    """Whether the high bytes of a 16-bit colour picture show that all 16 bits are in use."""
    bands: Any = image.getextrema()
    return bool(max(high for _, high in bands[:3]) >= 64)  # 2**14 / 2**8; see _DEPTHS


def join_bytes(high: Image.Image, low: Image.Image, bits: int | None) -> Image.Image:
    """Return the 8-bit picture that the high and low bytes of 16-bit colours make, scaled."""

    def values(box: tuple[int, int, int, int]) -> npt.NDArray[np.uint16]:
        upper = np.asarray(high.crop(box)).astype(np.uint16)
        return np.asarray(upper << 8 | np.asarray(low.crop(box)))

    highest = max(int(values(box)[..., :3].max()) for box in _boxes(high))
    table = scale_table(full_scale(highest, bits))
    whole = Image.new(high.mode, high.size)
    for box in _boxes(high):
        whole.paste(Image.fromarray(table[values(box)]), box)
    return whole


def _from_deep_grey(image: Image.Image, bits: int | None, inverted: bool) -> Image.Image:
    white = _white_of(image, bits)
    table = scale_table(int(white)) if image.mode.startswith("I;16") else None
    whole = Image.new("L", image.size)
    for box in _boxes(image):
        values = np.nan_to_num(np.asarray(image.crop(box)))
        if table is not None:
            grey = table[values]
        else:
            scaled = np.rint(values.astype(np.float64) * (255.0 / white))
            grey = scaled.clip(0, 255).astype(np.uint8)
        whole.paste(Image.fromarray(255 - grey if inverted else grey), box)
    return whole.convert("RGB")


def _white_of(image: Image.Image, bits: int | None) -> float:
    highest = max(float(np.nan_to_num(np.asarray(image.crop(box))).max()) for box in _boxes(image))
    if image.mode == "F" and highest <= 1:
        return 1.0
    return full_scale(max(0, int(highest)), bits)


def _boxes(image: Image.Image) -> Iterator[tuple[int, int, int, int]]:
    """Yield the boxes of horizontal strips that cover a picture from top to bottom."""
    rows = max(1, _STRIP_PIXELS // image.width)
    for top in range(0, image.height, rows):
        yield 0, top, image.width, min(top + rows, image.height)
