"""Work in partitions: each is a run of photos that becomes one Parquet file.

    DIR/_sources.parquet   the photos, in a row group for each partition
    DIR/_about.json        what is computed of them; a run with other values is refused
    DIR/part-00000.parquet the answers of partition 0, in the order of the photos

A partition is written whole or not at all, so that a run that was interrupted is resumed at the
partitions that are missing, and any of them may be computed twice. Readers of Parquet folders skip
the names that begin with `_`.
"""

from __future__ import annotations

import contextlib
import hashlib
import io
import itertools
import json
import os
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

from tailorbird.cluster import storage
from tailorbird.cluster.sources import Photo, photos_of
from tailorbird.errors import DatasetError, SettingsError, StorageError
from tailorbird.validation import Problems

FORMAT: Final = 1
SOURCES: Final = "_sources.parquet"
ABOUT: Final = "_about.json"
_NAME: Final = re.compile(r"part-(\d{5,})\.parquet")
DEFAULT_ROWS: Final = 1000
MOST_ROWS: Final = 100_000


@dataclass(frozen=True)
class Job:
    """Photos to work on, and the folder for the answers.

    Attributes:
        sources: folders, photos, manifests (.csv, .parquet) and addresses such as s3://shop/photos.
        output: a folder, or an address such as s3://shop/answers.
        rows: photos in a partition, 1 to 100,000.
        follow_links: also read files outside a folder, through links inside it.
    """

    sources: Sequence[str]
    output: str
    rows: int = DEFAULT_ROWS
    follow_links: bool = False

    def __post_init__(self) -> None:
        """Raise one SettingsError that names every problem."""
        with Problems() as problems:
            problems.whole("partition_rows", self.rows, 1, MOST_ROWS)
            problems.need(
                bool(self.output),
                "answers of a cluster or in partitions need a folder to be written to (--output)",
            )
            if self.output and not storage.is_remote(self.output):
                read = {f"source {name}": name for name in self.sources if _is_local(name)}
                problems.overlaps({"folder of answers": self.output}, inputs=read)


def _is_local(source: str) -> bool:
    return bool(source) and not storage.is_remote(source)


@dataclass(frozen=True)
class Plan:
    """A folder of answers that was begun: its partitions, and which of them are done."""

    output: str
    photos: int
    partitions: int
    done: frozenset[int] = field(repr=False)

    @property
    def missing(self) -> list[int]:
        """The numbers of the partitions to compute."""
        return [number for number in range(self.partitions) if number not in self.done]


def part_name(number: int) -> str:
    """Return the name of a partition's file."""
    return f"part-{number:05d}.parquet"


