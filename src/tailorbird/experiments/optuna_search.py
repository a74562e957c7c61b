"""Let Optuna propose settings between the lowest and highest alternatives."""

from __future__ import annotations

import contextlib
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from tailorbird import installing
from tailorbird.errors import MissingExtra
from tailorbird.experiments.alternatives import starting_point, value_text
from tailorbird.experiments.cross_validation import Job

if TYPE_CHECKING:
    from tailorbird.experiments.sweep_run import SweepRun

LOGARITHMIC = ("learning_rate", "l2")
CONTINUOUS = (*LOGARITHMIC, "dropout", "label_smoothing")
FIRST_TRIALS = 5
"""Number of first, random settings, which are fitted on every fold whatever their scores."""


def require() -> None:
    """Raise MissingExtra if Optuna is not installed."""
    try:
        import optuna  # noqa: F401
    except ImportError as error:
        raise MissingExtra(
            "guided search needs Optuna, which is not installed; leave out --optuna (varying one "
            "setting at a time and --grid need nothing more), or install it: "
            + installing.install("optuna")
        ) from error


def search(run: SweepRun, *, trials: int, seed: int) -> None:
    """Fit settings proposed by the tree-structured Parzen estimator (Bergstra et al. 2011).

    Numbers vary between the lowest and highest of their alternatives (learning rate and L2 on a
    logarithmic scale), other settings among the alternatives. A setting is stopped when its mean
    over the folds so far is below the median of the others' at that fold. Scores are taken in the
    order of the folds, so the number of workers does not change the result.
    """
    import optuna

    optuna.logging.set_verbosity(optuna.logging.WARNING)
    study = optuna.create_study(
        direction="maximize",
        sampler=optuna.samplers.TPESampler(seed=seed),
        pruner=optuna.pruners.MedianPruner(n_startup_trials=FIRST_TRIALS, n_warmup_steps=2),
    )
    parts = len(run.fitter.partitions)
    run.total = trials * parts
    numbers: list[int] = []
    run.families.append(("settings", ()))
    for _ in range(trials):
        trial = study.ask()
        number = run.number(
            {**starting_point(run.alternatives), **_propose(trial, run.alternatives)}
        )
        if number in numbers:  # proposed again: nothing to fit, and its score is known
            run.total -= parts
        else:
            numbers.append(number)
            run.families[-1] = ("settings", tuple(numbers))
            _fit(run, trial, number)
        pruned = number in run.pruned
        scores = _scores(run, number)
        state = optuna.trial.TrialState.PRUNED if pruned else optuna.trial.TrialState.COMPLETE
        failed = not scores
        study.tell(
            trial,
            None if failed or pruned else sum(scores) / len(scores),
            optuna.trial.TrialState.FAIL if failed else state,
        )


def _fit(run: SweepRun, trial: Any, number: int) -> None:
    """Fit one setting fold by fold until it is done or stopped."""
    parts = len(run.fitter.partitions)
    jobs = [Job(number, run.settings[number], part) for part in range(parts)]
    with contextlib.closing(run.fitter.run(jobs)) as scores:
        for count, score in enumerate(scores, start=1):
            run.add(score, f"setting {number + 1}", jobs[count:])
            if score.failure is not None:
                run.total -= parts - count
                return
            so_far = _scores(run, number)
            trial.report(sum(so_far) / len(so_far), step=count)
            if count < parts and trial.should_prune():
                run.prune(number)
                run.total -= parts - count
                return


def _scores(run: SweepRun, number: int) -> list[float]:
    """Return the scores of a setting's fits, higher is better; none if one of them failed."""
    fits = run.fits[number]
    if any(fit.failure is not None for fit in fits):
        return []
    return [fit.accuracy if run.metric == "accuracy" else -fit.log_loss for fit in fits]


def _propose(trial: Any, alternatives: Mapping[str, Sequence[Any]]) -> dict[str, Any]:
    values: dict[str, Any] = {}
    for name, choices in alternatives.items():
        if len(choices) == 1:
            values[name] = choices[0]
        elif name in CONTINUOUS and not (name in LOGARITHMIC and min(choices) <= 0):
            low, high = min(choices), max(choices)
            # Three digits, so that the printed command has the very number that was tried.
            value = float(f"{trial.suggest_float(name, low, high, log=name in LOGARITHMIC):.3g}")
            values[name] = min(high, max(low, value))
        else:
            texts = {value_text(name, choice): choice for choice in choices}
            values[name] = texts[trial.suggest_categorical(name, list(texts))]
    return values
