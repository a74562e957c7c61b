"""Scan a dataset in one pass: hash, decode once, cache the facts, pass pictures to a visitor."""

from __future__ import annotations

import hashlib
import re
import threading
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Final, NamedTuple, Protocol

import numpy as np
import numpy.typing as npt
from PIL import Image

from tailorbird import images, parallel
from tailorbird.dataset.checks import class_findings, dark_findings
from tailorbird.dataset.duplicates.corner_store import CornerStore
from tailorbird.dataset.duplicates.facts import FACTS, facts, open_facts, remember
from tailorbird.dataset.duplicates.groups import duplicate_groups
from tailorbird.dataset.grouping import group_samples
from tailorbird.dataset.layout import Entry, Layout, find
from tailorbird.dataset.samples import Dataset, Finding, Sample, printable
from tailorbird.dataset.settings import DataSettings
from tailorbird.errors import DatasetError, ImageError, StorageError
from tailorbird.files import RowStore, cache_folder
from tailorbird.progress import NoProgress, Progress

_LEAST_SIDE: Final = 128
"""Side in pixels to decode for the facts; libjpeg decodes large photos at a fraction."""

_LEAST_FOR_FACTS: Final = 96
"""If a visitor requests a smaller side than this, photos are decoded again for their facts."""

_BATCH: Final = 4096


class ReadFile(NamedTuple):
    """What is known of a file that was read elsewhere.

    number: of the file. digest: SHA-256, 32 bytes; zeros where the file could not be read. error:
    kind and message where it cannot be used.
    """

    number: int
    digest: bytes
    error: tuple[str, str] | None


class Elsewhere(Protocol):
    """Other processes that read and embed photos, and write what they find to the same cache."""

    def read(self, paths: Sequence[Path]) -> Iterator[ReadFile]:
        """Read files; yield one result for each, in any order, when the cache has its facts."""

    def embed(self, paths: Sequence[Path], view: int) -> Iterator[int]:
        """Compute features of a view; yield how many photos more are in the cache."""


class Visitor(Protocol):
    """Receives the photos of a scan while they are decoded."""

    at_least: int
    """Side in pixels that the visitor needs; see `images.decode`."""

    def wants(self, digest: bytes) -> bool:
        """Whether to decode the photo with this SHA-256 (32 bytes); called from worker threads."""

    def see(self, digest: bytes, image: Image.Image) -> None:
        """Receive a wanted photo, RGB and upright; once per digest, from worker threads."""


def scan(
    source: str | Path,
    *,
    data: DataSettings | None = None,
    workers: int | None = None,
    progress: Progress | None = None,
    visitor: Visitor | None = None,
    elsewhere: Elsewhere | None = None,
    store: bool = True,
) -> Dataset:
    """Read a folder or CSV: return its usable photos, classes, splits and problems.

    Args:
        source: a folder of class folders, or a CSV.
        data: how it is read.
        workers: threads that read and decode; None uses every core.
        progress: receives the stage `scan`, or `embed` with a visitor, and its files.
        visitor: receives the decoded photos that it requests; an exception it raises stops the
            scan.
        elsewhere: processes that read the files in place of this one, with a visitor of their own.
        store: remember what was computed in the cache folder, so that a second scan only reads
            and hashes.

    Raises:
        DatasetError: the source does not exist, or no photo in it can be used.
    """
    layout = find(source, data=data)
    if progress is not None:
        progress.stage("scan" if visitor is None else "embed", len(layout.entries))
    return scan_layout(
        layout,
        source,
        workers=workers,
        progress=progress,
        visitor=visitor,
        elsewhere=elsewhere,
        store=store,
    )


def scan_layout(
    layout: Layout,
    source: str | Path,
    *,
    workers: int | None = None,
    progress: Progress | None = None,
    visitor: Visitor | None = None,
    elsewhere: Elsewhere | None = None,
    store: bool = True,
) -> Dataset:
    """Scan the files of a layout; `source` names them in the error if none of them is usable."""
    reading = _Reading(layout.entries, visitor, _Stores.opened(store))
    with parallel.one_blas_thread():  # the threads that read take the cores
        if elsewhere is not None:
            reading.run_elsewhere(elsewhere, progress or NoProgress())
        else:
            reading.run(workers or parallel.cores(), progress or NoProgress())
    findings = [*layout.findings, *reading.findings()]
    samples = _samples(layout, reading)
    if not samples:
        raise DatasetError(_nothing_usable(source, layout, findings))
    known = reading.facts if reading.usable.all() else reading.facts[reading.usable]
    corners = None if layout.data.near_duplicates == "keep" else reading.corners
    pictures = duplicate_groups(
        samples, known, corners, workers=workers or parallel.cores(), store=store
    )
    vanished = _vanished(layout, samples)
    grouped = group_samples(samples, pictures.tolist(), layout.data)
    dataset = Dataset(
        layout.root,
        grouped.samples,
        (),
        grouped.groups,
        layout.excluded,
        grouped.one_scene,
        grouped.pictures,
    )
    findings += dark_findings(samples, known["sketch"])
    findings += [*grouped.findings, *vanished, *class_findings(dataset)]
    return replace(dataset, findings=tuple(findings), table=layout.table)


