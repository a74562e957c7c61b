"""Rank the labels of photos, most suspect first."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from tailorbird.backbone import open_backbone
from tailorbird.backbone.catalogue import DEFAULT
from tailorbird.dataset import Dataset, DataSettings, Finding, Sample
from tailorbird.errors import DatasetError, SettingsError
from tailorbird.features import Embedder
from tailorbird.label_errors import confident
from tailorbird.label_errors.crossfit import out_of_fold
from tailorbird.label_errors.unlike import Unlike, unlike_others
from tailorbird.preparation import PreparedData, Steps, prepare_data
from tailorbird.progress import Progress
from tailorbird.rendering.contact_sheets import MOST_TILES, Tile
from tailorbird.validation import Problems

FEWEST: Final = 5
"""Minimum number of different pictures of a class to judge its labels. With fewer, too few are left
to train on when one is held out, and all labels would look wrong."""


@dataclass(frozen=True, slots=True)
class Suspect:
    """One photo's label, judged by heads that were trained without the photo.

    Attributes:
        sample: the photo.
        label, suggested: the given class and the most probable other one.
        label_probability, suggested_probability: out-of-fold, 0 to 1, underconfident.
        score: 1 - label_probability; higher is more suspect.
        rank: among all judged photos, from 1.
    """

    sample: Sample
    label: str
    suggested: str
    label_probability: float
    suggested_probability: float
    score: float
    rank: int

    def as_dict(self) -> dict[str, Any]:
        """Return the object of `scan --suspects --json`."""
        return {
            "path": self.sample.name,
            "label": self.label,
            "suggested": self.suggested,
            "label_probability": self.label_probability,
            "suggested_probability": self.suggested_probability,
            "score": self.score,
            "rank": self.rank,
        }

    def finding(self) -> Finding:
        """Return the suspect as a finding of kind `suspect-label`."""
        message = (
            f"labelled {self.label} ({self.label_probability:.1%}), "
            f"looks like {self.suggested} ({self.suggested_probability:.1%})"
        )
        return Finding("suspect-label", (self.sample.name,), message)


@dataclass(frozen=True)
class Suspects:
    """The judged labels of a dataset.

    Attributes:
        dataset: the photos, with the reported suspects among its findings.
        ranked: every judged photo, most suspect first.
        reported: suspects to report, in the same order.
        agreement: share of judged photos whose label is the most probable class.
        unjudged: photos of classes that are too small to judge.
        unlike: photos that look like none of the others, the most distant first.
        backbone: its name.
    """

    dataset: Dataset
    ranked: tuple[Suspect, ...]
    reported: tuple[Suspect, ...]
    agreement: float
    unjudged: tuple[Sample, ...]
    backbone: str
    unlike: tuple[Unlike, ...] = ()

    def as_dict(self) -> dict[str, Any]:
        """Return the object under `suspects` of `scan --suspects --json`."""
        return {
            "backbone": self.backbone,
            "judged": len(self.ranked),
            "agreement": self.agreement,
            "reported": [suspect.as_dict() for suspect in self.reported],
            "unjudged": [sample.name for sample in self.unjudged],
            "unfamiliar": [photo.as_dict() for photo in self.unlike],
        }


def suspects(
    photos: str | Path | Dataset,
    *,
    backbone: str | Path = DEFAULT,
    mirror: bool = False,
    seed: int = 0,
    data: DataSettings | None = None,
    progress: Progress | None = None,
) -> Suspects:
    """Find photos whose label is probably wrong.

    All usable photos of all splits are judged, each by heads trained without it and its copies on
    cached features.

    Args:
        photos: a folder, a CSV, or a Dataset from `scan`.
        backbone: name of an installed backbone, or an .onnx file, or several, separated by commas;
            the better they separate the classes, the better this works.
        mirror: average features with those of the mirrored photo.
        seed: of the folds and fits.
        data: how the folder or CSV is read.
        progress: receives the stages `embed` and `labels`.

    Raises:
        DatasetError: there are fewer than two classes, or every class is too small.
        SettingsError: invalid seed.
        BackboneError: the backbone's file breaks the contract.
        ImageError: a photo changed since it was scanned.
        StorageError: the feature cache cannot be written.
    """
    with Problems() as problems:
        problems.seed(seed)
    embedder = Embedder(open_backbone(backbone, mirror=mirror))
    prepared = prepare_data(photos, embedder, Steps(data=data), progress=progress)
    return judge_prepared(prepared, seed=seed, progress=progress)


def judge_prepared(
    data: PreparedData, *, seed: int = 0, progress: Progress | None = None
) -> Suspects:
    """Judge the labels of prepared photos; see `suspects`."""
    assert data.embedder is not None, "labels are judged by features"
    return judge(
        data.dataset,
        data.features(data.dataset.samples)[0],
        backbone=data.embedder.backbone.info.name,
        seed=seed,
        progress=progress,
    )


def judge(
    dataset: Dataset,
    features: npt.NDArray[np.float32],
    *,
    backbone: str = "",
    seed: int = 0,
    progress: Progress | None = None,
) -> Suspects:
    """Judge the labels of photos by their features.

    Args:
        dataset: the photos.
        features: float32 (N, K), one row for each of `dataset.samples`, in that order.
        backbone: name to report.
        seed: of the folds and fits.
        progress: receives the stage `labels`.

    Raises:
        DatasetError: there are fewer than two classes, or every class is too small.
        SettingsError: the number of rows differs from the number of photos.
    """
    if len(features) != len(dataset.samples):
        raise SettingsError(
            f"there are {len(features)} rows of features for {len(dataset.samples)} photos; "
            "each photo needs one"
        )
    small = _check(dataset)
    classes = dataset.classes
    number = {label: i for i, label in enumerate(classes)}
    labels = np.array([number[sample.label] for sample in dataset.samples], np.int64)
    found = out_of_fold(
        features, labels, dataset.groups, classes=len(classes), seed=seed, progress=progress
    )
    own = confident.self_confidence(found, labels)
    other = confident.most_probable_other(found, labels)
    to_report = confident.reported(found, labels)
    judged = [
        i for i in np.argsort(own, kind="stable").tolist() if dataset.samples[i].label not in small
    ]
    ranked = {
        i: Suspect(
            dataset.samples[i],
            classes[labels[i]],
            classes[other[i]],
            float(own[i]),
            float(found[i, other[i]]),
            float(1 - own[i]),
            rank,
        )
        for rank, i in enumerate(judged, start=1)
    }
    reported = tuple(suspect for i, suspect in ranked.items() if to_report[i])
    unlike = unlike_others(dataset.samples, features, dataset.groups, seed=seed)
    ours = ("suspect-label", "unfamiliar")
    kept = [finding for finding in dataset.findings if finding.kind not in ours]
    found_now = [*(one.finding() for one in reported), *(photo.finding() for photo in unlike)]
    return Suspects(
        dataset=replace(dataset, findings=(*kept, *found_now)),
        ranked=tuple(ranked.values()),
        reported=reported,
        agreement=float((found.argmax(axis=1) == labels)[judged].mean()),
        unjudged=tuple(sample for sample in dataset.samples if sample.label in small),
        backbone=backbone,
        unlike=unlike,
    )


def _check(dataset: Dataset) -> frozenset[str]:
    """Return the classes that are too small to judge. Raises DatasetError if all are."""
    if len(dataset.classes) < 2:
        raise DatasetError(
            f"all usable photos have the single label {dataset.classes[0]!r}; labels can only be "
            "judged with at least two classes: put the photos of each class into a folder of its "
            "own"
        )
    pictures: dict[str, set[int]] = defaultdict(set)
    for sample, group in zip(dataset.samples, dataset.groups, strict=True):
        pictures[sample.label].add(group)
    small = frozenset(label for label, found in pictures.items() if len(found) < FEWEST)
    if len(small) == len(pictures):
        counts = ", ".join(
            f"{label} {len(found)}" for label, found in sorted(pictures.items())[:10]
        )
        raise DatasetError(
            f"no class has {FEWEST} different pictures, which are needed to judge its labels "
            f"(copies of one picture count once); there are {counts}"
        )
    return small


def tiles(found: Iterable[Suspect], limit: int = MOST_TILES) -> list[Tile]:
    """Return the first `limit` suspects as tiles of a contact sheet."""
    return [
        Tile(
            suspect.sample.path,
            (
                f"{suspect.rank}. labelled {suspect.label} ({suspect.label_probability:.1%})",
                f"looks like {suspect.suggested} ({suspect.suggested_probability:.1%})",
                suspect.sample.name,
            ),
        )
        for suspect, _ in zip(found, range(limit), strict=False)
    ]
