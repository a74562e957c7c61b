"""Files made to cost much time or memory: refused, or read at the cost of an ordinary photo."""

from __future__ import annotations

import io
import struct
import subprocess
import sys
import zlib
from collections.abc import Callable

import numpy as np
import pi_heif
import pytest
from PIL import Image, ImageFile
from PIL.JpegImagePlugin import JpegImageFile

from support.data import encoded, picture
from support.deep_images import deep_tiff
from support.hostile_images import (
    bomb,
    overlapping_tags,
    png_chunk,
    repeated_scans,
    riff,
    segment,
    thin_png,
    with_jpeg_segments,
    with_png_chunks,
)
from tailorbird.errors import ImageError, ImageTooLarge, UnreadableImage
from tailorbird.images import ResizeRule, decode, identify, load, resize

SMALL = encoded(picture("disc", 1))
WEBP = encoded(picture("disc", 1), "WEBP")
CANVAS = b"\x5f\0\0\x4f\0\0"  # of a WebP of 96 x 80 pixels


@pytest.mark.parametrize("side", [60_000, 12_000, 9_500])
def test_an_area_above_the_cap_is_refused_by_its_header(side: int) -> None:
    with pytest.raises(ImageTooLarge, match="the cap is 89,478,485"):
        decode(bomb(side, side))


@pytest.mark.parametrize("size", [(1, 49_000_000), (70_000, 10)])
def test_a_side_is_capped_like_the_area(size: tuple[int, int]) -> None:
    with pytest.raises(ImageTooLarge, match="a side may have at most 65,535"):
        decode(bomb(*size))


@pytest.mark.parametrize("size", [(1, 65_535), (65_535, 1)])
def test_the_longest_sides_are_read(size: tuple[int, int]) -> None:
    assert load(thin_png(*size), ResizeRule(64)).shape == (64, 64, 3)


def megabytes_for(code: str) -> float:
    """How far the peak memory of a new interpreter rises while it runs `code`."""
    script = f"""
import resource, sys
sys.path.insert(0, "tests")
from support.hostile_images import thin_png
from support.data import encoded
from tailorbird.errors import ImageError
from tailorbird.images import ResizeRule, load
from PIL import Image
unit = 2**20 if sys.platform == "darwin" else 2**10
def peak():
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / unit
def tried(data):
    load(encoded(Image.new("RGB", (64, 64))), ResizeRule(64))
    before = peak()
    try:
        load(data, ResizeRule(224))
    except ImageError:
        pass
    print(peak() - before)
{code}
"""
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=True, timeout=120
    )
    return float(done.stdout)


@pytest.mark.parametrize(
    ("code", "most"),
    [
        ("tried(thin_png(1, 49_000_000))", 20),
        ("tried(thin_png(1, 49_000_000, deep=True))", 20),
        ("tried(thin_png(100, 65_535))", 150),
        ("tried(thin_png(100, 65_535, deep=True))", 150),
        ("tried(encoded(Image.new('RGBA', (3000, 3000)), 'PNG'))", 250),
    ],
)
def test_the_memory_for_a_photo_is_bounded(code: str, most: int) -> None:
    assert megabytes_for(code) < most


@pytest.mark.parametrize("where", ["open", "load", "numpy", "resize"])
def test_missing_memory_is_the_error_of_one_photo(
    where: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*args: object, **named: object) -> None:
        if where == "numpy":
            np.zeros(1 << 62, np.uint8)  # raises numpy's own subclass of MemoryError
        raise MemoryError

    if where == "open":
        monkeypatch.setattr(JpegImageFile, "_open", fail)
    elif where == "resize":
        monkeypatch.setattr(Image.Image, "resize", fail)
    else:
        monkeypatch.setattr(ImageFile.ImageFile, "load", fail)
    with pytest.raises(UnreadableImage, match="not enough memory to"):
        load(SMALL, ResizeRule(64))


@pytest.mark.parametrize("marker", [0xE1, 0xE2, 0xFE, 0xDB, 0xC4])
def test_a_jpeg_of_too_many_segments_is_refused(marker: int) -> None:
    body = b"Exif\0\0" if marker == 0xE1 else b""
    with pytest.raises(ImageTooLarge, match="more than 10,000 segments"):
        decode(with_jpeg_segments(segment(marker, body) * 300_000))


def handed_on(data: bytes) -> bytes:
    """What the decoder gets to see of a file."""
    row = identify(data)
    assert row is not None
    return row.inspect(data).data


