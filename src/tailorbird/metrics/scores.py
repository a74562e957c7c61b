"""Scores from labels and probabilities. scikit-learn does the counting.

Labels are int64 (N,), numbers of classes 0 to C-1; probabilities are float (N, C), rows summing to 1.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from tailorbird.errors import DatasetError
from tailorbird.rendering.notebook import scores_html

Labels = npt.NDArray[np.int64]
Probabilities = npt.NDArray[np.floating[Any]]


@dataclass(frozen=True)
class Answers:
    """What a model says of N labelled photos, kept to look closer than the scores do.

    paths: where they lie. names: the same for people to read. labels: int64 (N,). probabilities: float32 (N, C), half of what
    scoring uses, since they are kept.
    """

    paths: tuple[Path, ...]
    names: tuple[str, ...]
    labels: Labels
    probabilities: npt.NDArray[np.float32]

    def __post_init__(self) -> None:
        if not len(self.paths) == len(self.names) == len(self.labels) == len(self.probabilities):
            raise ValueError(
                "answers need a path, a name, a label and a row of probabilities for each photo"
            )

    @classmethod
    def of(
        cls, photos: Iterable[tuple[Path, str]], labels: Labels, probabilities: Probabilities
    ) -> Answers:
        """From (path, name) of each photo, and what `score` takes."""
        pairs = tuple(photos)
        paths, names = tuple(path for path, _ in pairs), tuple(name for _, name in pairs)
        return cls(paths, names, labels, np.asarray(probabilities, np.float32))

    def __len__(self) -> int:
        return len(self.labels)


@dataclass(frozen=True)
class ClassScore:
    """Precision, recall and F1 (0 to 1; 0 where undefined) and the number of photos of one class."""

    label: str
    precision: float
    recall: float
    f1: float
    support: int


@dataclass(frozen=True)
class Scores:
    """What a model scores on N labelled photos.

    interval: 95% Wilson interval of the accuracy. top3: the label is among the three most probable classes.
    log_loss: mean negative log-probability of the label, in nats. ece: expected calibration error over 15 equal-width bins.
    confusion: counts, rows are true classes, columns predicted ones. majority_baseline: accuracy of always answering
    the most frequent class. threshold: below this probability the model says it is unsure; coverage: the share of photos on
    which it is sure; sure_accuracy: its accuracy on those (None when there are none).
    """

    n: int
    accuracy: float
    interval: tuple[float, float]
    top3: float
    log_loss: float
    ece: float
    macro: dict[str, float]
    per_class: tuple[ClassScore, ...]
    classes: tuple[str, ...]
    confusion: tuple[tuple[int, ...], ...]
    majority_baseline: float
    threshold: float
    coverage: float
    sure_accuracy: float | None

    def _repr_html_(self) -> str:
        return scores_html(self.as_dict(), "Scores")

    @classmethod
    def from_dict(cls, said: Mapping[str, Any]) -> Scores:
        """Read `as_dict` back. Raises ValueError for anything else; a model file's metadata may say what they like."""
        try:
            wrong = None
            made = cls(
                n=int(said["n"]),
                interval=(float(said["interval"][0]), float(said["interval"][1])),
                macro={name: float(said["macro"][name]) for name in ("precision", "recall", "f1")},
                per_class=tuple(
                    ClassScore(
                        str(row["label"]),
                        float(row["precision"]),
                        float(row["recall"]),
                        float(row["f1"]),
                        int(row["support"]),
                    )
                    for row in said["per_class"]
                ),
                classes=tuple(map(str, said["classes"])),
                confusion=tuple(tuple(map(int, row)) for row in said["confusion"]),
                sure_accuracy=None
                if said["sure_accuracy"] is None
                else float(said["sure_accuracy"]),
                **{name: float(said[name]) for name in _PLAIN},
            )
            figures = [*vars(made).values(), *made.interval, *made.macro.values()]
            sides = {
                len(made.classes),
                len(made.per_class),
                len(made.confusion),
                *map(len, made.confusion),
            }
            if (
                not all(math.isfinite(value) for value in figures if isinstance(value, float))
                or made.n < 1
            ):
                wrong = "a figure is not finite, or there are no photos"
            elif len(sides) != 1:
                wrong = "classes, rows and columns do not agree"
        except (KeyError, TypeError, ValueError, IndexError, OverflowError) as error:
            wrong = f"{type(error).__name__}: {error}"
        if wrong:
            raise ValueError(f"these are no scores: {wrong}")
        return made

    def as_dict(self) -> dict[str, Any]:
        """The scores as they stand in `evaluate --json` and in a model's metadata."""
        return {
            "n": self.n,
            "accuracy": self.accuracy,
            "interval": list(self.interval),
            "top3": self.top3,
            "log_loss": self.log_loss,
            "ece": self.ece,
            "macro": dict(self.macro),
            "per_class": [vars(score).copy() for score in self.per_class],
            "classes": list(self.classes),
            "confusion": [list(row) for row in self.confusion],
            "majority_baseline": self.majority_baseline,
            "threshold": self.threshold,
            "coverage": self.coverage,
            "sure_accuracy": self.sure_accuracy,
        }


