"""A lock that lets one process at a time work in a folder."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path

from tailorbird.errors import StorageError
from tailorbird.files.atomic import storage_error


@contextlib.contextmanager
def exclusive(path: Path, busy: str) -> Iterator[None]:
    """Hold the lock file `path` during the block.

    The operating system releases the lock when the process ends, however it ends.

    Raises:
        StorageError: with the message `busy` if the lock is held already, by another process or by
            this one; or because the file cannot be created.
    """
    from filelock import FileLock, Timeout

    lock = FileLock(path, timeout=0)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        lock.acquire()
    except Timeout:
        raise StorageError(busy) from None
    except OSError as error:
        raise storage_error(path, error) from error
    try:
        yield
    finally:
        lock.release()
