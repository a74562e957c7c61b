"""The photos that an experiment uses: train and validation, as features; never test."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tailorbird.backbone import files_read, open_backbone
from tailorbird.backbone.catalogue import DEFAULT
from tailorbird.dataset import DataSettings, listed_photos, split
from tailorbird.errors import SettingsError
from tailorbird.features import Embedder
from tailorbird.head import HeadSettings
from tailorbird.preparation import MOST_VIEWS, Steps, prepare_data
from tailorbird.progress import Progress
from tailorbird.validation import PathLike, Problems, build

PICTURES = (".svg", ".png", ".html")
"""Endings of the plots that an experiment can draw."""


@dataclass(frozen=True)
class ExperimentSettings:
    """Settings of every experiment.

    Attributes:
        seed: of the split (as in `train`), the folds and the fits, 0 to 2**32 - 1.
        backbone: name of an installed backbone, or the path of an .onnx file; or several, separated
            by commas, whose features are put side by side.
        workers: fits at the same time; None: one per core. It does not change the result.
        data: how the folder or CSV is read.
        mirror: average features with those of the mirrored photo.
    """

    seed: int = 0
    backbone: str | Path = DEFAULT
    workers: int | None = None
    data: DataSettings | None = None
    mirror: bool = False

    def __post_init__(self) -> None:
        """Raise one SettingsError that names every problem."""
        with Problems() as problems:
            problems.seed(self.seed)
            if self.workers is not None:
                problems.whole("workers", self.workers, 1)
            self.check(problems)

    def check(self, problems: Problems) -> None:
        """Add the problems of one experiment's own settings."""


@dataclass(frozen=True)
class ExperimentData:
    """N photos of train and validation together, of C classes.

    Attributes:
        source: the folder or CSV.
        backbone: names or paths. mirror: whether the mirrored photo is averaged in.
        classes: labels; a label's position is its number.
        features: float32 (V, N, K) of V views, the photo itself first.
        labels: int64 (N,), 0 to C - 1.
        groups: int64 (N,); photos that show the same picture share a number.
        validation: bool (N,), true for photos of the validation split.
        test_photos: number of photos in test, which are not used.
        seed: of the split.
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
    mirror: bool = False

    def __post_init__(self) -> None:
        """Check that the arrays fit each other."""
        shapes = {self.labels.shape, self.groups.shape, self.validation.shape}
        if self.features.ndim != 3 or shapes != {self.features.shape[1:2]}:
            raise SettingsError(
                f"features have shape {self.features.shape} and labels, groups and validation "
                f"{sorted(shapes)}; valid are (views, photos, features) and (photos,)"
            )
        if len(self.labels) and not 0 <= self.labels.min() <= self.labels.max() < len(self.classes):
            raise SettingsError(
                f"labels are {self.labels.min()} to {self.labels.max()}; they must be 0 to "
                f"{len(self.classes) - 1}, as there are {len(self.classes)} classes"
            )

    def __len__(self) -> int:
        return len(self.labels)


def read_data(
    source: str | Path,
    *,
    backbone: str | Path = DEFAULT,
    mirror: bool = False,
    views: int = 1,
    seed: int = 0,
    data: DataSettings | None = None,
    progress: Progress | None = None,
) -> ExperimentData:
    """Scan photos, split them as `train` does, and return the features of train and validation.

    The test split is made (or honoured) and cleaned exactly as in `train` with the same seed, so
    that the photos that will test the final model are not among these.

    Args:
        source: class folders, split/class folders, or a CSV `path,label[,split]`.
        backbone, mirror: as in ExperimentSettings.
        views: views of each photo, 1 to 32; those after the first are augmented.
        seed: of the split.
        data: how the folder or CSV is read.
        progress: receives the stages `embed`, `view 2`, `view 3` and so on.

    Raises:
        SettingsError: views or seed outside their range.
        DatasetError: fewer than two classes, or no photo left.
        BackboneError: the backbone's file breaks the contract.
        StorageError: the disk is full or a folder cannot be written.
    """
    with Problems() as problems:
        problems.whole("views", views, 1, MOST_VIEWS)
        problems.seed(seed)
    steps = Steps(partial(split, seed=seed), data=data)
    embedder = Embedder(open_backbone(backbone, mirror=mirror))
    known = prepare_data(source, embedder, steps, progress=progress)
    kept = [i for i, sample in enumerate(known.dataset.samples) if sample.split != "test"]
    samples = [known.dataset.samples[i] for i in kept]
    return ExperimentData(
        source=str(source),
        backbone=str(backbone),
        classes=known.classes,
        features=known.features(samples, views=views, progress=progress),
        labels=known.numbers(samples),
        groups=np.array(known.dataset.groups, np.int64)[kept],
        validation=np.array([sample.split == "validation" for sample in samples], np.bool_),
        test_photos=len(known.parts["test"]),
        seed=seed,
        mirror=mirror,
    )


def given_or_read(
    photos: str | Path | ExperimentData,
    settings: ExperimentSettings,
    views: int,
    progress: Progress | None,
) -> ExperimentData:
    """Return data that is given already, or read it. Raises SettingsError for too few views."""
    if not isinstance(photos, ExperimentData):
        return read_data(
            photos,
            backbone=settings.backbone,
            mirror=settings.mirror,
            views=views,
            seed=settings.seed,
            data=settings.data,
            progress=progress,
        )
    if views > len(photos.features):
        raise SettingsError(
            f"views is {views}, but the photos were read with {len(photos.features)}"
        )
    return photos


def head_settings(values: Mapping[str, Any], what: str = "fixed") -> HeadSettings:
    """Return HeadSettings with these fields. Raises SettingsError for unknown or invalid ones."""
    return build(HeadSettings, values, what)


def check_outputs(
    source: PathLike,
    backbone: str | Path,
    *,
    data: DataSettings | None = None,
    picture: PathLike | None = None,
    csv: PathLike | None = None,
) -> None:
    """Raise SettingsError if an output cannot be written or is an input of an experiment."""
    with Problems() as problems:
        problems.ending("picture", picture, *PICTURES)
        problems.outputs(
            {"picture": picture, "CSV": csv},
            inputs={"dataset": source, **files_read(backbone)},
            photos=listed_photos(source, data),
        )
