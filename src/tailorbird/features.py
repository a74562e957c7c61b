"""Dataset x backbone x view -> a feature matrix, computed once and kept on disk.

A row's key is the photo's content (SHA-256); its folder names the backbone's content, the resize rule and the view.
View 0 is the photo as it will be served; views 1, 2, ... are augmented.
"""

from __future__ import annotations

import contextlib
import json
import shutil
import threading
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
from PIL import Image

from tailorbird import parallel
from tailorbird.backbone import Backbone, BackboneInfo
from tailorbird.dataset import Sample, picture_of
from tailorbird.errors import StorageError
from tailorbird.files import RowStore, cache_folder
from tailorbird.images import Augmentation, Pixels, resize, view_random, warp
from tailorbird.progress import NoProgress, Progress

CHUNK_ROWS = 256
DECODE_SECONDS = 0.003
"""One core's time to decode a photo of about 0.2 megapixels; only the estimate before the start rests on it."""


def folder() -> Path:
    """Where feature matrices are kept."""
    return cache_folder() / "features"


def open_store(
    info: BackboneInfo, view: int = 0, augmentation: Augmentation | None = None
) -> RowStore:
    """The rows of one backbone and one view: float32 (N, K) under the photos' SHA-256 digests."""
    name = "plain" if view == 0 else f"view-{(augmentation or Augmentation()).key}-{view}"
    place = folder() / f"{info.sha256[:32]}-{info.rule.key}" / name
    about = {
        "backbone": info.name,
        "sha256": info.sha256,
        "resize": info.rule.key,
        "view": name,
        "features": info.width,
    }
    return RowStore(place, dtype=np.float32, width=info.width, about=about)


class Embedder:
    """Takes decoded photos from several threads, runs the backbone on small batches in those threads, writes chunks.

    It serves `dataset.scan` as the visitor: photos are embedded in the same pass, and from the same decoding, in which they
    are scanned.
    """

    def __init__(
        self, backbone: Backbone, *, view: int = 0, augmentation: Augmentation | None = None
    ) -> None:
        self.backbone = backbone
        self.at_least = backbone.info.rule.least_side
        self.embedded = 0
        """Photos run through the backbone by this object."""
        self._view = view
        self._augmentation = augmentation or Augmentation()
        self._store = open_store(backbone.info, view, self._augmentation)
        self._lock = threading.Lock()
        self._batch: list[tuple[bytes, Pixels]] = []
        self._rows: list[tuple[bytes, npt.NDArray[np.float32]]] = []

    def wants(self, digest: bytes) -> bool:
        """Whether the features of this photo are still to be made."""
        return digest not in self._store

    def see(self, digest: bytes, image: Image.Image) -> None:
        """Take one decoded RGB photo; now and then run the backbone and write a chunk, in the calling thread."""
        rule = self.backbone.info.rule
        plain = self._view == 0
        pixels = (
            resize(image, rule)
            if plain
            else warp(image, rule, self._augmentation, view_random(digest, self._view))
        )
        with self._lock:
            self._batch.append((digest, pixels))
            if len(self._batch) < self.backbone.runner.device.batch:
                return
            batch, self._batch = self._batch, []
        self._run(batch)

    def _run(self, batch: list[tuple[bytes, Pixels]]) -> None:
        features = self.backbone.features(np.stack([pixels for _, pixels in batch]))
        with self._lock:
            self.embedded += len(batch)
            self._rows.extend(
                (digest, row) for (digest, _), row in zip(batch, features, strict=True)
            )
            if len(self._rows) < CHUNK_ROWS:
                return
            rows, self._rows = self._rows, []
        self._write(rows)

    def _write(self, rows: list[tuple[bytes, npt.NDArray[np.float32]]]) -> None:
        if rows:
            self._store.put([digest for digest, _ in rows], np.stack([row for _, row in rows]))

    def flush(self) -> None:
        """Run and write what is still waiting. Raises StorageError when the disk is full."""
        with self._lock:
            batch, self._batch = self._batch, []
        if batch:
            self._run(batch)
        with self._lock:
            rows, self._rows = self._rows, []
        self._write(rows)

    def matrix(self, digests: Sequence[bytes]) -> npt.NDArray[np.float32]:
        """The features of these photos, float32 (N, K). Raises StorageError when the cache was emptied meanwhile."""
        try:
            rows: npt.NDArray[np.float32] = self._store.get(digests)
        except KeyError:
            raise StorageError(
                "the feature cache was cleared or damaged while it was in use; run the command again"
            ) from None
        return rows


