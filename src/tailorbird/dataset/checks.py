"""Findings about classes: missing from a split, too small, out of proportion."""

from __future__ import annotations

from typing import Final

from tailorbird.dataset.samples import Dataset, Finding

SMALL: Final = 10
"""Training photos below which a class is reported as small."""

RECOMMENDED: Final = 50
"""Training photos that are recommended for each class."""

IMBALANCE: Final = 10.0
"""Ratio of the largest to the smallest class from which a dataset is reported as out of proportion."""


def class_findings(dataset: Dataset) -> list[Finding]:
    """The findings missing-class, small-class and imbalance of a dataset."""
    splits = dataset.splits or {"": dataset.counts}
    training = splits.get("train", splits.get("", {}))
    findings = _missing(dataset.classes, splits)
    for label, n in training.items():
        if n < SMALL:
            photos = "1 photo" if n == 1 else f"{n} photos"
            where = " in train" if "train" in splits else ""
            findings.append(
                Finding(
                    "small-class",
                    (),
                    f"{label} has {photos}{where}; {SMALL} are the least, {RECOMMENDED} are recommended",
                )
            )
    if len(dataset.classes) == 1:
        findings.append(
            Finding(
                "small-class",
                (),
                f"there is one class, {dataset.classes[0]}; a classifier needs at least two",
            )
        )
    if len(training) > 1:
        largest, smallest = (
            max(training, key=training.__getitem__),
            min(training, key=training.__getitem__),
        )
        ratio = training[largest] / training[smallest]
        if ratio >= IMBALANCE:
            message = f"{largest} has {training[largest]:,} photos, {smallest} {training[smallest]:,}: {ratio:.0f} times as many"
            findings.append(Finding("imbalance", (), message))
    return findings


def _missing(classes: tuple[str, ...], splits: dict[str, dict[str, int]]) -> list[Finding]:
    """One finding for each class that some split lacks."""
    folded: dict[str, list[str]] = {}
    for label in classes:
        folded.setdefault(label.casefold(), []).append(label)
    findings = []
    for label in classes:
        lacking = [split for split, counts in splits.items() if label not in counts]
        if not lacking:
            continue
        alike = [other for other in folded[label.casefold()] if other != label]
        hint = f"; {', '.join(alike)} differs only in upper and lower case" if alike else ""
        findings.append(
            Finding("missing-class", (), f"{label} has no photo in {' and '.join(lacking)}{hint}")
        )
    return findings
