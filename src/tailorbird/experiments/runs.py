"""Many fits side by side: settings x partitions, on all cores, the same bits on any number of them."""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Generator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from tailorbird import parallel
from tailorbird.errors import SettingsError, TrainingError
from tailorbird.experiments.folds import Partition
from tailorbird.experiments.photos import Photos
from tailorbird.head import EpochLog, HeadSettings
from tailorbird.head.fit import Data, fit_prepared, one_blas_thread, prepare

CACHED_BYTES = 2**30
"""Scaled copies of the features, one a partition, are kept up to this size."""


@dataclass(frozen=True)
class Job:
    """One fit to do: the number of its setting, the setting, the number of its partition."""

    setting: int
    settings: HeadSettings
    partition: int


@dataclass(frozen=True)
class FitScore:
    """One fit done. Scores are those on the photos held out, at the epoch with the lowest log-loss there.

    accuracy: 0 to 1. log_loss: nats. predicted: int64 (M,), classes of the photos held out, empty unless asked for.
    failure: why there are no scores (they are then NaN), else None.
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


class _Stopped(Exception):
    """The fits that are under way are no longer wanted."""


class _Prepared:
    """Partitions' checked and scaled features, the most recent ones kept."""

    def __init__(self, photos: Photos, partitions: Sequence[Partition]) -> None:
        self._photos = photos
        self._partitions = partitions
        self._kept: OrderedDict[int, Data] = OrderedDict()
        self._most = max(2, CACHED_BYTES // max(1, photos.features.nbytes))
        self._lock = threading.Lock()

    def get(self, number: int) -> Data:
        """The data of one partition. One at a time: several in the making would need memory for as many."""
        with self._lock:
            if number not in self._kept:
                while len(self._kept) >= self._most:
                    self._kept.popitem(last=False)
                photos, rows = self._photos, self._partitions[number]
                self._kept[number] = prepare(
                    photos.features[:, rows.train],
                    photos.labels[rows.train],
                    photos.features[0, rows.held_out],
                    photos.labels[rows.held_out],
                    len(photos.classes),
                )
            self._kept.move_to_end(number)
            return self._kept[number]


class Fitter:
    """Runs jobs over the partitions of some photos. Threads, as in `head.search`: NumPy's products release the lock."""

    def __init__(
        self,
        photos: Photos,
        partitions: Sequence[Partition],
        *,
        workers: int | None = None,
        predictions: bool = False,
    ) -> None:
        if workers is not None and workers < 1:
            raise SettingsError(f"workers is {workers}, but must be at least 1")
        self.photos = photos
        self.partitions = partitions
        self.workers = workers or parallel.cores()
        self._predictions = predictions
        self._prepared = _Prepared(photos, partitions)

    def run(self, jobs: Sequence[Job]) -> Generator[FitScore, None, None]:
        """The score of each job, in order. Leaving the loop, or Ctrl-C, stops what is under way after its current epoch."""
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

    def _one(self, job: Job, stop: threading.Event) -> FitScore:
        def check(_: EpochLog) -> None:
            if stop.is_set():
                raise _Stopped

        partition = self.partitions[job.partition]
        try:
            # A learning rate that is far too high overflows on the photos held out, too; the loss then says so.
            with np.errstate(over="ignore", invalid="ignore"):
                found = fit_prepared(
                    self._prepared.get(job.partition), job.settings, partition.seed, check
                )
        except TrainingError as error:
            nan = float("nan")
            return FitScore(job.setting, job.partition, nan, nan, 0, 0.0, str(error))
        predicted = np.empty(0, np.int64)
        if self._predictions:
            predicted = found.head.logits(self.photos.features[0, partition.held_out]).argmax(
                axis=1
            )
        return FitScore(
            job.setting,
            job.partition,
            found.validation_accuracy,
            found.validation_loss,
            found.best_epoch,
            found.seconds,
            predicted=predicted,
        )
