"""The photos of a folder, read in the background: features, small pictures, copies.

Shapes: N photos in the folder, K features. A photo's number is its place in the order of names.
"""

from __future__ import annotations

import hashlib
import threading
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np
import numpy.typing as npt
from PIL import Image

from tailorbird import parallel
from tailorbird.dataset import Sample, printable
from tailorbird.dataset.duplicates.corner_store import CornerStore
from tailorbird.dataset.duplicates.disjoint_sets import DisjointSets
from tailorbird.dataset.duplicates.facts import open_facts
from tailorbird.dataset.duplicates.groups import duplicate_groups
from tailorbird.dataset.layout import Entry, Layout, photo_paths
from tailorbird.dataset.scanner import scan_layout
from tailorbird.errors import DatasetError, TailorbirdError
from tailorbird.features import Embedder
from tailorbird.labelling.thumbnails import Thumbnails, small_picture

FIRST: Final = 48
"""Photos of the first chunk, so that the first screen comes soon; each next one is larger."""

LARGEST: Final = 1024
"""Photos of a chunk."""

_UNLABELLED: Final = "unlabelled"


@dataclass(frozen=True)
class Reading:
    """How far the photos are read.

    total: N. done: photos that were read. usable: those of them that are photos. finished: whether
    all are read and copies are found. problem: why reading stopped before its end, else empty.
    """

    total: int
    done: int
    usable: int
    finished: bool
    problem: str


class Gallery:
    """The photos of a folder. Numbers of photos never change; arrays fill up while it is read."""

    def __init__(
        self,
        root: Path,
        paths: Sequence[Path],
        embedder: Embedder,
        thumbnails: Thumbnails,
        first: Sequence[str] = (),
    ) -> None:
        """Hold the photos `paths` below `root`; `start` begins to read them.

        first: names of photos to read before all others, such as those with a label.
        """
        self.root = root
        self.embedder = embedder
        self.thumbnails = thumbnails
        self.paths = tuple(paths)
        self.names = tuple(_name(path, root) for path in self.paths)
        self.number = {name: i for i, name in enumerate(self.names)}
        total = len(self.paths)
        self.usable: npt.NDArray[np.bool_] = np.zeros(total, bool)
        self.digests: list[str] = [""] * total
        self.features = np.zeros((total, embedder.backbone.info.width), np.float16)
        """Half precision: a hundred thousand photos then take 256 MB, and answers are the same."""
        self.errors: dict[int, str] = {}
        self.copies = DisjointSets(total)
        """Photos that show the same picture."""
        self.version = 0
        """Changes when photos are added or copies are found."""
        self._by_digest: dict[str, int] = {}
        self._groups: tuple[int, dict[int, list[int]]] | None = None
        self._done = 0
        self._finished = False
        self._problem = ""
        self._lock = threading.Lock()
        self._stop = threading.Event()
        self._read_order = _read_order(
            self.names, [self.number[n] for n in first if n in self.number]
        )
        self._thread = threading.Thread(target=self._work, name="gallery", daemon=True)

    def start(self) -> None:
        """Begin to read the photos in a thread."""
        self._thread.start()

    def close(self) -> None:
        """Stop reading. What was computed stays in the cache."""
        self._stop.set()
        if self._thread.ident is not None:
            self._thread.join()
        self.thumbnails.close()

    def wait(self, seconds: float | None = None) -> bool:
        """Wait until all photos are read; return whether they are."""
        self._thread.join(seconds)
        return not self._thread.is_alive()

    def reading(self) -> Reading:
        """Return how far the photos are read."""
        return Reading(
            len(self.paths), self._done, int(self.usable.sum()), self._finished, self._problem
        )

    def sample(self, photo: int) -> Sample:
        """Return a photo that was read."""
        return Sample(
            self.paths[photo],
            _UNLABELLED,
            None,
            self.digests[photo],
            printable(self.names[photo]),
        )

    def same(self, photo: int) -> int:
        """Return the number that all copies of a photo share."""
        with self._lock:
            return self.copies.root(photo)

    def roots(self) -> npt.NDArray[np.int64]:
        """Return for each photo the number that its copies share, int64 (N,)."""
        with self._lock:
            return np.array([self.copies.root(i) for i in range(len(self.paths))], np.int64)

    def groups(self) -> dict[int, list[int]]:
        """Return the photos of each picture that several photos show, by their shared number."""
        known = self._groups
        if known is None or known[0] != self.version:
            version, found = self.version, dict[int, list[int]]()
            for i, root in enumerate(self.roots().tolist()):
                if root != i:
                    found.setdefault(root, [root]).append(i)
            known = self._groups = (version, found)
        return known[1]

    def _work(self) -> None:
        try:
            for chunk in _chunks(self._read_order):
                self._read(chunk)
                if self._stop.is_set():
                    return
            self._find_copies()
            self._finished = True
        except TailorbirdError as error:
            self._problem = str(error)
        except Exception as error:  # the page says so, rather than waiting for ever
            self._problem = f"reading the photos failed: {error!r}"

    def _read(self, chunk: Sequence[int]) -> None:
        """Read photos: hash, decode, embed, and keep their small pictures."""
        entries = tuple(
            Entry(self.paths[i], self.names[i], _UNLABELLED, None) for i in sorted(chunk)
        )
        seer = _Seer(self.embedder, self.thumbnails)
        try:
            dataset = scan_layout(
                Layout(self.root, entries, ()),
                self.root,
                visitor=seer,
                progress=_Stopping(self._stop),
            )
            samples, findings, pictures = dataset.samples, dataset.findings, dataset.pictures
        except DatasetError:  # none of them is a usable photo
            samples, findings, pictures = (), (), ()
        except _Stopped:
            return
        finally:
            self.embedder.flush()
            seer.flush()
        at = {printable(self.names[i]): i for i in chunk}
        rows = self.embedder.matrix(samples) if samples else np.zeros((0, 1), np.float32)
        first: dict[int, int] = {}
        with self._lock:
            for row, sample, picture in zip(rows, samples, pictures, strict=True):
                i = at[sample.name]
                self.features[i] = row
                self.digests[i] = sample.digest
                self.usable[i] = True
                self.copies.join(first.setdefault(picture, i), i)
                self.copies.join(self._by_digest.setdefault(sample.digest, i), i)
            for finding in findings:
                for name in finding.paths:
                    if name in at and not self.usable[at[name]]:
                        self.errors[at[name]] = finding.message
            self._done += len(chunk)
            self.version += 1

    def _find_copies(self) -> None:
        """Join photos of different chunks that show the same picture."""
        facts = open_facts()
        photos = np.flatnonzero(self.usable).tolist()
        if facts is None or len(photos) < 2:
            return
        samples = [self.sample(i) for i in photos]
        try:
            known = facts.get(bytes.fromhex(sample.digest) for sample in samples)[:, 0]
        except KeyError:
            return  # the cache was cleared meanwhile; copies inside the chunks are known
        groups: npt.NDArray[Any] = duplicate_groups(
            samples, known, CornerStore(True), workers=parallel.cores()
        )
        first: dict[int, int] = {}
        with self._lock:
            for i, group in zip(photos, groups.tolist(), strict=True):
                self.copies.join(first.setdefault(group, i), i)
            self.version += 1