def plan(job: Job, about: Mapping[str, Any]) -> Plan:
    """List the photos and begin the folder of answers, or open one that was begun.

    Args:
        job: the photos and the folder.
        about: what is computed, as JSON; it must be the same in every run.

    Raises:
        DatasetError: a source has no photos.
        SettingsError: the folder holds something else, or answers to other photos or settings.
        StorageError: the folder cannot be read or written.
    """
    names = storage.names_in(job.output)
    written = storage.read(storage.joined(job.output, ABOUT)) if ABOUT in names else None
    if written is None and any(_NAME.fullmatch(name) for name in names):
        raise SettingsError(
            f"{job.output} holds partitions that were not written by tailorbird, or without their "
            f"{ABOUT}; choose another folder"
        )
    photos = photos_of(job.sources, follow_links=job.follow_links)
    if written is None:
        listing = storage.write_streaming(
            storage.joined(job.output, SOURCES), lambda file: _write_sources(photos, job.rows, file)
        )
    else:
        listing = _listed(photos, job.rows)
    wanted = {"format": FORMAT, **about, **listing, "partition_rows": job.rows}
    if written is None:
        text = json.dumps(wanted, indent=1, sort_keys=True)
        storage.write(storage.joined(job.output, ABOUT), text.encode())
    else:
        _check_same(job.output, written, wanted)
    done = frozenset(
        int(found[1]) for name in names if written and (found := _NAME.fullmatch(name))
    )
    partitions = -(-listing["photos"] // job.rows)
    return Plan(job.output, listing["photos"], partitions, done & set(range(partitions)))


def _check_same(output: str, written: bytes, wanted: Mapping[str, Any]) -> None:
    """Raise SettingsError where a folder was begun with other photos or settings."""
    try:
        before = json.loads(written)
    except ValueError:
        before = None
    if not isinstance(before, dict):
        raise SettingsError(f"{output}/{ABOUT} is damaged; choose another folder")
    differing = sorted(name for name in {*before, *wanted} if before.get(name) != wanted.get(name))
    if differing:
        pairs = ", ".join(
            f"{name} {before.get(name)!r}, now {wanted.get(name)!r}" for name in differing
        )
        raise SettingsError(
            f"{output} was begun with other photos or settings ({pairs}); give these again to "
            "resume, or choose another folder"
        )


class _Digest:
    """SHA-256 of a listing, in the order of its photos."""

    def __init__(self) -> None:
        self._hash = hashlib.sha256()
        self.photos = 0

    def add(self, photos: Sequence[Photo]) -> None:
        for photo in photos:
            for cell in photo:
                encoded = b"" if cell is None else os.fsencode(cell)
                self._hash.update(len(encoded).to_bytes(4, "little") + encoded)
        self.photos += len(photos)

    def as_dict(self) -> dict[str, Any]:
        return {"photos": self.photos, "sources_sha256": self._hash.hexdigest()}


def _listed(photos: Iterator[Photo], rows: int) -> dict[str, Any]:
    digest = _Digest()
    while part := list(itertools.islice(photos, rows)):
        digest.add(part)
    return digest.as_dict()


def _write_sources(photos: Iterator[Photo], rows: int, file: Any) -> dict[str, Any]:
    """Write the listing with a row group for each partition; return its size and digest."""
    arrow = storage.pyarrow()
    from pyarrow import parquet

    digest = _Digest()
    # A path is bytes: file names need not be UTF-8.
    schema = arrow.schema(
        [("path", arrow.binary()), ("label", arrow.string()), ("split", arrow.string())]
    )
    with parquet.ParquetWriter(file, schema, compression="zstd") as writer:
        while part := list(itertools.islice(photos, rows)):
            digest.add(part)
            columns = {
                "path": [os.fsencode(photo.path) for photo in part],
                "label": [photo.label for photo in part],
                "split": [photo.split for photo in part],
            }
            writer.write_table(arrow.table(columns, schema=schema), row_group_size=rows)
    return digest.as_dict()


@contextlib.contextmanager
def _opened(address: str) -> Iterator[Any]:
    """Open a Parquet file, of which only what is asked for is read. Raises OSError, ValueError."""
    storage.pyarrow()
    from pyarrow import parquet

    with contextlib.ExitStack() as stack:
        source: Any = address
        if storage.is_remote(address):
            store, path = storage.file_system(address)
            source = stack.enter_context(store.open_input_file(path))
        yield stack.enter_context(parquet.ParquetFile(source))


def photos_in(output: str, number: int) -> list[Photo]:
    """Return the photos of a partition. Raises StorageError."""
    address = storage.joined(output, SOURCES)
    try:
        with _opened(address) as table:
            rows = table.read_row_group(number).to_pylist()
    except (OSError, ValueError) as error:
        raise StorageError(
            f"{address} cannot be read: {storage.reason(error)}; every worker must reach the folder"
        ) from None
    return [Photo(os.fsdecode(row["path"]), row["label"], row["split"]) for row in rows]


def write_part(output: str, number: int, table: Any) -> None:
    """Write a partition, a table with a column `error`. Raises StorageError."""
    from pyarrow import parquet

    content = io.BytesIO()
    parquet.write_table(table, content, compression="zstd")
    storage.write(storage.joined(output, part_name(number)), content.getvalue())


def failures_in(output: str, numbers: Sequence[int]) -> int:
    """Return how many photos of these partitions have an error, from the files' statistics.

    Raises:
        DatasetError: a file is not the Parquet that was written.
        StorageError: a file cannot be read.
    """
    arrow = storage.pyarrow()
    failed = 0
    for number in numbers:
        address = storage.joined(output, part_name(number))
        try:
            with _opened(address) as table:
                about = table.metadata
        except FileNotFoundError:
            raise StorageError(f"{address} was deleted meanwhile; run the command again") from None
        except arrow.ArrowInvalid:
            raise DatasetError(
                f"{address} is damaged; delete it and run the command again"
            ) from None
        except OSError as error:
            raise StorageError(f"{address} cannot be read: {storage.reason(error)}") from None
        column = about.schema.names.index("error")
        for group in range(about.num_row_groups):
            found = about.row_group(group)
            failed += found.num_rows - found.column(column).statistics.null_count
    return failed
