"""A running sweep: its settings, completed fits, chosen values, and the time left."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np

from tailorbird.errors import TrainingError
from tailorbird.experiments.alternatives import (
    METRICS,
    Metric,
    complete,
    describe,
    grid,
    parameters,
    starting_point,
    train_command,
)
from tailorbird.experiments.cross_validation import MOST_SEEDS, FitScore, Fitter, Job
from tailorbird.experiments.data import ExperimentData, ExperimentSettings
from tailorbird.experiments.paired_tests import (
    PairedTest,
    SettingComparison,
    compare,
    compare_with_best,
    corrected_t_test,
)
from tailorbird.experiments.sweep_results import (
    Factor,
    SettingScore,
    SweepResult,
    best_first,
    by_partition,
    summarise,
    summarise_default,
)
from tailorbird.head import HeadSettings
from tailorbird.validation import Problems

LARGEST_FAMILY: Final = 32
"""In a larger family of settings, only the best is compared with each of the others."""

MOST_TRIALS: Final = 10_000


@dataclass(frozen=True)
class SweepSettings(ExperimentSettings):
    """How a sweep is done. Further attributes: see ExperimentSettings.

    Attributes:
        grid: try every combination instead of varying one factor at a time.
        optuna: number of settings that Optuna chooses instead; needs the extra `optuna`.
        folds: of each round of cross-validation, at least 2.
        seeds: rounds, each with its own folds and first weights, 1 to 100.
        metric: what settings are ranked by: accuracy or log-loss.
    """

    grid: bool = False
    optuna: int | None = None
    folds: int = 5
    seeds: int = 3
    metric: Metric = "accuracy"

    def check(self, problems: Problems) -> None:
        """Add the problems of these settings."""
        problems.choice("metric", self.metric, METRICS)
        if self.optuna is not None:
            problems.whole("optuna", self.optuna, 1, MOST_TRIALS)
            problems.need(not self.grid, "grid and optuna are both given; choose one, not both")
        problems.whole("folds", self.folds, 2)
        problems.whole("seeds", self.seeds, 1, MOST_SEEDS)


@dataclass(frozen=True)
class Standing:
    """The state of a running sweep.

    Attributes:
        done, total: fits.
        settings: scores so far, best first.
        seconds_left: expected.
        stage: name of the factor that is being varied.
        varied: all factors that are varied.
    """

    done: int
    total: int
    settings: tuple[SettingScore, ...]
    seconds_left: float
    stage: str
    varied: tuple[str, ...]


OnFit = Callable[[Standing], None]


class SweepRun:
    """A running sweep: the settings tried so far, their fits, and the factors decided."""

    def __init__(
        self,
        data: ExperimentData,
        alternatives: dict[str, tuple[Any, ...]],
        fitter: Fitter,
        metric: Metric,
        on_fit: OnFit | None,
    ) -> None:
        self.data = data
        self.alternatives = alternatives
        self.fitter = fitter
        self.metric = metric
        several = [name for name, values in alternatives.items() if len(values) > 1]
        self.varied = several or list(alternatives)
        self.settings: list[HeadSettings] = []
        self.fits: dict[int, list[FitScore]] = {}
        self.pruned: set[int] = set()
        self.factors: list[Factor] = []
        self.families: list[tuple[str, tuple[int, ...]]] = []
        self.total = 0
        self.done = 0
        self._scores: dict[int, SettingScore] = {}
        self._train = min(len(part.train) for part in fitter.partitions)
        self._on_fit = on_fit
        self._began = time.perf_counter()

    def number(self, values: Mapping[str, Any]) -> int:
        """Return the number of a setting; a new one where it was not tried yet."""
        settings = complete(values, self.data, self._train)
        if settings not in self.settings:
            self.settings.append(settings)
            self.fits[len(self.settings) - 1] = []
        return self.settings.index(settings)

    def one_at_a_time(self) -> None:
        """Vary each factor in turn, with the best values so far of the others."""
        factors = {name: values for name, values in self.alternatives.items() if len(values) > 1}
        if not factors:  # a single setting: only its score is wanted
            factors = dict(list(self.alternatives.items())[:1])
        parts = len(self.fitter.partitions)
        self.total = parts * (1 + sum(len(values) - 1 for values in factors.values()))
        current = starting_point(self.alternatives)
        for name, values in factors.items():
            numbers = [self.number({**current, name: value}) for value in values]
            self._run_family(name, numbers)
            factor = self._decide(name, numbers)
            self.factors.append(factor)
            current[name] = values[numbers.index(factor.chosen)]

    def whole_grid(self) -> None:
        """Fit every combination."""
        numbers = [self.number(values) for values in grid(self.alternatives)]
        self.total = len(self.fitter.partitions) * len(numbers)
        self._run_family("settings", numbers)

    def _run_family(self, name: str, numbers: Sequence[int]) -> None:
        """Fit a family of settings, all on one fold before the next.

        So the completed fits can be compared when Ctrl-C is pressed.
        """
        self.families.append((name, tuple(numbers)))
        jobs = [
            Job(number, self.settings[number], part)
            for part in range(len(self.fitter.partitions))
            for number in numbers
            if not self.fits[number]
        ]
        with contextlib.closing(self.fitter.run(jobs)) as scores:
            for count, score in enumerate(scores, start=1):
                self.add(score, name, jobs[count:])

    def add(self, score: FitScore, stage: str, waiting: Sequence[Job] = ()) -> None:
        """Add the score of a fit and report the standing."""
        self.fits[score.setting].append(score)
        self.done += 1
        self._summarise(score.setting)
        if self._on_fit is not None:
            ranked = best_first(self._scores, self.metric)
            left = self._seconds_left(waiting)
            varied = tuple(self.varied)
            self._on_fit(Standing(self.done, self.total, ranked, left, stage, varied))

    def prune(self, number: int) -> None:
        """Stop fitting a setting."""
        self.pruned.add(number)
        self._summarise(number)

    def _summarise(self, number: int) -> None:
        settings = self.settings[number]
        name = describe(settings, self.varied)
        self._scores[number] = summarise(
            number, settings, name, self.fits[number], pruned=number in self.pruned
        )

    def _seconds_left(self, waiting: Sequence[Job]) -> float:
        """Return the expected time: fits of a new setting take the mean of all settings."""
        known = {
            number: score.seconds for number, score in self._scores.items() if score.seconds > 0
        }
        seconds = [fit.seconds for fits in self.fits.values() for fit in fits]
        mean = float(np.mean(seconds))
        later = max(0, self.total - self.done - len(waiting))
        expected = sum(known.get(job.setting, mean) for job in waiting) + later * mean
        # Scaled by the wall time so far: parallel fits slow each other down.
        return expected * (time.perf_counter() - self._began) / max(sum(seconds), 1e-9)

    def _best(self, numbers: Sequence[int]) -> int:
        """Return the setting with the best mean; of equal ones the smallest head."""

        def rank(number: int) -> tuple[float, int]:
            size = parameters(self.settings[number], self.data)
            return self._scores[number].merit(self.metric), -size

        return max(numbers, key=rank)

    def _decide(self, name: str, numbers: Sequence[int]) -> Factor:
        """Choose the best mean."""
        tried = [number for number in numbers if number in self._scores]
        return Factor(name, tuple(tried), self._best(tried))

    def result(
        self, settings: SweepSettings, default_fits: tuple[FitScore, ...], *, interrupted: bool
    ) -> SweepResult:
        """Rank, compare and choose. Raises TrainingError when every fit diverged.

        default_fits: of plain `train`, on the same partitions or, after Ctrl-C, on some of them.
        """
        usable = {
            number for number, score in self._scores.items() if score.merit(self.metric) > -np.inf
        }
        if not usable:
            first = next(iter(self.fits.values()))[0].failure
            raise TrainingError(
                f"every setting diverged ({len(self._scores)} tried); the first: {first}"
            )
        for name, numbers in self.families[len(self.factors) :]:
            kept = [number for number in numbers if number not in self.pruned]
            self.factors.append(self._decide(name, kept))
        compared = [
            [number for number in factor.settings if number in usable and number not in self.pruned]
            for factor in self.factors
        ]
        whole = [number for number in self._scores if number not in self.pruned]
        chosen = self._scores[self._best([number for number in whole if number in usable])]
        default = summarise_default(default_fits)
        test = self._against_default(default_fits, chosen.number)
        plain = test.pairs > 0 and not default.failed and test.difference >= 0
        return SweepResult(
            source=self.data.source,
            backbone=self.data.backbone,
            mirror=self.data.mirror,
            classes=self.data.classes,
            photos=len(self.data),
            test_photos=self.data.test_photos,
            metric=self.metric,
            folds=settings.folds,
            seeds=settings.seeds,
            seed=settings.seed,
            settings=best_first(self._scores, self.metric),
            factors=tuple(self.factors),
            fits=tuple(sorted((fit for fits in self.fits.values() for fit in fits), key=_order)),
            comparisons=tuple(self._compare(compared)),
            varied=tuple(self.varied),
            chosen=chosen,
            total=self.total,
            interrupted=interrupted,
            seconds=time.perf_counter() - self._began,
            command=train_command(
                self.data, None if plain else chosen.settings, list(self.alternatives)
            ),
            default=default,
            default_fits=default_fits,
            recommended="default" if plain else "chosen",
            default_comparison=test,
        )

    def _against_default(self, default_fits: Sequence[FitScore], number: int) -> PairedTest:
        """Compare plain `train` with a setting on the folds that both have."""
        plain = by_partition(default_fits, self.metric)
        other = by_partition(self.fits[number], self.metric)
        both = sorted(plain.keys() & other.keys())
        return corrected_t_test([plain[part] - other[part] for part in both], self.fitter.ratio)

    def _compare(self, families: Sequence[Sequence[int]]) -> list[SettingComparison]:
        """Compare all pairs within each family; of a large one, the best with each other."""
        scores = {
            number: by_partition(self.fits[number], self.metric)
            for family in families
            for number in family
        }
        if max(map(len, families)) <= LARGEST_FAMILY:
            return compare(families, scores, self.fitter.ratio)
        (family,) = families
        best = self._best(family)
        others = [number for number in family if number != best]
        return compare_with_best(best, others, scores, self.fitter.ratio)


def _order(fit: FitScore) -> tuple[int, int]:
    return fit.setting, fit.partition
