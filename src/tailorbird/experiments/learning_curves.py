"""Learning curves: would more photos help, and of which class?

Shapes: J runs (partitions), S sizes, C classes, T classes tried one by one.
"""

from __future__ import annotations

import contextlib
import math
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tailorbird.dataset.checks import SMALL
from tailorbird.errors import DatasetError, TrainingError
from tailorbird.experiments.alternatives import START, complete
from tailorbird.experiments.cross_validation import (
    MOST_SEEDS,
    FitScore,
    Fitter,
    Job,
    Partition,
    nested_order,
    partitions,
)
from tailorbird.experiments.data import (
    ExperimentData,
    ExperimentSettings,
    given_or_read,
    head_settings,
)
from tailorbird.experiments.paired_tests import SIGNIFICANT, corrected_t_test, holm
from tailorbird.experiments.power_law import Extrapolation, extrapolate
from tailorbird.experiments.sweep_results import plain_settings
from tailorbird.head import HeadSettings
from tailorbird.metrics.distributions import student_t_quantile
from tailorbird.progress import NoProgress, Progress
from tailorbird.validation import Problems, merge

HALVINGS = 4
"""The smallest part is all photos halved so often; there are two sizes per halving."""
FEWEST_PER_CLASS = 2
"""Mean number of training photos per class in the smallest part."""
MOST_CLASSES = 30
"""Of more classes, only those with the lowest recall are tried one by one."""


@dataclass(frozen=True)
class LearningCurveSettings(ExperimentSettings):
    """How a learning curve is made. Further attributes: see ExperimentSettings.

    Attributes:
        fixed: fields of HeadSettings; by default a single dense layer, which trains fast and
            saturates about where larger heads do.
        per_class: also find out which class would gain.
        folds: at least 2; a run trains on (folds - 1) / folds of the photos.
        seeds: rounds of cross-validation, 1 to 100.
    """

    fixed: Mapping[str, Any] | None = None
    per_class: bool = True
    folds: int = 5
    seeds: int = 2

    def check(self, problems: Problems) -> None:
        """Add the problems of these settings."""
        problems.attempt(partial(head_settings, self.fixed or {}))
        problems.whole("folds", self.folds, 2)
        problems.whole("seeds", self.seeds, 1, MOST_SEEDS)


@dataclass(frozen=True)
class CurvePoint:
    """Mean scores over the runs with so many training photos, 0 to 1; spread: of accuracy."""

    photos: int
    accuracy: float
    spread: float
    balanced_accuracy: float


@dataclass(frozen=True)
class ClassGain:
    """The effect of one class's training photos on the scores.

    It is found by leaving out three quarters of them, which undoes two doublings.

    Attributes:
        label: of the class.
        photos: of the class, in training.
        recall: with all of them.
        recall_cost: loss of the class's own recall without three quarters of them.
        cost: loss of balanced accuracy (the mean recall of all classes) without three quarters of
            them; includes the effect on the recall of other classes.
        interval: 95% interval of the cost.
        p: probability of such a cost by chance, corrected for all classes.
        expected: gain in balanced accuracy of twice the photos of this class, if it follows the
            power law of all photos; None if that law is not extrapolated.
        expected_interval: its 95% interval.
    """

    label: str
    photos: int
    recall: float
    recall_cost: float
    cost: float
    interval: tuple[float, float]
    p: float
    expected: float | None
    expected_interval: tuple[float, float] | None

    @property
    def noise(self) -> bool:
        """Return whether the cost is not significant."""
        return self.p >= SIGNIFICANT


