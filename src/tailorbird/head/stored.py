"""Features in a temporary file, for more than fit in memory; rows are read as they are needed.

The file has no name and ends with the process, however that ends. Shapes: V views of N samples of K
features; row v * N + n is sample n in view v.
"""

from __future__ import annotations

import tempfile
import threading
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from tailorbird.errors import StorageError
from tailorbird.head.network import Head

BLOCK_ROWS = 4096
"""Rows that are read at a time where all are read."""


class StoredRows:
    """float32 features (V, N, K) on disk."""

    def __init__(self, shape: tuple[int, int, int], folder: str | Path | None = None) -> None:
        """Make an empty file.

        Args:
            shape: (V, N, K).
            folder: where; None: the system's folder for temporary files.

        Raises:
            StorageError: no file can be made there.
        """
        self.shape = shape
        self._bytes = 4 * shape[2]
        self._lock = threading.Lock()
        try:
            self._file = tempfile.TemporaryFile(dir=folder, buffering=0)  # noqa: SIM115
            self._file.truncate(shape[0] * shape[1] * self._bytes)
        except OSError as error:
            raise _full(folder, error) from error
        self._folder = folder

    def __len__(self) -> int:
        return self.shape[0]

    def close(self) -> None:
        """Delete the file."""
        self._file.close()

    def write(self, view: int, start: int, rows: NDArray[np.float32]) -> None:
        """Write rows (n, K) of a view from sample `start` on. Raises StorageError."""
        content = np.ascontiguousarray(rows, np.float32).data.cast("B")
        try:
            with self._lock:
                self._file.seek((view * self.shape[1] + start) * self._bytes)
                while len(content):
                    content = content[self._file.write(content) :]
        except OSError as error:
            raise _full(self._folder, error) from error

    def take(self, picked: NDArray[np.int64], out: NDArray[np.float32]) -> None:
        """Read the rows of these numbers into `out` (n, K)."""
        rows = out.data.cast("B")
        with self._lock:
            for i, number in enumerate(picked.tolist()):
                self._file.seek(number * self._bytes)
                self._read(rows[i * self._bytes : (i + 1) * self._bytes])

    def _read(self, into: memoryview) -> None:
        while len(into):
            count = self._file.readinto(into)
            if not count:
                raise StorageError("a temporary file of features ended early; run again")
            into = into[count:]

    def blocks(self, view: int = 0) -> Iterator[tuple[slice, NDArray[np.float32]]]:
        """Yield the rows of a view in order, as slices and arrays (n, K)."""
        samples = self.shape[1]
        for start in range(0, samples, BLOCK_ROWS):
            part = slice(start, min(samples, start + BLOCK_ROWS))
            rows = np.empty((part.stop - start, self.shape[2]), np.float32)
            with self._lock:
                self._file.seek((view * samples + start) * self._bytes)
                self._read(rows.data.cast("B"))
            yield part, rows

    def mapped(self) -> NDArray[np.float32]:
        """Return the file as an array (V, N, K), whose pages the system reads and drops."""
        with self._lock:
            self._file.flush()
            return np.memmap(self._file, np.float32, "r", shape=self.shape)


def _full(folder: str | Path | None, error: OSError) -> StorageError:
    place = Path(folder or tempfile.gettempdir())
    return StorageError(
        f"{place} cannot take a temporary file of features: {error.strerror or error}; free some "
        "space, or set TMPDIR to another folder"
    )


def logits_of(head: Head, features: NDArray[np.float32] | StoredRows) -> NDArray[np.float32]:
    """Return a head's logits (N, C) of unscaled features (N, K), or (1, N, K) on disk."""
    if not isinstance(features, StoredRows):
        return head.logits(features)
    return np.concatenate([head.logits(rows) for _, rows in features.blocks()])
