"""The cache folder: where it is, what it holds, and how it is cleared."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
from dataclasses import dataclass
from pathlib import Path

from tailorbird.errors import StorageError

_KINDS = {
    "facts": "facts-*",
    "pairs": "pairs-*",
    "corners": "corners-*",
    "summaries": "summaries-*",
    "copies": "copies",
    "thumbnails": "thumbnails-*",
    "features": "features/*",
    "backbone": "backbones/*.onnx",
    "library": "libraries/*",
}
"""Patterns of paths inside the cache folder by kind of entry."""


def cache_folder() -> Path:
    """Return TAILORBIRD_CACHE if it is set, else the operating system's folder for caches."""
    chosen = os.environ.get("TAILORBIRD_CACHE")
    if chosen:
        return Path(chosen)
    from platformdirs import user_cache_path

    return user_cache_path("tailorbird", appauthor=False)


@dataclass(frozen=True)
class CacheEntry:
    """One folder or file of the cache and its size."""

    path: Path
    kind: str
    name: str
    files: int
    bytes: int


def cache_entries() -> list[CacheEntry]:
    """List what is known of photos, features, pulled backbones and files of other libraries."""
    entries = []
    for kind, pattern in _KINDS.items():
        for path in sorted(cache_folder().glob(pattern)):
            files = [p for p in (path.rglob("*") if path.is_dir() else [path]) if p.is_file()]
            size = sum(file.stat().st_size for file in files)
            entries.append(CacheEntry(path, kind, _entry_name(path), len(files), size))
    return entries


def _entry_name(path: Path) -> str:
    for about in sorted(path.rglob("about.json")) if path.is_dir() else []:
        with contextlib.suppress(OSError, ValueError, KeyError):
            stored = json.loads(about.read_text())
            return f"{stored['backbone']} ({stored['resize']})"
    return path.name


def clear_cache(*, backbones: bool = False) -> int:
    """Delete all files that can be computed again, and with `backbones` pulled backbones too.

    Returns:
        The bytes freed.

    Raises:
        StorageError: An entry could not be deleted.
    """
    freed = 0
    for entry in cache_entries():
        if entry.kind == "backbone" and not backbones:
            continue
        try:
            shutil.rmtree(entry.path) if entry.path.is_dir() else entry.path.unlink()
        except OSError as error:
            raise StorageError(f"{entry.path} could not be deleted: {error.strerror}") from error
        freed += entry.bytes
    return freed
