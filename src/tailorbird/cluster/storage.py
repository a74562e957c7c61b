"""Files of this machine and of object stores, by one kind of address: paths and s3:// or gs://.

PyArrow reaches S3 and Google Cloud Storage itself, and any other store for which an fsspec package
is installed. Credentials and endpoints come from the environment, as for each store's own tools.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any, Final, TypeVar

from tailorbird import files, installing
from tailorbird.errors import (
    DatasetError,
    ImageTooLarge,
    MissingExtra,
    StorageError,
    UnreadableImage,
)
from tailorbird.files.atomic import storage_error
from tailorbird.images import MOST_BYTES, read_bytes

T = TypeVar("T")

_SCHEME: Final = re.compile(r"([a-z][a-z0-9+.\-]+)://", re.IGNORECASE)
_NATIVE: Final = ("s3", "gs", "gcs", "file")
ENDPOINTS: Final = ("AWS_ENDPOINT_URL_S3", "AWS_ENDPOINT_URL")
"""Variables with the address of an S3 server that is not Amazon's."""


def is_remote(path: str) -> bool:
    """Return whether this is an address such as s3://shop/photos, and not a local path."""
    return _SCHEME.match(path) is not None


def pyarrow() -> Any:
    """Return the module `pyarrow`, imported on first use. Raises MissingExtra."""
    try:
        import pyarrow
    except ModuleNotFoundError:
        raise MissingExtra(
            f"PyArrow is not installed; to install it with Ray: {installing.install('ray')}"
        ) from None
    return pyarrow


@cache
def _opened(scheme: str, bucket: str) -> Any:
    """Return the file system of a scheme and bucket."""
    pyarrow()
    from pyarrow import fs

    if scheme == "s3":
        endpoint = next((os.environ[name] for name in ENDPOINTS if os.environ.get(name)), None)
        return fs.S3FileSystem(**({"endpoint_override": endpoint} if endpoint else {}))
    if scheme in _NATIVE:
        return fs.FileSystem.from_uri(f"{scheme}://{bucket}/")[0]
    try:
        import fsspec

        return fs.PyFileSystem(fs.FSSpecHandler(fsspec.filesystem(scheme)))
    except (ImportError, ValueError) as error:
        raise DatasetError(
            f"{scheme}:// cannot be read: {error}; valid are paths, s3:// and gs://, and stores "
            "for which an fsspec package is installed"
        ) from None


def file_system(address: str) -> tuple[Any, str]:
    """Return the file system of an address such as s3://shop/photos, and the path in it.

    Raises:
        DatasetError: the scheme is unknown.
        MissingExtra: PyArrow is not installed.
    """
    found = _SCHEME.match(address)
    assert found is not None, "a local path needs no file system"
    rest = address[found.end() :]
    return _opened(found[1].lower(), rest.partition("/")[0]), rest.rstrip("/")


def joined(folder: str, name: str) -> str:
    """Return the address of a file in a folder."""
    return f"{folder.rstrip('/')}/{name}" if is_remote(folder) else str(Path(folder) / name)


class RemotePhoto:
    """A photo of an object store, read by the thread that decodes it."""

    def __init__(self, address: str) -> None:
        self._address = address

    def read(self) -> bytes:
        """Return its bytes. Raises ImageError."""
        store, path = file_system(self._address)
        try:
            with store.open_input_file(path) as file:
                size = file.size()
                if size > MOST_BYTES:
                    shown, most = size / 2**20, MOST_BYTES // 2**20
                    raise ImageTooLarge(
                        f"{shown:,.0f} MiB; a photo's file may have at most {most} MiB"
                    )
                content: bytes = file.read()
                return content
        except FileNotFoundError:
            raise UnreadableImage("no such object") from None
        except OSError as error:
            raise UnreadableImage(f"could not be read: {reason(error)}") from None


def photo_bytes(path: str) -> bytes:
    """Return the bytes of a photo anywhere. Raises ImageError."""
    return RemotePhoto(path).read() if is_remote(path) else read_bytes(path)


def read(address: str) -> bytes | None:
    """Return the bytes of a small file, or None if there is none. Raises StorageError."""
    try:
        if not is_remote(address):
            return Path(address).read_bytes()
        store, path = file_system(address)
        with store.open_input_stream(path) as file:
            content: bytes = file.read()
            return content
    except FileNotFoundError:
        return None
    except OSError as error:
        raise StorageError(f"{address} cannot be read: {reason(error)}") from None


def write(address: str, content: bytes) -> None:
    """Write a file whole or not at all. Raises StorageError."""
    if not is_remote(address):
        files.write_bytes(address, content)
        return
    store, path = file_system(address)
    try:
        with store.open_output_stream(path) as file:
            file.write(content)
    except OSError as error:
        raise StorageError(f"{address} could not be written: {reason(error)}") from None


def write_streaming(address: str, fill: Callable[[Any], T]) -> T:
    """Write a file whole or not at all; `fill` receives an open binary file.

    Raises:
        StorageError: it cannot be written.
    """
    if not is_remote(address):
        with files.atomic_path(address) as temporary, temporary.open("wb") as file:
            return fill(file)
    store, path = file_system(address)
    try:
        with store.open_output_stream(path) as file:
            return fill(file)
    except OSError as error:
        raise StorageError(f"{address} could not be written: {reason(error)}") from None


def names_in(folder: str) -> set[str]:
    """Return the names of the files directly in a folder; none where it does not exist.

    Raises:
        StorageError: it is no folder, or cannot be listed.
    """
    try:
        if not is_remote(folder):
            return {entry.name for entry in os.scandir(folder)}
        from pyarrow import fs

        store, path = file_system(folder)
        found = store.get_file_info(fs.FileSelector(path, allow_not_found=True))
        return {one.base_name for one in found}
    except FileNotFoundError:
        return set()
    except NotADirectoryError as error:
        raise StorageError(f"{folder} is a file; give a folder to write to") from error
    except OSError as error:
        if is_remote(folder):
            raise StorageError(f"{folder} cannot be listed: {reason(error)}") from None
        raise storage_error(Path(folder), error) from error


def reason(error: Exception) -> str:
    """Return the first line of a store's message, without the tail of retries."""
    return (str(error).strip().splitlines() or [type(error).__name__])[0][:200]
