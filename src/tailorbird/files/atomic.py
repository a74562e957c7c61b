"""Write beside, flush to the disk, rename: a reader sees the old file or the new one, never a half."""

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

# A process number means something on one host only, and folders are shared between hosts and containers.
_HOST = hashlib.sha256(platform.node().encode()).hexdigest()[:8]
_TEMPORARY = re.compile(rf"\.tailorbird-{_HOST}-(\d+)-[0-9a-f]{{8}}\.tmp$")


def _alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except OSError:
        return True  # it exists and belongs to somebody else
    return True


def remove_leftovers(folder: Path) -> None:
    """Delete the temporary files of processes that were killed while they wrote into `folder`."""
    with contextlib.suppress(OSError):
        for path in folder.iterdir():
            found = _TEMPORARY.search(path.name)
            if found and not _alive(int(found[1])):
                path.unlink(missing_ok=True)


def storage_error(path: Path, error: OSError) -> StorageError:
    """An operating-system error while writing `path`, in words that say what to do."""
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        return StorageFull(
            f"the disk is full: {path} could not be written; free some space and run again, nothing else was lost"
        )
    if error.errno in (errno.EACCES, errno.EPERM, errno.EROFS):
        return StorageError(
            f"{path} could not be written: {error.strerror}; choose a folder this user may write to (TAILORBIRD_CACHE moves the cache)"
        )
    return StorageError(f"{path} could not be written: {error.strerror or error}")


@contextlib.contextmanager
def atomic_path(path: str | Path) -> Iterator[Path]:
    """A temporary path beside `path`; what was written there replaces `path` when the block ends well, and goes when it does not.

    Raises StorageError when the disk is full or the folder cannot be written.
    """
    target = Path(os.path.realpath(path))  # what a link points to is written, the link stays
    if target.exists() and not target.is_file():
        raise StorageError(f"{path} is not a file that can be replaced; give the name of a file")
    # The temporary name is short whatever the target's is: a 255-byte name must work too.
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
    """Make a rename itself survive a power cut, where the system allows opening a folder (Windows does not)."""
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
    """The SHA-256 of a file as 64 hexadecimal digits."""
    with Path(path).open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
