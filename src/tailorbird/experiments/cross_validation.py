"""Cross-validation: stratified, seeded folds that keep copies together, and fits on all cores."""

from __future__ import annotations

import math
import threading
from collections import OrderedDict, defaultdict
from collections.abc import Generator, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from tailorbird import parallel
from tailorbird.dataset.grouping import CHOICES
from tailorbird.errors import SettingsError, TrainingError
from tailorbird.experiments.data import ExperimentData
from tailorbird.head import EpochLog, HeadSettings, search
from tailorbird.head.fit import Data, fit_prepared, prepare
from tailorbird.parallel import one_blas_thread
from tailorbird.validation import Problems

CACHED_BYTES = 2**30
"""Scaled copies of the features, one per partition, are cached up to this size."""
MOST_SEEDS = 100
"""Maximum number of rounds of cross-validation."""

Rows = NDArray[np.int64]


@dataclass(frozen=True)
class Partition:
    """Rows that train and rows held out (int64, disjoint), and the seed of the fit."""

    train: Rows
    held_out: Rows
    seed: tuple[int, int]

    @property
    def ratio(self) -> float:
        """Return the number of photos held out over the number that train."""
        return len(self.held_out) / len(self.train)


def fold_numbers(
    labels: NDArray[np.int64], groups: NDArray[np.int64], folds: int, seed: tuple[int, ...]
) -> Rows:
    """Return the fold, 0 to folds - 1, of each of N photos, int64 (N,).

    Each class is dealt out evenly: its groups in random order, larger ones first, each to the fold
    with the fewest photos of the class so far, then with the fewest photos.

    Args:
        labels: int64 (N,).
        groups: int64 (N,); photos of one group go to the same fold, and count for the commonest
            label among them.
        folds: at least 2.
        seed: of the order.

    Raises SettingsError for fewer than 2 folds, or more folds than groups.
    """
    found, first, of_photo, sizes = np.unique(
        groups, return_index=True, return_inverse=True, return_counts=True
    )
    if not 2 <= folds <= len(found):
        raise SettingsError(_folds_problem(folds, len(labels), len(found)))
    label_of = labels[first]
    for group in np.flatnonzero(sizes > 1):
        label_of[group] = np.bincount(labels[of_photo == group]).argmax()
    generator = np.random.default_rng(seed)
    total = np.zeros(folds, np.int64)
    fold_of = np.empty(len(found), np.int64)
    for label in np.unique(label_of):
        members = generator.permutation(np.flatnonzero(label_of == label))
        in_class = np.zeros(folds, np.int64)
        for group in members[np.argsort(-sizes[members], kind="stable")]:
            fold = np.lexsort((total, in_class))[0]
            fold_of[group] = fold
            in_class[fold] += sizes[group]
            total[fold] += sizes[group]
    return fold_of[of_photo]


def _folds_problem(folds: int, photos: int, pictures: int) -> str:
    """Return the message for an invalid number of folds."""
    if folds < 2:
        return f"folds is {folds}; it must be at least 2"
    advice = f"use at most {pictures} folds, or " if pictures > 1 else ""
    return (
        f"folds is {folds}, but the {photos:,} photos count as only {pictures:,} different "
        f"picture{'s' * (pictures != 1)}: identical and nearly identical photos are held out "
        f"together; {advice}add photos that differ, or say that they do: {CHOICES}"
    )


def partitions(
    labels: NDArray[np.int64], groups: NDArray[np.int64], *, folds: int, seeds: int, seed: int
) -> list[Partition]:
    """Return the seeds x folds partitions of repeated cross-validation.

    Each round has its own folds and first weights; every photo is held out once per round.

    Raises SettingsError for folds or seeds outside their range.
    """
    with Problems() as problems:
        problems.whole("seeds", seeds, 1, MOST_SEEDS)
        problems.whole("seed", seed, 0)
    result: list[Partition] = []
    for round_number in range(seeds):
        numbers = fold_numbers(labels, groups, folds, (seed, round_number))
        for fold in range(folds):
            held_out = numbers == fold
            rows = np.flatnonzero(~held_out), np.flatnonzero(held_out)
            result.append(Partition(*rows, (seed, len(result))))
    return result


def nested_order(
    labels: NDArray[np.int64], groups: NDArray[np.int64], rows: Rows, seed: tuple[int, ...]
) -> Rows:
    """Return `rows` in an order of which every prefix is a random, stratified sample.

    Copies of a picture are next to each other. The i-th of a class's n pictures is placed at
    (i + u) / n, u uniform in [0, 1), so that the first tenth has about a tenth of every class.
    """
    generator = np.random.default_rng(seed)
    members: dict[int, list[int]] = defaultdict(list)
    for row in rows:
        members[int(groups[row])].append(int(row))
    by_class: dict[int, list[list[int]]] = defaultdict(list)
    for found in members.values():
        by_class[int(labels[found[0]])].append(found)
    placed: list[tuple[float, list[int]]] = []
    for label in sorted(by_class):
        pictures = by_class[label]
        shuffled = generator.permutation(len(pictures))
        offsets = (np.arange(len(pictures)) + generator.random(len(pictures))) / len(pictures)
        placed += [
            (float(offset), pictures[index])
            for offset, index in zip(offsets, shuffled, strict=True)
        ]
    placed.sort(key=lambda entry: entry[0])
    return np.array([row for _, found in placed for row in found], np.int64)


@dataclass(frozen=True)
class Job:
    """One fit to run: number of its setting, the setting, number of its partition."""

    setting: int
    settings: HeadSettings
    partition: int


