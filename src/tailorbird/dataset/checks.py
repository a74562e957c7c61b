"""Findings about a whole dataset: missing, small, imbalanced and similarly named classes.

To add one: a function from a Dataset to Findings, listed in `CHECKS`, and its kind in
`samples.KINDS`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import replace
from typing import Final

import numpy as np
import numpy.typing as npt

from tailorbird.dataset.labels import (
    colliding_labels,
    is_none_of_these,
    label_difference,
    shown_label,
    similar_label,
)
from tailorbird.dataset.samples import Dataset, Finding, Sample

SMALL: Final = 10
"""Training photos below which a class is reported as small."""

RECOMMENDED: Final = 50
"""Training photos that are recommended for each class."""

DARK: Final = 12
"""Maximum brightness, 0 to 255, of every part of an almost black photo."""

IMBALANCE: Final = 10.0
"""Ratio of the largest to the smallest class from which a dataset is reported as imbalanced."""


def class_findings(dataset: Dataset) -> list[Finding]:
    """Return what every check in `CHECKS` finds; photos of no class are no class."""
    if any(is_none_of_these(label) for label in dataset.classes):
        pairs = zip(dataset.samples, dataset.groups, strict=True)
        kept = [pair for pair in pairs if not is_none_of_these(pair[0].label)]
        dataset = replace(
            dataset,
            samples=tuple(sample for sample, _ in kept),
            groups=tuple(group for _, group in kept),
            pictures=(),
        )
    return [finding for check in CHECKS for finding in check(dataset)]


def _training(dataset: Dataset) -> dict[str, int]:
    return dataset.splits.get("train", {}) if dataset.splits else dataset.counts


def missing_classes(dataset: Dataset) -> Iterator[Finding]:
    """Yield a finding for each class that some split lacks."""
    for label in dataset.classes:
        lacking = [split for split, counts in dataset.splits.items() if label not in counts]
        if lacking:
            alike = similar_label(label, dataset.classes)
            how = label_difference(label, alike) if alike else ""
            hint = f"; {shown_label(alike)} differs only in {how}" if alike else ""
            message = f"{label} has no photo in {' and '.join(lacking)}{hint}"
            yield Finding("missing-class", (), message)


def small_classes(dataset: Dataset) -> Iterator[Finding]:
    """Yield a finding for each class with few training photos, and for a single class."""
    where = " in train" if "train" in dataset.splits else ""
    for label, n in _training(dataset).items():
        if n < SMALL:
            photos = "1 photo" if n == 1 else f"{n} photos"
            message = (
                f"{label} has {photos}{where}; at least {SMALL} are needed, "
                f"{RECOMMENDED} are recommended"
            )
            yield Finding("small-class", (), message)
    if len(dataset.classes) == 1:
        message = f"there is one class, {dataset.classes[0]}; a classifier needs at least two"
        yield Finding("small-class", (), message)


def imbalance(dataset: Dataset) -> Iterator[Finding]:
    """Yield a finding if the largest class is many times as large as the smallest."""
    training = _training(dataset)
    if len(training) > 1:
        largest = max(training, key=training.__getitem__)
        smallest = min(training, key=training.__getitem__)
        ratio = training[largest] / training[smallest]
        if ratio >= IMBALANCE:
            message = (
                f"{largest} has {training[largest]:,} photos, {smallest} {training[smallest]:,}: "
                f"{ratio:.0f} times as many"
            )
            yield Finding("imbalance", (), message)


def similar_labels(dataset: Dataset) -> Iterator[Finding]:
    """Yield a finding for each group of labels that people cannot tell apart."""
    counts = dataset.counts
    for alike in colliding_labels(dataset.classes):
        shown = tuple(map(shown_label, alike))
        parts = [f"{s} ({counts[a]:,} photos)" for s, a in zip(shown, alike, strict=True)]
        message = (
            f"{' and '.join(parts)} differ only in {label_difference(alike[0], alike[1])}: "
            "they are different classes; rename them if they are one"
        )
        yield Finding("similar-labels", shown, message)


def dark_findings(samples: Sequence[Sample], sketches: npt.NDArray[np.uint8]) -> list[Finding]:
    """Return a finding for the photos that are almost black, by their grey sketches (N, 32, 32)."""
    dark = np.flatnonzero(sketches.reshape(len(samples), -1).max(axis=1) < DARK)
    names = tuple(samples[i].name for i in dark.tolist())
    what = "1 photo is" if len(names) == 1 else f"{len(names):,} photos are"
    message = f"{what} almost black: a covered lens, or 16-bit data of which few bits are used"
    return [Finding("almost-black", names, message)] if names else []


CHECKS: Final[tuple[Callable[[Dataset], Iterable[Finding]], ...]] = (
    missing_classes,
    small_classes,
    imbalance,
    similar_labels,
)
