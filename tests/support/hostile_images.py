"""Small files that cost a careless decoder much time or memory, and parts to make them of."""

from __future__ import annotations

import struct
import zlib

from PIL import Image

from support.data import encoded, picture

PNG_START = b"\x89PNG\r\n\x1a\n"


def png_chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def png_header(width: int, height: int, bits: int = 8, colour: int = 2) -> bytes:
    return png_chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, bits, colour, 0, 0, 0))


def bomb(width: int = 100_000, height: int = 100_000) -> bytes:
    """A PNG of a few bytes whose header announces width x height pixels."""
    pixels = png_chunk(b"IDAT", zlib.compress(b"\0" * 100))
    return PNG_START + png_header(width, height) + pixels + png_chunk(b"IEND", b"")


def thin_png(width: int, height: int, *, deep: bool = False) -> bytes:
    """A complete grey PNG of any shape, of 8 or 16 bits, that compresses to next to nothing."""
    packer = zlib.compressobj(9)
    row = bytes(1 + width * (2 if deep else 1))
    rows = max(1, 2**20 // len(row))
    packed = [packer.compress(row * min(rows, height - at)) for at in range(0, height, rows)]
    header = png_header(width, height, 16 if deep else 8, 0)
    data = b"".join((*packed, packer.flush()))
    return PNG_START + header + png_chunk(b"IDAT", data) + png_chunk(b"IEND", b"")


def with_png_chunks(chunks: bytes, *, before: bytes = b"IDAT", size: int = 64) -> bytes:
    """A PNG with more chunks before the first one of a kind."""
    data = encoded(picture("disc", 1, (size, size)), "PNG")
    at = data.index(before) - 4
    return data[:at] + chunks + data[at:]


def segment(marker: int, body: bytes = b"") -> bytes:
    return bytes([0xFF, marker]) + struct.pack(">H", 2 + len(body)) + body


def with_jpeg_segments(segments: bytes, **options: object) -> bytes:
    """A JPEG with more segments behind its first marker."""
    data = encoded(picture("disc", 1), "JPEG", **options)
    return data[:2] + segments + data[2:]


def repeated_scans(times: int, size: tuple[int, int] = (600, 600)) -> bytes:
    """A progressive JPEG whose last scan of 14 bytes occurs many times.

    A small file for which a decoder visits the whole picture as often.
    """
    data = encoded(Image.new("RGB", size, (200, 30, 60)), "JPEG", progressive=True)
    last = data[data.rfind(b"\xff\xda") : -2]
    return data[:-2] + last * times + data[-2:]


def riff(*chunks: tuple[bytes, bytes]) -> bytes:
    body = b"".join(
        kind + struct.pack("<I", len(data)) + data + bytes(len(data) % 2) for kind, data in chunks
    )
    return b"RIFF" + struct.pack("<I", 4 + len(body)) + b"WEBP" + body


def overlapping_tags(count: int, size: int) -> bytes:
    """An EXIF block, or the start of a TIFF, whose tags all hold the same `size` bytes."""
    end = 8 + 2 + 12 * count + 4
    entries = b"".join(struct.pack("<HHII", 0x8000 + n, 7, size, end) for n in range(count))
    return b"II*\0" + struct.pack("<IH", 8, count) + entries + bytes(4 + size)