def embed(
    samples: Iterable[Sample],
    embedder: Embedder,
    *,
    progress: Progress | None = None,
    stage: str = "embed",
) -> None:
    """Compute the features that are not in the cache yet.

    Args:
        samples: photos of a scanned dataset.
        embedder: of the backbone and view.
        progress: receives the stage and its photos, where any are missing.
        stage: name of that stage.

    Raises:
        ImageError: a file changed or vanished since the scan.
        StorageError: the disk is full.
    """
    progress = progress or NoProgress()
    missing = {
        bytes.fromhex(sample.digest): sample
        for sample in samples
        if embedder.wants(bytes.fromhex(sample.digest))
    }

    if missing:
        progress.stage(stage, len(missing))

    def one(item: tuple[bytes, Sample]) -> None:
        digest, sample = item
        embedder.see(digest, picture_of(sample, embedder.at_least))

    try:
        for done, _ in enumerate(parallel.ordered(one, missing.items(), ahead=8), start=1):
            progress.advance(done, len(missing))
    except BaseException:
        # What was computed is kept, even when Ctrl-C or a bad file ends the run here; the first error is the one to report.
        with contextlib.suppress(StorageError):
            embedder.flush()
        raise
    embedder.flush()


@dataclass(frozen=True)
class CacheEntry:
    """One folder of the cache: what it holds, how much, and whether anything refers to it by name."""

    path: Path
    kind: str
    name: str
    files: int
    bytes: int


def cache_entries() -> list[CacheEntry]:
    """List the cache: facts of scanned photos, features, pulled backbones, libraries' files."""
    entries = []
    root = cache_folder()
    for kind, pattern in (
        ("facts", "facts-*"),
        ("pairs", "pairs-*"),
        ("features", "features/*"),
        ("backbone", "backbones/*.onnx"),
        ("library", "libraries/*"),
    ):
        for path in sorted(root.glob(pattern)):
            files = [p for p in (path.rglob("*") if path.is_dir() else [path]) if p.is_file()]
            entries.append(
                CacheEntry(
                    path, kind, _entry_name(path), len(files), sum(p.stat().st_size for p in files)
                )
            )
    return entries


def _entry_name(path: Path) -> str:
    for about in sorted(path.rglob("about.json")) if path.is_dir() else []:
        with contextlib.suppress(OSError, ValueError, KeyError):
            said = json.loads(about.read_text())
            return f"{said['backbone']} ({said['resize']})"
    return path.name


def clear_cache(*, backbones: bool = False) -> int:
    """Delete cached facts and features, and with `backbones` the pulled backbones too; the bytes freed.

    Everything deleted can be made again. Raises StorageError.
    """
    freed = 0
    for entry in cache_entries():
        if entry.kind == "backbone" and not backbones:
            continue
        try:
            shutil.rmtree(entry.path) if entry.path.is_dir() else entry.path.unlink()
        except OSError as error:
            raise StorageError(f"{entry.path} could not be deleted: {error.strerror}") from error
        freed += entry.bytes
    return freed


def expected_seconds(photos: int, backbone: Backbone, views: int) -> float:
    """Roughly how long training takes with an empty cache, from the backbone's speed measured now."""
    per_photo = views / backbone.images_per_second() + DECODE_SECONDS * min(2, views)
    return photos * per_photo / parallel.cores() + 3.0
