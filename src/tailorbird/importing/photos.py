"""Labelled photos for an imported model: divided into calibration and test, and their logits."""

from __future__ import annotations

import hashlib
from collections import Counter, defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from tailorbird.dataset import Dataset, DataSettings, Sample, pixels_of
from tailorbird.errors import BackboneError, DatasetError
from tailorbird.head import Head
from tailorbird.images import ResizeRule
from tailorbird.inference import open_runner
from tailorbird.model.graph import BackboneGraph
from tailorbird.preparation import PreparedData, Steps, evenly_spread, prepare_data
from tailorbird.progress import Progress


@dataclass(frozen=True)
class ScoringData:
    """Labelled photos for a model that is trained already.

    data: photos of the split validation calibrate the model, photos of test score it. how: the
    origin of both, in words. unknown: number of photos of each label that the model does not have.
    """

    data: PreparedData
    how: str
    unknown: dict[str, int]

    @property
    def calibration(self) -> tuple[Sample, ...]:
        """The photos on which temperature and threshold are chosen."""
        return self.data.parts["validation"]

    @property
    def test(self) -> tuple[Sample, ...]:
        """The photos that score the model."""
        return self.data.parts["test"]


def read_scoring_data(
    source: str | Path,
    classes: Sequence[str],
    seed: int,
    *,
    data: DataSettings | None = None,
    progress: Progress | None = None,
) -> ScoringData:
    """Scan labelled photos and divide them into those that calibrate and those that score.

    With the splits validation and test, the first calibrates and the second scores; with one of
    them, one half each. Photos in train may be those the model was trained on: they are not used
    while there are others. Without splits all photos are halved. Halves are stratified by class,
    and photos that show the same picture stay together.

    Raises DatasetError.
    """
    steps = Steps(partial(_divide, seed=seed), tuple(classes), data=data)
    prepared = prepare_data(source, steps=steps, progress=progress)
    known = [sample for sample in prepared.scanned.samples if sample.label in classes]
    if not known:
        raise DatasetError(
            f"{source} has no photo of the model's classes: its labels are "
            f"{_some(prepared.scanned.classes)}, the classes {_some(classes)}; they are matched by "
            "name"
        )
    for name, what in (("validation", "calibration"), ("test", "scoring")):
        if not prepared.parts[name]:
            raise DatasetError(
                f"{source}: no photo is left for {what} out of {len(known):,} with known labels; "
                "at least two different photos of a class are needed"
            )
    found = Counter(sample.label for sample in prepared.scanned.samples)
    unknown = {label: count for label, count in sorted(found.items()) if label not in classes}
    return ScoringData(prepared, _origin({sample.split for sample in known}), unknown)


def _origin(splits: set[str | None]) -> str:
    """Return the origin of the calibration photos and the test photos, in words."""
    if splits >= {"validation", "test"}:
        return "calibrated on validation, scored on test"
    how = f"calibrated on one half of {_only_split(splits) or 'the photos'}, scored on the other"
    if splits == {"train"}:
        how += (
            "; the only split is train: if the model was trained on these photos, the scores say "
            "nothing about new ones"
        )
    return how


def _only_split(splits: set[str | None]) -> str | None:
    """Return which split is halved where there is no second one; None: all photos are."""
    return next((name for name in ("test", "validation") if name in splits), None)


def _divide(dataset: Dataset, *, seed: int) -> Dataset:
    """Return the photos that calibrate, as validation, and those that score, as test."""
    entries = list(zip(dataset.samples, dataset.groups, strict=True))
    splits = {sample.split for sample in dataset.samples}
    if not splits >= {"validation", "test"}:
        one = _only_split(splits)
        entries = halves([entry for entry in entries if one in (None, entry[0].split)], seed)
    kept = [(sample, group) for sample, group in entries if sample.split in ("validation", "test")]
    return replace(
        dataset,
        samples=tuple(sample for sample, _ in kept),
        groups=tuple(group for _, group in kept),
    )


def _some(names: Sequence[str]) -> str:
    """Return at most ten names as text."""
    return ", ".join(names[:10]) + (f" and {len(names) - 10} more" if len(names) > 10 else "")


def halves(entries: Sequence[tuple[Sample, int]], seed: int) -> list[tuple[Sample, int]]:
    """Deal the groups of each class out to test and validation, ordered by a hash of their content.

    entries: photos with their groups; each is returned with its new split.
    """
    members: dict[int, list[Sample]] = defaultdict(list)
    for sample, group in entries:
        members[group].append(sample)
    places: dict[str, list[tuple[str, int]]] = defaultdict(list)
    for group, samples in members.items():
        first = min(samples, key=lambda sample: (sample.digest, sample.label))
        place = hashlib.sha256(f"{seed}:{first.digest}".encode()).hexdigest()
        places[first.label].append((place, group))
    # One sequence over all classes: otherwise all classes of a single photo would be in test.
    dealt = [group for _, found in sorted(places.items()) for _, group in sorted(found)]
    split_of = {group: ("test", "validation")[turn % 2] for turn, group in enumerate(dealt)}
    return [(replace(sample, split=split_of[group]), group) for sample, group in entries]


class ImportedNetwork:
    """The imported network, opened to run on photos."""

    def __init__(self, backbone_graph: BackboneGraph, head: Head, name: str) -> None:
        """Open the network. Raises BackboneError."""
        self._graph = backbone_graph
        self._runner = open_runner(backbone_graph.proto, name, BackboneError, outputs=["features"])
        self._head = head

    def logits(self, images: npt.NDArray[np.uint8]) -> npt.NDArray[np.float32]:
        """Return the logits, float32 (N, C), of uint8 (N, S, S, 3)."""
        return self._head.logits(self._runner.run(images, ["features"])[0])

    def compared(self, images: npt.NDArray[np.uint8]) -> npt.NDArray[np.float32]:
        """Return the features that unfamiliarity compares, float32 (N, K)."""
        return self._graph.to_compare(self._runner.run(images, ["features"])[0])

    def run(
        self, samples: Sequence[Sample], rule: ResizeRule, progress: Progress
    ) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.float32]]:
        """Read photos; return logits (N, C) and the features that unfamiliarity compares (N, K)."""
        logits, compared = [], []
        for row in self._runner.rows(samples, lambda sample: pixels_of(sample, rule), "features"):
            logits.append(self._head.logits(row[None]))
            compared.append(self._graph.to_compare(row[None]))
            progress.advance(len(logits), len(samples))
        return np.concatenate(logits), np.concatenate(compared)


def spread(samples: Sequence[Any], most: int) -> list[Any]:
    """Return at most `most` of the samples, evenly spread."""
    return [samples[i] for i in evenly_spread(len(samples), most)]
