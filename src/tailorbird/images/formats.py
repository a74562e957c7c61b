"""The table of image formats: how each is recognised, who accepts it and what it costs to decode.

Decoding, corrections, `predict`, the dataset layout and the API document all read FORMATS. To add a
format, add one row here and one test.
"""

from __future__ import annotations

import contextlib
import ctypes
from collections.abc import Callable
from dataclasses import dataclass
from importlib.util import find_spec
from typing import Final

from PIL import _imaging, features

from tailorbird.images.containers import Container, bmp, gif, iso_media, plain, png, pnm, tiff, webp
from tailorbird.images.jpeg import jpeg

Signature = tuple[tuple[int, bytes], ...]
"""Pairs of offset and bytes that must all be found in a file's first bytes."""

HEAD: Final = 4096
"""Bytes of a file that are enough to identify its format."""


def _at(offset: int, *alternatives: bytes) -> tuple[Signature, ...]:
    return tuple(((offset, bytes_),) for bytes_ in alternatives)


def _always() -> bool:
    return True


def _silence_libtiff() -> None:
    """Keep libtiff from printing its errors; Pillow raises them as exceptions too.

    A handle of Pillow's own module finds the symbols of the libraries it was linked with. Where
    libtiff is linked statically (Windows), its messages stay.
    """
    with contextlib.suppress(OSError, AttributeError):
        ctypes.CDLL(_imaging.__file__).TIFFSetErrorHandler(None)


def _register_heif() -> None:
    from pi_heif import register_heif_opener

    register_heif_opener()


@dataclass(frozen=True)
class Format:
    """One row of the table.

    name: shown in messages and in the service's `accepts`.
    signatures: alternatives; a file that matches one of them has this format.
    brands: major or compatible brands of an ISO base media file (its `ftyp` box).
    pillow: the name of Pillow's decoder; None for formats that are only recognised, to be refused.
    suffixes: file name endings, the preferred one first.
    media_types: MIME types, the preferred one first.
    served: the service accepts it; training and prediction accept every format with a decoder.
    pixel_cost: memory that decoding takes per pixel, in multiples of what JPEG and PNG take (6 to
        12 bytes); the pixel cap is divided by it.
    visual: shows something (a picture, a video, a page), as opposed to text, archives and programs.
    hint: what to do with a file that is not accepted.
    inspect: checks a file's structure before decoding and drops its metadata.
    available: whether the decoder is installed. extra: the extra of tailorbird that installs it.
    prepare: sets up the decoder before it is used.
    """

    name: str
    signatures: tuple[Signature, ...] = ()
    brands: tuple[bytes, ...] = ()
    pillow: str | None = None
    suffixes: tuple[str, ...] = ()
    media_types: tuple[str, ...] = ()
    served: bool = False
    pixel_cost: int = 1
    visual: bool = True
    hint: str = ""
    inspect: Callable[[bytes], Container] = plain
    available: Callable[[], bool] = _always
    extra: str = ""
    prepare: Callable[[], None] | None = None

    @property
    def accepted(self) -> bool:
        """Whether training and prediction read this format with what is installed."""
        return self.pillow is not None and self.available()

    def matches(self, head: bytes) -> bool:
        """Whether a file that starts with `head` has this format."""
        return any(
            all(head[offset : offset + len(part)] == part for offset, part in signature)
            for signature in self.signatures
        ) or not _brands(head).isdisjoint(self.brands)


