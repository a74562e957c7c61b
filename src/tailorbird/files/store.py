"""Store rows on disk under 32-byte keys, in checksummed chunk files.

A chunk is written once and never changed. If the process is killed, at most the rows not yet
written are lost. Two processes write two chunks. A chunk that fails its checksum is deleted, and
its rows count as missing. The name of a chunk is its checksum, so that rows written twice are one
file. Of many chunks there is an index (`store_index`), so that a store opens as fast with a million
rows as with none; their checksums are compared when rows are read.

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
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from tailorbird.errors import StorageError
from tailorbird.files.atomic import write_bytes, write_text
from tailorbird.files.store_index import SUFFIX, StoreIndex, open_indices, write_index

log = logging.getLogger(__name__)

_MAGIC = b"TBROWS1\n"
_HEADER = struct.Struct("<8sII32s")
KEY_BYTES = 32
MOST_ROWS = 65_536

INDEXED_CHUNKS = 64
"""Chunks outside every index at which an index of them is written."""

MOST_INDICES = 8
"""Indices at which all are merged into one."""


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
        self._indices: list[StoreIndex] = []
        self.refresh()

    def __len__(self) -> int:
        return len(self.keys())

    def __contains__(self, key: bytes) -> bool:
        return self._place(key) is not None

    def keys(self) -> set[bytes]:
        """Return all keys."""
        return {*self._where, *(key for index in self._indices for key, _ in index.places())}

    def _place(self, key: bytes) -> tuple[Path, int] | None:
        """Return the chunk and row of a key; None if it is not here."""
        found = self._where.get(key)
        if found is not None:
            return found
        for index in self._indices:
            place = index.find(key)
            if place is not None:
                return self.folder / place[0], place[1]
        return None

    def refresh(self) -> None:
        """Take over the chunks written since, by other processes too.

        Those outside every index are read, to check their checksums.
        """
        try:
            found = {
                entry.name: entry.stat().st_size
                for entry in os.scandir(self.folder)
                if entry.name.endswith((".rows", SUFFIX))
            }
        except FileNotFoundError:
            return
        except OSError as error:
            raise StorageError(
                f"the cache folder {self.folder} cannot be read: {error.strerror}; set "
                "TAILORBIRD_CACHE to another folder"
            ) from error
        sizes = {name: size for name, size in found.items() if name.endswith(".rows")}
        if not self._seen:
            indices = sorted(name for name in found if name.endswith(SUFFIX))
            self._indices = open_indices(self.folder, indices)
            for index in self._indices:
                self._seen.update(index.without(sizes))
        for name in sorted(sizes):
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

        self._write_index(sizes)

    def _write_index(self, sizes: Mapping[str, int]) -> None:
        """Write an index of the chunks outside every index, if they are many."""
        with self._lock:
            places = [(key, (path.name, row)) for key, (path, row) in self._where.items()]
        names = {name for _, (name, _) in places} & sizes.keys()
        if len(names) < INDEXED_CHUNKS:
            return
        merged = self._indices if len(self._indices) + 1 >= MOST_INDICES else []
        for index in merged:
            names |= {name for name, size in index.chunks if sizes.get(name) == size}
            places += index.places()
        try:
            path = write_index(
                self.folder,
                (place for place in places if place[1][0] in names),
                {name: sizes[name] for name in names},
            )
            (written,) = open_indices(self.folder, [path.name])
        except (StorageError, ValueError):
            return  # without it the next start takes longer
        with self._lock:
            kept = [index for index in self._indices if index not in merged]
            self._indices = [*kept, written]
            self._where = {
                key: where for key, where in self._where.items() if where[0].name not in names
            }
        for index in merged:
            if index.path != path:
                with contextlib.suppress(OSError):
                    index.path.unlink()

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
            place = self._place(key)
            if place is None:
                raise KeyError(key)
            path, row = place
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
            for index in self._indices:
                index.forget(path.name)
            self._where = {key: where for key, where in self._where.items() if where[0] != path}
