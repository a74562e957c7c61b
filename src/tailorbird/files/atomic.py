"""Write files atomically: write a temporary file, flush it to disk, rename it.

Readers see the old file or the new one, never a part.
"""

from __future__ import annotations

import contextlib
import errno
import hashlib
import os
import platform
import re
import secrets
from collections.abc import Iterator
from pathlib import Path

from tailorbird.errors import StorageError, StorageFull

# Process ids are valid on one host only, but hosts and containers may share a folder.
_HOST = hashlib.sha256(platform.node().encode()).hexdigest()[:8]
_TEMPORARY = re.compile(rf"\.tailorbird-{_HOST}-(\d+)-[0-9a-f]{{8}}\.tmp$")


def _alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except OSError:
        return True  # it exists and belongs to another user
    return True


def remove_leftovers(folder: Path) -> None:
    """Delete temporary files of processes that were killed while writing into `folder`."""
    with contextlib.suppress(OSError):
        for path in folder.iterdir():
            found = _TEMPORARY.search(path.name)
            if found and not _alive(int(found[1])):
                path.unlink(missing_ok=True)


def storage_error(path: Path, error: OSError) -> StorageError:
    """Return a StorageError for an OSError raised while writing `path`, with advice."""
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        return StorageFull(
            f"the disk is full: {path} could not be written; free some space and run again, "
            "nothing else was lost"
        )
    if error.errno in (errno.EACCES, errno.EPERM, errno.EROFS):
        return StorageError(
            f"{path} could not be written: {error.strerror}; choose a folder this user may write "
            "to (TAILORBIRD_CACHE moves the cache)"
        )
    return StorageError(f"{path} could not be written: {error.strerror or error}")


@contextlib.contextmanager
def atomic_path(path: str | Path) -> Iterator[Path]:
    """Yield a temporary path beside `path` that replaces `path` at the end of the block.

    If the block raises, the temporary file is deleted and `path` is left as it was.

    Raises:
        StorageError: the disk is full, or the folder cannot be written to.
    """
    target = Path(os.path.realpath(path))  # a link stays; its target is written
    if target.exists() and not target.is_file():
        raise StorageError(f"{path} is not a file that can be replaced; give the name of a file")
    # The temporary name has a fixed length, so that a name of 255 bytes works as well.
    temporary = target.parent / f".tailorbird-{_HOST}-{os.getpid()}-{secrets.token_hex(4)}.tmp"
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        remove_leftovers(target.parent)
        yield temporary
        with temporary.open("rb+") as file:
            os.fsync(file.fileno())
        temporary.replace(target)
        sync_folder(target.parent)
    except OSError as error:
        raise storage_error(target, error) from error
    finally:
        with contextlib.suppress(OSError):
            temporary.unlink(missing_ok=True)


def sync_folder(folder: Path) -> None:
    """Flush a folder to disk, so that a rename in it survives a power cut; no-op on Windows."""
    with contextlib.suppress(OSError):
        handle = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)


def write_bytes(path: str | Path, data: bytes) -> None:
    """Write `data` to `path` atomically. Raises StorageError."""
    with atomic_path(path) as temporary:
        temporary.write_bytes(data)


def write_text(path: str | Path, text: str) -> None:
    """Write `text` as UTF-8 to `path` atomically. Raises StorageError."""
    write_bytes(path, text.encode())


def sha256_file(path: str | Path) -> str:
    """Return the SHA-256 of a file as 64 hexadecimal digits."""
    with Path(path).open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
