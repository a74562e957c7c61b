"""What is remembered about a photo's content: its size, a perceptual hash and a grey sketch; about 1 KB."""

from __future__ import annotations

import contextlib
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from tailorbird.dataset.duplicates.similarity import SKETCH, sketch
from tailorbird.errors import StorageError
from tailorbird.files import RowStore, cache_folder
from tailorbird.images import DECODING, Photo

FACTS: Final = np.dtype(
    [("phash", "<u8"), ("width", "<u4"), ("height", "<u4"), ("sketch", "u1", (SKETCH, SKETCH))]
)
"""One photo's facts: perceptual hash, width and height in pixels as stored in the file, and a grey sketch (32, 32)."""

_KEPT = 8
_BITS = np.uint64(1) << np.arange(64, dtype=np.uint64)


def _cosines() -> npt.NDArray[np.float32]:
    """The 8 lowest non-constant rows of the discrete cosine transform (type II), (8, 32)."""
    k = np.arange(1, _KEPT + 1)[:, None]
    x = np.arange(SKETCH)[None, :]
    return np.cos(np.pi * k * (2 * x + 1) / (2 * SKETCH)).astype(np.float32)


_COSINES = _cosines()


def perceptual_hash(grey: npt.NDArray[np.uint8]) -> int:
    """64 bits that barely change when a picture is re-encoded, resized, brightened or cropped a little.

    The DCT hash of a sketch, uint8 (32, 32): the 8 x 8 lowest horizontal-and-vertical frequencies, each bit whether one lies
    above their median. (Zauner, "Implementation and Benchmarking of Perceptual Image Hash Functions", 2010.) Of different
    products on the same wall a tenth as many come within 14 bits of each other as with the difference hash of that length.
    """
    waves = _COSINES @ grey.astype(np.float32) @ _COSINES.T
    # Rounded so that a flat picture, whose waves are rounding errors, always gets the same hash.
    waves = np.rint(waves).ravel()
    return int(_BITS[waves > np.median(waves)].sum(dtype=np.uint64))


def facts(photo: Photo) -> npt.NDArray[Any]:
    """The facts of a decoded photo: one value of type `FACTS`."""
    grey = sketch(photo.image)
    return np.array((perceptual_hash(grey), photo.width, photo.height, grey), FACTS)


def open_facts() -> RowStore | None:
    """The cache of facts by content hash; None where the cache folder cannot be read, which only costs time."""
    about = {"holds": "size, perceptual hash and sketch of each photo, by SHA-256"}
    try:
        return RowStore(cache_folder() / f"facts-v{DECODING}", dtype=FACTS, width=1, about=about)
    except (StorageError, OSError):
        return None


def remember(store: RowStore | None, keys: list[bytes], rows: list[Any]) -> None:
    """Add facts to the cache. A cache that cannot be written (a read-only home, a full disk) only costs time later."""
    if store is None or not keys:
        return
    with contextlib.suppress(StorageError, OSError):
        store.put(keys, np.array(rows, store.dtype))


def open_verdicts() -> RowStore | None:
    """The cache of which pairs of photos are the same picture; None where it cannot be read."""
    about = {
        "holds": "1 where two photos show the same picture, else 0, by the SHA-256 of both digests, the smaller first"
    }
    try:
        return RowStore(cache_folder() / "pairs-v1", dtype=np.uint8, width=1, about=about)
    except (StorageError, OSError):
        return None
