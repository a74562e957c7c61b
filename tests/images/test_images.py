from __future__ import annotations

import io
import os
import time
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from support.data import encoded, picture
from support.hostile_images import bomb, repeated_scans
from tailorbird import images
from tailorbird.errors import (
    ImageTooLarge,
    ModelFileError,
    SettingsError,
    UnreadableImage,
    UnsupportedImage,
)
from tailorbird.images import Augmentation, ResizeRule, decode, load, resize, view_random, warp

RULE = ResizeRule(64)


@pytest.mark.parametrize("kind", [kind for kind in images.ACCEPTED if kind != "GIF"])
def test_accepted_formats_decode_to_the_same_picture(kind: str) -> None:
    image = picture("disc", 1).resize((48, 40), Image.Resampling.BILINEAR)
    found = decode(encoded(image, kind)).image
    assert found.mode == "RGB" and found.size == (48, 40)
    assert np.abs(np.asarray(found, int) - np.asarray(image, int)).mean() < 6


def test_the_name_plays_no_part(tmp_path: Path) -> None:
    path = tmp_path / "photo.txt"
    path.write_bytes(encoded(picture("box", 1), "PNG"))
    assert load(path, RULE).shape == (64, 64, 3)


def test_animation_gives_its_first_frame() -> None:
    red, blue = Image.new("RGB", (20, 20), "red"), Image.new("RGB", (20, 20), "blue")
    for kind in ("GIF", "WEBP"):
        data = encoded(red, kind, save_all=True, append_images=[blue, blue])
        assert decode(data).image.getpixel((10, 10))[0] > 200  # type: ignore[index]


@pytest.mark.parametrize("orientation", range(1, 9))
def test_exif_orientation_is_applied(orientation: int) -> None:
    upright = picture("cross", 3, (64, 48))
    # What the camera stores so that a viewer who applies the tag sees `upright`: the inverse of the tag's own change.
    inverse = {
        1: None,
        2: Image.Transpose.FLIP_LEFT_RIGHT,
        3: Image.Transpose.ROTATE_180,
        4: Image.Transpose.FLIP_TOP_BOTTOM,
        5: Image.Transpose.TRANSPOSE,
        6: Image.Transpose.ROTATE_90,
        7: Image.Transpose.TRANSVERSE,
        8: Image.Transpose.ROTATE_270,
    }[orientation]
    stored = upright if inverse is None else upright.transpose(inverse)
    exif = Image.Exif()
    exif[0x0112] = orientation
    data = encoded(stored, "PNG", exif=exif)
    assert np.array_equal(np.asarray(decode(data).image), np.asarray(upright))
    assert np.array_equal(load(data, RULE), resize(upright, RULE))


@pytest.mark.parametrize("mode", ["RGBA", "LA", "P", "I;16"])
def test_exif_orientation_is_applied_whatever_the_mode(mode: str) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    image = (
        Image.new("I;16", (80, 40), 300)
        if mode == "I;16"
        else Image.new("RGB", (80, 40), "red").convert(mode)
    )
    assert decode(encoded(image, "PNG", exif=exif)).image.size == (40, 80)