def _samples(layout: Layout, reading: _Reading) -> tuple[Sample, ...]:
    pattern = re.compile(layout.data.group_by) if layout.data.group_by else None
    return tuple(
        Sample(
            entry.path,
            entry.label,
            entry.split,
            reading.digests[i].tobytes().hex(),
            printable(entry.name),
            entry.group or (_matched(pattern, printable(entry.name)) if pattern else None),
        )
        for i, entry in enumerate(layout.entries)
        if reading.usable[i]
    )


def _matched(pattern: re.Pattern[str], name: str) -> str | None:
    """Return what the pattern's first group, or else the whole of it, matches in a name."""
    match = pattern.search(name)
    return None if match is None else match[1] if pattern.groups else match[0]


def _vanished(layout: Layout, samples: Sequence[Sample]) -> list[Finding]:
    """Return a finding for each class of which no file can be used."""
    known = {sample.label for sample in samples}
    lost = Counter(entry.label for entry in layout.entries if entry.label not in known)
    return [
        Finding(
            "missing-class",
            (),
            f"{label} is left out as a class: none of its {count:,} files is a usable photo",
        )
        for label, count in sorted(lost.items())
    ]


def _nothing_usable(source: str | Path, layout: Layout, findings: list[Finding]) -> str:
    reasons = Counter(finding.kind for finding in findings)
    counts = ", ".join(f"{n:,} {kind}" for kind, n in reasons.most_common())
    examples = "".join(
        f"\n  {', '.join(finding.paths[:1])}: {finding.message}" for finding in findings[:3]
    )
    shown = printable(str(source))
    searched = (
        f"; relative paths are looked up in {printable(str(layout.root.resolve()))}"
        if Path(source).is_file()
        else ""
    )
    return (
        f"none of the {len(layout.entries):,} files in {shown} is a usable photo ({counts})"
        f"{searched}; for example:{examples}"
    )


class FileReader:
    """Reads files for a scan in another process; what it finds is in the cache afterwards."""

    def __init__(self, visitor: Visitor) -> None:
        self._visitor = visitor
        self._stores = _Stores.opened(True)

    def read(self, paths: Sequence[Path]) -> list[ReadFile]:
        """Read files, with facts and what the visitor computes; one result for each, in order.

        Raises:
            StorageError: the cache folder cannot be read or written.
        """
        if self._stores.facts is None:
            raise StorageError(f"the cache folder {cache_folder()} cannot be read")
        entries = [Entry(path, str(path), "", None) for path in paths]
        reading = _Reading(entries, self._visitor, self._stores)
        with parallel.one_blas_thread():
            reading.run(parallel.cores(), NoProgress())
        return [
            ReadFile(number, digest.tobytes(), reading.error(number))
            for number, digest in enumerate(reading.digests)
        ]


@dataclass
class _Stores:
    """The caches of a scan: facts and corners of photos."""

    facts: RowStore | None
    corners: CornerStore

    @classmethod
    def opened(cls, store: bool) -> _Stores:
        """Open the cache folder's, or keep everything in memory if `store` is false."""
        return cls(open_facts() if store else None, CornerStore(store))


