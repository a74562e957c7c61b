"""Activations of the frozen part, kept on disk as float16 rows: one file for each view."""

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
_THERE = 1 << 32
"""Set in a row's mark when the row is written; below it lies the row's CRC-32."""


def to_half(values: npt.NDArray[np.float32]) -> Half:
    """float32 to float16, what is too large for it at its largest, 65504."""
    return np.clip(values, -LARGEST, LARGEST).astype(np.float16)


class ActivationFile:
    """N rows of `values` float16, each there or not. Safe for several threads of one process.

    The file is N marks (uint64), then the rows. A row counts when its mark holds its checksum, so a row half written when the
    process or the machine went down counts as missing. Plain reads and writes, no mapping: a full disk is then an error and not
    the end of the process.
    """

    def __init__(self, path: Path, rows: int, values: int) -> None:
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
            if len(marks) != self._start:  # new, or cut off before it held anything
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
        """One row, float16 (values,), or None when it is not there or damaged."""
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
        if mark != _THERE | zlib.crc32(data):
            self._marks[row] = 0
            return None
        return np.frombuffer(data, "<f2").astype(np.float16, copy=False)

    def put(self, row: int, values: Half) -> None:
        """Keep one row, float16 (values,). Raises StorageFull when the disk is full."""
        data = np.ascontiguousarray(values, "<f2").tobytes()
        mark = _THERE | zlib.crc32(data)
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
        """Give the file back."""
        with contextlib.suppress(OSError):
            self._file.close()


def _write(file: BinaryIO, data: bytes) -> None:
    """All of `data`: an unbuffered file may take a part of it, on a disk that is nearly full."""
    view = memoryview(data)
    while view:
        view = view[file.write(view) :]


def clear(folder: Path, keep: str = "") -> None:
    """Delete kept activations whose file names do not start with `keep` (all of them without it)."""
    with contextlib.suppress(FileNotFoundError):
        for entry in list(os.scandir(folder)):
            if entry.name.endswith(".f16") and not (keep and entry.name.startswith(keep)):
                with contextlib.suppress(OSError):
                    Path(entry.path).unlink()


def kept_bytes(folder: Path) -> int:
    """Bytes that kept activations take now."""
    try:
        return sum(
            entry.stat().st_size for entry in os.scandir(folder) if entry.name.endswith(".f16")
        )
    except OSError:
        return 0
