"""Cache of the frozen part's activations on disk: float16 rows, one file per view."""

from __future__ import annotations

import contextlib
import os
import threading
import zlib
from pathlib import Path
from typing import BinaryIO

import numpy as np
import numpy.typing as npt

from tailorbird.errors import StorageError
from tailorbird.files.atomic import storage_error

Half = npt.NDArray[np.float16]

LARGEST = float(np.finfo(np.float16).max)
SUFFIX = ".f16"
_PRESENT = 1 << 32
"""Set in a row's mark when the row is written; the bits below it hold the row's CRC-32."""


def to_half(values: npt.NDArray[np.float32]) -> Half:
    """Convert float32 to float16, clipped to its range of +-65504."""
    return np.clip(values, -LARGEST, LARGEST).astype(np.float16)


class ActivationFile:
    """A file of rows of `values` float16 numbers, each present or not; safe for several threads.

    The file holds one mark per row (uint64), then the rows. A row is present when its mark holds
    its checksum, so a row that was half written when the process was killed counts as missing. It
    is read and written, not mapped, so that a full disk raises an error instead of ending the
    process.
    """

    def __init__(self, path: Path, rows: int, values: int) -> None:
        """Open or create the file. Raises StorageError."""
        self.path = path
        self.rows = rows
        self.values = values
        self._lock = threading.Lock()
        self._start = rows * 8
        self._row_bytes = values * 2
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            fresh = not path.exists()
            self._file: BinaryIO = path.open("w+b" if fresh else "r+b", buffering=0)
            marks = self._file.read(self._start)
            if len(marks) != self._start:  # new, or truncated before it held anything
                self._file.truncate(0)
                self._file.seek(0)
                _write(self._file, bytes(self._start))
                marks = bytes(self._start)
        except OSError as error:
            raise storage_error(path, error) from error
        self._marks = np.frombuffer(marks, "<u8").copy()

    def __contains__(self, row: int) -> bool:
        return bool(self._marks[row])

    def get(self, row: int) -> Half | None:
        """Return a row, float16 (values,), or None when it is missing or damaged."""
        mark = int(self._marks[row])
        if not mark:
            return None
        try:
            with self._lock:
                self._file.seek(self._start + row * self._row_bytes)
                data = self._file.read(self._row_bytes)
        except OSError as error:
            raise StorageError(
                f"{self.path} cannot be read: {error.strerror}; run the command again"
            ) from error
        if mark != _PRESENT | zlib.crc32(data):
            self._marks[row] = 0
            return None
        return np.frombuffer(data, "<f2").astype(np.float16, copy=False)

    def put(self, row: int, values: Half) -> None:
        """Write a row, float16 (values,). Raises StorageFull when the disk is full."""
        data = np.ascontiguousarray(values, "<f2").tobytes()
        mark = _PRESENT | zlib.crc32(data)
        try:
            with self._lock:
                self._file.seek(self._start + row * self._row_bytes)
                _write(self._file, data)
                self._file.seek(row * 8)
                _write(self._file, mark.to_bytes(8, "little"))
        except OSError as error:
            raise storage_error(self.path, error) from error
        self._marks[row] = mark

    def close(self) -> None:
        """Close the file."""
        with contextlib.suppress(OSError):
            self._file.close()


def _write(file: BinaryIO, data: bytes) -> None:
    """Write all data; one call on an unbuffered file may write only a part of it."""
    view = memoryview(data)
    while view:
        view = view[file.write(view) :]


def clear(folder: Path, keep: str = "") -> None:
    """Delete cached activations, except files whose names start with `keep` (if not empty)."""
    with contextlib.suppress(FileNotFoundError):
        for entry in list(os.scandir(folder)):
            if entry.name.endswith(SUFFIX) and not (keep and entry.name.startswith(keep)):
                with contextlib.suppress(OSError):
                    Path(entry.path).unlink()


def kept_bytes(folder: Path) -> int:
    """Return the size of the cached activations in bytes."""
    try:
        return sum(
            entry.stat().st_size for entry in os.scandir(folder) if entry.name.endswith(SUFFIX)
        )
    except OSError:
        return 0
