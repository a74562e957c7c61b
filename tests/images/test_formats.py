"""The table of formats, and that every row with a decoder is read."""

from __future__ import annotations

import numpy as np
import pytest
from PIL import Image

from support.data import encoded, picture
from tailorbird.errors import UnreadableImage, UnsupportedImage
from tailorbird.images import (
    ACCEPTED,
    EXTENSIONS,
    FORMATS,
    SERVED,
    SERVED_MEDIA_TYPES,
    decode,
    formats,
    identify,
    starts_like_a_photo,
)


@pytest.mark.parametrize("kind", [kind for kind in ACCEPTED if kind != "GIF"])
def test_accepted_formats_decode_to_the_same_picture(kind: str) -> None:
    image = picture("disc", 1).resize((48, 40), Image.Resampling.BILINEAR)
    found = decode(encoded(image, kind)).image
    assert found.mode == "RGB" and found.size == (48, 40)
    assert np.abs(np.asarray(found, int) - np.asarray(image, int)).mean() < 6


@pytest.mark.parametrize("kind", ACCEPTED)
def test_every_accepted_format_is_identified_by_its_content(kind: str) -> None:
    data = encoded(picture("box", 1), kind)
    row = identify(data)
    assert row is not None and row.name == kind and starts_like_a_photo(data[:16])
    assert row.suffixes and set(row.suffixes) <= EXTENSIONS and row.media_types


@pytest.mark.parametrize("kind", ACCEPTED)
@pytest.mark.parametrize("share", [0.03, 0.3, 0.6, 0.9])
def test_truncated_files_are_refused(kind: str, share: float) -> None:
    data = encoded(picture("cross", 5, (200, 160)), kind)
    with pytest.raises((UnreadableImage, UnsupportedImage)):
        decode(data[: int(len(data) * share)])


def test_the_service_accepts_fewer_formats() -> None:
    assert set(SERVED) < set(ACCEPTED)
    assert {"JPEG", "PNG", "WEBP", "GIF", "BMP"} <= set(SERVED)
    assert {"TIFF", "PPM"} <= set(ACCEPTED) - set(SERVED)
    assert len(SERVED_MEDIA_TYPES) == len(SERVED) and "image/jpeg" in SERVED_MEDIA_TYPES
    tiff = encoded(picture("box", 1), "TIFF")
    with pytest.raises(UnsupportedImage, match=r"TIFF is not accepted; accepted are JPEG, PNG"):
        decode(tiff, accepted=SERVED)


def test_formats_are_unambiguous() -> None:
    assert len({row.name for row in FORMATS}) == len(FORMATS)
    suffixes = [suffix for row in FORMATS for suffix in row.suffixes]
    assert len(set(suffixes)) == len(suffixes)


@pytest.mark.parametrize(
    ("head", "name"),
    [
        (b"\0\0\0\x18ftypmif1\0\0\0\0mif1heic", "HEIC"),
        (b"\0\0\0\x1cftypmif1\0\0\0\0mif1avifmiaf", "AVIF"),
        (b"\0\0\0\x14ftypmif1\0\0\0\0mif1", "HEIF"),
        (b"\0\0\0\x18ftypmp42\0\0\0\0isommp42", "MP4 video"),
        (b"RIFF\0\0\0\0WAVEfmt ", None),
        (b"BM or not BM, that is", "text"),
        (b"P5 is a postcode", "PPM"),
        (b"P500 watts", "text"),
        (b"", None),
    ],
)
def test_formats_that_share_their_first_bytes_are_told_apart(head: bytes, name: str | None) -> None:
    row = identify(head)
    assert (row.name if row else None) == name


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"<svg xmlns='http://www.w3.org/2000/svg'/>", "SVG is not accepted.*export it as PNG"),
        (b'<?xml version="1.0"?>\n<svg/>', "SVG is not accepted"),
        (b"%PDF-1.7 ...", "PDF is not accepted"),
        (b"8BPS" + bytes(40), r"Photoshop \(PSD\) is not accepted.*export it as PNG"),
        (b"\0\0\0\x18ftypmif1" + bytes(40), "HEIF is not accepted.*export it as JPEG"),
        (b"<!doctype html><html>", "HTML page is not accepted.*download the photo itself"),
        (b"just words", "text is not accepted; accepted are JPEG, PNG"),
        (b"PK\3\4" + bytes(40), "ZIP archive is not accepted"),
        (bytes(range(256)), "not an image of a known format; accepted are JPEG"),
    ],
)
def test_refusals_name_the_format_and_what_to_do(data: bytes, message: str) -> None:
    with pytest.raises(UnsupportedImage, match=message):
        decode(data)


def test_heic_without_its_extra_names_the_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(formats, "find_spec", lambda name: None)
    heic = b"\0\0\0\x18ftypheic\0\0\0\0mif1heic" + bytes(40)
    with pytest.raises(UnsupportedImage, match=r"HEIC is not accepted.*\[heic\]"):
        decode(heic)
    with pytest.raises(UnsupportedImage, match=r"export it as JPEG \(on an iPhone: [^)]*\)$"):
        decode(heic, accepted=SERVED)
