"""Scores of a classifier from labels and probabilities.

Shapes as in `calibration`: labels int64 (N,), probabilities float (N, C), C classes.

To add a score that is one number: write its function of (labels, probabilities) and add one field
to `Scores`, made by `_measure`. JSON, the report, the model card and the command line show it.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from tailorbird.errors import DatasetError
from tailorbird.metrics.calibration import Labels, Probabilities, calibration_error, log_loss
from tailorbird.metrics.distributions import too_few, wilson_interval
from tailorbird.rendering.notebook import scores_html


def of_100(share: float) -> str:
    """Return a share for a sentence: 0.957 as `96 of 100`, but 0.996 as `99.6 of 100`."""
    whole = f"{100 * share:.0f}"
    return f"{100 * share:.3g} of 100" if whole in ("0", "100") else f"{whole} of 100"


@dataclass(frozen=True)
class Answers:
    """A model's probabilities for N labelled photos, for figures that the scores do not contain.

    paths: the photos' files. names: the same as shown to people. labels: int64 (N,).
    probabilities: float32 (N, C), half the memory of what scoring uses. unfamiliarity: float32
    (N,); None where the model does not have it.
    """

    paths: tuple[Path, ...]
    names: tuple[str, ...]
    labels: Labels
    probabilities: npt.NDArray[np.float32]
    unfamiliarity: npt.NDArray[np.float32] | None = None

    def __post_init__(self) -> None:
        if not len(self.paths) == len(self.names) == len(self.labels) == len(self.probabilities):
            raise ValueError(
                "answers need a path, a name, a label and a row of probabilities for each photo"
            )

    @classmethod
    def of(
        cls,
        photos: Iterable[tuple[Path, str]],
        labels: Labels,
        probabilities: Probabilities,
        unfamiliarity: npt.NDArray[np.float32] | None = None,
    ) -> Answers:
        """Build from (path, name) of each photo and the arguments of `score`."""
        pairs = tuple(photos)
        paths, names = tuple(path for path, _ in pairs), tuple(name for _, name in pairs)
        rows = np.asarray(probabilities, np.float32)
        return cls(paths, names, labels, rows, unfamiliarity)

    def __len__(self) -> int:
        return len(self.labels)


@dataclass(frozen=True)
class ClassScore:
    """Precision, recall and F1 (0 to 1; 0 where undefined) and number of photos of one class."""

    label: str
    precision: float
    recall: float
    f1: float
    support: int


@dataclass(frozen=True)
class ConfusedPair:
    """Photos of class `label` that were predicted as another class.

    count: of those photos. share: of all photos of `label`, 0 to 1.
    """

    label: str
    predicted: str
    count: int
    share: float


@dataclass(frozen=True)
class Measure:
    """A score that is one number: how it is computed and shown.

    form: a `share` of the photos is shown in percent and has an interval, a `number` with three
    decimals. note: what it means, for readers of the report.
    """

    compute: Callable[[Labels, Probabilities], float]
    title: str
    form: Literal["share", "number"]
    note: str

    def text(self, value: float) -> str:
        """Return a value as shown to people."""
        return f"{value:.1%}" if self.form == "share" else f"{value:.3f}"


def _measure(
    compute: Callable[[Labels, Probabilities], float],
    title: str,
    form: Literal["share", "number"],
    note: str,
) -> Any:
    return field(default=None, metadata={"measure": Measure(compute, title, form, note)})


def top3_accuracy(labels: Labels, probabilities: Probabilities) -> float:
    """Return the share of photos whose label is among the three most probable classes."""
    first = np.argsort(-probabilities, axis=1, kind="stable")[:, :3]
    return float((first == labels[:, None]).any(axis=1).mean())


@dataclass(frozen=True)
class Scores:
    """The scores of a model on N labelled photos.

    interval: 95% Wilson interval of the accuracy. macro: means over the classes that have photos.
    confusion: counts, rows are true classes, columns predicted ones. majority_baseline: accuracy of
    always answering the most frequent class. threshold: below this probability the model is unsure;
    refused: share of photos that the model takes for none of its classes, None where it cannot
    tell; coverage: share of photos at or above the threshold and not refused; sure_accuracy:
    accuracy on those, None where there are none. A score is None (macro, per_class and confusion:
    empty) where an older model file does not hold it.
    """

    n: int
    accuracy: float
    interval: tuple[float, float]
    classes: tuple[str, ...]
    macro: dict[str, float] = field(default_factory=dict)
    per_class: tuple[ClassScore, ...] = ()
    confusion: tuple[tuple[int, ...], ...] = ()
    majority_baseline: float | None = None
    threshold: float | None = None
    coverage: float | None = None
    sure_accuracy: float | None = None
    refused: float | None = None
    top3: float | None = _measure(
        top3_accuracy,
        "top-3 accuracy",
        "share",
        "the label is among the three most probable classes",
    )
    log_loss: float | None = _measure(
        log_loss,
        "log-loss",
        "number",
        "how far the probabilities are from the labels; 0 is perfect, lower is better (mean "
        "negative log-probability of the label, in nats)",
    )
    ece: float | None = _measure(
        calibration_error,
        "calibration error",
        "number",
        "how far stated probabilities are from the share that is right: at 0, of the answers given "
        "with 90% just 90% are right; lower is better (mean over 15 bins)",
    )

    def _repr_html_(self) -> str:
        return scores_html(self.as_dict(), "Scores")

    def measures(self) -> Iterator[tuple[str, Measure, float]]:
        """Yield (name, measure, value) of each score that is one number and known."""
        for name, measure in MEASURES.items():
            value = getattr(self, name)
            if value is not None:
                yield name, measure, value

    @property
    def too_few(self) -> bool:
        """Return whether the photos are too few to state the accuracy."""
        return too_few(self.interval)

    def headline(self) -> str:
        """Return the accuracy with its interval; where photos are few, that comes first."""
        low, high = self.interval
        if not self.too_few:
            return (
                f"accuracy {self.accuracy:.1%} (95% interval {low:.1%} to {high:.1%}) on "
                f"{self.n:,} photos"
            )
        return (
            f"{self.n:,} photo{'s are' if self.n > 1 else ' is'} too few to say: of new ones, "
            f"between {low:.0%} and {high:.0%} would be right (95% interval); of these, "
            f"{round(self.accuracy * self.n):,} were"
        )

    def answered(self) -> str | None:
        """Say how many photos got an answer and how many answers were right; None if unknown."""
        if self.coverage is None or self.threshold is None:
            return None
        if self.sure_accuracy is None:
            return f"answered none of the photos: it was not sure ({self.threshold:.3g}) of any"
        rest = "" if self.coverage == 1 else ", and said 'not sure' to the others"
        if self.refused and self.coverage < 1:
            rest = f", said 'none of the classes' to {self.refused:.1%}"
            rest += ", and 'not sure' to the others" * (self.coverage + self.refused < 1 - 1e-9)
        return (
            f"answered {of_100(self.coverage)} photos, {of_100(self.sure_accuracy)} answers were "
            f"right ({self.sure_accuracy:.1%}){rest}"
        )

    def summary(self) -> str:
        """Return the known measures in one line: `top-3 accuracy 97.1%, log-loss 0.412, ...`."""
        return ", ".join(f"{one.title} {one.text(value)}" for _, one, value in self.measures())

    def confused_pairs(self) -> list[ConfusedPair]:
        """Return every pair of classes that was confused, most photos first."""
        pairs = [
            ConfusedPair(self.classes[i], self.classes[j], count, count / sum(row))
            for i, row in enumerate(self.confusion)
            for j, count in enumerate(row)
            if i != j and count
        ]
        return sorted(pairs, key=lambda pair: (-pair.count, -pair.share))

    @classmethod
    def from_dict(cls, stored: Mapping[str, Any]) -> Scores:
        """Read the result of `as_dict`, from files of any version: a missing score is absent.

        Raises:
            ValueError: `stored` is not scores; model files are untrusted input.
        """
        try:
            scores = _read(stored)
        except (LookupError, TypeError, ValueError, AttributeError, OverflowError) as error:
            raise ValueError(f"not valid scores: {type(error).__name__}: {error}") from None
        numbers = [*vars(scores).values(), *scores.interval, *scores.macro.values()]
        numbers += [value for row in scores.per_class for value in vars(row).values()]
        if not all(math.isfinite(value) for value in numbers if isinstance(value, float)):
            raise ValueError("not valid scores: a value is not finite")
        if scores.n < 1:
            raise ValueError(f"not valid scores: n is {scores.n}, must be at least 1")
        shares = [scores.accuracy, *scores.interval, scores.coverage, scores.sure_accuracy]
        shares.append(scores.refused)
        shares += [getattr(scores, name) for name, one in MEASURES.items() if one.form == "share"]
        if not all(0 <= share <= 1 for share in shares if share is not None):
            raise ValueError("not valid scores: a share is not from 0 to 1")
        sides = {len(scores.classes)}
        sides |= {len(rows) for rows in (scores.per_class, scores.confusion) if rows}
        if len(sides | set(map(len, scores.confusion))) != 1:
            raise ValueError("not valid scores: the numbers of classes differ between tables")
        return scores

    def as_dict(self) -> dict[str, Any]:
        """Return the scores as in `evaluate --json` and in a model's metadata."""
        return {
            **vars(self),
            "interval": list(self.interval),
            "too_few": self.too_few,
            "macro": dict(self.macro),
            "per_class": [vars(score).copy() for score in self.per_class],
            "classes": list(self.classes),
            "confusion": [list(row) for row in self.confusion],
        }


