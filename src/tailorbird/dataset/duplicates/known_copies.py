"""Remember which photos of a set show the same picture.

The next run with the same photos then reads one small file instead of searching. Any other set of
photos is searched again.
"""

from __future__ import annotations

import contextlib
import hashlib
from collections.abc import Sequence
from pathlib import Path
from typing import Final

import numpy as np

from tailorbird.errors import StorageError
from tailorbird.files import cache_folder
from tailorbird.files.atomic import write_bytes
from tailorbird.images import DECODING

Pair = tuple[int, int]
"""Positions of two photos in a set."""

_VERSION: Final = f"3-{DECODING}"
"""Part of every file's name; raised when a search would find other copies in the same photos."""


def copies_file(digests: Sequence[str], kind: str) -> Path | None:
    """Return the file of a set of photos, given their digests in order, and a kind of search.

    None where there is no cache folder.
    """
    try:
        folder = cache_folder() / "copies"
    except (StorageError, OSError):
        return None
    names = "".join([_VERSION, kind, *digests])
    return folder / f"{hashlib.sha256(names.encode()).hexdigest()}.pairs"


def read_copies(path: Path | None, count: int) -> list[Pair] | None:
    """Return the pairs found in a set of `count` photos; None if unknown, or damaged on disk."""
    try:
        data = path.read_bytes() if path else b""
    except OSError:
        return None
    checksum, content = data[:32], data[32:]
    if hashlib.sha256(content).digest() != checksum or len(content) % 8:
        return None
    pairs = np.frombuffer(content, "<u4").reshape(-1, 2)
    return [(a, b) for a, b in pairs.tolist()] if (pairs < count).all() else None


def write_copies(path: Path | None, pairs: Sequence[Pair]) -> None:
    """Write the pairs found; an error (a full disk) only costs time later."""
    if path is None:
        return
    content = np.array(pairs, "<u4").tobytes()
    with contextlib.suppress(StorageError, OSError):
        write_bytes(path, hashlib.sha256(content).digest() + content)
