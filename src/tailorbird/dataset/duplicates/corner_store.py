"""Corners of photos, computed while they are scanned and cached by content: about 3 KB each."""

from __future__ import annotations

import contextlib
import threading
from collections import defaultdict
from collections.abc import Sequence
from typing import Any, Final

import numpy as np
import numpy.typing as npt
from PIL import Image

from tailorbird.dataset.duplicates.local_features import (
    CORNERS,
    VECTOR,
    canvas_shape,
    local_features,
    thumbnail,
)
from tailorbird.errors import StorageError
from tailorbird.files import RowStore, cache_folder
from tailorbird.images import DECODING

_TOGETHER: Final = 16
"""Photos computed at a time: few enough for a core's cache, many enough for NumPy's calls."""

_CHUNK: Final = 4096

Row = tuple[npt.NDArray[Any], npt.NDArray[np.int8]]
"""Corners of one photo, of type `CORNERS`, and their summary, int8 (V,)."""

Waiting = tuple[bytes, npt.NDArray[np.uint8]]
"""Digest and thumbnail of a photo."""


class CornerStore:
    """Corners and their summaries by SHA-256; computed for several photos together."""

    def __init__(self, store: bool) -> None:
        """Open the cache folder's, or keep everything in memory if `store` is false."""
        self._stores = _opened() if store else None
        self._memory: dict[bytes, Row] = {}
        self._waiting: dict[tuple[int, int], list[Waiting]] = defaultdict(list)
        self._lock = threading.Lock()

    def __contains__(self, digest: bytes) -> bool:
        return digest in self._memory or (
            self._stores is not None and all(digest in store for store in self._stores)
        )

    def see(self, digest: bytes, image: Image.Image) -> None:
        """Take one decoded photo; compute in the calling thread when enough are waiting."""
        grey = thumbnail(image)
        with self._lock:
            waiting = self._waiting[canvas_shape(grey)]
            waiting.append((digest, grey))
            if len(waiting) < _TOGETHER:
                return
            del self._waiting[canvas_shape(grey)]
        self._compute(waiting)

    def flush(self) -> None:
        """Compute and write what is waiting."""
        with self._lock:
            waiting, self._waiting = self._waiting, defaultdict(list)
        for together in waiting.values():
            self._compute(together)
        self._write(0)

    def vectors(self, digests: Sequence[bytes]) -> npt.NDArray[np.int8]:
        """Return the summaries of N photos, int8 (N, V)."""
        return self._rows(digests, 1, np.zeros((len(digests), VECTOR), np.int8))

    def corners(self, digests: Sequence[bytes]) -> npt.NDArray[Any]:
        """Return the corners of N photos, (N,) of type `CORNERS`."""
        result = np.zeros(len(digests), CORNERS)
        result["level"] = -1
        return self._rows(digests, 0, result)

    def _compute(self, waiting: list[Waiting]) -> None:
        corners, vectors = local_features([grey for _, grey in waiting])
        with self._lock:
            for i, (digest, _) in enumerate(waiting):
                self._memory[digest] = (corners[i], vectors[i])
        self._write(_CHUNK)

    def _write(self, at_least: int) -> None:
        """Move rows from memory to disk; where that fails they stay in memory."""
        if self._stores is None:
            return
        with self._lock:
            keys = list(self._memory) if len(self._memory) > at_least else []
            rows = [self._memory[key] for key in keys]
        for start in range(0, len(keys), _CHUNK):
            part = slice(start, start + _CHUNK)
            with contextlib.suppress(StorageError, OSError):
                for number, store in enumerate(self._stores):
                    store.put(keys[part], np.stack([row[number] for row in rows[part]]))
                with self._lock:
                    for key in keys[part]:
                        self._memory.pop(key, None)

    def _rows(
        self, digests: Sequence[bytes], number: int, result: npt.NDArray[Any]
    ) -> npt.NDArray[Any]:
        """Fill in the rows that are known; a chunk that was deleted meanwhile leaves its empty."""
        for start in range(0, len(digests), _CHUNK):
            stored = []
            for i, digest in enumerate(digests[start : start + _CHUNK], start):
                if digest in self._memory:
                    result[i] = self._memory[digest][number]
                else:
                    stored.append(i)
            if self._stores is not None and stored:
                with contextlib.suppress(KeyError, OSError):
                    rows = self._stores[number].get([digests[i] for i in stored])
                    result[stored] = rows[:, 0] if number == 0 else rows
        return result


def _opened() -> tuple[RowStore, RowStore] | None:
    """Open the caches of corners and of summaries; None where the folder cannot be read."""
    about = {"holds": "corners of each photo and their summary, by SHA-256"}
    try:
        folder = cache_folder()
        return (
            RowStore(folder / f"corners-v{DECODING}", dtype=CORNERS, width=1, about=about),
            RowStore(folder / f"summaries-v{DECODING}", dtype=np.int8, width=VECTOR, about=about),
        )
    except (StorageError, OSError):
        return None
