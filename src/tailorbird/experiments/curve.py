"""Learning curves: would more photos help, and of which class?"""

from __future__ import annotations

import contextlib
import math
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tailorbird.backbone.catalogue import SHIPPED
from tailorbird.errors import DatasetError, SettingsError, TrainingError
from tailorbird.experiments.comparison import SIGNIFICANT, corrected_t_test, holm
from tailorbird.experiments.folds import Partition, nested_order, partitions
from tailorbird.experiments.photos import Photos, read_photos
from tailorbird.experiments.plan import START, complete
from tailorbird.experiments.power_law import Extrapolation, extrapolate
from tailorbird.experiments.results import plain_settings
from tailorbird.experiments.runs import FitScore, Fitter, Job
from tailorbird.head import HeadSettings
from tailorbird.metrics.distributions import student_t_quantile
from tailorbird.progress import NoProgress, Progress

HALVINGS = 4
"""The smallest part is the whole halved so often; there are two sizes to a halving."""
FEWEST_PER_CLASS = 2
"""Training photos that the smallest part holds of each class, on average."""
MOST_CLASSES = 30
"""Of more classes than this, only those with the lowest recall are tried one by one."""


@dataclass(frozen=True)
class CurvePoint:
    """Scores with so many training photos, over the runs: means and standard deviations, 0 to 1."""

    photos: int
    accuracy: float
    spread: float
    balanced_accuracy: float


