"""The file of a review: `path,label,split,decision,was`, a row for each photo, written anew after each decision."""

from __future__ import annotations

import csv
import hashlib
import io
import os
import threading
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Final

from tailorbird.dataset.samples import Sample, printable
from tailorbird.dataset.table import DECISIONS, Row, names_from
from tailorbird.errors import StorageError, TailorbirdError
from tailorbird.files import sha256_file, write_bytes

HEADER: Final = ("path", "label", "split", "decision", "was")


class ChangedMeanwhile(StorageError):
    """Somebody else wrote the manifest since it was read."""


def decided(row: Row, decision: str, label: str = "") -> Row:
    """The row after a decision. decision: one of DECISIONS, or empty to take a decision back. label: for relabel, the new one.

    Relabelling to the label the photo had all along is keeping it.
    """
    if decision not in ("", *DECISIONS):
        raise ValueError(
            f"the decision is {decision!r}; it must be one of {', '.join(DECISIONS)}, or empty"
        )
    if decision == "relabel" and label != row.original:
        return replace(row, label=label, decision="relabel", was=row.original)
    return replace(
        row, label=row.original, decision="keep" if decision == "relabel" else decision, was=""
    )


@dataclass
class _Batch:
    """Changes that wait to be written; before: the rows they replace."""

    before: dict[int, Row]
    saved: bool = False
    error: TailorbirdError | None = None


class Manifest:
    """The rows of a manifest and its file.

    `change` returns once its changes are on the disk; changes that come while the file is being written share the next writing.
    A file that another program changed since is never written over.
    """

    def __init__(
        self, path: Path, rows: Sequence[Row], *, gone: Sequence[Row] = (), seen: str | None
    ) -> None:
        """Rows in the order of the samples. gone: rows of photos that are no longer there, kept at the end of the file.

        seen: the SHA-256 of the file that stands at `path`, None where there is none.
        """
        self.path = path
        self._rows = list(rows)
        self._lines = [_line(row) for row in rows]
        self._tail = b"".join(_line(row) for row in gone)
        self._seen = seen
        self._signature: tuple[int, ...] | None = None
        self._lock = threading.Lock()
        self._turn = threading.Lock()
        self._pending: list[_Batch] = []

    def __len__(self) -> int:
        return len(self._rows)

    def row(self, index: int) -> Row:
        """One photo's row."""
        return self._rows[index]

    def rows(self) -> list[Row]:
        """Every photo's row, as of now."""
        with self._lock:
            return list(self._rows)

    def write(self) -> None:
        """Write the file as it is now. Raises StorageError, StorageFull, ChangedMeanwhile."""
        with self._turn:
            self._replace(b"".join([_HEAD, *self._lines, self._tail]))

    def change(self, rows: Mapping[int, Row]) -> dict[int, Row]:
        """Replace rows and write the file; the rows before. When writing fails nothing has changed, and the reason is raised."""
        with self._lock:
            batch = _Batch({index: self._rows[index] for index in rows})
            self._apply(rows)
            self._pending.append(batch)
        with self._turn:
            if not batch.saved and batch.error is None:
                self._save()
        if batch.error is not None:
            raise batch.error
        return batch.before

    def _apply(self, rows: Mapping[int, Row]) -> None:
        for index, row in rows.items():
            self._rows[index] = row
            self._lines[index] = _line(row)

    def _replace(self, data: bytes) -> None:
        if self._is_foreign():
            raise ChangedMeanwhile(
                f"another program has changed {printable(str(self.path))}, so nothing was written over it; "
                "end this review (Ctrl-C) and start it again, it goes on from that file"
            )
        digest = hashlib.sha256(data).hexdigest()
        if digest != self._seen or not self.path.exists():
            write_bytes(self.path, data)
        self._seen, self._signature = digest, _signature(self.path)

    def _is_foreign(self) -> bool:
        """Whether the file holds something else than what was last seen in it. It is read only where its date or size changed."""
        present = _signature(self.path)
        if present is None or present == self._signature:
            return False
        return content_hash(self.path) != self._seen

    def _save(self) -> None:
        with self._lock:
            batches = list(self._pending)
            data = b"".join([_HEAD, *self._lines, self._tail])
        try:
            self._replace(data)
        except TailorbirdError as error:
            with self._lock:
                # What came meanwhile was decided on rows that are not to be: all of it is undone, the last first.
                for batch in reversed(self._pending):
                    batch.error = error
                    self._apply(batch.before)
                self._pending.clear()
            return
        with self._lock:
            for batch in batches:
                batch.saved = True
            del self._pending[: len(batches)]


