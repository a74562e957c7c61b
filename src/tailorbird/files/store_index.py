"""An index of a row store's chunks, so that opening a large store does not read it.

A file lists the chunks it covers, with their sizes, and their keys in order. It is mapped into
memory, and a key is found by binary search: opening it takes the same time for any number of rows.
A chunk that is gone or has another size counts as missing; its rows are checked when they are read.

    bytes 0-7     b"TBINDX1\\n"
    bytes 8-15    length of the JSON text, little-endian
    then          the JSON text {"rows": n, "chunks": [[name, size], ...]}, padded to 8 bytes
    then          n prefixes (the first 8 bytes of each key as a number), rising; the n keys in that
                  order; the n chunk numbers and the n row numbers, 4 bytes each
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import struct
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Final, NamedTuple

import numpy as np
import numpy.typing as npt

from tailorbird.files.atomic import write_bytes

SUFFIX: Final = ".index"
_MAGIC: Final = b"TBINDX1\n"
_HEADER: Final = struct.Struct("<8sQ")
_KEY_BYTES: Final = 32

Place = tuple[str, int]
"""Name of a chunk, and the row in it."""


class Arrays(NamedTuple):
    """The rows of an index, sorted by key: prefixes, keys (n, 32), chunk and row numbers."""

    prefixes: npt.NDArray[np.uint64]
    keys: npt.NDArray[np.uint8]
    chunks: npt.NDArray[np.uint32]
    rows: npt.NDArray[np.uint32]


class StoreIndex:
    """The chunks and keys of one index file."""

    def __init__(self, path: Path) -> None:
        """Map a file. Raises OSError or ValueError if it is gone or no index."""
        self.path = path
        with path.open("rb") as file:
            magic, length = _HEADER.unpack(file.read(_HEADER.size))
            if magic != _MAGIC or length > path.stat().st_size:
                raise ValueError(f"{path} is no index")
            about = json.loads(file.read(length))
        self.chunks: list[tuple[str, int]] = [(name, size) for name, size in about["chunks"]]
        """Names and sizes of the chunks."""
        count = about["rows"]
        start = _HEADER.size + length
        if path.stat().st_size != start + count * (8 + _KEY_BYTES + 4 + 4):
            raise ValueError(f"{path} is damaged")
        self.arrays = _mapped(path, start, count) if count else _empty()
        self._missing: set[int] = set()

    def __len__(self) -> int:
        return len(self.arrays.prefixes)

    def without(self, present: Mapping[str, int]) -> list[str]:
        """Take chunks that are not present with their size as missing; return the others' names."""
        missing = {
            number for number, (name, size) in enumerate(self.chunks) if present.get(name) != size
        }
        self._missing = missing
        return [name for number, (name, _) in enumerate(self.chunks) if number not in missing]

    def forget(self, name: str) -> None:
        """Take a chunk as missing from now on."""
        self._missing |= {i for i, (chunk, _) in enumerate(self.chunks) if chunk == name}

    def find(self, key: bytes) -> Place | None:
        """Return where the row of a key is; None if it is not here."""
        prefixes, keys, chunks, rows = self.arrays
        prefix = np.uint64(int.from_bytes(key[:8], "big"))
        position = int(np.searchsorted(prefixes, prefix))
        while position < len(prefixes) and prefixes[position] == prefix:
            chunk = int(chunks[position])
            if keys[position].tobytes() == key and chunk not in self._missing:
                return self.chunks[chunk][0], int(rows[position])
            position += 1
        return None

    def places(self) -> Iterable[tuple[bytes, Place]]:
        """Yield every key with its place, apart from those of missing chunks."""
        for position in range(len(self)):
            chunk = int(self.arrays.chunks[position])
            if chunk not in self._missing:
                key = self.arrays.keys[position].tobytes()
                yield key, (self.chunks[chunk][0], int(self.arrays.rows[position]))


def _empty() -> Arrays:
    return Arrays(
        np.empty(0, np.uint64),
        np.empty((0, _KEY_BYTES), np.uint8),
        np.empty(0, np.uint32),
        np.empty(0, np.uint32),
    )


def _mapped(path: Path, start: int, count: int) -> Arrays:
    content = np.memmap(path, np.uint8, "r", offset=start)
    ends = np.cumsum([8 * count, _KEY_BYTES * count, 4 * count, 4 * count]).tolist()
    return Arrays(
        content[: ends[0]].view("<u8"),
        content[ends[0] : ends[1]].reshape(count, _KEY_BYTES),
        content[ends[1] : ends[2]].view("<u4"),
        content[ends[2] : ends[3]].view("<u4"),
    )


def write_index(
    folder: Path, places: Iterable[tuple[bytes, Place]], sizes: Mapping[str, int]
) -> Path:
    """Write an index of these rows, and return its path. Raises StorageError."""
    names = sorted(sizes)
    number = {name: i for i, name in enumerate(names)}
    found = sorted((key, number[name], row) for key, (name, row) in places)
    about = json.dumps({"rows": len(found), "chunks": [[name, sizes[name]] for name in names]})
    text = about.encode()
    text += b" " * (-(_HEADER.size + len(text)) % 8)
    keys = b"".join(key for key, _, _ in found)
    prefixes = np.frombuffer(keys, ">u8").reshape(-1, 4)[:, 0].astype("<u8")
    content = b"".join(
        (
            _HEADER.pack(_MAGIC, len(text)),
            text,
            prefixes.tobytes(),
            keys,
            np.array([chunk for _, chunk, _ in found], "<u4").tobytes(),
            np.array([row for _, _, row in found], "<u4").tobytes(),
        )
    )
    path = folder / f"{hashlib.sha256(content).hexdigest()[:32]}{SUFFIX}"
    write_bytes(path, content)
    return path


def open_indices(folder: Path, names: Sequence[str]) -> list[StoreIndex]:
    """Open index files; those that are gone or damaged are left out, the damaged ones deleted."""
    result = []
    for name in names:
        try:
            result.append(StoreIndex(folder / name))
        except OSError:
            continue
        except (ValueError, KeyError, TypeError, struct.error):
            with contextlib.suppress(OSError):
                (folder / name).unlink()
    return result