@pytest.mark.parametrize(
    "filling",
    [
        segment(0xE1, b"Exif\0\0") * 9_000,
        segment(0xE1, b"http://ns.adobe.com/xmp/extension/\0" + bytes(60_000)) * 100,
        segment(0xE2, b"ICC_PROFILE\0\1\1" + bytes(60_000)) * 100,
        segment(0xE2, b"MPF\0" + bytes(60_000)),
        segment(0xED, b"Photoshop 3.0\0" + bytes(60_000)) * 100,
        segment(0xE0, b"JFXX\0" + bytes(60_000)) * 10,
        segment(0xFE, b"comment" * 1000) * 100,
        b"\xff" * 5_000_000,
    ],
    ids=["exif", "xmp", "icc", "mpf", "photoshop", "thumbnails", "comments", "fill"],
)
def test_no_jpeg_metadata_reaches_the_decoder(filling: bytes) -> None:
    data = with_jpeg_segments(filling)
    assert len(handed_on(data)) <= len(SMALL)
    assert decode(data).image.tobytes() == decode(SMALL).image.tobytes()


@pytest.mark.parametrize("marker", [0xDB, 0xC4])
def test_tables_of_a_jpeg_are_bounded(marker: int) -> None:
    """Pillow reads each of thousands in a segment in Python."""
    decode(with_jpeg_segments(segment(0xDB, bytes(65)) * 100))
    with pytest.raises(ImageTooLarge, match="more than 65,536 bytes of tables"):
        decode(with_jpeg_segments(segment(marker, bytes(60_000)) * 2))


def packed_bmp(width: int, height: int, runs: bytes) -> bytes:
    """A run-length encoded bitmap of 256 colours."""
    start = 14 + 40 + 1024
    file_header = struct.pack("<IHHI", start + len(runs), 0, 0, start)
    header = struct.pack("<IiiHHIIiiII", 40, width, height, 1, 8, 1, len(runs), 0, 0, 256, 256)
    return b"BM" + file_header + header + bytes(1024) + runs


def test_run_length_encoded_bitmaps_are_bounded() -> None:
    """Pillow decodes them in a loop in Python; a short row costs as much as a full one."""
    row = b"\x01\x07\0\0"
    assert decode(packed_bmp(30, 20, row * 20 + b"\0\1")).image.size == (30, 20)
    for data in (packed_bmp(30_000, 2_900, row * 2_900), packed_bmp(30, 20, row * 2_000_000)):
        with pytest.raises(ImageTooLarge, match="a run-length encoded bitmap of"):
            decode(data)


def test_fill_bytes_inside_the_picture_are_bounded() -> None:
    """The decoder starts again at the first of them for each block of data that it is given."""
    decode(SMALL[:-2] + b"\xff" * 1000 + SMALL[-2:])
    with pytest.raises(UnreadableImage, match="more than 4,096 fill bytes"):
        decode(SMALL[:-2] + b"\xff" * 1_000_000 + SMALL[-2:])


def test_a_jpeg_of_too_many_scans_is_refused() -> None:
    assert decode(repeated_scans(50)).image.size == (600, 600)
    with pytest.raises(
        ImageTooLarge,
        match=r"scans of 600 x 600 pixels take too long to decode; .*not as a progressive",
    ):
        decode(repeated_scans(9_000))
    with pytest.raises(ImageTooLarge, match="more than 10,000 segments"):
        decode(repeated_scans(100_000))


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
    assert decode(start + b"".join(scans) + b"\xff\xd9").image.size == (64, 64)
    with pytest.raises(ImageTooLarge, match="2003 scans of 64 x 64"):
        decode(start + b"".join(scans) + scans[0] * 2000 + b"\xff\xd9")


@pytest.mark.parametrize("kind", [b"tEXt", b"zTXt", b"iCCP", b"eXIf", b"IDAT", b"abCd"])
def test_a_png_of_too_many_chunks_is_refused(kind: bytes) -> None:
    with pytest.raises(ImageTooLarge, match=r"more than [\d,]+ chunks in"):
        decode(with_png_chunks(png_chunk(kind, b"") * 300_000))


@pytest.mark.parametrize(
    "chunks",
    [
        png_chunk(b"tEXt", b"a\0b") * 900,
        png_chunk(b"zTXt", b"a\0\0" + zlib.compress(bytes(10**7))) * 50,
        png_chunk(b"iCCP", b"a\0\0" + zlib.compress(bytes(10**7))),
        png_chunk(b"acTL", b"\0\0\0\2\0\0\0\0") + png_chunk(b"fdAT", bytes(10**6)),
    ],
    ids=["text", "compressed text", "profile", "frames"],
)
def test_no_png_metadata_reaches_the_decoder(chunks: bytes) -> None:
    data = with_png_chunks(chunks)
    assert handed_on(data) == handed_on(with_png_chunks(b""))
    assert decode(data).image.size == (64, 64)


