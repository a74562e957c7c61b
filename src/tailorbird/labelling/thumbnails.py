"""Small pictures of photos, made once and kept in one SQLite file of the cache, by SHA-256."""

from __future__ import annotations

import contextlib
import io
import sqlite3
import threading
from collections.abc import Sequence
from pathlib import Path
from typing import Final

from PIL import Image

from tailorbird.errors import StorageError
from tailorbird.files import cache_folder

SIDE: Final = 320
"""Longer side in pixels: a tile of the page on a screen of two pixels per point."""

QUALITY: Final = 82
_TABLE: Final = (
    "CREATE TABLE IF NOT EXISTS thumbnails (digest BLOB PRIMARY KEY, jpeg BLOB NOT NULL)"
)


class Thumbnails:
    """The small pictures of photos; safe for several threads and processes."""

    def __init__(self, path: Path | None = None) -> None:
        """Open the file, which need not exist yet; one that is damaged is made anew.

        Raises:
            StorageError: it cannot be opened or created.
        """
        self.path = path or cache_folder() / "thumbnails-v1.sqlite"
        self._lock = threading.Lock()
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            try:
                self._database = self._open()
            except sqlite3.DatabaseError:
                self.path.unlink()
                self._database = self._open()
            self._known = {
                row[0] for row in self._database.execute("SELECT digest FROM thumbnails")
            }
        except (OSError, sqlite3.Error) as error:
            raise StorageError(
                f"{self.path} cannot be opened: {error}; set TAILORBIRD_CACHE to another folder"
            ) from None

    def _open(self) -> sqlite3.Connection:
        database = sqlite3.connect(self.path, timeout=30, check_same_thread=False)
        try:
            # A picture that a power cut loses is made again; the file itself stays whole.
            database.execute("PRAGMA journal_mode=WAL")
            database.execute("PRAGMA synchronous=NORMAL")
            database.execute(_TABLE)
            database.commit()
        except sqlite3.Error:
            database.close()
            raise
        return database

    def __contains__(self, digest: bytes) -> bool:
        return digest in self._known

    def __len__(self) -> int:
        return len(self._known)

    def put(self, pictures: Sequence[tuple[bytes, bytes]]) -> None:
        """Add small pictures as (digest, JPEG). Raises StorageError when the disk is full."""
        try:
            with self._lock, self._database:
                self._database.executemany(
                    "INSERT OR IGNORE INTO thumbnails VALUES (?, ?)", pictures
                )
        except sqlite3.Error as error:
            raise StorageError(f"{self.path} could not be written: {error}") from None
        self._known.update(digest for digest, _ in pictures)

    def get(self, digest: bytes) -> bytes | None:
        """Return the JPEG of a photo; None where there is none, or the file was damaged since."""
        with contextlib.suppress(sqlite3.Error), self._lock:
            row = self._database.execute(
                "SELECT jpeg FROM thumbnails WHERE digest = ?", (digest,)
            ).fetchone()
            return None if row is None else bytes(row[0])
        return None

    def close(self) -> None:
        """Close the file."""
        with self._lock:
            self._database.close()


def small_picture(image: Image.Image) -> bytes:
    """Return an RGB picture as JPEG, its longer side at most SIDE pixels."""
    small = image.copy()
    small.thumbnail((SIDE, SIDE), Image.Resampling.BICUBIC, reducing_gap=2.0)
    out = io.BytesIO()
    # From its pixels: the photo's own metadata, such as a place, is not kept.
    Image.frombytes("RGB", small.size, small.tobytes()).save(out, "JPEG", quality=QUALITY)
    return out.getvalue()
