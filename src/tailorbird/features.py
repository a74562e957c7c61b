"""Features of photos: dataset x backbone x view -> matrix, computed once and kept on disk.

A row's key is the photo's content (SHA-256); its folder names the backbone's content, the resize
rule and the view. View 0 is the photo as it will be served; views 1, 2, ... are augmented.
Of combined backbones, and of a view and its mirror image, each has a folder of its own, so that
what one combination computed serves every other. So have the features of a device whose features
are not the CPU's: in float16, or an int8 backbone in float.
Shapes: N photos, K features.
"""

from __future__ import annotations

import contextlib
import hashlib
import threading
from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt
from PIL import Image

from tailorbird import parallel
from tailorbird.backbone import Backbone, BackboneInfo
from tailorbird.dataset import Sample, picture_of
from tailorbird.dataset.scanner import Elsewhere
from tailorbird.errors import BackboneError, StorageError
from tailorbird.files import RowStore, cache_folder
from tailorbird.images import Augmentation, Pixels, resize, view_random, warp
from tailorbird.progress import NoProgress, Progress

CHUNK_ROWS = 256
"""Rows in a file of the cache."""

DECODE_SECONDS = 0.003
"""Time to decode a photo of 0.2 megapixels on one core; used by `expected_seconds` only."""


def open_store(
    info: BackboneInfo,
    view: int = 0,
    augmentation: Augmentation | None = None,
    *,
    mirrored: bool = False,
    variant: str = "",
) -> RowStore:
    """Open the cached features of one backbone and view: float32 (N, K) by SHA-256 digest.

    Features of a device that do not agree with the CPU's have a folder of their own, by `variant`.
    """
    name = "plain" if view == 0 else f"view-{(augmentation or Augmentation()).key}-{view}"
    name += "-mirrored" * mirrored
    kept = f"{info.sha256[:32]}-{info.rule.key}" + f"-{variant}" * bool(variant)
    folder = cache_folder() / "features" / kept / name
    about = {
        "backbone": info.name,
        "sha256": info.sha256,
        "resize": info.rule.key,
        "view": name,
        "features": info.width,
        **({"computed": variant} if variant else {}),
    }
    return RowStore(folder, dtype=np.float32, width=info.width, about=about)


class _Column:
    """The cached features of one backbone, of a view or of its mirror image."""

    def __init__(self, backbone: Backbone, store: RowStore, *, mirrored: bool) -> None:
        self.store = store
        self._backbone = backbone
        self._mirrored = mirrored
        self._lock = threading.Lock()
        self._rows: list[tuple[bytes, npt.NDArray[np.float32]]] = []

    def run(self, batch: Sequence[tuple[bytes, Pixels]]) -> set[bytes]:
        """Compute and keep what is missing; return the photos whose features are not finite."""
        missing = [(digest, pixels) for digest, pixels in batch if digest not in self.store]
        if not missing:
            return set()
        images = np.stack([pixels for _, pixels in missing])
        if self._mirrored:
            images = np.ascontiguousarray(images[:, :, ::-1])
        features = self._backbone.features(images)
        found = [(digest, row) for (digest, _), row in zip(missing, features, strict=True)]
        finite = [(digest, row) for digest, row in found if np.isfinite(row).all()]
        self._keep(finite, CHUNK_ROWS)
        return {digest for digest, _ in found} - {digest for digest, _ in finite}

    def flush(self) -> None:
        """Write what is still waiting. Raises StorageError when the disk is full."""
        self._keep([], 1)

    def _keep(self, rows: list[tuple[bytes, npt.NDArray[np.float32]]], least: int) -> None:
        """Add rows, and write all that wait if they are at least so many."""
        with self._lock:
            self._rows += rows
            if len(self._rows) < least:
                return
            rows, self._rows = self._rows, []
        self.store.put([digest for digest, _ in rows], np.stack([row for _, row in rows]))


