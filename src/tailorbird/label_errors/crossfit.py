"""Compute out-of-fold probabilities: from heads trained without the photo and its copies.

Shapes: N photos, K features, C classes, R repeats.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from typing import Final

import numpy as np
import numpy.typing as npt

from tailorbird import parallel
from tailorbird.head import HeadSettings
from tailorbird.head import network as net
from tailorbird.head.fit import batches, prepare, start_run, train_epoch
from tailorbird.metrics.calibration import Labels, softmax
from tailorbird.parallel import one_blas_thread
from tailorbird.progress import NoProgress, Progress

FOLDS: Final = 5
REPEATS: Final = 3
"""Number of repeats with other folds; the mean ranks more steadily than a single one."""

SETTINGS: Final = HeadSettings(inner=(128,), dropout=0.5, learning_rate=3e-3, l2=3e-2)
"""Chosen with benchmarks/suspects.py. L2 is ten times that of a head for use, so that wrong labels
are not learned."""

STEPS: Final = 150
FEWEST_EPOCHS: Final = 8


def fold_numbers(
    labels: Labels,
    groups: Sequence[int] | npt.NDArray[np.int64],
    generator: np.random.Generator,
    folds: int = FOLDS,
) -> npt.NDArray[np.int64]:
    """Return the fold of each photo, int64 (N,), 0 to folds - 1.

    Groups stay together. The groups of each class are dealt out one by one, in an order drawn from
    `generator`, each class continuing where the one before stopped: a class of two or more groups
    is never held out as a whole. A group belongs to the class of its first photo.
    """
    members, first = np.unique(np.asarray(groups), return_index=True)
    shuffled = generator.permutation(len(members))
    dealt = shuffled[np.argsort(labels[first[shuffled]], kind="stable")]
    fold_of = np.empty(len(members), np.int64)
    fold_of[dealt] = np.arange(len(members)) % folds
    result: npt.NDArray[np.int64] = fold_of[np.searchsorted(members, np.asarray(groups))]
    return result


def out_of_fold(
    features: npt.NDArray[np.float32],
    labels: Labels,
    groups: Sequence[int] | npt.NDArray[np.int64],
    *,
    classes: int,
    seed: int = 0,
    repeats: int = REPEATS,
    settings: HeadSettings = SETTINGS,
    progress: Progress | None = None,
) -> npt.NDArray[np.float64]:
    """Return the probabilities of each photo, float64 (N, C), from heads of the other folds.

    They are not calibrated. The strong L2 makes them underconfident; sharpening them to fit the
    given labels doubled the number of reports on real data, for one more flipped label found in a
    hundred (benchmarks/README.md).

    Args:
        features: float32 (N, K).
        labels: int64 (N,), 0 to classes - 1, some of them wrong.
        groups: (N,); photos with the same number show the same picture and are held out together.
        classes: C, at least 2.
        seed: of the folds and fits; it gives the same bits on any number of cores.
        repeats: R.
        settings: of the heads. Each trains for a fixed number of steps, because labels that may be
            wrong should not decide when to stop.
        progress: receives the stage `labels` and its fits.

    Raises:
        SettingsError: arrays that do not fit each other.
        TrainingError: a loss became non-finite.
    """
    # Columns are scaled by the statistics of all photos, which do not depend on labels.
    data = prepare(features[None], labels, features[:1], labels[:1], classes)
    jobs = [
        (repeat, fold, numbers)
        for repeat in range(repeats)
        for numbers in [fold_numbers(labels, groups, np.random.default_rng((seed, repeat)))]
        for fold in range(FOLDS)
        if (numbers == fold).any() and (numbers != fold).any()
    ]
    progress = progress or NoProgress()
    progress.stage("labels", len(jobs))
    total = np.zeros((len(labels), classes))
    unpredicted = np.ones(len(labels), bool)

    def one(
        job: tuple[int, int, npt.NDArray[np.int64]],
    ) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.float64]]:
        repeat, fold, numbers = job
        train, held = np.flatnonzero(numbers != fold), np.flatnonzero(numbers == fold)
        part = replace(data, features=data.features[:, train], labels=data.labels[train])
        epochs = max(
            FEWEST_EPOCHS, math.ceil(STEPS / len(batches(len(train), settings.batch_size)))
        )
        run = start_run(
            part, replace(settings, epochs=epochs, patience=epochs), (seed, repeat * FOLDS + fold)
        )
        for number in range(1, epochs + 1):
            train_epoch(run, part, number)
        return held, softmax(net.forward(run.network, data.features[0][held]))

    with one_blas_thread():
        for done, (held, probabilities) in enumerate(parallel.ordered(one, jobs), start=1):
            total[held] += probabilities / repeats
            unpredicted[held] = False
            progress.advance(done, len(jobs))
    total[unpredicted] = 1.0 / classes  # no fold held them out: all photos are one group
    return total
