"""Score a model file on labelled photos."""

from __future__ import annotations

import base64
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from tailorbird.dataset import SPLITS, printable
from tailorbird.dataset.layout import Entry, Layout, find
from tailorbird.errors import DatasetError, SettingsError
from tailorbird.files import sha256_file
from tailorbird.metrics import Scores, score
from tailorbird.model import Classifier, Failure


@dataclass(frozen=True)
class Mistake:
    """One photo the model got wrong: its label, the model's answer and that answer's probability."""

    path: str
    label: str
    predicted: str
    probability: float


@dataclass(frozen=True)
class Evaluation:
    """Scores, every mistake (the surest first), and the photos that could not be scored with the reason."""

    scores: Scores
    split: str | None
    trained_on: int
    """How many of the scored photos the model was trained on: their scores say nothing about new photos."""
    mistakes: tuple[Mistake, ...]
    left_out: tuple[tuple[str, str], ...]

    def as_dict(self) -> dict[str, Any]:
        """The object of `evaluate --json`."""
        return {
            **self.scores.as_dict(),
            "split": self.split,
            "trained_on": self.trained_on,
            "mistakes": [vars(mistake).copy() for mistake in self.mistakes],
            "left_out": [{"path": path, "reason": reason} for path, reason in self.left_out],
        }


def evaluate(
    model: str | Path | Classifier,
    photos: str | Path,
    *,
    split: str | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> Evaluation:
    """Score a model on a folder or CSV of labelled photos.

    split: score this split only; by default `test` where the source has one, else every photo. Photos that cannot be
    read, and photos of classes the model does not know, are left out and named.

    Raises DatasetError when no photo is left, SettingsError for a split the source does not have, ModelFileError.
    """
    classifier = model if isinstance(model, Classifier) else Classifier(model)
    layout, chosen, entries = entries_to_score(photos, split)
    number = {label: i for i, label in enumerate(classifier.classes)}
    left_out = [(path, finding.message) for finding in layout.findings for path in finding.paths]
    left_out += [
        (printable(entry.name), f"the model has no class {entry.label!r}")
        for entry in entries
        if entry.label not in number
    ]
    known = [entry for entry in entries if entry.label in number]
    labels: list[int] = []
    rows: list[list[float]] = []
    mistakes: list[Mistake] = []
    digests = trained_on(classifier)
    remembered = 0
    results = classifier.stream((entry.path for entry in known), top=len(classifier.classes))
    for done, (entry, result) in enumerate(zip(known, results, strict=True), start=1):
        if isinstance(result, Failure):
            left_out.append((printable(entry.name), str(result.error)))
        else:
            by_label = dict(result.top)
            remembered += bool(digests) and bytes.fromhex(sha256_file(entry.path))[:6] in digests
            labels.append(number[entry.label])
            rows.append([by_label[label] for label in classifier.classes])
            if result.label != entry.label:
                mistakes.append(Mistake(printable(entry.name), entry.label, result.label, result.probability))
        if progress:
            progress(done, len(known))
    if not labels:
        why = f"; the first of {len(left_out)}: {left_out[0][0]}: {left_out[0][1]}" if left_out else ""
        raise DatasetError(
            f"{photos} holds no photo that can be scored{why}; the model's classes are {', '.join(classifier.classes)}"
        )
    scores = score(np.array(labels), np.array(rows), classifier.classes, classifier.info.threshold)
    return Evaluation(
        scores, chosen, remembered, tuple(sorted(mistakes, key=lambda m: -m.probability)), tuple(left_out)
    )


def entries_to_score(photos: str | Path, split: str | None) -> tuple[Layout, str | None, list[Entry]]:
    """What a source holds, the split to score and its photos: the split asked for, else `test` where there is one, else all (None).

    Raises DatasetError for no such source, SettingsError for a split it does not have.
    """
    layout = find(photos)
    present = {entry.split for entry in layout.entries}
    if split is not None and split not in present:
        named = ", ".join(name for name in SPLITS if name in present) or "none"
        raise SettingsError(f"{photos} has no split {split!r}; it has: {named}")
    chosen = split or ("test" if "test" in present else None)
    return layout, chosen, [entry for entry in layout.entries if chosen is None or entry.split == chosen]


def trained_on(classifier: Classifier) -> frozenset[bytes]:
    """The first 6 bytes of the SHA-256 of each training photo; empty where the model's metadata do not say."""
    said = classifier.info.data.get("trained_on")
    try:
        known = base64.b64decode(said) if isinstance(said, str) else b""
    except ValueError:
        return frozenset()
    return frozenset(known[i : i + 6] for i in range(0, len(known), 6))