class Embedder:
    """Compute features of decoded photos that arrive from several threads, and cache them.

    It is a visitor of `dataset.scan`: photos are embedded in the same pass, and from the same
    decoding, in which they are scanned. The backbone runs on small batches in the threads that
    bring the photos. Features that are not finite are never cached; `matrix` names their photo.
    """

    def __init__(
        self,
        backbone: Backbone,
        *,
        view: int = 0,
        augmentation: Augmentation | None = None,
        elsewhere: Elsewhere | None = None,
    ) -> None:
        self.backbone = backbone
        self.elsewhere = elsewhere
        self.at_least = backbone.info.rule.least_side
        self.embedded = 0
        """Photos run through the backbone by this object."""
        self.view = view
        self._augmentation = augmentation or Augmentation()
        self._parts = [
            [
                _Column(
                    part,
                    open_store(
                        part.info,
                        view,
                        self._augmentation,
                        mirrored=mirrored,
                        variant=part.variant,
                    ),
                    mirrored=mirrored,
                )
                for mirrored in (False, True)[: 1 + backbone.info.mirror]
            ]
            for part in backbone.parts
        ]
        self._columns = [column for part in self._parts for column in part]
        self._most = backbone.parts[0].runner.device.batch
        self._lock = threading.Lock()
        self._batch: list[tuple[bytes, Pixels]] = []
        self._not_finite: set[bytes] = set()

    @property
    def not_finite(self) -> frozenset[bytes]:
        """The photos, by SHA-256, whose features are NaN or infinite."""
        return frozenset(self._not_finite)

    def seen_elsewhere(self, digests: Sequence[bytes]) -> None:
        """Take over the features of these photos that other processes wrote to the cache.

        Raises:
            StorageError: they are not there: the processes have another cache folder.
        """
        self.embedded += sum(map(self.wants, digests))
        for column in self._columns:
            column.store.refresh()
        missing = sum(map(self.wants, digests))
        if missing:
            raise StorageError(
                f"features of {missing:,} photos that workers computed are not in the cache folder "
                f"{cache_folder()}; every machine must share that folder (TAILORBIRD_CACHE)"
            )

    def wants(self, digest: bytes) -> bool:
        """Return whether features of this photo are not in the cache."""
        return any(digest not in column.store for column in self._columns)

    def see(self, digest: bytes, image: Image.Image) -> None:
        """Take one decoded RGB photo; run and write in the calling thread when a batch is full."""
        rule = self.backbone.info.rule
        random = view_random(digest, self.view)
        plain = self.view == 0
        pixels = resize(image, rule) if plain else warp(image, rule, self._augmentation, random)
        with self._lock:
            self._batch.append((digest, pixels))
            if len(self._batch) < self._most:
                return
            batch, self._batch = self._batch, []
        self._run(batch)

    def _run(self, batch: list[tuple[bytes, Pixels]]) -> None:
        for column in self._columns:
            not_finite = column.run(batch)
            with self._lock:
                self._not_finite |= not_finite
        with self._lock:
            self.embedded += len(batch)

    def flush(self) -> None:
        """Run and write what is still waiting. Raises StorageError when the disk is full."""
        with self._lock:
            batch, self._batch = self._batch, []
        if batch:
            self._run(batch)
        for column in self._columns:
            column.flush()

    def matrix(self, samples: Sequence[Sample]) -> npt.NDArray[np.float32]:
        """Return the features of embedded photos, float32 (N, K).

        Raises:
            BackboneError: The features of a photo are not finite.
            StorageError: The cache was emptied meanwhile.
        """
        digests = [bytes.fromhex(sample.digest) for sample in samples]
        for sample, digest in zip(samples, digests, strict=True):
            if digest in self._not_finite:
                raise BackboneError(
                    f"the backbone {self.backbone.info.name} gives features of {sample.name} that "
                    "are NaN or infinite; use another backbone, or leave the photo out"
                )
        try:
            parts = [[column.store.get(digests) for column in part] for part in self._parts]
        except KeyError:
            raise StorageError(
                "the feature cache was cleared or damaged while it was in use; "
                "run the command again"
            ) from None
        averages = [part[0] if len(part) == 1 else (part[0] + part[1]) / 2 for part in parts]
        rows: npt.NDArray[np.float32] = (
            averages[0] if len(averages) == 1 else np.concatenate(averages, axis=1)
        )
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
        samples: Photos of a scanned dataset.
        embedder: Of the backbone and view.
        progress: Receives the stage and its photos, where any are missing.
        stage: Name of that stage.

    Raises:
        ImageError: A file changed or vanished since the scan.
        StorageError: The disk is full.
    """
    progress = progress or NoProgress()
    missing = {
        bytes.fromhex(sample.digest): sample
        for sample in samples
        if embedder.wants(bytes.fromhex(sample.digest))
    }
    if missing:
        progress.stage(stage, len(missing))
    if missing and embedder.elsewhere is not None:
        done = 0
        for more in embedder.elsewhere.embed([one.path for one in missing.values()], embedder.view):
            done += more
            progress.advance(done, len(missing))
        embedder.seen_elsewhere(list(missing))
        return

    def one(item: tuple[bytes, Sample]) -> None:
        digest, sample = item
        embedder.see(digest, picture_of(sample, embedder.at_least))

    try:
        for done, _ in enumerate(parallel.ordered(one, missing.items(), ahead=8), start=1):
            progress.advance(done, len(missing))
    except BaseException:
        # Keep what was computed, even after Ctrl-C or a bad file, and report the first error.
        with contextlib.suppress(StorageError):
            embedder.flush()
        raise
    embedder.flush()


def picture_features(
    pictures: Sequence[Image.Image], embedder: Embedder
) -> npt.NDArray[np.float32]:
    """Return the features of RGB pictures that are in no file, float32 (N, K), from the cache too.

    Raises:
        StorageError: The disk is full.
    """
    before = embedder.embedded
    samples = []
    for number, picture in enumerate(pictures):
        digest = hashlib.sha256(repr(picture.size).encode() + picture.tobytes())
        name = f"picture {number + 1}"
        samples.append(Sample(Path(name), "none", None, digest.hexdigest(), name))
        if embedder.wants(digest.digest()):
            embedder.see(digest.digest(), picture)
    embedder.flush()
    embedder.embedded = before  # it counts photos
    return embedder.matrix(samples)


def expected_seconds(photos: int, backbone: Backbone, views: int) -> float:
    """Estimate the duration of training with an empty cache."""
    per_photo = views * backbone.seconds_per_image + DECODE_SECONDS * min(2, views)
    return photos * per_photo / parallel.cores() + 3.0
