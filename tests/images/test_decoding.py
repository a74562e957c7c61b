"""Decoding: any photo to an upright RGB picture, and what is refused."""

from __future__ import annotations

import io
import os
import zlib
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from support.data import encoded, picture
from support.hostile_images import png_chunk, riff, segment, with_jpeg_segments, with_png_chunks
from tailorbird import images
from tailorbird.errors import ImageTooLarge, UnreadableImage, UnsupportedImage
from tailorbird.images import ResizeRule, decode, load, resize

RULE = ResizeRule(64)


def test_the_format_is_judged_by_content_not_by_name(tmp_path: Path) -> None:
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
    # What the camera stores, so that a viewer who applies the tag sees `upright`: the inverse.
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


def test_a_pipe_is_refused_at_once(tmp_path: Path) -> None:
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


def test_an_empty_file_is_refused() -> None:
    with pytest.raises(UnreadableImage, match=r"the file is empty \(0 bytes\)"):
        decode(b"")


def test_a_file_that_cannot_be_read(tmp_path: Path) -> None:
    with pytest.raises(UnreadableImage, match="no such file"):
        decode(tmp_path / "missing.jpg")
    with pytest.raises(UnreadableImage, match="this is a folder, not a photo"):
        decode(tmp_path)
    with pytest.raises(UnreadableImage, match="could not be read"):
        decode("bad\0name.jpg")


def test_a_12_megapixel_photo_is_not_fully_decoded() -> None:
    big = picture("disc", 7, (400, 300)).resize((4000, 3000))
    data = encoded(big, "JPEG", quality=80)
    photo = decode(data, at_least=224)
    assert (photo.width, photo.height) == (4000, 3000)
    assert photo.image.size == (500, 375)
    full = resize(decode(data).image, ResizeRule(224))
    assert np.abs(full.astype(int) - resize(photo.image, ResizeRule(224))).mean() < 1.5


def test_arrays() -> None:
    pixels = np.asarray(picture("box", 2))
    assert np.array_equal(np.asarray(images.from_array(pixels)), pixels)
    assert images.from_array(pixels[:, :, 0]).mode == "RGB"
    for wrong in (pixels.astype(np.float32), pixels[None], np.zeros((0, 4, 3), np.uint8)):
        with pytest.raises(UnsupportedImage, match="give uint8 of shape"):
            images.from_array(wrong)


def turned(orientation: int = 6) -> bytes:
    """An EXIF block with nothing but an orientation."""
    exif = Image.Exif()
    exif[0x0112] = orientation
    return exif.tobytes().removeprefix(b"Exif\0\0")


XMP = b'<x:xmpmeta xmlns:x="adobe:ns:meta/"><rdf:Description tiff:Orientation="6"/></x:xmpmeta>'
VP8X = b"VP8X", b"\x0c\0\0\0\x5f\0\0\x4f\0\0"
VP8 = b"VP8 ", encoded(picture("disc", 1), "WEBP")[20:]
HEX = "\nexif\n      99\n" + (b"Exif\0\0" + turned()).hex()


@pytest.mark.parametrize(
    "data",
    [
        with_jpeg_segments(segment(0xE1, b"Exif\0\0" + turned())),
        with_jpeg_segments(segment(0xE1, b"http://ns.adobe.com/xap/1.0/\0" + XMP)),
        with_png_chunks(png_chunk(b"eXIf", turned())),
        with_png_chunks(png_chunk(b"iTXt", b"XML:com.adobe.xmp\0\0\0\0\0" + XMP)),
        with_png_chunks(png_chunk(b"iTXt", b"XML:com.adobe.xmp\0\1\0\0\0" + zlib.compress(XMP))),
        with_png_chunks(
            png_chunk(b"zTXt", b"Raw profile type exif\0\0" + zlib.compress(HEX.encode()))
        ),
        riff(VP8X, VP8, (b"EXIF", turned())),
        riff(VP8X, VP8, (b"EXIF", b"Exif\0\0" + turned())),
        riff(VP8X, VP8, (b"XMP ", XMP)),
    ],
    ids=lambda data: data[:4].hex() + str(len(data)),
)
def test_an_orientation_is_found_wherever_a_format_keeps_it(data: bytes) -> None:
    with Image.open(io.BytesIO(data)) as stored:
        expected = stored.convert("RGB").transpose(Image.Transpose.ROTATE_270)
    assert np.array_equal(np.asarray(decode(data).image), np.asarray(expected))


@pytest.mark.parametrize("kind", ["TIFF", "AVIF", "HEIC"])
def test_an_orientation_is_applied_by_decoders_of_other_formats(kind: str) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    upright = picture("cross", 3, (80, 48))
    stored = upright.transpose(Image.Transpose.ROTATE_90)
    found = decode(encoded(stored, kind, exif=exif.tobytes())).image
    assert found.size == upright.size
    assert np.abs(np.asarray(found, int) - np.asarray(upright, int)).mean() < 9


@pytest.mark.parametrize(
    "exif", [b"", b"II*\0", b"MM\0*\xff\xff\xff\xff", turned()[:-3], b"x" * 99]
)
def test_a_photo_with_a_damaged_exif_block_is_upright(exif: bytes) -> None:
    data = with_jpeg_segments(segment(0xE1, b"Exif\0\0" + exif))
    assert decode(data).image.size in ((96, 80), (80, 96))