MEASURES: Mapping[str, Measure] = {
    one.name: one.metadata["measure"] for one in fields(Scores) if "measure" in one.metadata
}
"""Every score that is one number, by its name in `Scores` and JSON."""

_OPTIONAL = ("majority_baseline", "threshold", "coverage", "sure_accuracy", "refused", *MEASURES)


def _read(stored: Mapping[str, Any]) -> Scores:
    n, accuracy = int(stored["n"]), float(stored["accuracy"])
    low, high = stored.get("interval") or wilson_interval(round(accuracy * n), n)
    return Scores(
        n=n,
        accuracy=accuracy,
        interval=(float(low), float(high)),
        classes=tuple(map(str, stored["classes"])),
        macro={str(name): float(value) for name, value in (stored.get("macro") or {}).items()},
        per_class=tuple(
            ClassScore(
                str(row["label"]),
                float(row["precision"]),
                float(row["recall"]),
                float(row["f1"]),
                int(row["support"]),
            )
            for row in stored.get("per_class") or ()
        ),
        confusion=_confusion(stored),
        **{name: None if stored.get(name) is None else float(stored[name]) for name in _OPTIONAL},
    )


def _confusion(stored: Mapping[str, Any]) -> tuple[tuple[int, ...], ...]:
    """Read the rows of the confusion matrix, or [label, predicted, count] of its cells."""
    if stored.get("confusion_cells") is None:
        return tuple(tuple(map(int, row)) for row in stored.get("confusion") or ())
    table = np.asarray(stored["confusion_cells"], np.int64).reshape(-1, 3)
    if table.size and table.min() < 0:
        raise ValueError("a cell of the confusion matrix is negative")
    counts = np.zeros((len(stored["classes"]), len(stored["classes"])), np.int64)
    counts[table[:, 0], table[:, 1]] = table[:, 2]
    return tuple(map(tuple, counts.tolist()))


