"""File structure checks before decoding, for every format whose files have parts.

Pillow reads metadata that a classifier has no use for, and some of it at a cost that grows with the
square of the file's size. Each function here walks one format's segments, chunks, boxes or tags in
linear time, bounds their number, and returns the picture without its metadata, so that the cost of
decoding follows from the header. `jpeg.py` holds the function for JPEG.
"""

from __future__ import annotations

import re
import struct
import zlib
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Final

import numpy as np

from tailorbird.errors import ImageTooLarge, UnreadableImage
from tailorbird.images.conversion import full_scale, scale_table

MOST_PARTS: Final = 100_000
"""Chunks, blocks or boxes a file may have: 100,000 of PNG's usual 8 KiB are 800 MB."""

_BYTES_PER_CHUNK: Final = 256  # of a PNG at least, on average, beyond the first thousand chunks

MOST_TAGS: Final = 1_000
"""Tags of a TIFF picture. Cameras and scanners write fewer than 100."""

MOST_TAG_VALUES: Final = 500_000
"""Numbers in all tags of a TIFF picture; most are positions of strips and tiles."""

MOST_BOX_BYTES: Final = 1 << 20
"""Bytes of the box that describes the items of an AVIF or HEIC file; phones write up to 50 KB."""

MOST_FRAMES: Final = 10_000
"""Frames of an AVIF sequence."""

MOST_PACKED_PIXELS: Final = 4_000_000
"""Pixels, and bytes, of a run-length encoded bitmap."""

MOST_NUMBERS: Final = 50_000_000
"""Numbers of a PPM or PGM written as text: 16 megapixels in colour, which take 400 MB."""

_MOST_PNM_HEADER: Final = 1 << 16  # bytes; headers have 20, with a comment 100

_MOST_PROFILE: Final = 1 << 20  # bytes of a decompressed text chunk that may hold an orientation


@dataclass(frozen=True)
class Container:
    """Properties of a file, known from its structure before anything is decoded.

    data: the picture without metadata, for the decoder.
    size: width and height in pixels from the header; None leaves them to the decoder.
    orientation: the EXIF orientation, 1 to 8; None leaves it to the decoder.
    one_scan: a JPEG that can be decoded at a fraction of its size without holding all of it.
    complete: False for a JPEG without its end marker.
    tile_pixels: pixels of the largest tile that the decoder has to hold.
    bits: significant bits per value of a 16-bit picture where the file says so.
    inverted: 0 is white.
    """

    data: bytes
    size: tuple[int, int] | None = None
    orientation: int | None = None
    one_scan: bool = False
    complete: bool = True
    tile_pixels: int = 0
    bits: int | None = None
    inverted: bool = False


def plain(data: bytes) -> Container:
    """Return a file that has no parts to check; the decoder reads its header."""
    return Container(data)


