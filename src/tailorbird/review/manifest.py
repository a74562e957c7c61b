"""The CSV file of a review, `path,label,split,decision,was`, rewritten after each decision."""

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
from tailorbird.files import formula_safe, sha256_file, write_bytes

HEADER: Final = ("path", "label", "split", "decision", "was")


class ChangedMeanwhile(StorageError):
    """Another program has changed the manifest since it was read."""


def decided(row: Row, decision: str, label: str = "") -> Row:
    """Return a row after a decision.

    decision: one of DECISIONS, or empty to remove the decision. label: the new label for
    `relabel`; relabelling to the photo's original label is keeping it.
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
    """Changes that wait to be written; `before` holds the rows that they replace."""

    before: dict[int, Row]
    saved: bool = False
    error: TailorbirdError | None = None


class Manifest:
    """The rows of a manifest and its file.

    `change` returns once its changes are on the disk; changes made while the file is being
    written share the next write. A file that another program has changed is never overwritten.
    """

    def __init__(
        self, path: Path, rows: Sequence[Row], *, removed: Sequence[Row] = (), seen: str | None
    ) -> None:
        """Hold `rows` in the order of the samples.

        removed: rows of photos that no longer exist, kept at the end of the file.
        seen: the SHA-256 of the present file at `path`, None without a file.
        """
        self.path = path
        self._rows = list(rows)
        self._lines = [_line(row) for row in rows]
        self._tail = b"".join(_line(row) for row in removed)
        self._seen = seen
        self._signature: tuple[int, ...] | None = None
        self._lock = threading.Lock()
        self._turn = threading.Lock()
        self._pending: list[_Batch] = []

    def __len__(self) -> int:
        return len(self._rows)

    def row(self, index: int) -> Row:
        """Return one photo's row."""
        return self._rows[index]

    def rows(self) -> list[Row]:
        """Return all photos' present rows."""
        with self._lock:
            return list(self._rows)

    def write(self) -> None:
        """Write the file. Raises StorageError, StorageFull, ChangedMeanwhile."""
        with self._turn:
            self._replace(b"".join([_HEAD, *self._lines, self._tail]))

    def change(self, rows: Mapping[int, Row]) -> dict[int, Row]:
        """Replace rows, write the file and return the former rows.

        When writing fails, nothing has changed and the error is raised.
        """
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
                f"another program has changed {printable(str(self.path))}, so it was not "
                "overwritten; end this review (Ctrl-C) and start it again, it resumes from that "
                "file"
            )
        digest = hashlib.sha256(data).hexdigest()
        if digest != self._seen or not self.path.exists():
            write_bytes(self.path, data)
        self._seen, self._signature = digest, _signature(self.path)

    def _is_foreign(self) -> bool:
        """Whether another program has changed the file; it is read only if its date or size has."""
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
                # Later changes were based on rows that are not saved: undo all, the last first.
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
    """Return the SHA-256 of a file, None without a file. Raises StorageError if unreadable."""
    try:
        return sha256_file(path)
    except FileNotFoundError:
        return None
    except OSError as error:
        raise StorageError(f"{printable(str(path))} cannot be read: {error.strerror}") from None


def _signature(path: Path) -> tuple[int, ...] | None:
    """Return the time, size and inode of a file, which a write changes; None without a file."""
    try:
        about = path.stat()
    except OSError:
        return None
    return about.st_mtime_ns, about.st_size, about.st_ino


def _line(row: Row) -> bytes:
    out = io.StringIO(newline="")
    cells = (row.path, row.label, row.split or "", row.decision, row.was)
    csv.writer(out, lineterminator="\r\n").writerow(map(formula_safe, cells))
    return out.getvalue().encode("utf-8", "surrogateescape")


_HEAD = ",".join(HEADER).encode() + b"\r\n"


def fresh_rows(path: Path, samples: Sequence[Sample]) -> list[Row]:
    """Return a row without a decision per sample, with paths relative to the manifest at `path`."""
    return [
        Row(name, sample.label, sample.split)
        for name, sample in zip(names_from(path, samples), samples, strict=True)
    ]


@dataclass(frozen=True)
class Resumed:
    """Rows with the decisions of a former review.

    added, removed: names of photos that are new, or that no longer exist.
    removed_rows: rows of the latter that have a decision, which is kept.
    relabelled: names of photos whose label changed in the dataset, so that the old decision no
        longer applies.
    found: number of photos in both reviews.
    """

    rows: tuple[Row, ...]
    added: tuple[str, ...] = ()
    removed: tuple[str, ...] = ()
    removed_rows: tuple[Row, ...] = ()
    relabelled: tuple[str, ...] = ()
    found: int = field(default=0)


def resume(path: Path, rows: Sequence[Row], former: Path, former_rows: Sequence[Row]) -> Resumed:
    """Apply the decisions of a former review; photos are matched by their location.

    path, rows: the new manifest and its rows.
    former, former_rows: the former manifest, often the same file. A photo listed several times is
        matched in the order of its rows.
    """
    known: dict[str, list[Row]] = defaultdict(list)
    for row in former_rows:
        known[_place(former, row)].append(row)
    result: list[Row] = []
    added: list[str] = []
    relabelled: list[str] = []
    found = 0
    for row in rows:
        matches = known.get(_place(path, row))
        if not matches:
            added.append(printable(row.path))
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
    removed = [
        replace(row, path=_moved(former, row, path)) for left in known.values() for row in left
    ]
    return Resumed(
        tuple(result),
        tuple(added),
        tuple(printable(row.path) for row in removed),
        tuple(row for row in removed if row.decision),
        tuple(relabelled),
        found,
    )


def _place(manifest: Path, row: Row) -> str:
    """Return the absolute path of a row's photo, without `..`."""
    return os.path.normpath(manifest.parent.resolve() / row.path)


def _moved(former: Path, row: Row, manifest: Path) -> str:
    """Return a row's path for another manifest."""
    if former.parent.resolve() == manifest.parent.resolve():
        return row.path
    return _place(former, row)