def test_gif_blocks_before_the_first_frame_are_bounded() -> None:
    data = encoded(picture("disc", 1), "GIF")
    comment = b"!\xfe\x01a\0"
    plain = decode(data).image.tobytes()
    assert decode(data[:781] + comment * 10_000 + data[781:]).image.tobytes() == plain
    for filling in (comment * 200_000, b"!\xfe" + b"\x01a" * 200_000 + b"\0", b"\0" * 200_000):
        with pytest.raises(ImageTooLarge, match="more than 100,000 blocks"):
            decode(data[:781] + filling + data[781:])


def test_a_gif_frame_larger_than_its_canvas_counts() -> None:
    data = bytearray(encoded(picture("disc", 1), "GIF"))
    at = data.index(b",", 781)
    data[at + 5 : at + 9] = b"\xff\xff\xff\xff"
    with pytest.raises(ImageTooLarge, match="65535 x 65535"):
        decode(bytes(data))


def test_webp_chunks_are_bounded_and_metadata_dropped() -> None:
    extended = (b"VP8X", b"\x2c\0\0\0" + CANVAS)
    frame = (b"VP8 ", WEBP[20:])
    exif = (b"EXIF", overlapping_tags(5000, 10**6))
    plain = decode(WEBP).image.tobytes()
    for chunks in ((extended, frame, exif), (extended, *((b"XXXX", b"a"),) * 5000, frame)):
        data = riff(*chunks)
        assert len(handed_on(data)) < len(WEBP) + 40
        assert decode(data).image.tobytes() == plain
    with pytest.raises(ImageTooLarge, match="more than 100,000 chunks"):
        decode(riff(extended, *((b"XXXX", b""),) * 200_000, frame))


def test_a_webp_canvas_is_checked_before_the_decoder_allocates_it() -> None:
    frame = (b"ANMF", bytes(6) + CANVAS + bytes(4) + WEBP[12:])
    header = (b"VP8X", b"\x02\0\0\0\xff\x3f\0\xff\x3f\0")
    with pytest.raises(ImageTooLarge, match="16384 x 16384"):
        decode(riff(header, (b"ANIM", bytes(6)), frame))


@pytest.mark.parametrize("kind", ["GIF", "WEBP", "PNG", "AVIF"])
def test_a_long_animation_costs_one_frame(kind: str) -> None:
    frames = [Image.new("RGB", (16, 16), colour) for colour in ("blue", "red") * 30]
    data = encoded(
        Image.new("RGB", (16, 16), "red"), kind, save_all=True, append_images=frames, duration=10
    )
    red, _, blue = decode(data).image.getpixel((8, 8))  # type: ignore[misc]
    assert red > 200 > blue


@pytest.mark.parametrize(
    ("data", "error", "message"),
    [
        (overlapping_tags(900, 10**6), UnreadableImage, "tags hold more than the whole file"),
        (overlapping_tags(30_000, 100), ImageTooLarge, "30,000 tags; a photo has at most 1,000"),
        (b"II*\0\xff\xff\xff\x7f" + bytes(99), UnreadableImage, "its tags lie outside it"),
        (b"II*\0", UnreadableImage, "truncated"),
    ],
)
def test_tiff_tags_are_bounded(data: bytes, error: type[ImageError], message: str) -> None:
    with pytest.raises(error, match=message):
        decode(data)


def test_tiff_tiles_count_like_pixels() -> None:
    data = deep_tiff(np.zeros((16, 16), np.uint16), (322, 60_000), (323, 60_000))
    with pytest.raises(ImageTooLarge, match=r"tiles of 3,600,000,000 pixels"):
        decode(data)


@pytest.mark.parametrize("kind", ["AVIF", "HEIC"])
@pytest.mark.filterwarnings("ignore")  # Pillow's, while it reads such a block to write it
def test_exif_in_avif_and_heic_does_not_reach_the_decoder(kind: str) -> None:
    exif = b"Exif\0\0" + overlapping_tags(20, 10_000)
    data = encoded(picture("disc", 1), kind, exif=exif)
    pi_heif.register_heif_opener()  # so that Pillow itself opens it, too
    with Image.open(io.BytesIO(data)) as careless, Image.open(io.BytesIO(handed_on(data))) as bare:
        assert careless.info.get("exif") and not bare.info.get("exif")
    assert decode(data).image.size == (96, 80)


