"""The photos an experiment may look at: train and validation, as features. The test split stays where it is."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from tailorbird.backbone import find, open_backbone
from tailorbird.backbone.catalogue import SHIPPED
from tailorbird.dataset import listed_photos, split
from tailorbird.errors import SettingsError
from tailorbird.features import Embedder
from tailorbird.preparation import MOST_VIEWS, Steps, prepare_data
from tailorbird.progress import Progress
from tailorbird.validation import PathLike, Problems

PICTURES = (".svg", ".png", ".html")
"""Endings of the pictures that an experiment can draw."""


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
    steps = Steps(partial(split, seed=seed))
    data = prepare_data(source, Embedder(open_backbone(backbone)), steps, progress=progress)
    kept = [
        (sample, group)
        for sample, group in zip(data.dataset.samples, data.dataset.groups, strict=True)
        if sample.split != "test"
    ]
    samples = [sample for sample, _ in kept]
    return Photos(
        source=str(source),
        backbone=str(backbone),
        classes=data.classes,
        features=data.features(samples, views=views, progress=progress),
        labels=data.numbers(samples),
        groups=np.array([group for _, group in kept], np.int64),
        validation=np.array([sample.split == "validation" for sample in samples], np.bool_),
        test_photos=len(data.parts["test"]),
        seed=seed,
    )


def check_outputs(
    source: PathLike,
    backbone: str | Path,
    *,
    picture: PathLike | None = None,
    csv: PathLike | None = None,
) -> None:
    """Raise SettingsError unless each output can be written and is no input of an experiment."""
    with Problems() as problems:
        problems.ending("picture", picture, *PICTURES)
        problems.outputs(
            {"picture": picture, "CSV": csv},
            inputs={"dataset": source, "backbone": find(backbone)},
            photos=listed_photos(source),
        )
