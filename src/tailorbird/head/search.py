"""Search the head's settings by validation log-loss; average the best if `inner` is not fixed."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, fields, replace

import numpy as np
from numpy.typing import NDArray

from tailorbird import parallel
from tailorbird.errors import SettingsError, TrainingError
from tailorbird.head.fit import (
    Data,
    Fit,
    HeadSettings,
    batches,
    fit_prepared,
    prepare,
    prepare_stored,
)
from tailorbird.head.network import Labels, blend, log_loss
from tailorbird.head.stored import StoredRows, logits_of
from tailorbird.parallel import one_blas_thread
from tailorbird.progress import NoProgress, Progress

CANDIDATES: tuple[Mapping[str, object], ...] = (
    {"inner": (256,), "dropout": 0.5, "learning_rate": 2e-3, "l2": 3e-3},
    {"inner": (256,), "dropout": 0.2, "learning_rate": 2e-3, "l2": 1e-2},
    {"inner": (128,), "dropout": 0.5, "learning_rate": 3e-3, "l2": 3e-3},
    {"inner": (128,), "dropout": 0.5, "learning_rate": 5e-3, "l2": 1e-3},
    {"inner": (), "dropout": 0.0, "learning_rate": 3e-3, "l2": 1e-2},
    {"inner": (), "dropout": 0.0, "learning_rate": 1e-2, "l2": 3e-3},
)
"""The settings that are tried.

Chosen by cross-validation on photos of clothes, waste and hand signs with two backbones. The widest
come first, so that no long fit is left for the end.
"""

STEPS = 300
"""Optimiser steps of each candidate; epochs follow from it, since small sets have short ones."""

FEWEST_EPOCHS = 8
SEARCH_SAMPLES = 6000
"""Maximum number of samples to compare candidates on; the best are then trained on all."""

BLENDED = 3
"""Number of heads that are averaged where `inner` is not fixed."""


@dataclass(frozen=True)
class Trial:
    """One configuration of a search: its settings and validation scores.

    failure: why it failed; its scores are NaN then.
    """

    settings: HeadSettings
    validation_loss: float
    validation_accuracy: float
    best_epoch: int
    seconds: float
    failure: str | None = None


@dataclass(frozen=True)
class SearchResult:
    """The best head, trained on every sample, and all trials in the order of the plan.

    Where `inner` is not fixed, the head of `best` may average several: `members` lists the fits
    whose mean logits it gives, best first; `best.settings` and `best.history` are the first's.
    """

    best: Fit
    members: tuple[Fit, ...]
    trials: tuple[Trial, ...]


def search(
    features: NDArray[np.float32] | StoredRows,
    labels: Labels,
    validation_features: NDArray[np.float32] | StoredRows,
    validation_labels: Labels,
    *,
    classes: int,
    fixed: Mapping[str, object] | None = None,
    seed: int,
    progress: Progress | None = None,
) -> SearchResult:
    """Choose and train a head, on all cores.

    Searched are inner, dropout, learning_rate, l2 and, where there are several views, views.

    Args:
        features: float32 (V, N, K), the plain view first; in memory or on disk.
        labels: int64 (N,), 0 to classes - 1. A class may be absent.
        validation_features: float32 (M, K), M at least 1; (1, M, K) where features are on disk.
        validation_labels: int64 (M,).
        classes: at least 2.
        fixed: fields of HeadSettings that are not searched, such as {"inner": (100,)}.
        seed: at least 0; the result has the same bits on any number of cores.
        progress: receives the stage `head` and its fits.

    Raises:
        SettingsError: an unknown or invalid field, or arrays that do not fit each other.
        TrainingError: every configuration failed.
    """
    fixed = dict(fixed or {})
    progress = progress or NoProgress()
    _check(fixed)
    data = _prepared(features, labels, validation_features, validation_labels, classes)
    plan = plan_trials(fixed, views=data.shape[0], samples=min(len(labels), SEARCH_SAMPLES))
    part = _subsample(data, SEARCH_SAMPLES, seed) if len(plan) > 1 else data
    blended = 1 if "inner" in fixed else BLENDED
    refits = min(blended, len(plan)) if part is not data else 0

    progress.stage("head", len(plan) + refits)

    def report(done: int) -> None:
        progress.advance(done, len(plan) + refits)

    jobs = [(settings, number) for number, settings in enumerate(plan)]
    with one_blas_thread():
        outcomes = _train(part, jobs, seed, report)
        order = _best_first(outcomes)[:blended]
        winners = [
            outcome
            for outcome in (outcomes[number] for number in order)
            if isinstance(outcome, Fit)
        ]
        if refits:
            again = [(_timed(plan[number], fixed, len(labels)), number) for number in order]
            winners = _fits(_train(data, again, seed, lambda done: report(len(plan) + done)))
        best, members = _blend(winners, validation_features, data.validation_labels)
    return SearchResult(best, members, tuple(map(_trial, plan, outcomes)))


def _prepared(
    features: NDArray[np.float32] | StoredRows,
    labels: Labels,
    validation: NDArray[np.float32] | StoredRows,
    validation_labels: Labels,
    classes: int,
) -> Data:
    if isinstance(features, StoredRows) and isinstance(validation, StoredRows):
        return prepare_stored(features, labels, validation, validation_labels, classes)
    if isinstance(features, StoredRows) or isinstance(validation, StoredRows):
        raise SettingsError("features on disk need validation features on disk, and vice versa")
    return prepare(features, labels, validation, validation_labels, classes)


def _check(fixed: Mapping[str, object]) -> None:
    known = [field.name for field in fields(HeadSettings)]
    unknown = sorted(set(fixed) - set(known))
    if unknown:
        raise SettingsError(
            f"unknown head settings {', '.join(unknown)}; valid: {', '.join(known)}"
        )
    _settings(fixed)


def _settings(values: Mapping[str, object]) -> HeadSettings:
    return HeadSettings(**values)  # type: ignore[arg-type]  # it checks the types itself


def plan_trials(fixed: Mapping[str, object], *, views: int, samples: int) -> list[HeadSettings]:
    """Return the configurations a search would train, without repeats."""
    plan = [
        _timed(_settings({**candidate, "views": count, **fixed}), fixed, samples)
        for count in sorted({1, views})
        for candidate in CANDIDATES
    ]
    return list(dict.fromkeys(plan))


def _timed(settings: HeadSettings, fixed: Mapping[str, object], samples: int) -> HeadSettings:
    """Set epochs for about STEPS steps, and patience in proportion, unless they are fixed."""
    epochs = max(FEWEST_EPOCHS, math.ceil(STEPS / len(batches(samples, settings.batch_size))))
    epochs = settings.epochs if "epochs" in fixed else epochs
    patience = settings.patience if "patience" in fixed else max(4, epochs // 4)
    return replace(settings, epochs=epochs, patience=patience)


def _subsample(data: Data, limit: int, seed: int) -> Data:
    """Return about `limit` training samples at most, stratified, each class with at least one."""
    if len(data.labels) <= limit:
        return data
    share = limit / len(data.labels)
    shuffled = np.random.default_rng((seed, 1)).permutation(len(data.labels))
    rows = [shuffled[data.labels[shuffled] == label] for label in np.unique(data.labels)]
    kept = np.sort(np.concatenate([row[: math.ceil(share * len(row))] for row in rows]))
    if data.stored is None:
        return replace(data, features=data.features[:, kept], labels=data.labels[kept])
    views, samples, width = data.shape
    part = np.empty((views, len(kept), width), np.float32)
    for view in range(views):
        data.take(view * samples + kept, part[view])
    return replace(data, features=part, labels=data.labels[kept], stored=None)


def _train(
    data: Data,
    jobs: Sequence[tuple[HeadSettings, int]],
    seed: int,
    report: Callable[[int], None],
) -> list[Fit | TrainingError]:
    """Fit each (settings, number) on a thread; NumPy's products release the global lock."""

    def one(job: tuple[HeadSettings, int]) -> Fit | TrainingError:
        settings, number = job
        try:
            return fit_prepared(data, settings, (seed, number))
        except TrainingError as error:
            return error

    outcomes = []
    with ThreadPoolExecutor(parallel.cores()) as pool:
        for outcome in pool.map(one, jobs):
            outcomes.append(outcome)
            report(len(outcomes))
    return outcomes


