"""A sweep under way: settings, their fits, what is decided, and how long the rest will take."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from tailorbird.errors import TrainingError
from tailorbird.experiments.comparison import (
    Comparison,
    compare,
    compare_with_best,
    corrected_t_test,
)
from tailorbird.experiments.photos import Photos
from tailorbird.experiments.plan import (
    Metric,
    complete,
    describe,
    grid,
    parameters,
    starting_point,
    train_command,
)
from tailorbird.experiments.results import (
    Factor,
    SettingScore,
    SweepResult,
    best_first,
    by_partition,
    summarise,
)
from tailorbird.experiments.runs import FitScore, Fitter, Job
from tailorbird.head import HeadSettings


@dataclass(frozen=True)
class Standing:
    """A sweep under way: fits done and planned, settings so far best first, expected seconds left, what is being varied now and in all."""

    done: int
    total: int
    settings: tuple[SettingScore, ...]
    seconds_left: float
    stage: str
    varied: tuple[str, ...]


LARGEST_FAMILY = 32
"""Of more settings than this not all pairs are compared, only the best with each of the others."""

OnFit = Callable[[Standing], None]


class Work:
    """What is known so far: settings, their fits, the factors decided."""

    def __init__(
        self,
        photos: Photos,
        alternatives: dict[str, tuple[Any, ...]],
        fitter: Fitter,
        metric: Metric,
        on_fit: OnFit | None,
    ) -> None:
        self.photos = photos
        self.alternatives = alternatives
        self.fitter = fitter
        self.metric = metric
        self.varied = [name for name, values in alternatives.items() if len(values) > 1] or list(
            alternatives
        )
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
        """The number of a setting, a new one where it was not tried yet."""
        settings = complete(values, self.photos, self._train)
        if settings not in self.settings:
            self.settings.append(settings)
            self.fits[len(self.settings) - 1] = []
        return self.settings.index(settings)

    def one_at_a_time(self) -> None:
        """Vary each factor in turn, carrying on the best."""
        factors = {name: values for name, values in self.alternatives.items() if len(values) > 1}
        if not factors:  # a single setting: its score is all that is asked for
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
        """Every combination."""
        numbers = [self.number(values) for values in grid(self.alternatives)]
        self.total = len(self.fitter.partitions) * len(numbers)
        self._run_family("settings", numbers)

    def _run_family(self, name: str, numbers: Sequence[int]) -> None:
        """Fit the settings of a family, all on one fold before the next: what Ctrl-C leaves can then be compared."""
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
        """Take the score of a fit and tell who watches."""
        self.fits[score.setting].append(score)
        self.done += 1
        self._summarise(score.setting)
        if self._on_fit is not None:
            left = self._seconds_left(waiting)
            self._on_fit(
                Standing(
                    self.done,
                    self.total,
                    best_first(self._scores, self.metric),
                    left,
                    stage,
                    tuple(self.varied),
                )
            )

    def prune(self, number: int) -> None:
        """A setting is given up."""
        self.pruned.add(number)
        self._summarise(number)

    def _summarise(self, number: int) -> None:
        settings = self.settings[number]
        name = describe(settings, self.varied)
        self._scores[number] = summarise(
            number, settings, name, self.fits[number], pruned=number in self.pruned
        )

    def _seconds_left(self, waiting: Sequence[Job]) -> float:
        """What each setting's fits took so far tells of its next ones; the mean of all stands for those unknown."""
        known = {
            number: score.seconds for number, score in self._scores.items() if score.seconds > 0
        }
        mean = float(np.mean([fit.seconds for fits in self.fits.values() for fit in fits]))
        later = max(0, self.total - self.done - len(waiting))
        expected = sum(known.get(job.setting, mean) for job in waiting) + later * mean
        # Fits slow each other down a little, and there is work around them: measured against the clock.
        busy = sum(fit.seconds for fits in self.fits.values() for fit in fits)
        return expected * (time.perf_counter() - self._began) / max(busy, 1e-9)

    def _decide(self, name: str, numbers: Sequence[int]) -> Factor:
        """The best mean; of inner layers the smallest within one standard error of it."""
        tried = [number for number in numbers if number in self._scores]
        best = max(tried, key=lambda number: self._scores[number].merit(self.metric))
        if name != "inner":
            return Factor(name, tuple(tried), best)
        scores = {number: by_partition(self.fits[number], self.metric) for number in tried}
        for number in sorted(
            tried, key=lambda number: parameters(self.settings[number], self.photos)
        ):
            if number == best or self._scores[number].failed:
                break
            both = sorted(scores[best].keys() & scores[number].keys())
            test = corrected_t_test(
                [scores[best][part] - scores[number][part] for part in both], self.ratio
            )
            if test.difference <= test.standard_error:
                reason = "the smallest within one standard error of the best"
                return Factor(name, tuple(tried), number, reason)
        return Factor(name, tuple(tried), best)

    @property
    def ratio(self) -> float:
        """Photos held out over photos that train."""
        return float(np.mean([part.ratio for part in self.fitter.partitions]))

    def result(self, *, folds: int, seeds: int, seed: int, interrupted: bool) -> SweepResult:
        """Rank, compare, choose. Raises TrainingError when every fit diverged."""
        usable = {
            number for number, score in self._scores.items() if score.merit(self.metric) > -np.inf
        }
        if not usable:
            first = next(iter(self.fits.values()))[0].failure
            raise TrainingError(
                f"every setting diverged ({len(self._scores)} tried); the first: {first}"
            )
        for name, numbers in self.families[len(self.factors) :]:
            self.factors.append(
                self._decide(name, [number for number in numbers if number not in self.pruned])
            )
        compared = [
            [number for number in factor.settings if number in usable and number not in self.pruned]
            for factor in self.factors
        ]
        chosen = self._scores[self.factors[-1].chosen]
        return SweepResult(
            source=self.photos.source,
            backbone=self.photos.backbone,
            classes=self.photos.classes,
            photos=len(self.photos),
            test_photos=self.photos.test_photos,
            metric=self.metric,
            folds=folds,
            seeds=seeds,
            seed=seed,
            settings=best_first(self._scores, self.metric),
            factors=tuple(self.factors),
            fits=tuple(sorted((fit for fits in self.fits.values() for fit in fits), key=_order)),
            comparisons=tuple(self._compare(compared)),
            varied=tuple(self.varied),
            chosen=chosen,
            total=self.total,
            interrupted=interrupted,
            seconds=time.perf_counter() - self._began,
            command=train_command(self.photos, chosen.settings, list(self.alternatives)),
        )

    def _compare(self, families: Sequence[Sequence[int]]) -> list[Comparison]:
        """All pairs within each family; of a large one, the best with each of the others."""
        scores = {
            number: by_partition(self.fits[number], self.metric)
            for family in families
            for number in family
        }
        if max(map(len, families)) <= LARGEST_FAMILY:
            return compare(families, scores, self.ratio)
        (family,) = families
        best = max(family, key=lambda number: self._scores[number].merit(self.metric))
        return compare_with_best(
            best, [number for number in family if number != best], scores, self.ratio
        )


def _order(fit: FitScore) -> tuple[int, int]:
    return fit.setting, fit.partition
