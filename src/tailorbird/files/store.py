"""Store rows on disk under 32-byte keys, in checksummed chunk files.

A chunk is written once and never changed. If the process is killed, at most the rows not yet
written are lost. Two processes write two chunks. A chunk that fails its checksum is deleted, and
its rows count as missing. The name of a chunk is its checksum, so that rows written twice are one
file.

    bytes 0-7     b"TBROWS1\\n"
    bytes 8-11    rows in this chunk, little-endian
    bytes 12-15   bytes in one row, little-endian
    bytes 16-47   SHA-256 of everything after it
    then          the keys (32 bytes each), then the rows
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import logging
import os
import struct
import threading
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from tailorbird.errors import StorageError
from tailorbird.files.atomic import write_bytes, write_text

log = logging.getLogger(__name__)

_MAGIC = b"TBROWS1\n"
_HEADER = struct.Struct("<8sII32s")
KEY_BYTES = 32
MOST_ROWS = 65_536


class RowStore:
    """Rows of one dtype and length under 32-byte keys; safe for several threads and processes."""

    def __init__(
        self, folder: Path, *, dtype: npt.DTypeLike, width: int, about: dict[str, Any] | None = None
    ) -> None:
        """Open the store in `folder`, which need not exist yet.

        Args:
            folder: folder of the chunk files.
            dtype: type of the values.
            width: number of values in one row.
            about: description of the content, written to about.json for people.
        """
        self.folder = folder
        self.dtype = np.dtype(dtype)
        self.width = width
        self.damaged = 0
        """Number of chunks that failed their checksum since this object was created."""
        self._about = about
        self._row_bytes = self.dtype.itemsize * width
        self._lock = threading.Lock()
        self._where: dict[bytes, tuple[Path, int]] = {}
        self._seen: set[str] = set()
        self.refresh()

    def __len__(self) -> int:
        return len(self._where)

    def __contains__(self, key: bytes) -> bool:
        return key in self._where

    def refresh(self) -> None:
        """Index the chunks written since, by other processes too, after checking each checksum."""
        try:
            names = sorted(
                entry.name for entry in os.scandir(self.folder) if entry.name.endswith(".rows")
            )
        except FileNotFoundError:
            return
        except OSError as error:
            raise StorageError(
                f"the cache folder {self.folder} cannot be read: {error.strerror}; set "
                "TAILORBIRD_CACHE to another folder"
            ) from error
        for name in names:
            if name in self._seen:
                continue
            path = self.folder / name
            payload = self._checked(path)
            if payload is None:
                continue
            rows = len(payload) // (KEY_BYTES + self._row_bytes)
            with self._lock:
                self._seen.add(name)
                for row in range(rows):
                    self._where.setdefault(
                        bytes(payload[row * KEY_BYTES : (row + 1) * KEY_BYTES]), (path, row)
                    )

    def _checked(self, path: Path) -> memoryview | None:
        """Return the keys and rows of a chunk, or delete the file and return None if damaged."""
        try:
            data = path.read_bytes()
        except OSError:
            return None  # deleted or not permitted: its rows count as missing
        if len(data) >= _HEADER.size:
            magic, rows, row_bytes, digest = _HEADER.unpack_from(data)
            payload = memoryview(data)[_HEADER.size :]
            if (
                magic == _MAGIC
                and row_bytes == self._row_bytes
                and len(payload) == rows * (KEY_BYTES + row_bytes)
                and hashlib.sha256(payload).digest() == digest
            ):
                return payload
        self.damaged += 1
        log.warning("%s is damaged and was removed; its content is computed again", path)
        with contextlib.suppress(OSError):
            path.unlink()
        return None

    def put(self, keys: Sequence[bytes], rows: npt.NDArray[Any]) -> None:
        """Write one chunk: N keys and an array (N, width). Raises StorageError if it cannot."""
        if not len(keys):
            return
        rows = np.ascontiguousarray(rows, dtype=self.dtype).reshape(len(keys), self.width)
        if len(keys) > MOST_ROWS or any(len(key) != KEY_BYTES for key in keys):
            raise ValueError(
                f"a chunk holds at most {MOST_ROWS} rows under keys of {KEY_BYTES} bytes"
            )
        payload = b"".join(keys) + rows.tobytes()
        digest = hashlib.sha256(payload).digest()
        path = self.folder / f"{digest.hex()[:32]}.rows"
        about = self.folder / "about.json"
        if self._about is not None and not about.exists():
            write_text(about, json.dumps(self._about, indent=1, sort_keys=True))
        write_bytes(path, _HEADER.pack(_MAGIC, len(keys), self._row_bytes, digest) + payload)
        with self._lock:
            self._seen.add(path.name)
            for row, key in enumerate(keys):
                self._where.setdefault(key, (path, row))

    def get(self, keys: Iterable[bytes]) -> npt.NDArray[Any]:
        """Return the rows of `keys` in their order, an array (N, width).

        Raises:
            KeyError: a key is missing, or its chunk was deleted or damaged since it was indexed.
        """
        wanted = list(keys)
        result = np.empty((len(wanted), self.width), self.dtype)
        by_chunk: dict[Path, list[tuple[int, int]]] = {}
        for position, key in enumerate(wanted):
            path, row = self._where[key]
            by_chunk.setdefault(path, []).append((position, row))
        for path, places in by_chunk.items():
            payload = self._checked(path)
            if payload is None:
                self._forget(path)
                raise KeyError(f"chunk {path.name} is gone")
            rows = len(payload) // (KEY_BYTES + self._row_bytes)
            values = np.frombuffer(payload, self.dtype, offset=rows * KEY_BYTES).reshape(
                rows, self.width
            )
            positions, numbers = zip(*places, strict=True)
            result[list(positions)] = values[list(numbers)]
        return result

    def _forget(self, path: Path) -> None:
        with self._lock:
            self._seen.discard(path.name)
            self._where = {key: where for key, where in self._where.items() if where[0] != path}
