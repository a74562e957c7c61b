"""Results of a sweep: fits, scores per setting with their spread, and paired comparisons."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from tailorbird.experiments.alternatives import Metric
from tailorbird.experiments.cross_validation import FitScore
from tailorbird.experiments.paired_tests import SettingComparison
from tailorbird.files import csv_text, write_text
from tailorbird.head import HeadSettings


@dataclass(frozen=True)
class SettingScore:
    """The scores of one setting over its fits.

    Attributes:
        number: of the setting.
        accuracy: mean, 0 to 1. log_loss: mean, in nats. Their spreads are standard deviations over
            folds and seeds. NaN where there is no fit.
        seconds: mean per fit, on one core.
        failed: number of fits that diverged.
        pruned: whether it was stopped early.
    """

    number: int
    settings: HeadSettings
    name: str
    fits: int
    accuracy: float
    accuracy_spread: float
    log_loss: float
    log_loss_spread: float
    seconds: float
    failed: int = 0
    pruned: bool = False

    def merit(self, metric: Metric) -> float:
        """Return the score for ranking, higher is better; -inf without one or after a failure."""
        value = self.accuracy if metric == "accuracy" else -self.log_loss
        return -math.inf if math.isnan(value) or self.failed else value

    def as_dict(self) -> dict[str, Any]:
        """Return the object of `sweep --json`: NaN as null."""
        plain = {**asdict(self), "settings": plain_settings(self.settings)}
        return {
            key: None if isinstance(value, float) and math.isnan(value) else value
            for key, value in plain.items()
        }


@dataclass(frozen=True)
class Factor:
    """A factor that was varied: its settings in order, the chosen one, and why if not the best."""

    name: str
    settings: tuple[int, ...]
    chosen: int
    reason: str = ""


@dataclass(frozen=True)
class SweepResult:
    """The result of `sweep`.

    Attributes:
        settings: best first.
        factors: in the order varied; a single one for a grid or guided search.
        fits: every single fit.
        comparisons: pairs within a factor.
        varied: the fields with several alternatives.
        chosen: the setting to train with.
        total: number of fits planned.
        interrupted: whether Ctrl-C ended it early.
        command: the `tailorbird train` command with the chosen setting.
    """

    source: str
    backbone: str
    mirror: bool
    classes: tuple[str, ...]
    photos: int
    test_photos: int
    metric: Metric
    folds: int
    seeds: int
    seed: int
    settings: tuple[SettingScore, ...]
    factors: tuple[Factor, ...]
    fits: tuple[FitScore, ...]
    comparisons: tuple[SettingComparison, ...]
    varied: tuple[str, ...]
    chosen: SettingScore
    total: int
    interrupted: bool
    seconds: float
    command: str

    def setting(self, number: int) -> SettingScore:
        """Return the setting with this number."""
        return next(score for score in self.settings if score.number == number)

    def comparison(self, first: int, second: int) -> SettingComparison | None:
        """Return the comparison of two settings in either order; None if there is none."""
        return next((c for c in self.comparisons if {c.first, c.second} == {first, second}), None)

    def as_dict(self) -> dict[str, Any]:
        """Return the object of `sweep --json`."""
        return {
            "source": self.source,
            "backbone": self.backbone,
            "mirror": self.mirror,
            "classes": list(self.classes),
            "photos": self.photos,
            "test_photos_untouched": self.test_photos,
            "metric": self.metric,
            "folds": self.folds,
            "seeds": self.seeds,
            "seed": self.seed,
            "settings": [score.as_dict() for score in self.settings],
            "factors": [
                {**asdict(factor), "settings": list(factor.settings)} for factor in self.factors
            ],
            "comparisons": [
                {
                    "first": c.first,
                    "second": c.second,
                    "difference": c.difference,
                    "p": c.p,
                    "p_corrected": c.corrected,
                    "distinguishable": c.distinguishable,
                }
                for c in self.comparisons
            ],
            "chosen": self.chosen.as_dict(),
            "fits": len(self.fits),
            "fits_planned": self.total,
            "interrupted": self.interrupted,
            "seconds": round(self.seconds, 3),
            "command": self.command,
        }

    def write_fits(self, path: str | Path) -> None:
        """Write `fit_rows` to a CSV file. Raises StorageError."""
        rows = self.fit_rows()
        write_text(path, csv_text([list(rows[0]), *(list(row.values()) for row in rows)]))

    def fit_rows(self) -> list[dict[str, Any]]:
        """Return every fit as a flat row for a CSV: setting, round, fold and scores."""
        settings = {score.number: plain_settings(score.settings) for score in self.settings}
        rows = []
        for fit in self.fits:
            values = {
                **settings[fit.setting],
                "inner": "x".join(map(str, settings[fit.setting]["inner"])) or "0",
            }
            rows.append(
                {
                    "setting": fit.setting,
                    "round": fit.partition // self.folds,
                    "fold": fit.partition % self.folds,
                    "accuracy": "" if fit.failure else fit.accuracy,
                    "log_loss": "" if fit.failure else fit.log_loss,
                    "best_epoch": fit.best_epoch,
                    "seconds": round(fit.seconds, 4),
                    **values,
                    "failure": fit.failure or "",
                }
            )
        return rows


def plain_settings(settings: HeadSettings) -> dict[str, Any]:
    """Return settings for JSON."""
    return {**asdict(settings), "inner": list(settings.inner)}


def summarise(
    number: int,
    settings: HeadSettings,
    name: str,
    fits: Sequence[FitScore],
    *,
    pruned: bool = False,
) -> SettingScore:
    """Return mean and spread over the fits of one setting."""
    good = [fit for fit in fits if fit.failure is None]

    def mean_and_spread(values: list[float]) -> tuple[float, float]:
        spread = float(np.std(values, ddof=1)) if len(values) > 1 else math.nan
        return float(np.mean(values)) if values else math.nan, spread

    accuracy, accuracy_spread = mean_and_spread([fit.accuracy for fit in good])
    loss, loss_spread = mean_and_spread([fit.log_loss for fit in good])
    return SettingScore(
        number=number,
        settings=settings,
        name=name,
        fits=len(fits),
        accuracy=accuracy,
        accuracy_spread=accuracy_spread,
        log_loss=loss,
        log_loss_spread=loss_spread,
        seconds=float(np.mean([fit.seconds for fit in good])) if good else math.nan,
        failed=len(fits) - len(good),
        pruned=pruned,
    )


def by_partition(fits: Sequence[FitScore], metric: Metric) -> dict[int, float]:
    """Return partition -> score, higher is better, of the fits that succeeded."""
    return {
        fit.partition: fit.accuracy if metric == "accuracy" else -fit.log_loss
        for fit in fits
        if fit.failure is None
    }


def best_first(scores: Mapping[int, SettingScore], metric: Metric) -> tuple[SettingScore, ...]:
    """Return settings best first; pruned and failed ones last, ties in the order planned."""
    return tuple(
        sorted(
            scores.values(), key=lambda score: (score.pruned, -score.merit(metric), score.number)
        )
    )
