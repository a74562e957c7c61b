"""The photos to work on, in a fixed order, one after the other: millions fit in no list.

Sources are files and folders, on this machine or in an object store, and manifests: CSV or Parquet
files with a column `path`, and perhaps `label` and `split`, whose values are kept.
"""

from __future__ import annotations

import csv
import io
from collections.abc import Iterator, Sequence
from pathlib import Path, PurePosixPath
from typing import Any, Final, NamedTuple

from tailorbird.cluster import storage
from tailorbird.dataset.layout import each_photo, looks_like_a_photo
from tailorbird.dataset.samples import printable
from tailorbird.errors import DatasetError
from tailorbird.files import exact_cell

MANIFESTS: Final = (".csv", ".parquet")
"""Endings of files that list photos."""

_SEPARATORS: Final = (",", ";", "\t")
_ROWS: Final = 4096


class Photo(NamedTuple):
    """One photo: where it is, and what a manifest says about it."""

    path: str
    label: str | None = None
    split: str | None = None


def photos_of(sources: Sequence[str], *, follow_links: bool = False) -> Iterator[Photo]:
    """Yield the photos of folders, files, manifests and object stores, always in the same order.

    Raises:
        DatasetError: a source does not exist, holds no photo or is no manifest.
    """
    if not sources:
        raise DatasetError("no photos were given; name a folder, a manifest or an address")
    for source in sources:
        found = False
        for photo in _photos(source, follow_links):
            found = True
            yield photo
        if not found:
            raise DatasetError(
                f"{printable(source)} holds no photos; name a folder of photos, or a CSV or "
                "Parquet file with a column path"
            )


def _photos(source: str, follow_links: bool) -> Iterator[Photo]:
    ending = PurePosixPath(source).suffix.lower()
    if ending in MANIFESTS and not _is_folder(source):
        yield from _csv(source) if ending == ".csv" else _parquet(source)
    elif storage.is_remote(source):
        yield from _remote(source)
    elif Path(source).is_dir():
        for path in each_photo(Path(source), follow_links=follow_links):
            yield Photo(str(path))
    elif Path(source).exists():
        yield Photo(source)
    else:
        raise DatasetError(f"{printable(source)} does not exist; check the name")


def _is_folder(source: str) -> bool:
    return not storage.is_remote(source) and Path(source).is_dir()


def _remote(address: str) -> Iterator[Photo]:
    """Yield an object, or every object below a prefix, folder by folder."""
    from tailorbird.cluster.storage import pyarrow

    pyarrow()
    from pyarrow import fs

    store, path = storage.file_system(address)
    scheme = address.partition("://")[0]
    try:
        about = store.get_file_info(path)
        if about.type == fs.FileType.NotFound:
            raise DatasetError(f"{address} does not exist; check the address and the credentials")
        if about.type == fs.FileType.File:
            yield Photo(address)
            return
        waiting = [path]
        while waiting:
            found = store.get_file_info(fs.FileSelector(waiting.pop()))
            found.sort(key=lambda one: one.path)
            for one in found:
                if one.type == fs.FileType.File and looks_like_a_photo(one.base_name):
                    yield Photo(f"{scheme}://{one.path}")
            waiting += [
                one.path
                for one in reversed(found)
                if one.type == fs.FileType.Directory and not one.base_name.startswith(".")
            ]
    except OSError as error:
        raise DatasetError(f"{address} cannot be read: {storage.reason(error)}") from None


def _placed(manifest: str, path: str) -> str:
    """Return a manifest's path; relative ones are looked up beside the manifest."""
    if storage.is_remote(path) or Path(path).is_absolute():
        return path
    if storage.is_remote(manifest):
        return storage.joined(manifest.rpartition("/")[0], path)
    return str(Path(manifest).parent / path)


def _photo(manifest: str, row: dict[str, Any], number: int) -> Photo:
    path = row.get("path")
    if not isinstance(path, str) or not path.strip():
        raise DatasetError(f"{printable(manifest)}, row {number:,}: the path is empty")
    kept = {name: row.get(name) or None for name in ("label", "split")}
    if any(value is not None and not isinstance(value, str) for value in kept.values()):
        raise DatasetError(
            f"{printable(manifest)}, row {number:,}: label and split must be text or empty"
        )
    return Photo(_placed(manifest, path), **kept)


def _csv(manifest: str) -> Iterator[Photo]:
    """Yield the rows of a CSV with commas, semicolons or tabs."""
    try:
        with _open(manifest) as binary:
            text = io.TextIOWrapper(binary, "utf-8-sig", "surrogateescape", newline="")
            first = text.readline()
            separator = next((one for one in _SEPARATORS if one in first), ",")
            names = [
                cell.strip().lower() for cell in next(csv.reader([first], delimiter=separator), [])
            ]
            _check(manifest, names)
            rows = csv.reader(text, delimiter=separator, strict=True)
            for number, cells in enumerate(rows, start=1):
                if cells:
                    values = map(exact_cell, cells)
                    yield _photo(manifest, dict(zip(names, values, strict=False)), number)
    except csv.Error as error:
        raise DatasetError(f"{printable(manifest)} is not CSV: {error}") from None
    except OSError as error:
        raise DatasetError(f"{printable(manifest)} cannot be read: {_said(error)}") from None


def _parquet(manifest: str) -> Iterator[Photo]:
    """Yield the rows of a Parquet file."""
    arrow = storage.pyarrow()
    from pyarrow import parquet

    try:
        with _open(manifest) as binary:
            file = parquet.ParquetFile(binary)
            names = file.schema_arrow.names
            _check(manifest, names)
            wanted = [name for name in Photo._fields if name in names]
            number = 0
            for batch in file.iter_batches(_ROWS, columns=wanted):
                for row in batch.to_pylist():
                    number += 1
                    yield _photo(manifest, row, number)
    except arrow.ArrowInvalid as error:
        raise DatasetError(
            f"{printable(manifest)} is not Parquet: {storage.reason(error)}"
        ) from None
    except OSError as error:
        raise DatasetError(f"{printable(manifest)} cannot be read: {_said(error)}") from None


def _open(manifest: str) -> Any:
    if not storage.is_remote(manifest):
        return Path(manifest).open("rb")
    store, path = storage.file_system(manifest)
    return store.open_input_file(path)


def _said(error: OSError) -> str:
    return error.strerror or storage.reason(error)


def _check(manifest: str, names: Sequence[str]) -> None:
    if "path" not in names:
        shown = ", ".join(map(printable, names[:10]))
        raise DatasetError(
            f"{printable(manifest)} has no column path (its columns: {shown}); a manifest is a CSV "
            "or Parquet file with a column path, and perhaps label and split"
        )