def content_hash(path: Path) -> str | None:
    """The SHA-256 of a file; None where there is none. Raises StorageError where it cannot be read."""
    try:
        return sha256_file(path)
    except FileNotFoundError:
        return None
    except OSError as error:
        raise StorageError(f"{printable(str(path))} cannot be read: {error.strerror}") from None


def _signature(path: Path) -> tuple[int, ...] | None:
    """What changes when somebody writes the file: time, size, inode. None where there is no file."""
    try:
        about = path.stat()
    except OSError:
        return None
    return about.st_mtime_ns, about.st_size, about.st_ino


def _line(row: Row) -> bytes:
    out = io.StringIO(newline="")
    csv.writer(out, lineterminator="\r\n").writerow(
        (row.path, row.label, row.split or "", row.decision, row.was)
    )
    return out.getvalue().encode("utf-8", "surrogateescape")


_HEAD = ",".join(HEADER).encode() + b"\r\n"


def fresh_rows(path: Path, samples: Sequence[Sample]) -> list[Row]:
    """A row without a decision for each sample, its photo named relative to the manifest at `path`."""
    return [
        Row(name, sample.label, sample.split)
        for name, sample in zip(names_from(path, samples), samples, strict=True)
    ]


@dataclass(frozen=True)
class Resumed:
    """Rows with the decisions of a former review.

    came, gone: names of photos that the former review did not have, or that are no longer there. gone_rows: those of the gone
    that carry a decision; it is not forgotten. relabelled: names of photos whose label changed at the source since, so that
    the old decision says nothing about the new label. found: photos that both know.
    """

    rows: tuple[Row, ...]
    came: tuple[str, ...] = ()
    gone: tuple[str, ...] = ()
    gone_rows: tuple[Row, ...] = ()
    relabelled: tuple[str, ...] = ()
    found: int = field(default=0)


def resume(path: Path, rows: Sequence[Row], former: Path, former_rows: Sequence[Row]) -> Resumed:
    """Take over the decisions of a former review; photos are recognised by where they are.

    path, rows: the manifest to be and its rows. former, former_rows: the manifest before, often the same file.
    A photo listed several times is matched in the order of its rows.
    """
    known: dict[str, list[Row]] = defaultdict(list)
    for row in former_rows:
        known[_place(former, row)].append(row)
    result: list[Row] = []
    came: list[str] = []
    relabelled: list[str] = []
    found = 0
    for row in rows:
        matches = known.get(_place(path, row))
        if not matches:
            came.append(printable(row.path))
            result.append(row)
            continue
        found += 1
        old = next((each for each in matches if each.original == row.label), matches[0])
        matches.remove(old)
        if old.decision and old.decision != "exclude" and old.original != row.label:
            relabelled.append(printable(row.path))
            result.append(row)
        else:
            result.append(decided(row, old.decision, old.label))
    gone = [replace(row, path=_moved(former, row, path)) for left in known.values() for row in left]
    return Resumed(
        tuple(result),
        tuple(came),
        tuple(printable(row.path) for row in gone),
        tuple(row for row in gone if row.decision),
        tuple(relabelled),
        found,
    )


def _place(manifest: Path, row: Row) -> str:
    """Where a row's photo is: an absolute path without `..`."""
    return os.path.normpath(manifest.parent.resolve() / row.path)


def _moved(former: Path, row: Row, manifest: Path) -> str:
    """A row's path as another manifest has it."""
    if former.parent.resolve() == manifest.parent.resolve():
        return row.path
    return _place(former, row)