@dataclass(frozen=True)
class FitScore:
    """The scores of one fit on the photos held out, at the epoch with the lowest log-loss there.

    Attributes:
        setting, partition: numbers; DEFAULT_RECIPE for plain `train`.
        accuracy: 0 to 1. log_loss: in nats. Both are NaN where the fit failed.
        best_epoch: from 1.
        seconds: on one core.
        failure: why there are no scores, else None.
        predicted: int64 (M,), classes of the photos held out; empty unless asked for.
    """

    setting: int
    partition: int
    accuracy: float
    log_loss: float
    best_epoch: int
    seconds: float
    failure: str | None = None
    predicted: NDArray[np.int64] = field(
        default_factory=lambda: np.empty(0, np.int64), compare=False, repr=False
    )


DEFAULT_RECIPE = -1
"""The number that stands for plain `train` in place of a setting's."""


def recipe_score(data: ExperimentData, partitions: Sequence[Partition], number: int) -> FitScore:
    """Return the score of what plain `train` does, on one partition.

    It searches a few settings and averages the best heads. It chooses by the log-loss on the photos
    held out, as in `train` by that on validation: its scores are a little optimistic, like those of
    a setting that was chosen among others.
    """
    part = partitions[number]
    seed = int(np.random.SeedSequence(part.seed).generate_state(1)[0])
    try:
        best = search(
            data.features[:1, part.train],
            data.labels[part.train],
            data.features[0, part.held_out],
            data.labels[part.held_out],
            classes=len(data.classes),
            seed=seed,
        ).best
    except TrainingError as error:
        return FitScore(DEFAULT_RECIPE, number, math.nan, math.nan, 0, 0.0, str(error))
    return FitScore(
        DEFAULT_RECIPE,
        number,
        best.validation_accuracy,
        best.validation_loss,
        best.best_epoch,
        best.seconds,
    )


class _Stopped(Exception):
    """Raised inside a running fit to stop it when its result is not needed."""


class _Prepared:
    """Checked and scaled features of partitions; the most recent ones are cached."""

    def __init__(self, data: ExperimentData, partitions: Sequence[Partition]) -> None:
        self._data = data
        self._partitions = partitions
        self._kept: OrderedDict[int, Data] = OrderedDict()
        self._most = max(2, CACHED_BYTES // max(1, data.features.nbytes))
        self._lock = threading.Lock()

    def get(self, number: int) -> Data:
        """Return the data of one partition; made one at a time, which bounds the memory."""
        with self._lock:
            if number not in self._kept:
                while len(self._kept) >= self._most:
                    self._kept.popitem(last=False)
                data, rows = self._data, self._partitions[number]
                self._kept[number] = prepare(
                    data.features[:, rows.train],
                    data.labels[rows.train],
                    data.features[0, rows.held_out],
                    data.labels[rows.held_out],
                    len(data.classes),
                )
            self._kept.move_to_end(number)
            return self._kept[number]


class Fitter:
    """Run fits over partitions, in threads: NumPy's products release the interpreter lock.

    The results have the same bits on any number of cores.
    """

    def __init__(
        self,
        data: ExperimentData,
        partitions: Sequence[Partition],
        *,
        workers: int | None = None,
        predictions: bool = False,
    ) -> None:
        self.data = data
        self.partitions = partitions
        self.workers = workers or parallel.cores()
        self._predictions = predictions
        self._prepared = _Prepared(data, partitions)

    @property
    def ratio(self) -> float:
        """Return the mean number of photos held out over that of photos that train."""
        return float(np.mean([part.ratio for part in self.partitions]))

    def run(self, jobs: Sequence[Job]) -> Generator[FitScore, None, None]:
        """Yield the score of each job, in order.

        Leaving the loop, and Ctrl-C, stop running fits after their current epoch.
        """
        stop = threading.Event()
        pool = ThreadPoolExecutor(self.workers, thread_name_prefix="tailorbird")
        waiting: list[Future[FitScore]] = []
        try:
            with one_blas_thread():
                waiting = [pool.submit(self._one, job, stop) for job in jobs]
                for future in waiting:
                    yield future.result()
        finally:
            stop.set()
            pool.shutdown(wait=True, cancel_futures=True)

    def recipe(self) -> Iterator[FitScore]:
        """Yield the score of plain `train` on each partition, in order."""
        for number in range(len(self.partitions)):
            yield recipe_score(self.data, self.partitions, number)

    def one(self, job: Job) -> FitScore:
        """Return the score of a job, on one core."""
        with one_blas_thread():
            return self._one(job, threading.Event())

    def _one(self, job: Job, stop: threading.Event) -> FitScore:
        def check(_: EpochLog) -> None:
            if stop.is_set():
                raise _Stopped

        partition = self.partitions[job.partition]
        try:
            # A learning rate that is far too high also overflows on the photos held out.
            with np.errstate(over="ignore", invalid="ignore"):
                found = fit_prepared(
                    self._prepared.get(job.partition), job.settings, partition.seed, check
                )
        except TrainingError as error:
            nan = float("nan")
            return FitScore(job.setting, job.partition, nan, nan, 0, 0.0, str(error))
        predicted = np.empty(0, np.int64)
        if self._predictions:
            logits = found.head.logits(self.data.features[0, partition.held_out])
            predicted = logits.argmax(axis=1)
        return FitScore(
            job.setting,
            job.partition,
            found.validation_accuracy,
            found.validation_loss,
            found.best_epoch,
            found.seconds,
            predicted=predicted,
        )