@dataclass(frozen=True)
class ClassGain:
    """What one class's training photos are worth, found by leaving out three quarters of them: two doublings taken back.

    photos: of the class, in training. recall: with all of them. cost: what leaving them out costs in balanced accuracy, the mean
    recall of all classes, so that what the class takes from the others counts; interval: its 95%. recall_cost: in the recall of
    the class itself. p: of such a cost by chance, corrected for all classes. expected: gain in balanced accuracy of twice the
    photos of this class, if it follows the power law of the whole; None where that law is not to be extended.
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
        """Whether the cost cannot be told from none."""
        return self.p >= SIGNIFICANT


@dataclass(frozen=True)
class LearningCurve:
    """What `learning_curve` found. points: smallest first. runs: accuracies (J, S). classes: those worth most first.

    band: accuracies (3, 60) of the power law's lower end, itself and upper end at `band_photos`, which reach twice the largest size.
    """

    source: str
    backbone: str
    settings: HeadSettings
    points: tuple[CurvePoint, ...]
    runs: NDArray[np.float64]
    last_doubling: tuple[float, float, float]
    """Gain in accuracy of the last doubling, and its 95% interval."""
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
        """The object of `learning-curve --json`."""
        found = self.extrapolation
        return {
            "source": self.source,
            "backbone": self.backbone,
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
    photos: str | Path | Photos,
    *,
    fixed: Mapping[str, Any] | None = None,
    per_class: bool = True,
    folds: int = 5,
    seeds: int = 2,
    seed: int = 0,
    backbone: str | Path = SHIPPED,
    workers: int | None = None,
    progress: Progress | None = None,
) -> LearningCurve:
    """Score against the number of training photos, and what twice as many would give.

    Train and validation are cross-validated together, `seeds` times; in each run the photos that train are cut to nested, stratified
    parts, a sixteenth to all, and every part is scored on the same photos held out. A power law is fitted to the mean and
    extended to twice the photos, where it fits (see `power_law`). Then three quarters of each class's training
    photos are left out in turn, the others kept: two doublings taken back, from which the law tells what the next would give.
    (Leaving out only half is drowned in noise on thousands of photos.) The test split is not read.

    Args:
        photos: class folders, split/class folders, a CSV, or what `read_photos` gave.
        fixed: fields of HeadSettings; by default a single dense layer, which trains in a moment and saturates about where
            larger heads do.
        per_class: also find which class would gain.
        folds: at least 2; a run trains on (folds - 1) / folds of the photos.
        seeds: rounds of cross-validation, 1 to 100.
        seed: of the split (as in `train`), folds, parts and fits.
        backbone: a name at hand or an .onnx file; not used where `photos` are Photos.
        workers: fits at the same time, by default one a core; the result is the same for any number.
        progress: receives the stages of reading photos, then `fits`.

    Ctrl-C while classes are tried returns the curve with `interrupted` set; before that there is nothing to return.

    Raises:
        SettingsError: options outside their range.
        DatasetError: too few photos to leave any out.
        TrainingError: a fit diverged.
    """
    values = {**START, **(fixed or {})}
    HeadSettings(**(fixed or {}))
    known = (
        photos
        if isinstance(photos, Photos)
        else read_photos(
            photos, backbone=backbone, views=values["views"], seed=seed, progress=progress
        )
    )
    if values["views"] > len(known.features):
        raise SettingsError(
            f"views is {values['views']}, but the photos were read with {len(known.features)}"
        )
    began = time.perf_counter()
    whole = partitions(known.labels, known.groups, folds=folds, seeds=seeds, seed=seed)
    fractions = _fractions(known, whole)
    parts = [
        cut
        for number, part in enumerate(whole)
        for cut in _nested(known, part, fractions, (seed, 3, number))
    ]
    steps = _Steps(
        len(parts) + len(whole) * min(len(known.classes), MOST_CLASSES) * per_class, progress
    )
    scores = _fit(known, values, parts, workers, steps)
    recalls = np.array(
        [_recalls(known, part, score) for part, score in zip(parts, scores, strict=True)]
    )
    recalls = recalls.reshape(len(whole), len(fractions), len(known.classes))
    accuracy = np.array([score.accuracy for score in scores]).reshape(len(whole), len(fractions))
    sizes = (
        np.array([len(part.train) for part in parts], np.float64)
        .reshape(accuracy.shape)
        .mean(axis=0)
    )
    ratio = float(np.mean([part.ratio for part in whole]))
    extrapolation, laws = extrapolate(sizes, 1 - accuracy, ratio=ratio, seed=seed)
    full = recalls[:, -1]
    tried = [
        int(label) for label in np.argsort(np.nanmean(full, axis=0), kind="stable")[:MOST_CLASSES]
    ] * per_class
    gains: tuple[ClassGain, ...] = ()
    interrupted = False
    try:
        fewer = [
            _without(known, part, label, (seed, 4, number))
            for label in tried
            for number, part in enumerate(whole)
        ]
        fewer_scores = _fit(known, values, fewer, workers, steps)
        few = np.array(
            [_recalls(known, part, score) for part, score in zip(fewer, fewer_scores, strict=True)]
        )
        few = few.reshape(len(tried), len(whole), len(known.classes))
        gains = _gains(known, whole, tried, full, few, ratio, _next_doubling(extrapolation))
    except KeyboardInterrupt:
        interrupted = True
    band_photos, band = _band(sizes, extrapolation, laws, float(np.sqrt(1 + len(whole) * ratio)))
    return LearningCurve(
        source=known.source,
        backbone=known.backbone,
        settings=complete(values, known, int(sizes[-1])),
        points=tuple(
            CurvePoint(
                photos=round(float(sizes[i])),
                accuracy=float(accuracy[:, i].mean()),
                spread=float(accuracy[:, i].std(ddof=1)),
                balanced_accuracy=float(np.nanmean(recalls[:, i])),
            )
            for i in range(len(sizes))
        ),
        runs=accuracy,
        last_doubling=_with_interval(accuracy[:, -1] - accuracy[:, -3], ratio),
        extrapolation=extrapolation,
        band_photos=band_photos,
        band=band,
        classes=gains,
        untried=len(known.classes) - len(gains),
        photos=len(known),
        test_photos=known.test_photos,
        folds=folds,
        seeds=seeds,
        seed=seed,
        fits=steps.done,
        interrupted=interrupted,
        seconds=time.perf_counter() - began,
    )


class _Steps:
    """Counts fits."""

    def __init__(self, total: int, progress: Progress | None) -> None:
        self.done = 0
        self._total = total
        self._progress = progress or NoProgress()
        self._progress.stage("fits", total)

    def one(self) -> None:
        self.done += 1
        self._progress.advance(self.done, self._total)


def _fractions(photos: Photos, whole: Sequence[Partition]) -> list[float]:
    """Parts of the training photos, smallest first, sqrt(2) apart, none with fewer than FEWEST_PER_CLASS a class."""
    least = FEWEST_PER_CLASS * len(photos.classes)
    train = min(len(part.train) for part in whole)
    fractions = [2 ** (-step / 2) for step in range(2 * HALVINGS, -1, -1)]
    kept = [fraction for fraction in fractions if fraction * train >= least]
    if len(kept) < 3:
        raise DatasetError(
            f"{train} training photos of {len(photos.classes)} classes are too few for a learning curve: it needs at least "
            f"{2 * least}, so that half of them still hold {FEWEST_PER_CLASS} of each class"
        )
    return kept


def _nested(
    photos: Photos, part: Partition, fractions: Sequence[float], seed: tuple[int, ...]
) -> list[Partition]:
    order = nested_order(photos.labels, photos.groups, part.train, seed)
    return [
        replace(part, train=np.sort(order[: math.ceil(fraction * len(order))]))
        for fraction in fractions
    ]


def _without(photos: Photos, part: Partition, label: int, seed: tuple[int, ...]) -> Partition:
    """The partition without three quarters of the training photos of one class."""
    own = photos.labels[part.train] == label
    order = nested_order(photos.labels, photos.groups, part.train[own], seed)
    return replace(
        part, train=np.sort(np.concatenate([part.train[~own], order[: math.ceil(len(order) / 4)]]))
    )


def _next_doubling(found: Extrapolation) -> float | None:
    """The gain of the next doubling over that of the last two, in a power law; None where it is not to be extended.

    Each doubling gains 2 ** -exponent times the one before: with the last as 1, the two were 1 + 2 ** exponent.
    """
    if found.law is None or found.refused:
        return None
    return float(2**-found.law.exponent / (1 + 2**found.law.exponent))


def _fit(
    photos: Photos,
    values: Mapping[str, Any],
    parts: Sequence[Partition],
    workers: int | None,
    steps: _Steps,
) -> list[FitScore]:
    """One fit a partition. Raises TrainingError when one diverges: a curve with holes would mislead."""
    fitter = Fitter(photos, parts, workers=workers, predictions=True)
    jobs = [
        Job(0, complete(values, photos, len(part.train)), number)
        for number, part in enumerate(parts)
    ]
    found = []
    with contextlib.closing(fitter.run(jobs)) as scores:
        for score in scores:
            if score.failure is not None:
                raise TrainingError(score.failure)
            found.append(score)
            steps.one()
    return found


def _recalls(photos: Photos, part: Partition, score: FitScore) -> NDArray[np.float64]:
    """Recall of each class (C,) on the photos held out; NaN for a class without any."""
    labels = photos.labels[part.held_out]
    right = np.bincount(labels[score.predicted == labels], minlength=len(photos.classes))
    count = np.bincount(labels, minlength=len(photos.classes))
    return np.where(count > 0, right / np.maximum(count, 1), np.nan)


def _with_interval(differences: NDArray[np.float64], ratio: float) -> tuple[float, float, float]:
    """Mean and 95% interval by the corrected t-test's standard error."""
    test = corrected_t_test(differences, ratio)
    half = test.standard_error * student_t_quantile(0.975, max(1, test.pairs - 1))
    return test.difference, test.difference - half, test.difference + half


def _gains(
    photos: Photos,
    whole: Sequence[Partition],
    tried: Sequence[int],
    full: NDArray[np.float64],
    few: NDArray[np.float64],
    ratio: float,
    share: float | None,
) -> tuple[ClassGain, ...]:
    """Worth most first. full: recalls (J, C) with every photo; few: (T, J, C) with a quarter of each tried class."""
    differences = [
        np.nanmean(full, axis=1) - np.nanmean(few[index], axis=1) for index in range(len(tried))
    ]
    corrected = holm([corrected_t_test(difference, ratio).p for difference in differences])
    gains = []
    for index, label in enumerate(tried):
        mean, low, high = _with_interval(differences[index], ratio)
        trained = [np.count_nonzero(photos.labels[part.train] == label) for part in whole]
        gains.append(
            ClassGain(
                label=photos.classes[label],
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
    """Photos (60,) and accuracies (3, 60) of the power law: low, itself, high. Empty without one."""
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
