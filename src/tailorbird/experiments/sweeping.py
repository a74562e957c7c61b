"""The sweep: cross-validate alternatives of the head's settings over cached features, and say which differences count."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from tailorbird.backbone.catalogue import SHIPPED
from tailorbird.errors import SettingsError
from tailorbird.experiments import guided
from tailorbird.experiments.folds import partitions
from tailorbird.experiments.photos import Photos, read_photos
from tailorbird.experiments.plan import Metric, check_alternatives, most_views
from tailorbird.experiments.results import SweepResult
from tailorbird.experiments.runs import Fitter
from tailorbird.experiments.work import OnFit, Work
from tailorbird.progress import Progress


def sweep(
    photos: str | Path | Photos,
    alternatives: Mapping[str, Sequence[Any]] | None = None,
    *,
    grid: bool = False,
    optuna: int | None = None,
    folds: int = 5,
    seeds: int = 3,
    seed: int = 0,
    metric: Metric = "accuracy",
    backbone: str | Path = SHIPPED,
    workers: int | None = None,
    progress: Progress | None = None,
    on_fit: OnFit | None = None,
) -> SweepResult:
    """Try alternatives of the head's settings by repeated, stratified cross-validation on train and validation together.

    One factor is varied at a time: learning rate, then inner layers, then dropout, then the others in the order given. Each
    is tried with the best found so far for those before it, and the usual value for those after it; the best mean is
    carried on. Of inner layers the smallest within one standard error of the best is (the rule of Breiman et al. 1984,
    Classification and Regression Trees, 3.4.3, with the corrected error of the paired differences): a larger one costs time
    and file size in use. `grid` tries every combination, `optuna` lets Optuna choose settings between the lowest and the highest
    alternatives.

    Every setting sees the same folds and first weights, so differences are paired; see `comparison` for the test. Copies of a
    picture are never on both sides. The test split is not read. A fit stops early by its log-loss on the photos held
    out, as in `train`, so all scores are a little flattering, and that of the best of many a little more: the test
    split, scored once by `train`, is the judge.

    Args:
        photos: class folders, split/class folders, a CSV, or what `read_photos` gave.
        alternatives: field of HeadSettings -> values; a single value fixes it. By default learning rates 0.0001 to 0.1, inner
            layers none to 1000, dropout 0 to 0.8.
        grid: every combination rather than one factor at a time.
        optuna: so many settings chosen by Optuna instead; needs the extra `tailorbird[optuna]`.
        folds: parts of each round of cross-validation, at least 2.
        seeds: rounds, each with other folds and first weights, 1 to 100.
        seed: of the split (as in `train`), the folds and the fits.
        metric: what settings are ranked by: accuracy or log-loss.
        backbone: a name at hand or an .onnx file; not used where `photos` are Photos.
        workers: fits at the same time, by default one a core; the result is the same for any number.
        progress: receives the stages of reading photos.
        on_fit: called after each fit.

    Ctrl-C returns what was done with `interrupted` set, once there is at least one fit.

    Raises:
        SettingsError: alternatives or options outside their range.
        DatasetError: nothing to learn from.
        MissingExtra: optuna asked for and not installed.
        TrainingError: every fit diverged.
    """
    checked = check_alternatives(alternatives)
    _check(metric, grid, optuna)
    if optuna is not None:
        guided.require()
    known = (
        photos
        if isinstance(photos, Photos)
        else read_photos(
            photos, backbone=backbone, views=most_views(checked), seed=seed, progress=progress
        )
    )
    if len(known.features) < most_views(checked):
        raise SettingsError(
            f"views is {most_views(checked)}, but the photos were read with {len(known.features)}"
        )
    parts = partitions(known.labels, known.groups, folds=folds, seeds=seeds, seed=seed)
    work = Work(known, checked, Fitter(known, parts, workers=workers), metric, on_fit)
    interrupted = False
    try:
        if optuna is not None:
            guided.run(work, trials=optuna, seed=seed)
        elif grid:
            work.whole_grid()
        else:
            work.one_at_a_time()
    except KeyboardInterrupt:
        if not work.done:
            raise
        interrupted = True
    return work.result(folds=folds, seeds=seeds, seed=seed, interrupted=interrupted)


def _check(metric: str, grid: bool, optuna: int | None) -> None:
    problems = []
    if metric not in ("accuracy", "log-loss"):
        problems.append(f"metric is {metric!r}, but must be 'accuracy' or 'log-loss'")
    if grid and optuna is not None:
        problems.append("give grid or optuna, not both")
    if optuna is not None and not 1 <= optuna <= 10_000:
        problems.append(f"optuna is {optuna}, but must be from 1 to 10000 settings")
    if problems:
        raise SettingsError("; ".join(problems))