def _fits(outcomes: Sequence[Fit | TrainingError]) -> list[Fit]:
    fits = [outcome for outcome in outcomes if isinstance(outcome, Fit)]
    if not fits:
        raise TrainingError(
            f"all {len(outcomes)} head configurations failed; the first: {outcomes[0]}"
        )
    return sorted(fits, key=lambda result: result.validation_loss)


def _best_first(outcomes: Sequence[Fit | TrainingError]) -> list[int]:
    _fits(outcomes)
    losses = [
        outcome.validation_loss if isinstance(outcome, Fit) else math.inf for outcome in outcomes
    ]
    return [
        number
        for number in sorted(range(len(losses)), key=losses.__getitem__)
        if losses[number] < math.inf
    ]


def _blend(
    fits: Sequence[Fit],
    validation_features: NDArray[np.float32] | StoredRows,
    validation_labels: Labels,
) -> tuple[Fit, tuple[Fit, ...]]:
    """Return the average of `fits` if it beats the first on validation, else the first alone."""
    best = fits[0]
    if len(fits) > 1:
        head = blend([result.head for result in fits])
        logits = logits_of(head, validation_features)
        loss = log_loss(logits, validation_labels)
        if loss < best.validation_loss:
            accuracy = float(np.mean(logits.argmax(axis=1) == validation_labels))
            seconds = sum(result.seconds for result in fits)
            blended = replace(
                best, head=head, validation_loss=loss, validation_accuracy=accuracy, seconds=seconds
            )
            return blended, tuple(fits)
    return best, (best,)


def _trial(settings: HeadSettings, outcome: Fit | TrainingError) -> Trial:
    if isinstance(outcome, TrainingError):
        return Trial(settings, math.nan, math.nan, 0, 0.0, str(outcome))
    return Trial(
        settings,
        outcome.validation_loss,
        outcome.validation_accuracy,
        outcome.best_epoch,
        outcome.seconds,
    )
