"""PNG and TIFF files of 16 bits per value, written byte by byte."""

from __future__ import annotations

import struct
import zlib

import numpy as np
import numpy.typing as npt

from support.hostile_images import PNG_START, png_chunk, png_header

Array = npt.NDArray[np.uint16]


def deep_png(values: Array, *, significant: bytes = b"") -> bytes:
    """A PNG of 16 bits: grey of (H, W), RGB of (H, W, 3), RGBA of (H, W, 4)."""
    height, width = values.shape[:2]
    colour = {1: 0, 3: 2, 4: 6}[1 if values.ndim == 2 else values.shape[2]]
    rows = values.astype(">u2").reshape(height, -1).view(np.uint8)
    filtered = np.concatenate([np.zeros((height, 1), np.uint8), rows], axis=1).tobytes()
    return b"".join(
        (
            PNG_START,
            png_header(width, height, 16, colour),
            png_chunk(b"sBIT", significant) if significant else b"",
            png_chunk(b"IDAT", zlib.compress(filtered)),
            png_chunk(b"IEND", b""),
        )
    )


def deep_tiff(values: Array, *tags: tuple[int, int], bits: int = 16, order: str = "<") -> bytes:
    """An uncompressed TIFF of 16 bits, grey or RGB, with further tags of one LONG each."""
    height, width = values.shape[:2]
    bands = 1 if values.ndim == 2 else 3
    pixels = values.astype(order + "u2").tobytes()
    mark = b"II*\0" if order == "<" else b"MM\0*"
    start = len(mark) + 4
    after = start + len(pixels)
    depths = struct.pack(order + "HHH", bits, bits, bits)
    fields = [
        (256, 4, 1, width),
        (257, 4, 1, height),
        (258, 3, bands, after if bands == 3 else None),
        (259, 4, 1, 1),
        (262, 4, 1, 2 if bands == 3 else 1),
        (273, 4, 1, start),
        (277, 4, 1, bands),
        (278, 4, 1, height),
        (279, 4, 1, len(pixels)),
    ]
    chosen = {tag: (tag, kind, count, value) for tag, kind, count, value in fields}
    chosen.update({tag: (tag, 4, 1, value) for tag, value in tags})
    directory = struct.pack(order + "H", len(chosen))
    for tag, kind, count, value in sorted(chosen.values()):
        directory += struct.pack(order + "HHI", tag, kind, count)
        directory += (
            struct.pack(order + "HH", bits, 0) if value is None else struct.pack(order + "I", value)
        )
    ifd = after + len(depths)
    return mark + struct.pack(order + "I", ifd) + pixels + depths + directory + bytes(4)
