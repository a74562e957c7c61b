"""Pictures with more than 8 bits per value: scaled by the bits that are in use."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import pytest
from PIL import Image

from support.data import encoded
from support.deep_images import deep_png, deep_tiff
from tailorbird.images import decode


def ramp(top: int) -> npt.NDArray[np.uint16]:
    """Values 0 to `top`, uint16 (4, 256)."""
    return np.linspace(0, top, 256).astype(np.uint16)[None].repeat(4, 0)


def red_of(data: bytes) -> npt.NDArray[np.int64]:
    return np.asarray(decode(data).image, np.int64)[0, :, 0]


def test_16_bit_grey_is_scaled_not_clipped() -> None:
    assert np.abs(red_of(encoded(Image.fromarray(ramp(65535)), "PNG")) - np.arange(256)).max() <= 1


@pytest.mark.parametrize("depth", [10, 12, 14, 16])
@pytest.mark.parametrize("write", [deep_png, deep_tiff])
@pytest.mark.parametrize("bands", [1, 3])
def test_unscaled_values_of_fewer_bits_are_not_black(depth: int, write: object, bands: int) -> None:
    grey = ramp((1 << depth) - 1)
    values = grey if bands == 1 else grey[..., None].repeat(3, -1)
    found = red_of(write(values))  # type: ignore[operator]
    assert np.abs(found - np.arange(256)).max() <= 1


@pytest.mark.parametrize("order", ["<", ">"])
def test_both_byte_orders_of_tiff_give_the_same_colours(order: str) -> None:
    values = np.stack([ramp(4095), ramp(2000), ramp(500)], axis=-1)
    found = np.asarray(decode(deep_tiff(values, order=order)).image, int)
    assert np.abs(found - np.rint(values / 4095 * 255)).max() <= 1


def test_alpha_of_12_bits_counts() -> None:
    values = np.zeros((4, 4, 4), np.uint16)
    values[..., 0], values[..., 3] = 4000, 4095
    assert decode(deep_png(values)).image.getpixel((1, 1)) == (249, 0, 0)


def test_the_file_says_how_many_bits_are_significant() -> None:
    dark = ramp(500)
    assert red_of(deep_png(dark))[-1] == round(500 / 1023 * 255), "the least usual depth"
    assert red_of(deep_png(dark, significant=b"\x0c"))[-1] == round(500 / 4095 * 255)
    assert red_of(deep_tiff(dark, (281, 4095)))[-1] == round(500 / 4095 * 255)
    # An encoder that follows the PNG specification scales the values and notes the former depth.
    scaled = ramp(65535)
    assert np.abs(red_of(deep_png(scaled, significant=b"\x0c")) - np.arange(256)).max() <= 1


def test_white_is_zero_in_some_tiffs() -> None:
    found = red_of(deep_tiff(ramp(65535), (262, 0)))
    assert np.abs(found - np.arange(256)[::-1]).max() <= 1


def test_floating_point_values_up_to_one_or_more() -> None:
    unit = np.linspace(0, 1, 256, dtype=np.float32)[None].repeat(4, 0)
    for scale in (1, 255, 65535):
        found = red_of(encoded(Image.fromarray(unit * np.float32(scale)), "TIFF"))
        assert np.abs(found - np.arange(256)).max() <= 1
    unit[0, 0] = np.nan
    assert decode(encoded(Image.fromarray(unit), "TIFF")).image.getpixel((0, 0)) == (0, 0, 0)


@pytest.mark.parametrize("most", [200, 255, 1023, 65535])
@pytest.mark.parametrize("kind", ["P2", "P3", "P5", "P6"])
def test_portable_maps_of_any_depth(kind: str, most: int) -> None:
    bands = 3 if kind in ("P3", "P6") else 1
    values = np.linspace(0, most, 256).astype(np.uint16)[:, None].repeat(bands, 1)
    header = f"{kind}\n# a comment\n256 1\n{most}\n".encode()
    if kind in ("P2", "P3"):
        body = b" ".join(b"%d" % value for value in values.ravel())
    else:
        body = values.astype(">u2" if most > 255 else np.uint8).tobytes()
    assert np.abs(red_of(header + body) - np.arange(256)).max() <= 2


def test_tall_pictures_are_converted_in_strips_without_a_seam() -> None:
    random = np.random.default_rng(0)
    rgba = random.integers(0, 256, (700, 900, 4), dtype=np.uint8)
    photo = decode(encoded(Image.fromarray(rgba), "PNG"))
    alpha = rgba[..., 3:].astype(float) / 255
    expected = rgba[..., :3] * alpha + 255 * (1 - alpha)
    assert np.abs(np.asarray(photo.image) - expected).max() <= 1
    deep = random.integers(0, 65536, (700, 900), dtype=np.uint16)
    grey = np.asarray(decode(encoded(Image.fromarray(deep), "PNG")).image)
    assert np.array_equal(grey[..., 0], np.rint(deep / 257).astype(np.uint8))