class _Reading:
    """State of one pass: arrays with a row per file, filled in by the worker threads."""

    def __init__(self, entries: Sequence[Entry], visitor: Visitor | None, stores: _Stores) -> None:
        self.entries = entries
        self.visitor = visitor
        self.digests: npt.NDArray[np.uint8] = np.zeros((len(entries), 32), np.uint8)
        self.facts = np.zeros(len(entries), FACTS)
        self.usable = np.zeros(len(entries), bool)
        self._errors: dict[int, tuple[str, str]] = {}
        self._first: dict[bytes, int] = {}
        self._again: list[tuple[int, int]] = []  # (file, earlier file with the same bytes)
        self._cached: list[tuple[int, bytes]] = []
        self._store = stores.facts
        self.corners = stores.corners
        self._new: tuple[list[bytes], list[npt.NDArray[Any]]] = ([], [])
        self._next = iter(range(len(entries)))
        self._lock = threading.Lock()
        self._stop = threading.Event()
        self._tick = threading.Condition()
        self._running = 0
        self._done = 0
        self._failure: BaseException | None = None

    def run(self, workers: int, progress: Progress) -> None:
        """Read every file; an exception of visitor or progress, or Ctrl-C, stops the threads."""
        total = len(self.entries)
        self._running = max(1, min(workers, total))
        threads = [
            threading.Thread(target=self._work, name=f"scan-{n}", daemon=True)
            for n in range(self._running)
        ]
        try:
            for thread in threads:
                thread.start()
            while self._running:
                with self._tick:
                    if self._running:
                        self._tick.wait(0.1)
                progress.advance(self._done, total)
        finally:
            self._stop.set()
            for thread in threads:
                if thread.ident is not None:
                    thread.join()
            self._flush(0)
            self.corners.flush()
        if self._failure is not None:
            raise self._failure
        progress.advance(total, total)
        self._fill_in()

    def run_elsewhere(self, elsewhere: Elsewhere, progress: Progress) -> None:
        """Have every file read by other processes, and take the results from the cache."""
        total = len(self.entries)
        paths = [entry.path for entry in self.entries]
        for done, (number, digest, error) in enumerate(elsewhere.read(paths), start=1):
            self.digests[number] = np.frombuffer(digest, np.uint8)
            first = self._first.setdefault(digest, number)
            if error is not None:
                self._errors[number] = error
            elif first != number:
                self._again.append((number, first))
            else:
                self._cached.append((number, digest))
            progress.advance(done, total)
        stores = _Stores.opened(True)
        self._store, self.corners = stores.facts, stores.corners
        self._fill_in()

    def error(self, i: int) -> tuple[str, str] | None:
        """Return kind and message of what makes a file unusable."""
        return self._errors.get(i)

    def _fill_in(self) -> None:
        """Take facts from the cache, and those of copies from their first file."""
        self._copy_cached()
        for i, first in self._again:
            self.facts[i], self.usable[i] = self.facts[first], self.usable[first]
            if first in self._errors:
                self._errors[i] = self._errors[first]

    def _work(self) -> None:
        try:
            for i in self._next:
                if self._stop.is_set():
                    return
                self._one(i)
                with self._lock:
                    self._done += 1
        except BaseException as error:
            self._failure = self._failure or error
            self._stop.set()
        finally:
            with self._tick:
                self._running -= 1
                self._tick.notify()

    def _one(self, i: int) -> None:
        try:
            data = images.read_bytes(self.entries[i].path)
            digest = hashlib.sha256(data).digest()
            self.digests[i] = np.frombuffer(digest, np.uint8)
            with self._lock:
                first = self._first.setdefault(digest, i)
                if first != i:
                    self._again.append((i, first))
                    return
            known = self._store is not None and digest in self._store and digest in self.corners
            wanted = self.visitor is not None and self.visitor.wants(digest)
            if known and not wanted:
                with self._lock:
                    self._cached.append((i, digest))
                return
            # A visitor must get the same pixels as in serving: decoded at its own size, not larger.
            side = (
                self.visitor.at_least if wanted and self.visitor is not None else 0
            ) or _LEAST_SIDE
            photo = images.decode(data, at_least=side)
        except ImageError as error:
            self._errors[i] = (error.kind, str(error))
            return
        if known:
            # Only now: a photo may be cached by another machine whose decoder reads more.
            with self._lock:
                self._cached.append((i, digest))
        else:
            small = side < _LEAST_FOR_FACTS
            enough = images.decode(data, at_least=_LEAST_SIDE) if small else photo
            grey = replace(enough, image=enough.image.convert("L"))  # once for both
            row = facts(grey)
            self.facts[i] = row
            self.corners.see(digest, grey.image)
            with self._lock:
                self._new[0].append(digest)
                self._new[1].append(row)
            self._flush(_BATCH)
        self.usable[i] = True
        if wanted and self.visitor is not None:
            self.visitor.see(digest, photo.image)

    def _flush(self, at_least: int) -> None:
        """Write new facts to the cache if there are more than `at_least`."""
        with self._lock:
            if len(self._new[0]) <= at_least:
                return
            new, self._new = self._new, ([], [])
        remember(self._store, *new)

    def _copy_cached(self) -> None:
        if self._store is None or not self._cached:
            return
        where = [i for i, _ in self._cached]
        try:
            self.facts[where] = self._store.get(digest for _, digest in self._cached)[:, 0]
            self.usable[where] = True
        except (KeyError, OSError):
            # A chunk was deleted or damaged meanwhile; decoding restores its rows.
            self._store = self.visitor = None
            self._first.clear()
            for i in where:
                self._one(i)
            self.corners.flush()

    def findings(self) -> list[Finding]:
        """Return one finding for each file that cannot be used."""
        return [
            Finding(kind, (printable(self.entries[i].name),), message)
            for i, (kind, message) in sorted(self._errors.items())
        ]