@dataclass(frozen=True)
class LearningCurve:
    """The result of `learning_curve`.

    Attributes:
        points: smallest first.
        runs: accuracies (J, S).
        last_doubling: gain in accuracy of the last doubling, and its 95% interval.
        extrapolation: what twice the photos would give.
        band_photos, band: sizes (60,) up to twice the largest one, and accuracies (3, 60) of the
            power law: lower limit, estimate, upper limit.
        classes: classes by cost, largest first.
        untried: number of classes not tried, because of a higher recall or too few photos.
        fits: number of fits.
        interrupted: whether Ctrl-C ended it early.
    """

    source: str
    backbone: str
    mirror: bool
    settings: HeadSettings
    points: tuple[CurvePoint, ...]
    runs: NDArray[np.float64]
    last_doubling: tuple[float, float, float]
    extrapolation: Extrapolation
    band_photos: NDArray[np.float64]
    band: NDArray[np.float64]
    classes: tuple[ClassGain, ...]
    untried: int
    photos: int
    test_photos: int
    folds: int
    seeds: int
    seed: int
    fits: int
    interrupted: bool
    seconds: float

    def as_dict(self) -> dict[str, Any]:
        """Return the object of `learning-curve --json`."""
        found = self.extrapolation
        return {
            "source": self.source,
            "backbone": self.backbone,
            "mirror": self.mirror,
            "photos": self.photos,
            "test_photos_untouched": self.test_photos,
            "folds": self.folds,
            "seeds": self.seeds,
            "seed": self.seed,
            "settings": plain_settings(self.settings),
            "points": [asdict(point) for point in self.points],
            "runs": [[round(float(value), 6) for value in row] for row in self.runs],
            "last_doubling": {
                "gain": self.last_doubling[0],
                "interval": list(self.last_doubling[1:]),
            },
            "twice_the_photos": {
                "gain": found.gain,
                "interval": list(found.interval) if found.interval else None,
                "refused": found.refused,
                "power_law": asdict(found.law) if found.law else None,
                "backtest": {"predicted": found.backtest[0], "seen": found.backtest[1]}
                if found.backtest
                else None,
            },
            "classes": [{**asdict(gain), "noise": gain.noise} for gain in self.classes],
            "classes_untried": self.untried,
            "fits": self.fits,
            "interrupted": self.interrupted,
            "seconds": round(self.seconds, 3),
        }


def learning_curve(
    photos: str | Path | ExperimentData,
    settings: LearningCurveSettings | None = None,
    *,
    progress: Progress | None = None,
    **options: Any,
) -> LearningCurve:
    """Measure accuracy against the number of training photos, and what twice as many would give.

    Train and validation are cross-validated together. In each run the training photos are cut to
    nested, stratified parts, a sixteenth to all, and every part is scored on the same photos held
    out. A power law is fitted to the mean and extrapolated to twice the photos, where it fits (see
    `power_law`). Then three quarters of each class's training photos are left out in turn: that
    undoes two doublings, from which the law gives the next one. (Leaving out only half is lost in
    noise with thousands of photos.) Classes with few photos are not tried, because no difference
    would be significant. The test split is not read.

    Ctrl-C while classes are tried returns the curve with `interrupted` set; before that there is
    no result.

    Args:
        photos: class folders, split/class folders, a CSV, or what `read_data` returned.
        settings: folds, seeds, head and so on; None: the defaults.
        progress: receives the stages of reading photos, then `fits`.
        options: fields of LearningCurveSettings, in place of those in `settings`.

    Raises:
        SettingsError: invalid settings.
        DatasetError: too few photos to leave any out.
        TrainingError: a fit diverged.
    """
    settings = merge(LearningCurveSettings, settings, options, "learning_curve")
    values = {**START, **(settings.fixed or {})}
    data = given_or_read(photos, settings, values["views"], progress)
    began = time.perf_counter()
    runs = _Runs(data, settings, values, progress or NoProgress())
    extrapolation, laws = extrapolate(
        runs.sizes, 1 - runs.accuracy, ratio=runs.ratio, seed=settings.seed
    )
    gains: tuple[ClassGain, ...] = ()
    interrupted = False
    try:
        tried, few = runs.without_classes()
        gains = _gains(runs, tried, few, _next_doubling(extrapolation))
    except KeyboardInterrupt:
        interrupted = True
    widened = float(np.sqrt(1 + len(runs.whole) * runs.ratio))
    band_photos, band = _band(runs.sizes, extrapolation, laws, widened)
    return LearningCurve(
        source=data.source,
        backbone=data.backbone,
        mirror=data.mirror,
        settings=complete(values, data, int(runs.sizes[-1])),
        points=runs.points(),
        runs=runs.accuracy,
        last_doubling=_with_interval(runs.accuracy[:, -1] - runs.accuracy[:, -3], runs.ratio),
        extrapolation=extrapolation,
        band_photos=band_photos,
        band=band,
        classes=gains,
        untried=len(data.classes) - len(gains),
        photos=len(data),
        test_photos=data.test_photos,
        folds=settings.folds,
        seeds=settings.seeds,
        seed=settings.seed,
        fits=runs.done,
        interrupted=interrupted,
        seconds=time.perf_counter() - began,
    )


