"""Out-of-fold probabilities: each photo is judged by heads that have seen neither it nor a copy of it.

Shapes, once: N photos, K features, C classes, R repeats.
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
from tailorbird.head.fit import batches, one_blas_thread, prepare, start_run, train_epoch
from tailorbird.metrics.calibration import Labels, softmax
from tailorbird.progress import NoProgress, Progress

FOLDS: Final = 5
REPEATS: Final = 3
"""Times the folds are dealt anew; the mean of the probabilities gives a steadier ranking than any one of them."""

SETTINGS: Final = HeadSettings(inner=(128,), dropout=0.5, learning_rate=3e-3, l2=3e-2)
"""Chosen with benchmarks/suspects.py. The L2 is ten times that of a head that is trained for use: wrong labels must not be learned."""

STEPS: Final = 150
FEWEST_EPOCHS: Final = 8


def fold_numbers(
    labels: Labels,
    groups: Sequence[int] | npt.NDArray[np.int64],
    generator: np.random.Generator,
    folds: int = FOLDS,
) -> npt.NDArray[np.int64]:
    """The fold of each photo, int64 (N,), 0 to folds - 1: groups stay whole, classes are spread evenly.

    The groups of each class are dealt out like cards, in an order drawn from `generator`, each class going on where the one
    before stopped. A class of two groups or more is thus never held out as a whole. A group belongs to the class of its first photo.
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
    """Probabilities float64 (N, C) of each photo from heads trained on the other folds only.

    They are not calibrated: so strong an L2 makes them cautious, and sharpening them to fit the given labels doubled what was reported
    on data as they are, for one more flipped label in a hundred (benchmarks/README.md).

    Args:
        features: float32 (N, K).
        labels: int64 (N,), 0 to classes - 1, some of them wrong.
        groups: (N,); photos that share a number show the same picture and are held out together.
        classes: C, at least 2.
        seed: of the folds and the fits; the same seed gives the same bits on any number of cores.
        repeats: R; the mean over so many deals of the folds is taken.
        settings: of the heads. Each trains for a fixed number of steps: labels that may be wrong should not decide when to stop.
        progress: receives the stage `labels` and its fits.

    Raises SettingsError for arrays that do not fit each other, TrainingError when a loss becomes non-finite.
    """
    # The scale of the columns is taken from all photos: no label goes into it.
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
    lone = np.ones(len(labels), bool)

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
            lone[held] = False
            progress.advance(done, len(jobs))
    total[lone] = 1.0 / classes  # one picture in all: there was nothing to learn from
    return total
