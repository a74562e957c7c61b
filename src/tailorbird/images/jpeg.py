"""JPEG file structure: walk the markers, drop the metadata, find the picture's own end.

Source: ITU-T T.81 (JPEG), annex B.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Final

from tailorbird.errors import ImageTooLarge, UnreadableImage
from tailorbird.images.containers import Container, joined, orientation_of

MOST_SEGMENTS: Final = 10_000
"""Segments of all kinds up to the end of the picture. Extended XMP of 30 MB takes 500."""

MOST_HEADER_BYTES: Final = 1 << 16
"""Bytes of tables before the first scan, which Pillow reads in Python; encoders write 1 KB."""

MOST_FILL_BYTES: Final = 4096
"""Consecutive fill bytes (0xFF) inside the picture; encoders write one or none."""

MOST_SCAN_PIXELS: Final = 1_500_000_000
"""Scans times pixels of a JPEG with several scans: 30 scans of 50 megapixels.

Progressive photos have about ten scans. A file of a few kilobytes can have thousands, and the
decoder visits the whole picture for each of them.
"""

_SOF: Final = frozenset(range(0xC0, 0xD0)) - {0xC4, 0xC8, 0xCC}
_SEQUENTIAL: Final = frozenset({0xC0, 0xC1})
_SOS, _EOI, _APP0, _APP1, _APP14, _COMMENT = 0xDA, 0xD9, 0xE0, 0xE1, 0xEE, 0xFE
_XMP: Final = b"http://ns.adobe.com/xap/1.0/\0"

# A marker with a length, or EOI. Stuffed zeros, fill bytes, SOI and restart markers are skipped.
# No repetition in the pattern, so that the search is linear.
_MARKER: Final = re.compile(rb"\xff([\xc0-\xcf\xd9-\xfe])")


@dataclass
class _Parts:
    """What the segments of a JPEG say; positions are offsets into the file."""

    end: int
    complete: bool = False
    first_scan: int = 0
    header: list[tuple[int, int]] = field(default_factory=lambda: [(0, 2)])
    frame: tuple[int, bytes] = (0, b"")
    scans: list[bytes] = field(default_factory=list)
    exif: bytes = b""
    xmp: bytes = b""


def jpeg(data: bytes) -> Container:
    """Keep the segments of a JPEG that make the picture, up to its own end.

    What follows it (the video of a motion photo, the gain map of an Ultra HDR photo) is dropped.

    Raises ImageTooLarge for more segments, scans or fill bytes than a photo has; UnreadableImage
    for a file that ends before its last scan.
    """
    parts = _parts(data)
    kind, frame = parts.frame
    if len(frame) < 6 or not parts.scans:
        raise UnreadableImage("the file is damaged or truncated: its header cannot be read")
    if sum(stop - start for start, stop in parts.header) > MOST_HEADER_BYTES:
        raise ImageTooLarge(f"more than {MOST_HEADER_BYTES:,} bytes of tables; save it again")
    if data.find(b"\xff" * MOST_FILL_BYTES, parts.first_scan, parts.end) >= 0:
        raise UnreadableImage(f"the file is damaged: more than {MOST_FILL_BYTES:,} fill bytes")
    height, width = int.from_bytes(frame[1:3], "big"), int.from_bytes(frame[3:5], "big")
    components = frame[5]
    one_scan = kind in _SEQUENTIAL and parts.scans[0][:1] >= bytes([components])
    _check_scans(1 if one_scan else len(parts.scans), width, height)
    if not parts.complete and not (one_scan or _all_coefficients(parts.scans, components)):
        raise UnreadableImage("the file is truncated: its last scans are missing")
    return Container(
        joined(data, [*parts.header, (parts.first_scan, parts.end)]),
        size=(width, height),
        orientation=orientation_of(parts.exif, parts.xmp),
        one_scan=one_scan,
        complete=parts.complete,
    )


def _parts(data: bytes) -> _Parts:
    # A trailing 0xFF is half of an end marker or of a stuffed byte, not part of the picture.
    parts = _Parts(end=len(data.rstrip(b"\xff")))
    for marker, start, stop in _segments(data):
        body = data[start + 4 : stop]
        if marker == _EOI:
            parts.end, parts.complete = stop, True
        elif marker == _SOS:
            parts.first_scan = parts.first_scan or start
            parts.scans.append(body)
        elif parts.scans:
            continue  # tables between scans stay where they are
        elif marker == _APP1:
            if body.startswith(b"Exif\0"):
                parts.exif = parts.exif or body
            elif body.startswith(_XMP):
                parts.xmp = parts.xmp or body
        elif not _is_metadata(marker, body):
            parts.header.append((start, stop))
            if marker in _SOF and not parts.frame[0]:
                parts.frame = marker, body
    return parts


def _segments(data: bytes) -> Iterator[tuple[int, int, int]]:
    """Yield marker, start and end of each segment, up to EOI or the end of the file."""
    at = 2
    for _ in range(MOST_SEGMENTS):
        found = _MARKER.search(data, at)
        if found is None:
            return
        marker, start = found[1][0], found.start()
        at = start + 2
        if marker == _EOI:
            yield marker, start, at
            return
        at += max(2, int.from_bytes(data[at : at + 2], "big"))
        yield marker, start, min(at, len(data))
    raise ImageTooLarge(f"more than {MOST_SEGMENTS:,} segments; save the photo again")


def _is_metadata(marker: int, body: bytes) -> bool:
    """Whether the decoder does not need a segment. JFIF and Adobe say how colours are encoded."""
    if marker == _APP0:
        return not body.startswith(b"JFIF\0")
    if marker == _APP14:
        return not body.startswith(b"Adobe")
    return _APP0 < marker <= 0xEF or marker == _COMMENT


def _check_scans(scans: int, width: int, height: int) -> None:
    # A scan costs something however small the picture is: the decoder builds tables for each.
    if scans > 1 and scans * (width * height + 1_000_000) > MOST_SCAN_PIXELS:
        raise ImageTooLarge(
            f"{scans} scans of {width} x {height} pixels take too long to decode; "
            "save the photo again, not as a progressive JPEG"
        )


def _all_coefficients(scans: list[bytes], components: int) -> bool:
    """Whether the scans hold every coefficient of every component in full precision."""
    found: dict[int, set[int]] = {}
    for scan in scans:
        count = scan[0] if scan else 0
        if len(scan) < 4 + 2 * count:
            return False
        first, last, precision = scan[1 + 2 * count : 4 + 2 * count]
        if precision & 15 == 0:
            for component in scan[1 : 1 + 2 * count : 2]:
                found.setdefault(component, set()).update(range(first, last + 1))
    return len(found) == components and all(len(known) >= 64 for known in found.values())