class _Runs:
    """The fits of a learning curve.

    whole: the J partitions with all training photos. sizes: mean numbers of training photos (S,).
    accuracy: (J, S). recalls: (J, S, C). ratio: photos held out over photos that train.
    """

    def __init__(
        self,
        data: ExperimentData,
        settings: LearningCurveSettings,
        values: Mapping[str, Any],
        progress: Progress,
    ) -> None:
        """Fit every part of every partition."""
        self.data = data
        self.done = 0
        self._settings = settings
        self._values = values
        self._progress = progress
        self.whole = partitions(
            data.labels, data.groups, folds=settings.folds, seeds=settings.seeds, seed=settings.seed
        )
        self.ratio = float(np.mean([part.ratio for part in self.whole]))
        fractions = _fractions(data, self.whole)
        parts = [
            cut
            for number, part in enumerate(self.whole)
            for cut in _nested(data, part, fractions, (settings.seed, 3, number))
        ]
        classes = min(len(self._large_classes()), MOST_CLASSES) * settings.per_class
        self._total = len(parts) + len(self.whole) * classes
        progress.stage("fits", self._total)
        shape = len(self.whole), len(fractions)
        scores = self._fit(parts)
        self.accuracy = np.array([score.accuracy for score in scores]).reshape(shape)
        self.recalls = self._recalls_of(parts, scores).reshape(*shape, len(data.classes))
        counts = np.array([len(part.train) for part in parts], np.float64)
        self.sizes: NDArray[np.float64] = counts.reshape(shape).mean(axis=0)

    def points(self) -> tuple[CurvePoint, ...]:
        """Return the mean scores of each size."""
        return tuple(
            CurvePoint(
                photos=round(float(size)),
                accuracy=float(self.accuracy[:, i].mean()),
                spread=float(self.accuracy[:, i].std(ddof=1)),
                balanced_accuracy=float(np.nanmean(self.recalls[:, i])),
            )
            for i, size in enumerate(self.sizes)
        )

    def without_classes(self) -> tuple[list[int], NDArray[np.float64]]:
        """Fit without three quarters of the photos of each class in turn.

        Returns the classes tried and the recalls (T, J, C).
        """
        recall = np.nanmean(self.recalls[:, -1], axis=0)
        large = self._large_classes() if self._settings.per_class else []
        tried = sorted(large, key=lambda label: recall[label])[:MOST_CLASSES]
        parts = [
            _without(self.data, part, label, (self._settings.seed, 4, number))
            for label in tried
            for number, part in enumerate(self.whole)
        ]
        few = self._recalls_of(parts, self._fit(parts))
        return tried, few.reshape(len(tried), len(self.whole), len(self.data.classes))

    def _large_classes(self) -> list[int]:
        """Return the classes with enough photos to leave some out."""
        counts = np.bincount(self.data.labels, minlength=len(self.data.classes))
        return [int(label) for label in np.flatnonzero(counts >= SMALL)]

    def _fit(self, parts: Sequence[Partition]) -> list[FitScore]:
        """Make one fit per partition. Raises TrainingError if one diverges."""
        fitter = Fitter(self.data, parts, workers=self._settings.workers, predictions=True)
        jobs = [
            Job(0, complete(self._values, self.data, len(part.train)), number)
            for number, part in enumerate(parts)
        ]
        found = []
        with contextlib.closing(fitter.run(jobs)) as scores:
            for score in scores:
                if score.failure is not None:
                    raise TrainingError(score.failure)
                found.append(score)
                self.done += 1
                self._progress.advance(self.done, self._total)
        return found

    def _recalls_of(
        self, parts: Sequence[Partition], scores: Sequence[FitScore]
    ) -> NDArray[np.float64]:
        """Return the recalls of each fit, (fits, C)."""
        pairs = zip(parts, scores, strict=True)
        return np.array([_recalls(self.data, part, score) for part, score in pairs])


def _fractions(data: ExperimentData, whole: Sequence[Partition]) -> list[float]:
    """Return the sizes as parts of the training photos, smallest first, sqrt(2) apart.

    None has fewer than FEWEST_PER_CLASS photos per class.
    """
    least = FEWEST_PER_CLASS * len(data.classes)
    train = min(len(part.train) for part in whole)
    fractions = [2 ** (-step / 2) for step in range(2 * HALVINGS, -1, -1)]
    kept = [fraction for fraction in fractions if fraction * train >= least]
    if len(kept) < 3:
        raise DatasetError(
            f"{train} training photos of {len(data.classes)} classes are too few for a learning "
            f"curve: at least {2 * least} are needed, so that half of them are still "
            f"{FEWEST_PER_CLASS} of each class"
        )
    return kept