FORMATS: Final = (
    Format(
        "JPEG",
        _at(0, b"\xff\xd8\xff"),
        pillow="JPEG",
        inspect=jpeg,
        suffixes=(".jpg", ".jpeg", ".jpe", ".jfif"),
        media_types=("image/jpeg",),
        served=True,
    ),
    Format(
        "PNG",
        _at(0, b"\x89PNG\r\n\x1a\n"),
        pillow="PNG",
        inspect=png,
        suffixes=(".png",),
        media_types=("image/png",),
        served=True,
    ),
    Format(
        "WEBP",
        (((0, b"RIFF"), (8, b"WEBP")),),
        pillow="WEBP",
        inspect=webp,
        suffixes=(".webp",),
        media_types=("image/webp",),
        served=True,
        pixel_cost=2,
    ),
    Format(
        "GIF",
        _at(0, b"GIF87a", b"GIF89a"),
        pillow="GIF",
        inspect=gif,
        suffixes=(".gif",),
        media_types=("image/gif",),
        served=True,
    ),
    Format(
        "BMP",
        # "BM" alone may begin a file's name in a list; the reserved bytes of a bitmap are zero.
        (((0, b"BM"), (6, bytes(4))),),
        pillow="BMP",
        inspect=bmp,
        suffixes=(".bmp", ".dib"),
        media_types=("image/bmp",),
        served=True,
    ),
    Format(
        "AVIF",
        brands=(b"avif", b"avis"),
        pillow="AVIF",
        inspect=iso_media,
        suffixes=(".avif",),
        media_types=("image/avif",),
        served=True,
        pixel_cost=2,
        available=lambda: bool(features.check("avif")),
    ),
    Format(
        "TIFF",
        _at(0, b"II*\0", b"MM\0*", b"II+\0", b"MM\0+"),
        pillow="TIFF",
        inspect=tiff,
        prepare=_silence_libtiff,
        suffixes=(".tif", ".tiff"),
        media_types=("image/tiff",),
        hint="export it as PNG or JPEG",
    ),
    Format(
        "PPM",
        tuple(
            ((0, kind + space),)
            for kind in (b"P2", b"P3", b"P5", b"P6")
            for space in (b"\n", b" ", b"\t", b"\r")
        ),
        pillow="PPM",
        inspect=pnm,
        suffixes=(".ppm", ".pgm", ".pnm"),
        media_types=("image/x-portable-anymap",),
        hint="export it as PNG",
    ),
    Format(
        "HEIC",
        brands=(b"heic", b"heix", b"heim", b"heis", b"hevc", b"hevx"),
        pillow="HEIF",
        inspect=iso_media,
        suffixes=(".heic", ".heif", ".hif"),
        media_types=("image/heic", "image/heif"),
        pixel_cost=2,
        hint="export it as JPEG (on an iPhone: Settings, Camera, Formats, Most Compatible)",
        available=lambda: find_spec("pi_heif") is not None,
        extra="heic",
        prepare=_register_heif,
    ),
    # Formats that are recognised so that the refusal can name them.
    Format("HEIF", brands=(b"mif1", b"msf1"), hint="export it as JPEG"),
    Format(
        "PBM, PAM or PFM",
        tuple(
            ((0, kind + space),)
            for kind in (b"P1", b"P4", b"P7", b"Pf", b"PF")
            for space in (b"\n", b" ", b"\t", b"\r")
        ),
        hint="export it as PNG",
    ),
    Format("JPEG XL", (*_at(0, b"\xff\x0a"), *_at(0, b"\0\0\0\x0cJXL "))),
    Format("JPEG 2000", _at(0, b"\0\0\0\x0cjP  ")),
    Format("MP4 video", _at(4, b"ftyp"), hint="save a frame of it as JPEG"),
    Format("WebM video", _at(0, b"\x1aE\xdf\xa3"), hint="save a frame of it as JPEG"),
    Format("PDF", _at(0, b"%PDF"), hint="export the page as PNG or JPEG"),
    Format("Photoshop (PSD)", _at(0, b"8BPS"), hint="export it as PNG or JPEG"),
    Format("icon (ICO)", _at(0, b"\0\0\1\0")),
    Format("QOI", _at(0, b"qoif")),
    Format("SVG", hint="export it as PNG"),  # recognised by its text, as are XML and HTML
    Format("XML", visual=False),
    Format(
        "HTML page",
        visual=False,
        hint="this is a web page saved in place of the photo; download the photo itself",
    ),
    Format("ZIP archive", _at(0, b"PK\3\4"), visual=False),
    Format("gzip archive", _at(0, b"\x1f\x8b"), visual=False),
    Format("program", _at(0, b"\x7fELF"), visual=False),
    Format("script", _at(0, b"#!"), visual=False),
    Format("text", visual=False),
)

_BY_NAME: Final = {row.name: row for row in FORMATS}

ACCEPTED: Final = tuple(row.name for row in FORMATS if row.accepted)
"""Names of the formats that training and prediction read, decided by content, not by file name."""

SERVED: Final = tuple(row.name for row in FORMATS if row.accepted and row.served)
"""Names of the formats that the service accepts."""

EXTENSIONS: Final = frozenset(suffix for row in FORMATS for suffix in row.suffixes)
"""File name endings of photos; files with other names are opened too and judged by content."""

SERVED_MEDIA_TYPES: Final = tuple(row.media_types[0] for row in FORMATS if row.name in SERVED)
"""The MIME type of each format that the service accepts."""


def identify(head: bytes) -> Format | None:
    """Return the format of a file, judged by its first bytes (HEAD of them are enough).

    Returns None for an empty file and for bytes of no known format.
    """
    for row in FORMATS:
        if row.matches(head):
            return row
    name = _text_format(head[:HEAD])
    return _BY_NAME[name] if name else None


def starts_like_a_photo(head: bytes) -> bool:
    """Whether a file's first 16 bytes are those of a picture, accepted or not, or of a document.

    False for text, which may be a list of file names.
    """
    row = identify(head)
    return row is not None and row.name not in ("text", "script")


def _brands(head: bytes) -> frozenset[bytes]:
    """Return the brands that an ISO base media file names, empty for any other file."""
    if head[4:8] != b"ftyp":
        return frozenset()
    end = min(int.from_bytes(head[:4], "big"), len(head), HEAD)
    compatible = (head[start : start + 4] for start in range(16, end - 3, 4))
    return frozenset((head[8:12], *compatible))


def _text_format(head: bytes) -> str | None:
    start = head.lstrip(b"\xef\xbb\xbf \t\r\n")[:512].lower()
    if start.startswith((b"<svg", b"<?xml", b"<!doctype svg")):
        return "SVG" if b"<svg" in head.lower() or start.startswith(b"<!doctype svg") else "XML"
    if start.startswith((b"<!doctype html", b"<html")):
        return "HTML page"
    if head and all(byte in b"\t\r\n\f\x1b" or byte >= 32 for byte in head[:512]):
        return "text"
    return None