_PLAIN = ("accuracy", "top3", "log_loss", "ece", "majority_baseline", "threshold", "coverage")


def wilson_interval(hits: int, n: int, z: float = 1.959964) -> tuple[float, float]:
    """Wilson's score interval for a proportion (E. B. Wilson, JASA 22, 1927); z = 1.96 gives 95%."""
    if n == 0:
        return (0.0, 1.0)
    p, zz = hits / n, z * z
    centre = (p + zz / (2 * n)) / (1 + zz / n)
    half = z / (1 + zz / n) * math.sqrt(p * (1 - p) / n + zz / (4 * n * n))
    return (max(0.0, centre - half), min(1.0, centre + half))


def calibration_error(labels: Labels, probabilities: Probabilities, bins: int = 15) -> float:
    """Expected calibration error: |accuracy - confidence| averaged over equal-width bins of confidence, weighted by count.

    Naeini, Cooper and Hauskrecht, AAAI 2015; 15 bins as in Guo et al., ICML 2017.
    """
    confidence = probabilities.max(axis=1)
    hit = probabilities.argmax(axis=1) == labels
    which = np.minimum((confidence * bins).astype(int), bins - 1)
    counts = np.bincount(which, minlength=bins)
    gaps = np.abs(np.bincount(which, hit, bins) - np.bincount(which, confidence, bins))
    return float(gaps.sum() / max(1, counts.sum()))


def score(
    labels: Labels, probabilities: Probabilities, classes: Sequence[str], threshold: float
) -> Scores:
    """Score N photos. Raises DatasetError when there are none."""
    from sklearn.metrics import confusion_matrix, precision_recall_fscore_support

    n = len(labels)
    if n == 0:
        raise DatasetError(
            "there are no photos to score: none is readable and labelled with a class the model knows"
        )
    predicted = probabilities.argmax(axis=1)
    hits = int((predicted == labels).sum())
    every = np.arange(len(classes))
    precision, recall, f1, support = precision_recall_fscore_support(
        labels, predicted, labels=every, zero_division=0.0
    )
    present = support > 0
    own = np.clip(probabilities[np.arange(n), labels].astype(np.float64), 1e-15, 1.0)
    first3 = np.argsort(-probabilities, axis=1, kind="stable")[:, :3]
    sure = probabilities.max(axis=1) >= threshold
    return Scores(
        n=n,
        accuracy=hits / n,
        interval=wilson_interval(hits, n),
        top3=float((first3 == labels[:, None]).any(axis=1).mean()),
        log_loss=float(-np.log(own).mean()),
        ece=calibration_error(labels, probabilities),
        # Classes without a photo here have no recall to average.
        macro={
            "precision": float(precision[present].mean()),
            "recall": float(recall[present].mean()),
            "f1": float(f1[present].mean()),
        },
        per_class=tuple(
            ClassScore(label, float(p), float(r), float(f), int(s))
            for label, p, r, f, s in zip(classes, precision, recall, f1, support, strict=True)
        ),
        classes=tuple(classes),
        confusion=tuple(
            tuple(int(count) for count in row)
            for row in confusion_matrix(labels, predicted, labels=every)
        ),
        majority_baseline=float(np.bincount(labels).max() / n),
        threshold=threshold,
        coverage=float(sure.mean()),
        sure_accuracy=float((predicted == labels)[sure].mean()) if sure.any() else None,
    )