def list_photos(root: Path, *, follow_links: bool = False) -> list[Path]:
    """Return the files below a folder that may be photos.

    Raises:
        DatasetError: it is not a folder, cannot be listed, or holds no photos.
    """
    shown = printable(str(root))
    if not root.is_dir():
        raise DatasetError(f"{shown} is not a folder; give the folder that holds the photos")
    paths, _ = photo_paths(root, follow_links=follow_links)
    if not paths:
        raise DatasetError(f"{shown} holds no photos, or only documents and hidden files")
    return paths


class _Stopped(Exception):
    """The gallery was closed while photos were being read."""


class _Stopping:
    """A Progress that ends a scan once the gallery is closed."""

    def __init__(self, stop: threading.Event) -> None:
        self._stop = stop

    def stage(self, name: str, total: int | None = None) -> None:
        """Ignore the stage."""

    def advance(self, done: int, total: int) -> None:
        """Raise _Stopped once the gallery is closed."""
        if self._stop.is_set():
            raise _Stopped

    def note(self, text: str) -> None:
        """Ignore the sentence."""

    def metrics(self, **values: float) -> None:
        """Ignore the values."""


class _Seer:
    """A visitor of a scan that computes features and small pictures from one decoding."""

    def __init__(self, embedder: Embedder, thumbnails: Thumbnails) -> None:
        self.at_least = embedder.at_least
        self._embedder = embedder
        self._thumbnails = thumbnails
        self._lock = threading.Lock()
        self._made: list[tuple[bytes, bytes]] = []

    def wants(self, digest: bytes) -> bool:
        """Return whether features or the small picture of this photo are not in the cache."""
        return self._embedder.wants(digest) or digest not in self._thumbnails

    def see(self, digest: bytes, image: Image.Image) -> None:
        """Take one decoded photo."""
        if self._embedder.wants(digest):
            self._embedder.see(digest, image)
        if digest not in self._thumbnails:
            picture = small_picture(image)
            with self._lock:
                self._made.append((digest, picture))

    def flush(self) -> None:
        """Write the small pictures."""
        with self._lock:
            made, self._made = self._made, []
        if made:
            self._thumbnails.put(made)


def _name(path: Path, root: Path) -> str:
    return path.relative_to(root).as_posix()


def _read_order(names: Sequence[str], first: Sequence[int]) -> list[int]:
    """Return the photos in the order in which they are read: some first, the others at random.

    The first photos that are read then are a fair picture of the folder, whatever the names say.
    """
    rest = set(range(len(names))) - set(first)
    return [*dict.fromkeys(first), *sorted(rest, key=lambda i: order_key("read", names[i]))]


def order_key(purpose: str, name: str) -> bytes:
    """Return a key that puts photos in a random order, the same for a name each time."""
    data = f"{purpose}\0{name}".encode("utf-8", "surrogateescape")
    return hashlib.sha256(data).digest()[:8]


def _chunks(photos: Sequence[int]) -> Iterator[Sequence[int]]:
    """Yield parts of growing size."""
    start, size = 0, FIRST
    while start < len(photos):
        yield photos[start : start + size]
        start, size = start + size, min(2 * size, LARGEST)
