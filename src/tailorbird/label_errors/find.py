"""From photos to a ranking of their labels, the most suspect first."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from tailorbird.backbone import open_backbone
from tailorbird.backbone.catalogue import SHIPPED
from tailorbird.dataset import Dataset, DataSettings, Finding, Sample
from tailorbird.errors import DatasetError, SettingsError
from tailorbird.features import Embedder
from tailorbird.label_errors import confident
from tailorbird.label_errors.crossfit import out_of_fold
from tailorbird.preparation import PreparedData, Steps, prepare_data
from tailorbird.progress import Progress
from tailorbird.rendering.contact_sheets import MOST_TILES, Tile

FEWEST: Final = 5
"""Different pictures a class must have before its labels are judged: with fewer, hardly anything of it is left to learn from when one
is held out, and every one of them would look wrong."""


@dataclass(frozen=True, slots=True)
class Suspect:
    """One photo's label, judged by heads that have not seen the photo.

    label, suggested: the given class and the most probable other one. label_probability, suggested_probability: of these,
    0 to 1, on the cautious side. score: one minus the label's probability, 0 to 1, higher is more suspect. rank: its place
    among all judged photos, from 1.
    """

    sample: Sample
    label: str
    suggested: str
    label_probability: float
    suggested_probability: float
    score: float
    rank: int

    def as_dict(self) -> dict[str, Any]:
        """The suspect as it stands in `scan --suspects --json`."""
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
        """The suspect as a finding of kind `suspect-label`."""
        message = (
            f"labelled {self.label} ({self.label_probability:.1%}), "
            f"looks like {self.suggested} ({self.suggested_probability:.1%})"
        )
        return Finding("suspect-label", (self.sample.name,), message)


@dataclass(frozen=True)
class Suspects:
    """The labels of a dataset, judged.

    dataset: the photos, with the suspects among its findings. ranked: every judged photo, the most suspect first. reported: those
    of them worth a look, in the same order. agreement: the share of judged photos whose label is the most probable class.
    unjudged: photos of classes too small to judge. backbone: its name.
    """

    dataset: Dataset
    ranked: tuple[Suspect, ...]
    reported: tuple[Suspect, ...]
    agreement: float
    unjudged: tuple[Sample, ...]
    backbone: str

    def as_dict(self) -> dict[str, Any]:
        """What `scan --suspects --json` adds to the scan, under `suspects`."""
        return {
            "backbone": self.backbone,
            "judged": len(self.ranked),
            "agreement": self.agreement,
            "reported": [suspect.as_dict() for suspect in self.reported],
            "unjudged": [sample.name for sample in self.unjudged],
        }


def suspects(
    photos: str | Path | Dataset,
    *,
    backbone: str | Path = SHIPPED,
    seed: int = 0,
    data: DataSettings | None = None,
    progress: Progress | None = None,
) -> Suspects:
    """Find photos whose label is probably wrong.

    All usable photos of all splits are judged, each by heads trained without it and without its copies, on cached features.

    photos: a folder, a CSV, or a Dataset from `scan`. backbone: a name at hand or an .onnx file; the better it tells the classes
    apart, the better this works. seed: of the folds and fits.

    Raises DatasetError when there are fewer than two classes or every class is too small, SettingsError for a bad seed,
    BackboneError, ImageError for a photo that changed since it was scanned, StorageError.
    """
    if not 0 <= seed < 2**32:
        raise SettingsError(f"seed is {seed}; it must be between 0 and 4294967295")
    embedder = Embedder(open_backbone(backbone))
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
    worth = confident.reported(found, labels)
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
    reported = tuple(suspect for i, suspect in ranked.items() if worth[i])
    kept = tuple(finding for finding in dataset.findings if finding.kind != "suspect-label")
    return Suspects(
        dataset=replace(dataset, findings=(*kept, *(suspect.finding() for suspect in reported))),
        ranked=tuple(ranked.values()),
        reported=reported,
        agreement=float((found.argmax(axis=1) == labels)[judged].mean()),
        unjudged=tuple(sample for sample in dataset.samples if sample.label in small),
        backbone=backbone,
    )


def _check(dataset: Dataset) -> frozenset[str]:
    """The classes too small to judge. Raises DatasetError where nothing can be judged."""
    if len(dataset.classes) < 2:
        raise DatasetError(
            f"all usable photos carry the single label {dataset.classes[0]!r}; suspect labels show only against another class: "
            "put the photos of each class into a folder of its own"
        )
    pictures: dict[str, set[int]] = defaultdict(set)
    for sample, group in zip(dataset.samples, dataset.groups, strict=True):
        pictures[sample.label].add(group)
    small = frozenset(label for label, found in pictures.items() if len(found) < FEWEST)
    if len(small) == len(pictures):
        raise DatasetError(
            f"no class has {FEWEST} different pictures, which are needed to judge its labels (copies of one picture count once); "
            f"there are {', '.join(f'{label} {len(found)}' for label, found in sorted(pictures.items())[:10])}"
        )
    return small


def tiles(found: Iterable[Suspect], limit: int = MOST_TILES) -> list[Tile]:
    """The first `limit` suspects for `sheets.contact_sheet`: rank, given and suggested label, their probabilities, the file."""
    return [
        Tile(
            suspect.sample.path,
            (
                f"{suspect.rank}. {suspect.label} -> {suspect.suggested}",
                f"{suspect.label_probability:.1%} against {suspect.suggested_probability:.1%}",
                suspect.sample.name,
            ),
        )
        for suspect, _ in zip(found, range(limit), strict=False)
    ]
