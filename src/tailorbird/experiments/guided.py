"""Guided search: Optuna proposes settings between the lowest and the highest alternatives. The only module that uses it."""

from __future__ import annotations

import contextlib
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from tailorbird.errors import MissingExtra
from tailorbird.experiments.plan import starting_point, value_text
from tailorbird.experiments.runs import Job

if TYPE_CHECKING:
    from tailorbird.experiments.work import Work

LOGARITHMIC = ("learning_rate", "l2")
CONTINUOUS = (*LOGARITHMIC, "dropout", "label_smoothing")
FIRST_TRIALS = 5
"""Settings drawn at random and fitted on every fold, before any is given up by comparison with the median."""


def require() -> None:
    """Raise MissingExtra where Optuna is not installed."""
    try:
        import optuna  # noqa: F401
    except ImportError as error:
        raise MissingExtra(
            "guided search needs Optuna, which is not installed: pip install 'tailorbird[optuna]'; or leave --optuna away: "
            "varying one setting at a time and --grid need nothing more"
        ) from error


def run(work: Work, *, trials: int, seed: int) -> None:
    """So many settings, proposed by the tree-structured Parzen estimator (Bergstra et al. 2011), seeded.

    Numbers vary between the lowest and the highest of their alternatives (learning rate and L2 on a logarithmic scale), the
    rest among the alternatives. A setting is given up when its mean over the folds so far is below the median of the
    others' at that fold. Scores are taken in the order of the folds, so the number of workers changes nothing.
    """
    import optuna

    optuna.logging.set_verbosity(optuna.logging.WARNING)
    study = optuna.create_study(
        direction="maximize",
        sampler=optuna.samplers.TPESampler(seed=seed),
        pruner=optuna.pruners.MedianPruner(n_startup_trials=FIRST_TRIALS, n_warmup_steps=2),
    )
    parts = len(work.fitter.partitions)
    work.total = trials * parts
    numbers: list[int] = []
    work.families.append(("settings", ()))
    for _ in range(trials):
        trial = study.ask()
        number = work.number(
            {**starting_point(work.alternatives), **_propose(trial, work.alternatives)}
        )
        if number in numbers:  # proposed again: nothing to fit, and its score is known
            work.total -= parts
        else:
            numbers.append(number)
            work.families[-1] = ("settings", tuple(numbers))
            _fit(work, trial, number)
        pruned = number in work.pruned
        scores = _scores(work, number)
        state = optuna.trial.TrialState.PRUNED if pruned else optuna.trial.TrialState.COMPLETE
        failed = not scores
        study.tell(trial, None if failed or pruned else sum(scores) / len(scores),
                   optuna.trial.TrialState.FAIL if failed else state)  # fmt: skip


def _fit(work: Work, trial: Any, number: int) -> None:
    """Fit one setting fold by fold until done or given up."""
    parts = len(work.fitter.partitions)
    jobs = [Job(number, work.settings[number], part) for part in range(parts)]
    with contextlib.closing(work.fitter.run(jobs)) as scores:
        for count, score in enumerate(scores, start=1):
            work.add(score, f"setting {number + 1}", jobs[count:])
            if score.failure is not None:
                work.total -= parts - count
                return
            so_far = _scores(work, number)
            trial.report(sum(so_far) / len(so_far), step=count)
            if count < parts and trial.should_prune():
                work.prune(number)
                work.total -= parts - count
                return


def _scores(work: Work, number: int) -> list[float]:
    """The scores of a setting's fits, higher is better; none where one of them failed."""
    fits = work.fits[number]
    if any(fit.failure is not None for fit in fits):
        return []
    return [fit.accuracy if work.metric == "accuracy" else -fit.log_loss for fit in fits]


def _propose(trial: Any, alternatives: Mapping[str, Sequence[Any]]) -> dict[str, Any]:
    values: dict[str, Any] = {}
    for name, choices in alternatives.items():
        if len(choices) == 1:
            values[name] = choices[0]
        elif name in CONTINUOUS and not (name in LOGARITHMIC and min(choices) <= 0):
            low, high = min(choices), max(choices)
            # Three digits, so that the command line that is printed says the very number that was tried.
            value = float(f"{trial.suggest_float(name, low, high, log=name in LOGARITHMIC):.3g}")
            values[name] = min(high, max(low, value))
        else:
            texts = {value_text(name, choice): choice for choice in choices}
            values[name] = texts[trial.suggest_categorical(name, list(texts))]
    return values
