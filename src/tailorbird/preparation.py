"""Scan, split, clean and embed photos, once, for everything that trains on or examines them.

Shapes: N photos, V views, K features, C classes.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property, partial
from pathlib import Path
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from tailorbird.corrections import Joined, Labelled, join
from tailorbird.dataset import (
    NONE_OF_THESE,
    SPLITS,
    UNUSABLE,
    Dataset,
    DataSettings,
    Sample,
    clean,
    is_none_of_these,
    scan,
)
from tailorbird.dataset.labels import unknown_label
from tailorbird.dataset.layout import Layout
from tailorbird.dataset.scanner import scan_layout
from tailorbird.errors import DatasetError
from tailorbird.features import Embedder, embed
from tailorbird.head.stored import BLOCK_ROWS, StoredRows
from tailorbird.progress import NoProgress, Progress, StageTimer

MOST_VIEWS = 32
"""Maximum number of views of a photo: the photo itself and its augmented versions."""

MOST_BYTES = 2**30
"""Features of so many bytes are trained on in memory, more from disk: a head trains on a scaled
copy, so that memory holds them twice.
"""

Splitter = Callable[[Dataset], Dataset]
"""Gives every photo of a dataset a split."""


class LeftOut(NamedTuple):
    """A photo that is not used, and why. A folder that is not read has a path ending in `/`."""

    path: str
    reason: str

    @property
    def is_folder(self) -> bool:
        """Whether this is a folder, whose photos are not counted."""
        return self.path.endswith("/")


@dataclass(frozen=True)
class Steps:
    """How photos are read and what happens to them.

    splitter: gives every photo a split; the splits are then cleaned of photos that would leak or
        contradict each other. None: photos are neither split nor cleaned.
    classes: the labels to use, in order; photos with another label are left out. None: all labels
        that have a photo in train.
    corrections: corrected photos that join the training photos.
    data: how the folder or CSV is read.
    """

    splitter: Splitter | None = None
    classes: tuple[str, ...] | None = None
    corrections: Labelled | None = None
    data: DataSettings | None = None


@dataclass(frozen=True)
class PreparedData:
    """Photos that can be trained on or examined.

    dataset: the photos that are used. scanned: all usable photos and findings of the source.
    classes: C labels, a label's position is its number. left_out: photos that are not used.
    embedder: computes features; None where there is no backbone. joined: corrections used. none: by
    split, photos of no class, which teach what to refuse.
    """

    dataset: Dataset
    scanned: Dataset
    classes: tuple[str, ...]
    left_out: tuple[LeftOut, ...]
    embedder: Embedder | None
    joined: Joined | None = None
    none: Mapping[str, tuple[Sample, ...]] = field(default_factory=dict)

    @cached_property
    def parts(self) -> dict[str, tuple[Sample, ...]]:
        """The photos of `train`, `validation` and `test`, each sorted by name."""
        return {name: self.dataset.of(name) for name in SPLITS}

    @property
    def with_none(self) -> Dataset:
        """The photos that are used and those of no class, each in its split."""
        none = [sample for part in self.none.values() for sample in part]
        samples = tuple(sorted((*self.dataset.samples, *none), key=lambda sample: sample.name))
        return replace(self.dataset, samples=samples, groups=(), pictures=())

    @cached_property
    def labels(self) -> dict[str, npt.NDArray[np.int64]]:
        """The class numbers of the photos of each split, int64 (N,)."""
        return {name: self.numbers(part) for name, part in self.parts.items()}

    def numbers(self, samples: Sequence[Sample]) -> npt.NDArray[np.int64]:
        """Return the class numbers of photos, int64 (N,)."""
        number = {label: index for index, label in enumerate(self.classes)}
        return np.array([number[sample.label] for sample in samples], np.int64)

    def features(
        self, samples: Sequence[Sample], *, views: int = 1, progress: Progress | None = None
    ) -> npt.NDArray[np.float32]:
        """Return the features of photos, float32 (V, N, K); view 0 is the photo itself.

        Augmented views that are not in the cache are computed now.

        Raises:
            ImageError: a photo changed since it was scanned.
            StorageError: the cache cannot be written, or was cleared meanwhile.
        """
        return np.stack([one.matrix(samples) for one in self._embedders(samples, views, progress)])

    def stored_features(
        self, samples: Sequence[Sample], *, views: int = 1, progress: Progress | None = None
    ) -> StoredRows:
        """Return what `features` does, on disk: (V, N, K) that need not fit in memory.

        Raises:
            ImageError: a photo changed since it was scanned.
            StorageError: there is no room for the file, or the cache cannot be written or was
                cleared meanwhile.
        """
        assert self.embedder is not None, "there is no backbone"
        result = StoredRows((views, len(samples), self.embedder.backbone.info.width))
        for view, embedder in enumerate(self._embedders(samples, views, progress)):
            for start in range(0, len(samples), BLOCK_ROWS):
                result.write(view, start, embedder.matrix(samples[start : start + BLOCK_ROWS]))
        return result

    def fits_in_memory(self, views: int) -> bool:
        """Whether the features of all photos are small enough to be held in memory twice."""
        assert self.embedder is not None, "there is no backbone"
        width = self.embedder.backbone.info.width
        return 4 * views * width * len(self.dataset.samples) <= MOST_BYTES

    def _embedders(
        self, samples: Sequence[Sample], views: int, progress: Progress | None
    ) -> Iterator[Embedder]:
        """Yield an embedder of each view, after it computed what is not in the cache."""
        assert self.embedder is not None, "there is no backbone"
        yield self.embedder
        for view in range(1, views):
            augmented = Embedder(
                self.embedder.backbone, view=view, elsewhere=self.embedder.elsewhere
            )
            embed(samples, augmented, progress=progress, stage=f"view {view + 1}")
            self.embedder.embedded += augmented.embedded
            yield augmented


def prepare_data(
    photos: str | Path | Layout | Dataset,
    embedder: Embedder | None = None,
    steps: Steps = Steps(),  # frozen
    *,
    progress: Progress | None = None,
    timer: StageTimer | None = None,
) -> PreparedData:
    """Scan photos, computing their features in the same pass, and split and clean them.

    Args:
        photos: class folders, split/class folders, a CSV `path,label[,split]`, the files found in
            one of these, or a dataset that is scanned already.
        embedder: of the backbone and its view 0; None: no features are needed.
        steps: what happens to the scanned photos.
        progress: receives the stages `scan` or `embed`, and `corrections`.
        timer: measures the stages `scan`, `split` and `corrections`.

    Raises:
        DatasetError: there is no usable photo, or fewer than two classes are left to train on.
        ImageError: a photo changed since it was scanned.
        StorageError: the disk is full or a folder cannot be written.
    """
    progress, timer = progress or NoProgress(), timer or StageTimer()
    with timer.measure("scan"):
        scanned = _scanned(photos, embedder, steps.data, progress)
    dataset, joined = scanned, None
    none: dict[str, tuple[Sample, ...]] = {}
    left_out = [
        LeftOut(path, finding.message)
        for finding in scanned.findings
        if finding.kind in UNUSABLE
        for path in finding.paths
    ]
    left_out += [LeftOut(name, "excluded in a review") for name in scanned.excluded]
    with timer.measure("split"):
        if steps.classes is not None:
            dataset, unknown = _only(
                dataset, steps.classes, partial(unknown_label, known=steps.classes)
            )
            left_out += unknown
        if steps.splitter is not None:
            if steps.classes is None:
                _check_classes(scanned)
            single = tuple(label for label in dataset.one_scene if not is_none_of_these(label))
            dataset, dropped = clean(steps.splitter(replace(dataset, one_scene=single)))
            left_out += [LeftOut(sample.name, reason) for sample, reason in dropped]
            none = {name: tuple(filter(_of_no_class, dataset.of(name))) for name in SPLITS}
            dataset = _subset(dataset, [not _of_no_class(one) for one in dataset.samples])
            if steps.classes is None:
                dataset, unlearned = _learnable(dataset, scanned)
                left_out += unlearned
    if steps.corrections is not None:
        with timer.measure("corrections"):
            try:
                joined = join(dataset, steps.corrections, visitor=embedder, progress=progress)
            finally:
                if embedder is not None:
                    embedder.flush()
        dataset = joined.dataset
        none["train"] = (*none.get("train", ()), *joined.none)
        left_out += [LeftOut(*entry) for entry in joined.left_out]
    classes = steps.classes or dataset.classes
    return PreparedData(dataset, scanned, classes, tuple(left_out), embedder, joined, none)


def evenly_spread(count: int, most: int) -> npt.NDArray[np.int64]:
    """Return at most `most` of the indices 0 to count - 1 at even distances, int64, rising."""
    return np.linspace(0, count - 1, min(count, most)).round().astype(np.int64)


def _scanned(
    photos: str | Path | Layout | Dataset,
    embedder: Embedder | None,
    data: DataSettings | None,
    progress: Progress,
) -> Dataset:
    """Scan the photos unless that is done; compute the features that are not in the cache."""
    if isinstance(photos, Dataset):
        if embedder is not None:
            embed(photos.samples, embedder, progress=progress)
        return photos
    elsewhere = None if embedder is None else embedder.elsewhere
    try:
        if isinstance(photos, Layout):
            progress.stage("scan" if embedder is None else "embed", len(photos.entries))
            scanned = scan_layout(
                photos, photos.root, visitor=embedder, elsewhere=elsewhere, progress=progress
            )
        else:
            scanned = scan(
                photos, data=data, visitor=embedder, elsewhere=elsewhere, progress=progress
            )
    finally:
        if embedder is not None:
            embedder.flush()
    if embedder is not None and elsewhere is not None:
        digests = {bytes.fromhex(sample.digest) for sample in scanned.samples}
        embedder.seen_elsewhere(sorted(digests))
    return scanned


def _check_classes(scanned: Dataset) -> None:
    """Raise DatasetError where there is a single label."""
    classes = [label for label in scanned.classes if not is_none_of_these(label)]
    if len(classes) < 2:
        label = (*classes, *scanned.classes)[0]
        raise DatasetError(
            f"all usable photos have the single label {label!r}"
            + f", or are {NONE_OF_THESE!r}, which is no class" * (len(scanned.classes) > 1)
            + "; at least two classes are needed: put the photos of each class into a folder of "
            "its own"
        )


def _of_no_class(sample: Sample) -> bool:
    return is_none_of_these(sample.label)


def _learnable(dataset: Dataset, scanned: Dataset) -> tuple[Dataset, list[LeftOut]]:
    """Keep the classes that have a photo in train. Raises DatasetError for fewer than two."""
    learned = tuple(sorted({sample.label for sample in dataset.of("train")}))
    if len(learned) < 2:
        raise DatasetError(
            f"photos to train on are left in {len(learned)} of {len(scanned.classes)} classes; "
            "at least two are needed"
        )
    return _only(dataset, learned, lambda label: f"class {label!r} has no photo in train")


def _only(
    dataset: Dataset, classes: Sequence[str], reason: Callable[[str], str]
) -> tuple[Dataset, list[LeftOut]]:
    """Keep the photos of these classes; `reason` says why, for the label of each other photo."""
    known = frozenset(classes)
    left_out = [
        LeftOut(sample.name, reason(sample.label))
        for sample in dataset.samples
        if sample.label not in known
    ]
    return _subset(dataset, [sample.label in known for sample in dataset.samples]), left_out


def _subset(dataset: Dataset, wanted: Sequence[bool]) -> Dataset:
    """Keep some of the photos."""
    kept = [i for i, is_wanted in enumerate(wanted) if is_wanted]
    return replace(
        dataset,
        samples=tuple(dataset.samples[i] for i in kept),
        groups=tuple(dataset.groups[i] for i in kept),
    )