PHOTO = encoded(picture("cross", 5, (203, 157)), quality=90)
PROGRESSIVE = encoded(picture("cross", 5, (203, 157)), quality=90, progressive=True)
VIDEO = b"\0\0\0\x18ftypmp42" + b"\xff\xda\xff\xd9\xff\xc2" * 5000


@pytest.mark.parametrize("photo", [PHOTO, PROGRESSIVE], ids=["baseline", "progressive"])
def test_what_lies_behind_a_photo_does_not_count(photo: bytes) -> None:
    """Motion photos carry a video behind the picture, full of what looks like markers."""
    assert decode(photo + VIDEO).image.tobytes() == decode(photo).image.tobytes()


def test_photos_of_several_pictures_give_the_first() -> None:
    """MPO: stereo pictures, previews, and the gain map of Ultra HDR photos."""
    main, other = picture("disc", 1, (300, 200)), picture("box", 2, (75, 50))
    data = encoded(main, "MPO", save_all=True, append_images=[other], quality=90)
    found = decode(data + VIDEO)
    assert (found.width, found.height) == (300, 200)
    assert np.abs(np.asarray(found.image, int) - np.asarray(main, int)).mean() < 6


@pytest.mark.parametrize(
    "options", [{}, {"progressive": True}, {"quality": 30}, {"subsampling": 0}]
)
@pytest.mark.parametrize("size", [(96, 80), (203, 157)])
@pytest.mark.parametrize("at_least", [None, 40])
def test_a_jpeg_that_lacks_only_its_end_marker_is_read(
    options: dict[str, object], size: tuple[int, int], at_least: int | None
) -> None:
    data = encoded(picture("cross", 5, size), "JPEG", **options)
    whole = decode(data, at_least=at_least).image
    for short in (data[:-1], data[:-2]):
        assert decode(short, at_least=at_least).image.tobytes() == whole.tobytes()


@pytest.mark.parametrize("photo", [PHOTO, PROGRESSIVE], ids=["baseline", "progressive"])
@pytest.mark.parametrize("missing", [8, 20, 100, 1000])
def test_a_jpeg_that_lacks_some_of_its_picture_is_refused(photo: bytes, missing: int) -> None:
    for filling in (b"", bytes(50_000)):
        with pytest.raises(UnreadableImage, match="truncated"):
            decode(photo[:-missing] + filling)


def test_a_progressive_jpeg_that_ends_between_two_scans_is_refused() -> None:
    """Nothing of a scan is missing, but the picture is coarse."""
    starts = [at for at in range(len(PROGRESSIVE)) if PROGRESSIVE[at : at + 2] == b"\xff\xda"]
    tables = PROGRESSIVE.rfind(b"\xff\xc4", 0, starts[-1])
    with pytest.raises(UnreadableImage, match="truncated: its last scans are missing"):
        decode(PROGRESSIVE[: min(tables, starts[-1])])


def damaged(chunk: bytes) -> bytes:
    """A PNG chunk with a wrong checksum."""
    return chunk[:-1] + bytes([chunk[-1] ^ 1])


@pytest.mark.parametrize(
    "chunks",
    [
        png_chunk(b"zTXt", b"a\0\0" + zlib.compress(bytes(10**7))),
        png_chunk(b"tEXt", b"a\0" + b"x" * 10**7),
        png_chunk(b"iCCP", b"a\0\0" + zlib.compress(bytes(10**8))),
        damaged(png_chunk(b"tEXt", b"a\0b")),
        damaged(png_chunk(b"iCCP", b"a\0\0bcd")),
        damaged(png_chunk(b"tRNS", bytes(6))),
        png_chunk(b"iCCP", b"no profile at all"),
        png_chunk(b"gAMA", b""),
    ],
)
def test_a_png_with_a_large_or_damaged_ancillary_chunk_is_read(chunks: bytes) -> None:
    plain = decode(with_png_chunks(b"")).image
    assert decode(with_png_chunks(chunks)).image.tobytes() == plain.tobytes()


@pytest.mark.parametrize("kind", [b"IHDR", b"IDAT"])
def test_a_png_with_a_damaged_critical_chunk_is_refused(kind: bytes) -> None:
    data = bytearray(with_png_chunks(b""))
    data[data.index(kind) + 6] ^= 1
    with pytest.raises((UnreadableImage, ImageTooLarge)):
        decode(bytes(data))


def test_the_cost_of_a_jpeg_counts_as_it_is_decoded() -> None:
    """400 x 300 pixels decoded at a quarter are 7,500."""
    image = picture("disc", 7, (400, 300))
    data = encoded(image)
    assert decode(data, at_least=60, max_pixels=30_000).image.size == (100, 75)
    with pytest.raises(ImageTooLarge, match="400 x 300 pixels are 120,000; the cap is 119,996"):
        decode(data, at_least=60, max_pixels=29_999)
    with pytest.raises(ImageTooLarge, match="the cap is 30,000"):
        decode(data, max_pixels=30_000)
    with pytest.raises(ImageTooLarge, match="not as a progressive JPEG"):
        decode(encoded(image, progressive=True), at_least=60, max_pixels=30_000)