def avif_with(box: bytes) -> bytes:
    return encoded(picture("disc", 1), "AVIF") + box


@pytest.mark.parametrize(
    ("box", "message"),
    [
        ((2**20 + 9).to_bytes(4, "big") + b"moov" + bytes(2**20 + 1), "its moov box has"),
        (b"\0\0\0\x1cmoov\0\0\0\x14stsz" + bytes(8) + b"\0\x20\0\0", "more than 10,000 frames"),
        (b"\0\0\0\x08free" * 200_000, "more than 100,000 boxes"),
    ],
)
def test_boxes_of_avif_are_bounded(box: bytes, message: str) -> None:
    with pytest.raises(ImageTooLarge, match=message):
        decode(avif_with(box))


@pytest.mark.parametrize(
    ("kind", "wrap"),
    [
        ("JPEG", lambda exif: with_jpeg_segments(segment(0xE1, b"Exif\0\0" + exif))),
        ("PNG", lambda exif: with_png_chunks(png_chunk(b"eXIf", exif))),
    ],
)
def test_tags_of_exif_are_not_read(kind: str, wrap: Callable[[bytes], bytes]) -> None:
    """Pillow would read the same 30 KB for each tag: 75 MB of a block of 64 KB."""
    data = wrap(overlapping_tags(2_500, 30_000))
    assert len(handed_on(data)) < 20_000
    assert decode(data).image.mode == "RGB"


@pytest.mark.parametrize("kind", ["WEBP", "AVIF", "HEIC"])
def test_formats_that_take_twice_the_memory_may_have_half_the_pixels(kind: str) -> None:
    data = encoded(picture("disc", 1, (100, 60)), kind)
    assert decode(data, max_pixels=12_000).width == 100
    with pytest.raises(
        ImageTooLarge, match=f"100 x 60 pixels are 6,000; the cap for {kind} is 5,999"
    ):
        decode(data, max_pixels=11_999)
    assert decode(encoded(picture("disc", 1, (100, 60)), "PNG"), max_pixels=6000).height == 60


def test_the_cap_is_the_callers() -> None:
    data = encoded(picture("disc", 1), "PNG")
    with pytest.raises(
        ImageTooLarge, match=r"96 x 80 pixels are 7,680; the cap is 1,000; shrink the photo"
    ):
        decode(data, max_pixels=1000)


def test_the_resizing_filter_is_small_for_the_longest_side() -> None:
    image = Image.open(io.BytesIO(thin_png(65_535, 1)))
    image.load()
    assert resize(image.convert("RGB"), ResizeRule(8)).shape == (8, 8, 3)


@pytest.mark.parametrize("comment", [b"#" + b"x" * 70_000 + b"\n", b"#x\n" * 30_000])
def test_the_header_of_a_pgm_is_bounded(comment: bytes) -> None:
    with pytest.raises(UnreadableImage, match="its header cannot be read"):
        decode(b"P5\n" + comment + b"10 10\n255\n" + bytes(100))


def test_numbers_of_a_ppm_as_text_are_bounded() -> None:
    with pytest.raises(ImageTooLarge, match="numbers written as text"):
        decode(b"P3\n5000 5000\n255\n" + b"1 " * 75_000_000)


@pytest.mark.parametrize(
    "data",
    [
        b"\x89PNG\r\n\x1a\n",
        b"BM" + bytes(12),
        b"RIFF\0\0\0\0WEBP",
        b"\0\0\0\x14ftypavif\0\0\0\0avif",
        with_png_chunks(b"").replace(b"\x08\x02\0\0\0", b"\x03\x02\0\0\0", 1),
    ],
)
def test_messages_about_headers_are_for_people(data: bytes) -> None:
    with pytest.raises(UnreadableImage) as caught:
        decode(data)
    assert "0x" not in str(caught.value) and not str(caught.value).endswith(": ")


def test_the_area_of_a_bitmap_is_checked_before_it_is_opened() -> None:
    data = bytearray(encoded(picture("disc", 1), "BMP"))
    data[18:26] = struct.pack("<ii", 400, -(2**31))
    with pytest.raises(ImageTooLarge, match="400 x 2147483648 pixels"):
        decode(bytes(data))


def test_libtiff_prints_nothing(capfd: pytest.CaptureFixture[str]) -> None:
    whole = encoded(picture("disc", 1), "TIFF", compression="tiff_deflate")
    damaged = bytearray(whole)
    damaged[20:60] = bytes(40)
    with pytest.raises(UnreadableImage):
        decode(bytes(damaged))
    assert capfd.readouterr() == ("", "")