def softmax(logits: npt.NDArray[np.floating[Any]]) -> npt.NDArray[np.float64]:
    """Rows of probabilities, float64 (N, C)."""
    shifted = logits.astype(np.float64) - logits.max(axis=1, keepdims=True)
    exponentials = np.exp(shifted)
    result: npt.NDArray[np.float64] = exponentials / exponentials.sum(axis=1, keepdims=True)
    return result


def temperature(logits: npt.NDArray[np.floating[Any]], labels: Labels) -> float:
    """The T, 0.05 to 20, that minimises the log-loss of softmax(logits / T) (Guo et al., ICML 2017).

    Each label counts for (n + 1) / (n + 2) and the other classes share the rest, as Platt (1999) does for his sigmoid: a small
    validation set without a mistake must not turn every answer into 100%.
    """
    from scipy.optimize import minimize_scalar

    n, classes = logits.shape
    spare = 1.0 / (n + 2)
    targets = np.full((n, classes), spare / (classes - 1))
    targets[np.arange(n), labels] = 1.0 - spare

    def loss(log_t: float) -> float:
        scaled = logits.astype(np.float64) / math.exp(log_t)
        largest = scaled.max(axis=1, keepdims=True)
        log_sum = largest + np.log(np.exp(scaled - largest).sum(axis=1, keepdims=True))
        return float((targets * (log_sum - scaled)).sum() / n)

    found = minimize_scalar(
        loss, bounds=(math.log(0.05), math.log(20.0)), method="bounded", options={"xatol": 1e-4}
    )
    return float(math.exp(found.x))


@dataclass(frozen=True)
class Threshold:
    """Below `value` (0 to 1) the model is unsure; on validation the rest was right with `precision`, at this `coverage`.

    `reached` is False when no threshold gives the wanted precision; `value` is then the one with the best precision found.
    """

    value: float
    precision: float
    coverage: float
    wanted: float
    reached: bool


def choose_threshold(labels: Labels, probabilities: Probabilities, wanted: float) -> Threshold:
    """The lowest probability above which the answers on validation are right at least `wanted` of the time.

    Prefers the widest coverage that keeps the precision, both as counted and as the calibrated probabilities themselves
    expect it: a count alone, at its luckiest cut, promises too much. Fewer than ten sure answers never claim a precision.
    """
    order = np.argsort(-probabilities.max(axis=1), kind="stable")
    confidence = probabilities.max(axis=1)[order].astype(float)
    counts = np.arange(1, len(order) + 1)
    precision = np.cumsum((probabilities.argmax(axis=1) == labels)[order]) / counts
    expected = np.cumsum(confidence) / counts
    # A cut may not fall between equal confidences: both sides would get the same answer at run time.
    cut = np.append(confidence[1:] < confidence[:-1], True)
    good = np.flatnonzero(cut & (counts >= 10) & (precision >= wanted) & (expected >= wanted))
    reached = len(good) > 0
    allowed = cut & (counts >= min(10, len(order)))
    last = int(good[-1]) if reached else int(np.flatnonzero(allowed)[np.argmax(precision[allowed])])
    value = float(confidence[last : last + 2].mean())
    if last + 1 == len(order):
        value = 0.0 if reached else float(confidence[-1])
    return Threshold(value, float(precision[last]), (last + 1) / len(order), wanted, reached)