def orientation_of(exif: bytes, xmp: bytes = b"") -> int:
    """Return the orientation (1 to 8) that an EXIF block, or else an XMP packet, gives; 1 if none.

    Reads only the first directory (EXIF 2.32, 4.6.2). Pillow would read the values of all tags,
    which together may be thousands of times the size of the block.
    """
    exif = exif.removeprefix(b"Exif\0\0")
    order = {b"II*\0": "<", b"MM\0*": ">"}.get(exif[:4])
    if order:
        start = struct.unpack_from(f"{order}I", exif.ljust(8, b"\0"), 4)[0]
        count = struct.unpack(f"{order}H", exif[start : start + 2].ljust(2, b"\0"))[0]
        entries = exif[start + 2 : start + 2 + 12 * count]
        whole = entries[: len(entries) // 12 * 12]
        for tag, kind, _, value in struct.iter_unpack(f"{order}HHI4s", whole):
            if tag == 0x0112:
                long = kind == 4
                number = int(struct.unpack(order + ("I" if long else "H2x"), value)[0])
                return number if 1 <= number <= 8 else 1
    found = re.search(rb"tiff:Orientation(?:=[\"']|>)([1-8])", xmp)
    return int(found[1]) if found else 1


def joined(data: bytes, ranges: Iterable[tuple[int, int]]) -> bytes:
    """Return the bytes of `data` in the given (start, end) ranges, one after the other."""
    view = memoryview(data)
    return b"".join(view[start:end] for start, end in ranges)


def png(data: bytes) -> Container:
    """Keep the chunks of a PNG's picture; drop metadata and further frames of an animation."""
    kept = [(0, 8)]
    seen: dict[bytes, bytes] = {}
    texts: dict[bytes, bytes] = {}
    for kind, start, end in _png_chunks(data):
        body = data[start + 8 : end - 4] if kind in _PNG_READ else b""
        if kind in _PNG_TEXT:
            keyword, _, text = body[:_MOST_PROFILE].partition(b"\0")
            texts.setdefault(keyword, kind + text)
        elif kind in (b"PLTE", b"IDAT", b"IEND"):
            if kind == b"IDAT" and not _intact(data, start, end):  # Pillow does not look
                raise UnreadableImage("the file is truncated or damaged: a checksum is wrong")
            kept.append((start, end))
        elif kind not in seen and (
            kind == b"IHDR" or (kind in _PNG_READ and _intact(data, start, end))
        ):
            seen[kind] = body
            if kind in (b"IHDR", b"tRNS"):
                kept.append((start, end))
    header, bits = seen.get(b"IHDR", b""), seen.get(b"sBIT", b"")
    return Container(
        joined(data, kept),
        size=(_u32(header, 0), _u32(header, 4)) if len(header) == 13 else None,
        orientation=orientation_of(
            seen.get(b"eXIf") or _raw_profile(texts.get(b"Raw profile type exif", b"")),
            _text(texts.get(b"XML:com.adobe.xmp", b"")),
        ),
        bits=max(bits[:3]) if bits else None,
    )


_PNG_TEXT: Final = (b"tEXt", b"zTXt", b"iTXt")
_PNG_READ: Final = (b"IHDR", b"tRNS", b"sBIT", b"eXIf", *_PNG_TEXT)


def _png_chunks(data: bytes) -> Iterator[tuple[bytes, int, int]]:
    """Yield kind, start and end of each chunk; the last one may end beyond the file."""
    start, most = 8, min(MOST_PARTS, 1_000 + len(data) // _BYTES_PER_CHUNK)
    for _ in range(most):
        if start + 8 > len(data):
            return
        kind, end = data[start + 4 : start + 8], start + 12 + _u32(data, start)
        yield kind, start, end
        if kind == b"IEND":
            return
        start = end
    raise ImageTooLarge(f"more than {most:,} chunks in {len(data):,} bytes; save the photo again")


def _intact(data: bytes, start: int, end: int) -> bool:
    """Whether a chunk of a PNG is complete and has the right checksum."""
    return zlib.crc32(memoryview(data)[start + 4 : end - 4]) == _u32(data, end - 4)


def _text(chunk: bytes) -> bytes:
    """Return the text of a PNG text chunk, given its kind and what follows the keyword."""
    kind, body = chunk[:4], chunk[4:]
    compressed = kind == b"zTXt" or (kind == b"iTXt" and body[:1] == b"\1")
    if kind == b"zTXt":
        body = body[1:]
    elif kind == b"iTXt":
        body = body[2:].split(b"\0", 2)[-1]  # language, translated keyword, text
    if not compressed:
        return body
    try:
        return zlib.decompressobj().decompress(body, _MOST_PROFILE)
    except zlib.error:
        return b""


def _raw_profile(chunk: bytes) -> bytes:
    """Return the EXIF block that ImageMagick writes as hexadecimal text, after three lines."""
    try:
        return bytes.fromhex("".join(_text(chunk).decode("ascii").split("\n")[3:]))
    except ValueError:
        return b""


def bmp(data: bytes) -> Container:
    """Bound the pixels and bytes of a run-length encoded BMP, which Pillow decodes in Python."""
    header, width, height, compression = struct.unpack("<Iii4xI", data[14:34].ljust(20, b"\0"))
    size = width, abs(height)
    packed = header >= 40 and compression in (1, 2)
    if packed and (size[0] * size[1] > MOST_PACKED_PIXELS or len(data) > MOST_PACKED_PIXELS):
        raise ImageTooLarge(
            f"a run-length encoded bitmap of {size[0]} x {size[1]} pixels in {len(data):,} bytes; "
            f"at most {MOST_PACKED_PIXELS:,} of each are read; save it as PNG"
        )
    return Container(data, size=size if header >= 40 else None)


def gif(data: bytes) -> Container:
    """Drop the extension blocks before the first frame of a GIF (GIF89a, sections 18 to 26)."""
    start = 13 + _colours(data[10:11])
    kept = [(0, start)]
    control: tuple[int, int] | None = None
    blocks = 0
    while start < len(data) and data[start : start + 1] not in (b",", b";"):
        block = start
        start += 1
        if data[block] == 0x21:  # an extension: its label, then sub-blocks up to an empty one
            start += 1
            while start < len(data) and data[start] and blocks <= MOST_PARTS:
                start += 1 + data[start]
                blocks += 1
            start += 1
            if data[block + 1 : block + 2] == b"\xf9":
                control = (block, start)
        blocks += 1
        if blocks > MOST_PARTS:
            raise ImageTooLarge(f"more than {MOST_PARTS:,} blocks before the first frame")
    if control:
        kept.append(control)
    kept.append((start, len(data)))
    if len(data) < start + 9 or data[start] != 0x2C:
        raise UnreadableImage("the file is truncated: it has no frame")
    canvas = struct.unpack_from("<HH", data, 6)
    left, top, width, height = struct.unpack_from("<HHHH", data, start + 1)
    return Container(
        joined(data, kept),
        size=(max(canvas[0], left + width), max(canvas[1], top + height)),
        orientation=1,
    )


def _colours(flags: bytes) -> int:
    """Return the size of a GIF's colour table in bytes."""
    return 3 << ((flags[0] & 7) + 1) if flags and flags[0] & 0x80 else 0


def webp(data: bytes) -> Container:
    """Keep the chunks of a WebP that make its first frame."""
    kept: dict[bytes, tuple[int, int]] = {}
    meta: dict[bytes, bytes] = {}
    start = 12
    for _ in range(MOST_PARTS):
        kind, length = data[start : start + 4], _u32(data, start + 4, "little")
        end = start + 8 + length + length % 2
        if start + 8 > len(data):
            break
        if kind in (b"EXIF", b"XMP "):
            meta.setdefault(kind, data[start + 8 : start + 8 + length])
        elif kind in (b"VP8X", b"ANIM", b"ANMF", b"ALPH", b"VP8 ", b"VP8L"):
            kept.setdefault(kind, (start, end))
        start = end
    else:
        raise ImageTooLarge(f"more than {MOST_PARTS:,} chunks; save the photo again")
    body = bytearray(joined(data, kept.values()))
    body += bytes(len(body) % 2)
    if kept and max(end for _, end in kept.values()) > len(data) + 1:
        raise UnreadableImage("the file is truncated")
    if body[:4] == b"VP8X":
        body[8] &= 0xFF - 0x2C  # the flags of the colour profile, EXIF and XMP
    return Container(
        b"RIFF" + struct.pack("<I", 4 + len(body)) + b"WEBP" + bytes(body),
        size=_webp_size(bytes(body[:30])),
        orientation=orientation_of(meta.get(b"EXIF", b""), meta.get(b"XMP ", b"")),
    )


def _webp_size(head: bytes) -> tuple[int, int] | None:
    """Return the canvas of a WebP from its first chunk (RFC 9649, sections 2.5 to 2.7)."""
    kind = head[:4].ljust(4)
    if len(head) < 18:
        return None
    if kind == b"VP8X":
        return 1 + int.from_bytes(head[12:15], "little"), 1 + int.from_bytes(head[15:18], "little")
    if kind == b"VP8L":
        bits = _u32(head, 9, "little")
        return 1 + (bits & 0x3FFF), 1 + (bits >> 14 & 0x3FFF)
    width, height = struct.unpack_from("<HH", head, 14)
    return width & 0x3FFF, height & 0x3FFF


def tiff(data: bytes) -> Container:
    """Bound the tags of a TIFF's first picture (TIFF 6.0, section 2; BigTIFF)."""
    tags = _tiff_tags(data)
    tile = tags.get(322, 0) * tags.get(323, 0)
    most = tags.get(281, 0)  # MaxSampleValue
    return Container(
        data,
        size=(tags.get(256, 0), tags.get(257, 0)),
        tile_pixels=tile,
        bits=most.bit_length() if most else tags.get(258),
        inverted=tags.get(262) == 0,
    )


_TIFF_SIZES: Final = (0, 1, 1, 2, 4, 8, 1, 1, 2, 4, 8, 4, 8, 4, 0, 0, 8, 8, 8)
"""Bytes of a value of each type, by its number."""
_TIFF_NUMBERS: Final = {3: "H", 4: "I", 16: "Q"}


def _tiff_tags(data: bytes) -> dict[int, int]:
    """Return the first value of each tag that holds whole numbers.

    Raises UnreadableImage where tags hold more than the file, so that they overlap; ImageTooLarge
    for more tags or values than a photo has.
    """
    order = "<" if data[:1] == b"I" else ">"
    big = 43 in data[2:4]
    entry, count_format = (20, "Q") if big else (12, "H")
    number = "Q" if big else "I"
    tags: dict[int, int] = {}
    total = values = 0
    try:
        (start,) = struct.unpack_from(order + number, data, 8 if big else 4)
        (count,) = struct.unpack_from(order + count_format, data, start)
        if count > MOST_TAGS:
            raise ImageTooLarge(f"{count:,} tags; a photo has at most {MOST_TAGS:,}")
        start += struct.calcsize(count_format)
        for at in range(start, start + count * entry, entry):
            tag, kind, length = struct.unpack_from(f"{order}HH{number}", data, at)
            size = length * (_TIFF_SIZES[kind] if kind < len(_TIFF_SIZES) else 0)
            total += size
            values += length if kind not in (1, 2, 6, 7) else 0
            place = at + entry - (8 if big else 4)
            if size > (8 if big else 4):
                (place,) = struct.unpack_from(order + number, data, place)
            if kind in _TIFF_NUMBERS and length:
                tags[tag] = int(struct.unpack_from(order + _TIFF_NUMBERS[kind], data, place)[0])
    except (struct.error, OverflowError):
        raise UnreadableImage("the file is truncated or damaged: its tags lie outside it") from None
    if total > len(data):
        raise UnreadableImage("the file is damaged: its tags hold more than the whole file")
    if values > MOST_TAG_VALUES:
        raise ImageTooLarge(f"{values:,} values in tags; a photo has at most {MOST_TAG_VALUES:,}")
    return tags


def iso_media(data: bytes) -> Container:
    """Bound the boxes of an AVIF or HEIC file and hide its EXIF block (ISO 14496-12).

    These formats rotate by properties of the item, and readers ignore the EXIF orientation
    (ISO 23008-12, 6.5.10).
    """
    start, done = 0, 0
    parts: list[bytes] = []
    for _ in range(MOST_PARTS):
        if start + 8 > len(data):
            break
        kind, length = data[start + 4 : start + 8], _u32(data, start)
        if length == 1:
            length = int.from_bytes(data[start + 8 : start + 16], "big")
        end = start + length if length >= 8 else len(data)
        if kind in (b"meta", b"moov"):
            if end - start > MOST_BOX_BYTES:
                raise ImageTooLarge(
                    f"its {kind.decode()} box has {end - start:,} bytes; "
                    f"at most {MOST_BOX_BYTES:,} are read"
                )
            box = data[start:end]
            if any(_u32(sizes[1], 0) > MOST_FRAMES for sizes in _SAMPLE_SIZES.finditer(box)):
                raise ImageTooLarge(f"more than {MOST_FRAMES:,} frames")
            parts += [data[done:start], _EXIF_ITEM.sub(rb"\1skip", box)]
            done = end
        start = end
    else:
        raise ImageTooLarge(f"more than {MOST_PARTS:,} boxes")
    return Container(b"".join((*parts, data[done:])))


# Version, flags, identifier and protection of an item, then its type.
_EXIF_ITEM: Final = re.compile(rb"(infe(?:\x02.{3}.{4}|\x03.{3}.{6}))Exif", re.DOTALL)
_SAMPLE_SIZES: Final = re.compile(rb"stsz.{8}(.{4})", re.DOTALL)

_GAP: Final = rb"(?:\s|#[^\r\n]*[\r\n])+"
_PNM: Final = re.compile(
    rb"P([2356])" + _GAP + rb"(\d{1,9})" + _GAP + rb"(\d{1,9})" + _GAP + rb"(\d{1,5})\s"
)


def pnm(data: bytes) -> Container:
    """Rewrite a PPM or PGM as one of 8 bits, which Pillow reads without a loop in Python."""
    header = _PNM.match(data, 0, _MOST_PNM_HEADER)
    if not header or not 0 < (most := int(header[4])) < 65536:
        raise UnreadableImage("the file is damaged: its header cannot be read")
    kind, (width, height) = header[1], (int(header[2]), int(header[3]))
    if kind in b"56" and most == 255:
        return Container(data, size=(width, height), orientation=1)
    count = width * height * (3 if kind in b"36" else 1)
    body = memoryview(data)[header.end() :]
    # A value takes two characters, or one or two bytes: a file cannot announce more than it has.
    least = count * 2 - 1 if kind in b"23" else count * (2 if most > 255 else 1)
    if least > len(body):
        raise UnreadableImage("the file is truncated")
    if kind in b"23":
        if count > MOST_NUMBERS:
            raise ImageTooLarge(
                f"{count:,} numbers written as text; at most {MOST_NUMBERS:,} are read; "
                "save it as PNG"
            )
        text = re.sub(rb"#[^\r\n]*", b"", body)
        numbers = np.fromstring(text, np.int64, count, sep=" ")
        if len(numbers) < count or numbers.min() < 0 or numbers.max() > most:
            raise UnreadableImage("the file is truncated or damaged")
        values = numbers.astype(np.uint16)
    else:
        values = np.frombuffer(body, ">u2" if most > 255 else np.uint8, count)
        values = values.astype(np.uint16).clip(max=most)
    white = most if most < 65535 else full_scale(int(values.max()), None)
    start = b"P%d %d %d 255\n" % (6 if kind in b"36" else 5, width, height)
    return Container(
        start + scale_table(white)[values].tobytes(), size=(width, height), orientation=1
    )


def _u32(data: bytes, at: int, order: str = "big") -> int:
    return int.from_bytes(data[at : at + 4], "big" if order == "big" else "little")
