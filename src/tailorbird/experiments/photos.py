"""The photos an experiment may look at: train and validation, as features. The test split stays where it is."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from tailorbird.backbone import Backbone, open_backbone
from tailorbird.backbone.catalogue import SHIPPED
from tailorbird.dataset import Dataset, Sample, clean, scan, split
from tailorbird.errors import DatasetError, SettingsError
from tailorbird.features import Embedder, embed
from tailorbird.progress import Progress

MOST_VIEWS = 32


@dataclass(frozen=True)
class Photos:
    """N photos of train and validation together, of C classes.

    features: float32 (V, N, K), V views, the plain one first. labels: int64 (N,), 0 to C - 1 in the order of `classes`.
    groups: int64 (N,); photos that show the same picture share a number. validation: bool (N,), true for photos of the
    validation split. test_photos: how many photos of the test split were left alone. seed: of the split.
    """

    source: str
    backbone: str
    classes: tuple[str, ...]
    features: NDArray[np.float32]
    labels: NDArray[np.int64]
    groups: NDArray[np.int64]
    validation: NDArray[np.bool_]
    test_photos: int
    seed: int

    def __post_init__(self) -> None:
        """Refuse arrays that do not fit each other."""
        shapes = {self.labels.shape, self.groups.shape, self.validation.shape}
        if self.features.ndim != 3 or shapes != {self.features.shape[1:2]}:
            raise SettingsError(
                f"features must be (views, photos, features) with one label, group and split a photo, not {self.features.shape} and {sorted(shapes)}"
            )
        if len(self.labels) and not 0 <= int(self.labels.min()) <= int(self.labels.max()) < len(
            self.classes
        ):
            raise SettingsError(
                f"labels must be 0 to {len(self.classes) - 1}, as there are {len(self.classes)} classes"
            )

    def __len__(self) -> int:
        return len(self.labels)


def read_photos(
    source: str | Path,
    *,
    backbone: str | Path = SHIPPED,
    views: int = 1,
    seed: int = 0,
    progress: Progress | None = None,
) -> Photos:
    """Scan, split as `train` with this seed would, and hand out the features of train and validation.

    Photos seen before come from the cache. The test split is made (or honoured) and cleaned exactly as in `train`, so that the
    photos that will test the final model are not among these; their features are never read.

    Args:
        source: class folders, split/class folders, or a CSV `path,label[,split]`.
        backbone: a name at hand or the path of an .onnx file.
        views: views of each photo, 1 to MOST_VIEWS; those after the first are augmented.
        seed: of the split.
        progress: receives the stages `embed`, `view 2`, `view 3` and so on.

    Raises:
        SettingsError: views or seed outside their range.
        DatasetError: fewer than two classes, or nothing left.
        BackboneError: the backbone's file breaks the contract.
        StorageError: the disk is full or a folder cannot be written.
    """
    if not 1 <= views <= MOST_VIEWS:
        raise SettingsError(f"views is {views}; it must be between 1 and {MOST_VIEWS}")
    if not 0 <= seed < 2**32:
        raise SettingsError(f"seed is {seed}; it must be between 0 and 4294967295")
    opened = open_backbone(backbone)
    embedder = Embedder(opened)
    try:
        scanned = scan(source, progress=progress, visitor=embedder)
    finally:
        embedder.flush()
    samples, groups, classes, test_photos = _known(scanned, seed)
    return Photos(
        source=str(source),
        backbone=str(backbone),
        classes=classes,
        features=_features(samples, opened, embedder, views, progress),
        labels=np.array([classes.index(sample.label) for sample in samples], np.int64),
        groups=np.array(groups, np.int64),
        validation=np.array([sample.split == "validation" for sample in samples], np.bool_),
        test_photos=test_photos,
        seed=seed,
    )


def _known(scanned: Dataset, seed: int) -> tuple[list[Sample], list[int], tuple[str, ...], int]:
    """The samples of train and validation, their groups, their classes (those with a photo in train), and the size of test."""
    dataset, _ = clean(split(scanned, seed=seed))
    classes = tuple(sorted({sample.label for sample in dataset.samples if sample.split == "train"}))
    if len(classes) < 2:
        raise DatasetError(
            f"photos to train on are left in {len(classes)} of {len(scanned.classes)} classes; an experiment needs at least two: "
            "put the photos of each class into a folder of its own"
        )
    kept = [
        (sample, group)
        for sample, group in zip(dataset.samples, dataset.groups, strict=True)
        if sample.split != "test" and sample.label in classes
    ]
    test_photos = sum(sample.split == "test" for sample in dataset.samples)
    return [sample for sample, _ in kept], [group for _, group in kept], classes, test_photos


def _features(
    samples: list[Sample],
    backbone: Backbone,
    embedder: Embedder,
    views: int,
    progress: Progress | None,
) -> NDArray[np.float32]:
    """Float32 (V, N, K)."""
    digests = [bytes.fromhex(sample.digest) for sample in samples]
    matrices = [embedder.matrix(digests)]
    for view in range(1, views):
        augmented = Embedder(backbone, view=view)
        embed(samples, augmented, progress=progress, stage=f"view {view + 1}")
        matrices.append(augmented.matrix(digests))
    return np.stack(matrices)
