"""Facts about a photo's content that are cached, about 1 KB: size, perceptual hash, grey sketch."""

from __future__ import annotations

import contextlib
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from tailorbird.dataset.duplicates.similarity import ORIENTATIONS, SKETCH, sketch
from tailorbird.errors import StorageError
from tailorbird.files import RowStore, cache_folder
from tailorbird.images import DECODING, Photo

FACTS: Final = np.dtype(
    [("phash", "<u8"), ("width", "<u4"), ("height", "<u4"), ("sketch", "u1", (SKETCH, SKETCH))]
)
"""One photo's facts: perceptual hash, stored width and height in pixels, grey sketch (32, 32)."""

_KEPT = 8
_BITS = np.uint64(1) << np.arange(64, dtype=np.uint64)


def _cosines() -> npt.NDArray[np.float32]:
    """Return the 8 lowest non-constant rows of the discrete cosine transform II, (8, 32)."""
    k = np.arange(1, _KEPT + 1)[:, None]
    x = np.arange(SKETCH)[None, :]
    return np.cos(np.pi * k * (2 * x + 1) / (2 * SKETCH)).astype(np.float32)


_COSINES = _cosines()
_SIGNS = np.where(np.arange(1, _KEPT + 1) % 2, -1, 1).astype(np.float32)


def perceptual_hash(grey: npt.NDArray[np.uint8]) -> int:
    """Return 64 bits that hardly change when a picture is re-encoded, resized or brightened.

    The DCT hash of a sketch, uint8 (32, 32): for each of the 8 x 8 lowest frequencies whether it is
    above their median (Zauner, "Implementation and Benchmarking of Perceptual Image Hash
    Functions", 2010). On photos of different products in front of the same wall, it brings a tenth
    as many pairs within 14 bits of each other as a difference hash of 64 bits.
    """
    return int(_hashes(_waves(grey[None]))[0])


def oriented_hashes(sketches: npt.NDArray[np.uint8]) -> npt.NDArray[np.uint64]:
    """Return the perceptual hashes of N sketches in the eight orientations of `orient`, (8, N).

    Mirroring a picture changes the sign of its odd frequencies, and transposing it transposes them.
    """
    result = np.empty((ORIENTATIONS, len(sketches)), np.uint64)
    for start in range(0, len(sketches), 4096):
        waves = _waves(sketches[start : start + 4096])
        for orientation in range(ORIENTATIONS):
            turned = waves.swapaxes(1, 2) if orientation & 4 else waves
            turned = turned * _SIGNS[:, None] if orientation & 2 else turned
            turned = turned * _SIGNS if orientation & 1 else turned
            result[orientation, start : start + 4096] = _hashes(turned)
    return result


def _waves(sketches: npt.NDArray[np.uint8]) -> npt.NDArray[np.float32]:
    """Return the lowest frequencies of sketches, (N, 32, 32) to (N, 8, 8).

    Rounded so that a flat picture, whose frequencies are rounding errors, always has the same.
    """
    return np.asarray(np.rint(_COSINES @ sketches.astype(np.float32) @ _COSINES.T), np.float32)


def _hashes(waves: npt.NDArray[np.float32]) -> npt.NDArray[np.uint64]:
    flat = waves.reshape(len(waves), -1)
    above = flat > np.median(flat, axis=1, keepdims=True)
    return np.asarray((above * _BITS).sum(axis=1, dtype=np.uint64))


def facts(photo: Photo) -> npt.NDArray[Any]:
    """Return the facts of a decoded photo, one value of type `FACTS`."""
    grey = sketch(photo.image)
    return np.array((perceptual_hash(grey), photo.width, photo.height, grey), FACTS)


def open_facts() -> RowStore | None:
    """Open the cache of facts by content hash; None where the cache folder cannot be read."""
    about = {"holds": "size, perceptual hash and sketch of each photo, by SHA-256"}
    try:
        return RowStore(cache_folder() / f"facts-v{DECODING}", dtype=FACTS, width=1, about=about)
    except (StorageError, OSError):
        return None


def remember(store: RowStore | None, keys: list[bytes], rows: list[Any]) -> None:
    """Add rows to the cache; ignore a write error (a full disk), which only costs time later."""
    if store is None or not keys:
        return
    with contextlib.suppress(StorageError, OSError):
        store.put(keys, np.array(rows, store.dtype))


def open_verdicts() -> RowStore | None:
    """Open the cache of which pairs of photos show the same picture; None if it is unreadable."""
    about = {
        "holds": "1 where two photos show the same picture, else 0, by SHA-256 of both digests"
    }
    try:
        return RowStore(cache_folder() / "pairs-v1", dtype=np.uint8, width=1, about=about)
    except (StorageError, OSError):
        return None
