"""Sweep: cross-validate alternatives of the head's settings, and test which differences count."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from tailorbird.experiments import optuna_search
from tailorbird.experiments.alternatives import check_alternatives, most_views
from tailorbird.experiments.cross_validation import FitScore, Fitter, partitions
from tailorbird.experiments.data import ExperimentData, given_or_read
from tailorbird.experiments.sweep_results import SweepResult
from tailorbird.experiments.sweep_run import OnFit, SweepRun, SweepSettings
from tailorbird.progress import NoProgress, Progress
from tailorbird.validation import merge


def sweep(
    photos: str | Path | ExperimentData,
    alternatives: Mapping[str, Sequence[Any]] | None = None,
    settings: SweepSettings | None = None,
    *,
    progress: Progress | None = None,
    on_fit: OnFit | None = None,
    fitter: Callable[..., Fitter] = Fitter,
    **options: Any,
) -> SweepResult:
    """Compare settings of the head by repeated, stratified cross-validation.

    Photos of train and validation are used; those of test are not read.

    One factor is varied at a time: learning rate, then inner layers, then dropout, then the others
    in the order given. Each is tried with the best found so far for the factors before it and the
    usual value for those after it. Of equally good ones, the smallest head is chosen.

    What plain `train` does is scored last, on the same folds: it averages the best of a few heads,
    which a fixed setting must beat. `command` of the result is the better of the two.

    Every setting has the same folds and first weights, so differences are paired; see
    `paired_tests`. Copies of a picture are never on both sides. A fit
    stops early by its log-loss on the photos held out, as in `train`, so all scores are a little
    optimistic, that of the best of many a little more: the test split, scored once by `train`,
    decides. Ctrl-C returns what is done with `interrupted` set, once there is at least one fit of a
    setting.

    Args:
        photos: class folders, split/class folders, a CSV, or what `read_data` returned.
        alternatives: field of HeadSettings -> values; a single value fixes it. By default learning
            rates 0.0001 to 0.1, inner layers none to 1000, dropout 0 to 0.8.
        settings: folds, seeds, metric and so on; None: the defaults.
        progress: receives the stages of reading photos, and `recipe`.
        on_fit: called after each fit of a setting.
        fitter: makes what runs the fits, from data, partitions and `workers`; by default threads.
        options: fields of SweepSettings, in place of those in `settings`.

    Raises:
        SettingsError: invalid alternatives or settings.
        DatasetError: too few photos or classes.
        MissingExtra: Optuna is asked for and not installed.
        TrainingError: every fit diverged.
    """
    settings = merge(SweepSettings, settings, options, "sweep")
    checked = check_alternatives(alternatives)
    if settings.optuna is not None:
        optuna_search.require()
    data = given_or_read(photos, settings, most_views(checked), progress)
    parts = partitions(
        data.labels, data.groups, folds=settings.folds, seeds=settings.seeds, seed=settings.seed
    )
    fits = fitter(data, parts, workers=settings.workers)
    run = SweepRun(data, checked, fits, settings.metric, on_fit)
    progress = progress or NoProgress()
    default_fits: list[FitScore] = []
    interrupted = False
    try:
        if settings.optuna is not None:
            optuna_search.search(run, trials=settings.optuna, seed=settings.seed)
        elif settings.grid:
            run.whole_grid()
        else:
            run.one_at_a_time()
        progress.stage("recipe", len(parts))
        for number, score in enumerate(fits.recipe(), start=1):
            default_fits.append(score)  # one by one: what was done stays after Ctrl-C
            progress.advance(number, len(parts))
    except KeyboardInterrupt:
        if not run.done:
            raise
        interrupted = True
    return run.result(settings, tuple(default_fits), interrupted=interrupted)