def confusion_counts(labels: Labels, predicted: Labels, classes: int) -> npt.NDArray[np.int64]:
    """Count photos by true class (rows) and predicted class (columns): int64 (C, C)."""
    cells = labels.astype(np.int64) * classes + predicted
    return np.bincount(cells, minlength=classes * classes).reshape(classes, classes)


def class_scores(
    confusion: npt.NDArray[np.int64],
) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.float64], npt.NDArray[np.float64]]:
    """Return precision, recall and F1 of each class, float64 (C,) each; 0 where undefined."""
    hits = confusion.diagonal().astype(np.float64)
    answered, support = confusion.sum(axis=0), confusion.sum(axis=1)
    precision = hits / np.maximum(answered, 1)
    recall = hits / np.maximum(support, 1)
    return precision, recall, 2 * hits / np.maximum(answered + support, 1)


def score(
    labels: Labels,
    probabilities: Probabilities,
    classes: Sequence[str],
    threshold: float,
    refused: npt.NDArray[np.bool_] | None = None,
) -> Scores:
    """Score N photos. The accuracy counts refused ones by their most probable class.

    refused: bool (N,), photos that the model takes for none of its classes; None: it cannot tell.

    Raises:
        DatasetError: N is 0.
    """
    n = len(labels)
    if n == 0:
        raise DatasetError(
            "no photos to score: none is readable and labelled with a class that the model knows"
        )
    predicted = probabilities.argmax(axis=1)
    right = predicted == labels
    hits = int(right.sum())
    confusion = confusion_counts(labels, predicted, len(classes))
    support = confusion.sum(axis=1)
    table = class_scores(confusion)
    sure = probabilities.max(axis=1) >= threshold
    if refused is not None:
        sure &= ~refused
    return Scores(
        n=n,
        accuracy=hits / n,
        interval=wilson_interval(hits, n),
        classes=tuple(classes),
        # Classes without a photo here have no recall to average.
        macro={
            name: float(values[support > 0].mean())
            for name, values in zip(("precision", "recall", "f1"), table, strict=True)
        },
        per_class=tuple(
            ClassScore(label, float(p), float(r), float(f), int(s))
            for label, p, r, f, s in zip(classes, *table, support, strict=True)
        ),
        confusion=tuple(map(tuple, confusion.tolist())),
        majority_baseline=float(support.max() / n),
        threshold=threshold,
        coverage=float(sure.mean()),
        sure_accuracy=float(right[sure].mean()) if sure.any() else None,
        refused=None if refused is None else float(refused.mean()),
        **{name: one.compute(labels, probabilities) for name, one in MEASURES.items()},
    )
