"""The folder of kept photos: each file is named by its content, `ab/abcdef....jpg`."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Final

from tailorbird.errors import StorageError, UnsupportedImage
from tailorbird.files import atomic_path, sync_folder
from tailorbird.files.atomic import storage_error
from tailorbird.images import FORMATS, HEAD, identify

SUFFIXES: Final = tuple(row.suffixes[0].removeprefix(".") for row in FORMATS if row.suffixes)


def suffix(data: bytes) -> str:
    """Return the file name ending of a photo's format, without its dot. Raises UnsupportedImage."""
    row = identify(data[:HEAD])
    if row is not None and row.suffixes:
        return row.suffixes[0].removeprefix(".")
    raise UnsupportedImage(
        f"a photo to keep must be one of {', '.join(SUFFIXES)}; its content is none of these"
    )


def keep(folder: Path, digest: str, data: bytes) -> Path:
    """Write a photo whose SHA-256 is `digest`, unless it exists; return once it is on the disk.

    New folders are readable by their owner only.

    Raises StorageFull, StorageError, UnsupportedImage.
    """
    path = folder / digest[:2] / f"{digest}.{suffix(data)}"
    try:
        for place in (folder, path.parent):
            if not place.is_dir():
                place.mkdir(mode=0o700, parents=True, exist_ok=True)
                sync_folder(place.parent)
    except OSError as error:
        raise storage_error(path.parent, error) from error
    if _holds(path, data):
        sync_folder(path.parent)  # another process may have written it just now
        return path
    with atomic_path(path) as temporary:
        temporary.write_bytes(data)
    return path


def _holds(path: Path, data: bytes) -> bool:
    try:
        return path.stat().st_size == len(data) and path.read_bytes() == data
    except OSError:
        return False


def kept_photos(folder: Path) -> dict[str, Path]:
    """Return the kept photos by SHA-256; none if the folder does not exist.

    Raises StorageError when it cannot be read.
    """
    found: dict[str, Path] = {}
    try:
        shelves = sorted(
            entry.name for entry in os.scandir(folder) if len(entry.name) == 2 and entry.is_dir()
        )
        for shelf in shelves:
            for entry in os.scandir(folder / shelf):
                digest, _, ending = entry.name.partition(".")
                if len(digest) == 64 and ending in SUFFIXES:
                    found[digest] = folder / shelf / entry.name
    except FileNotFoundError:
        return found
    except OSError as error:
        raise StorageError(
            f"the folder of photos {folder} cannot be read: {error.strerror}"
        ) from error
    return found


def delete(folder: Path, digest: str) -> bool:
    """Delete a kept photo; return whether there was one. Raises StorageError."""
    gone = False
    for ending in SUFFIXES:
        path = folder / digest[:2] / f"{digest}.{ending}"
        try:
            path.unlink()
            gone = True
        except (FileNotFoundError, NotADirectoryError):
            continue
        except OSError as error:
            raise StorageError(f"{path} could not be deleted: {error.strerror}") from error
    if gone:
        sync_folder(folder / digest[:2])
    return gone