def _nested(
    data: ExperimentData, part: Partition, fractions: Sequence[float], seed: tuple[int, ...]
) -> list[Partition]:
    """Return the partition with nested parts of its training photos."""
    order = nested_order(data.labels, data.groups, part.train, seed)
    return [
        replace(part, train=np.sort(order[: math.ceil(fraction * len(order))]))
        for fraction in fractions
    ]


def _without(data: ExperimentData, part: Partition, label: int, seed: tuple[int, ...]) -> Partition:
    """Return the partition without three quarters of the training photos of one class."""
    own = data.labels[part.train] == label
    order = nested_order(data.labels, data.groups, part.train[own], seed)
    kept = np.concatenate([part.train[~own], order[: math.ceil(len(order) / 4)]])
    return replace(part, train=np.sort(kept))


def _next_doubling(found: Extrapolation) -> float | None:
    """Return the gain of the next doubling over that of the last two; None without a power law.

    Each doubling gains 2 ** -exponent times the one before: with the last as 1, the two gained
    1 + 2 ** exponent.
    """
    if found.law is None or found.refused:
        return None
    return float(2**-found.law.exponent / (1 + 2**found.law.exponent))


def _recalls(data: ExperimentData, part: Partition, score: FitScore) -> NDArray[np.float64]:
    """Return the recall of each class (C,) on the photos held out; NaN for a class without any."""
    labels = data.labels[part.held_out]
    right = np.bincount(labels[score.predicted == labels], minlength=len(data.classes))
    count = np.bincount(labels, minlength=len(data.classes))
    return np.where(count > 0, right / np.maximum(count, 1), np.nan)


def _with_interval(differences: NDArray[np.float64], ratio: float) -> tuple[float, float, float]:
    """Return mean and 95% interval by the standard error of the corrected t-test."""
    test = corrected_t_test(differences, ratio)
    half = test.standard_error * student_t_quantile(0.975, max(1, test.pairs - 1))
    return test.difference, test.difference - half, test.difference + half


def _gains(
    runs: _Runs, tried: Sequence[int], few: NDArray[np.float64], share: float | None
) -> tuple[ClassGain, ...]:
    """Return the gain of each tried class, largest cost first.

    few: recalls (T, J, C) with a quarter of the photos of each tried class.
    """
    data, full, ratio = runs.data, runs.recalls[:, -1], runs.ratio
    differences = [np.nanmean(full, axis=1) - np.nanmean(rows, axis=1) for rows in few]
    corrected = holm([corrected_t_test(difference, ratio).p for difference in differences])
    gains = []
    for index, label in enumerate(tried):
        mean, low, high = _with_interval(differences[index], ratio)
        trained = [np.count_nonzero(data.labels[part.train] == label) for part in runs.whole]
        gains.append(
            ClassGain(
                label=data.classes[label],
                photos=round(float(np.mean(trained))),
                recall=float(np.nanmean(full[:, label])),
                recall_cost=float(np.nanmean(full[:, label] - few[index][:, label])),
                cost=mean,
                interval=(low, high),
                p=corrected[index],
                expected=None if share is None else mean * share,
                expected_interval=None if share is None else (low * share, high * share),
            )
        )
    return tuple(sorted(gains, key=lambda gain: -gain.cost))


def _band(
    sizes: NDArray[np.float64], found: Extrapolation, laws: NDArray[np.float64], widened: float
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return sizes (60,) and accuracies (3, 60): lower limit, power law, upper limit.

    Both are empty without a power law.
    """
    if found.law is None:
        return np.zeros(0), np.zeros((3, 0))
    ends = 1.0 if found.refused else 2.0
    photos = np.geomspace(sizes[0], ends * sizes[-1], 60)
    middle = 1 - found.law.error(photos)
    curves = 1 - (laws[:, :1] * photos ** -laws[:, 1:2] + laws[:, 2:])
    low, high = np.quantile(curves, (0.025, 0.975), axis=0)
    return photos, np.stack(
        [
            middle - widened * np.maximum(0, middle - low),
            middle,
            middle + widened * np.maximum(0, high - middle),
        ]
    )