def test_a_pipe_is_not_waited_for(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe.jpg")
    with pytest.raises(UnsupportedImage, match="a pipe, socket or device, not a file"):
        decode(tmp_path / "pipe.jpg")


def test_cmyk_palette_grey_alpha_and_16_bit_become_rgb() -> None:
    colour = Image.new("RGB", (10, 10), (200, 40, 90))
    cmyk = np.asarray(decode(encoded(colour.convert("CMYK"), "JPEG", quality=98)).image)
    assert np.abs(cmyk.astype(int) - (200, 40, 90)).max() < 12
    palette = np.asarray(decode(encoded(colour.convert("P"), "PNG")).image)
    assert palette.shape == (10, 10, 3)
    grey = np.asarray(decode(encoded(Image.new("L", (10, 10), 77), "PNG")).image)
    assert (grey == 77).all()
    bilevel = np.asarray(decode(encoded(Image.new("1", (10, 10), 1), "PNG")).image)
    assert (bilevel == 255).all()
    for clear in (Image.new("RGBA", (10, 10), (0, 0, 0, 0)), Image.new("LA", (10, 10), (0, 0))):
        assert (np.asarray(decode(encoded(clear, "PNG")).image) == 255).all(), (
            "transparent is white"
        )
    half = np.asarray(decode(encoded(Image.new("RGBA", (10, 10), (0, 0, 0, 128)), "PNG")).image)
    assert np.abs(half.astype(int) - 127).max() <= 1
    keyed = decode(encoded(Image.new("P", (4, 4), 0), "PNG", transparency=0)).image
    assert keyed.getpixel((1, 1)) == (255, 255, 255)


def test_16_bit_grey_is_scaled_not_clipped() -> None:
    ramp = np.linspace(0, 65535, 256).astype(np.uint16)[None].repeat(4, 0)
    found = np.asarray(decode(encoded(Image.fromarray(ramp), "PNG")).image)[0, :, 0]
    assert np.abs(found.astype(int) - np.arange(256)).max() <= 1


@pytest.mark.parametrize("side", [60_000, 12_000, 9_500])
def test_a_bomb_is_refused_by_its_header(side: int) -> None:
    with pytest.raises(ImageTooLarge, match="the cap is 89,478,485"):
        decode(bomb(side, side))


@pytest.mark.parametrize("size", [(1, 49_000_000), (70_000, 10)])
def test_a_side_is_capped_like_the_area(size: tuple[int, int]) -> None:
    with pytest.raises(ImageTooLarge, match="a side may have at most 65,535"):
        decode(bomb(*size))


def test_the_cap_is_the_callers() -> None:
    data = encoded(picture("disc", 1), "PNG")
    with pytest.raises(
        ImageTooLarge, match=r"96 x 80 pixels are 7,680; the cap is 1,000; shrink the photo"
    ):
        decode(data, max_pixels=1000)


def test_empty_and_not_an_image() -> None:
    with pytest.raises(UnreadableImage, match=r"the file is empty \(0 bytes\)"):
        decode(b"")
    for data, message in [
        (b"<svg xmlns='http://www.w3.org/2000/svg'/>", "SVG is not accepted.*export it as PNG"),
        (b'<?xml version="1.0"?>\n<svg/>', "SVG is not accepted"),
        (b"%PDF-1.7 ...", "PDF is not accepted"),
        (b"8BPS" + bytes(40), r"Photoshop \(PSD\) is not accepted.*export it as PNG"),
        (b"\0\0\0\x18ftypmif1" + bytes(40), "HEIF is not accepted.*export it as JPEG"),
        (b"<!doctype html><html>", "HTML page is not accepted.*download the photo itself"),
        (b"just words", "text is not accepted; accepted are JPEG, PNG"),
        (b"PK\3\4" + bytes(40), "ZIP archive is not accepted"),
        (bytes(range(256)), "not an image of a known format; accepted are JPEG"),
    ]:
        with pytest.raises(UnsupportedImage, match=message):
            decode(data)


@pytest.mark.parametrize("kind", images.ACCEPTED)
@pytest.mark.parametrize("share", [0.03, 0.3, 0.6, 0.9])
def test_truncated_files_are_refused(kind: str, share: float) -> None:
    data = encoded(picture("cross", 5, (200, 160)), kind)
    with pytest.raises((UnreadableImage, UnsupportedImage)):
        decode(data[: int(len(data) * share)])


def test_a_file_that_cannot_be_read(tmp_path: Path) -> None:
    with pytest.raises(UnreadableImage, match="no such file"):
        decode(tmp_path / "missing.jpg")
    with pytest.raises(UnreadableImage, match="this is a folder, not a photo"):
        decode(tmp_path)
    with pytest.raises(UnreadableImage, match="could not be read"):
        decode("bad\0name.jpg")


def test_tiny_and_extreme_pictures() -> None:
    for size in [(1, 1), (3000, 2), (2, 3000), (1, 40)]:
        assert load(encoded(Image.new("RGB", size, "green"), "PNG"), RULE).shape == (64, 64, 3)


def test_a_12_megapixel_photo_is_not_fully_decoded() -> None:
    big = picture("disc", 7, (400, 300)).resize((4000, 3000))
    data = encoded(big, "JPEG", quality=80)
    photo = decode(data, at_least=224)
    assert (photo.width, photo.height) == (4000, 3000)
    assert photo.image.size == (500, 375)
    full = resize(decode(data).image, ResizeRule(224))
    assert np.abs(full.astype(int) - resize(photo.image, ResizeRule(224))).mean() < 1.5


def test_the_resize_rule_reads_back_and_refuses_the_unknown() -> None:
    assert ResizeRule.from_dict(RULE.as_dict()) == RULE
    for wrong in (
        {"mode": "crop", "size": 64},
        {"mode": "squash"},
        None,
        {"mode": "squash", "size": "64"},
    ):
        with pytest.raises(ModelFileError, match="is unknown to this version of tailorbird"):
            ResizeRule.from_dict(wrong)
    with pytest.raises(
        SettingsError, match="image size is 4; it must be between 8 and 2048 pixels"
    ):
        ResizeRule(4)
    assert ResizeRule(64).key != ResizeRule(65).key


def test_arrays() -> None:
    pixels = np.asarray(picture("box", 2))
    assert np.array_equal(np.asarray(images.from_array(pixels)), pixels)
    assert images.from_array(pixels[:, :, 0]).mode == "RGB"
    for wrong in (pixels.astype(np.float32), pixels[None], np.zeros((0, 4, 3), np.uint8)):
        with pytest.raises(UnsupportedImage, match="give uint8 of shape"):
            images.from_array(wrong)


def test_views_are_seeded_per_photo_and_view() -> None:
    image = picture("cross", 9)
    a = Augmentation()

    def view(digest: bytes, number: int) -> np.ndarray:
        return warp(image, RULE, a, view_random(digest, number))

    assert np.array_equal(view(b"one", 1), view(b"one", 1))
    assert not np.array_equal(view(b"one", 1), view(b"one", 2))
    assert not np.array_equal(view(b"one", 1), view(b"two", 1))


def test_a_view_without_change_is_nearly_the_plain_picture() -> None:
    image = picture("disc", 4, (128, 128))
    still = Augmentation(flip=False, zoom=0.0, rotation=0.0, shear=0.0, shift=0.0, brightness=0.0)
    same = warp(image, RULE, still, view_random(b"x", 1))
    assert np.abs(same.astype(int) - resize(image, RULE)).mean() < 3
    assert still.key != Augmentation().key


def test_flip_and_brightness_do_what_they_say() -> None:
    image = Image.fromarray(
        np.concatenate(
            [np.full((64, 32, 3), 40, np.uint8), np.full((64, 32, 3), 200, np.uint8)], axis=1
        )
    )
    flips = Augmentation(zoom=0.0, rotation=0.0, shear=0.0, shift=0.0, brightness=0.0)
    lefts = [int(warp(image, RULE, flips, view_random(b"x", i))[32, 8, 0]) for i in range(40)]
    assert 8 <= sum(value > 150 for value in lefts) <= 32, "about half are mirrored"
    bright = Augmentation(flip=False, zoom=0.0, rotation=0.0, shear=0.0, shift=0.0, brightness=0.3)
    values = [int(warp(image, RULE, bright, view_random(b"x", i))[32, 8, 0]) for i in range(40)]
    assert (
        min(values) < 36
        and max(values) > 44
        and min(values) >= 40 * 0.69
        and max(values) <= 40 * 1.31
    )


def test_wide_ranges_show_the_border_where_the_picture_ends() -> None:
    """A white picture stays white in every view: nothing outside it is black."""
    white = Image.new("RGB", (64, 48), (255, 255, 255))
    wide = Augmentation(zoom=0.9, rotation=180.0, shear=60.0, shift=0.9, brightness=0.0)
    for number in range(60):
        assert warp(white, RULE, wide, view_random(b"x", number)).min() == 255


def test_ranges_that_cannot_be_are_refused() -> None:
    with pytest.raises(SettingsError) as raised:
        Augmentation(zoom=1.0, rotation=float("nan"), shear=-1.0, shift=float("inf"), brightness=2)
    for said in (
        "zoom is 1.0, but must be 0 to 0.9",
        "rotation is nan",
        "shear is -1.0",
        "shift is inf",
        "brightness is 2",
    ):
        assert said in str(raised.value)


def test_a_cut_jpeg_stream_object_is_left_alone() -> None:
    # Bytes after the end of a JPEG (a phone's depth map, a video) are not damage.
    data = encoded(picture("disc", 1)) + b"trailing bytes" * 100
    assert decode(io.BytesIO(data).getvalue()).image.size == (96, 80)


def test_a_jpeg_of_too_many_scans_is_refused_at_once() -> None:
    assert images.decode(repeated_scans(50)).image.size == (600, 600)
    bomb = repeated_scans(9_000)
    start = time.perf_counter()
    with pytest.raises(
        ImageTooLarge,
        match=r"scans of 600 x 600 pixels take too long to decode; .*not as a progressive",
    ):
        images.decode(bomb)
    assert time.perf_counter() - start < 1


def test_repeated_scans_of_an_ordinary_jpeg_are_counted_too() -> None:
    """A decoder reads all scans of a baseline JPEG whose components are not interleaved."""
    grey = encoded(Image.new("L", (64, 64), 90))
    frame, scan = grey.index(b"\xff\xc0"), grey.index(b"\xff\xda")
    after = frame + 2 + int.from_bytes(grey[frame + 2 : frame + 4], "big")
    three = b"".join(bytes([component, 0x11, 0]) for component in (1, 2, 3))
    header = b"\xff\xc0\0\x11" + grey[frame + 4 : frame + 9] + b"\3" + three
    pixels = grey[scan + 2 + int.from_bytes(grey[scan + 2 : scan + 4], "big") : -2]
    scans = [
        b"\xff\xda\0\x08\1" + bytes([component, 0, 0, 63, 0]) + pixels for component in (1, 2, 3)
    ]
    start = grey[:frame] + header + grey[after:scan]
    assert images.decode(start + b"".join(scans) + b"\xff\xd9").image.size == (64, 64)
    with pytest.raises(ImageTooLarge, match="2003 scans of 64 x 64"):
        images.decode(start + b"".join(scans) + scans[0] * 2000 + b"\xff\xd9")


def test_tall_pictures_are_converted_strip_by_strip_without_a_seam() -> None:
    random = np.random.default_rng(0)
    rgba = random.integers(0, 256, (700, 9, 4), dtype=np.uint8)
    photo = images.decode(encoded(Image.fromarray(rgba), "PNG"))
    alpha = rgba[..., 3:].astype(float) / 255
    expected = rgba[..., :3] * alpha + 255 * (1 - alpha)
    assert np.abs(np.asarray(photo.image) - expected).max() <= 1
    deep = random.integers(0, 65536, (700, 9), dtype=np.uint16)
    grey = np.asarray(images.decode(encoded(Image.fromarray(deep), "PNG")).image)
    assert np.array_equal(grey[..., 0], np.rint(deep / 257).astype(np.uint8))


@pytest.mark.parametrize("kind", ["WEBP", "AVIF"])
def test_formats_that_take_twice_the_memory_may_have_half_the_pixels(kind: str) -> None:
    if kind not in images.ACCEPTED:
        assert kind == "AVIF", "WebP comes with every Pillow"
        return
    data = encoded(picture("disc", 1, (100, 60)), kind)
    assert images.decode(data, max_pixels=12_000).width == 100
    with pytest.raises(
        ImageTooLarge, match=f"100 x 60 pixels are 6,000; the cap for {kind} is 5,999"
    ):
        images.decode(data, max_pixels=11_999)
    assert (
        images.decode(encoded(picture("disc", 1, (100, 60)), "PNG"), max_pixels=6000).height == 60
    )
