"""Results of a sweep: fits, scores per setting with their spread, and paired comparisons."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np

from tailorbird.experiments.alternatives import Metric
from tailorbird.experiments.cross_validation import DEFAULT_RECIPE, FitScore
from tailorbird.experiments.paired_tests import PairedTest, SettingComparison
from tailorbird.files import csv_text, write_text
from tailorbird.head import HeadSettings


@dataclass(frozen=True, kw_only=True)
class FoldScores:
    """The scores of a setting, or of plain `train`, over its fits.

    Attributes:
        number: of the setting; DEFAULT_RECIPE for plain `train`.
        accuracy: mean, 0 to 1. log_loss: mean, in nats. Their spreads are standard deviations over
            folds and seeds. NaN where there is no fit.
        seconds: mean per fit, on one core.
        failed: number of fits that diverged.
        pruned: whether it was stopped early.
    """

    number: int
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
        return {
            key: None if isinstance(value, float) and math.isnan(value) else value
            for key, value in asdict(self).items()
        }


@dataclass(frozen=True, kw_only=True)
class SettingScore(FoldScores):
    """The scores of one setting over its fits."""

    settings: HeadSettings

    def as_dict(self) -> dict[str, Any]:
        """Return the object of `sweep --json`: NaN as null."""
        return {**super().as_dict(), "settings": plain_settings(self.settings)}


@dataclass(frozen=True)
class Factor:
    """A factor that was varied: its settings in order, and the chosen one, the best."""

    name: str
    settings: tuple[int, ...]
    chosen: int
    reason: str = ""
    """Always empty; it was the reason for a choice that is not the best."""


@dataclass(frozen=True)
class SweepResult:
    """The result of `sweep`.

    Attributes:
        settings: best first.
        factors: in the order varied; a single one for a grid or guided search.
        fits: every single fit.
        comparisons: pairs within a factor.
        varied: the fields with several alternatives.
        chosen: the best setting.
        default: the scores of plain `train` on the same folds.
        recommended: `default` or `chosen`: what `command` trains with, the better on the folds.
        default_comparison: plain `train` against the chosen setting.
        total: number of fits planned.
        interrupted: whether Ctrl-C ended it early.
        command: the `tailorbird train` command to use.
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
    default: FoldScores
    default_fits: tuple[FitScore, ...]
    recommended: Literal["default", "chosen"]
    default_comparison: PairedTest

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
            "default": {
                key: value
                for key, value in self.default.as_dict().items()
                if key not in ("number", "name", "pruned")
            },
            "recommended": self.recommended,
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
        """Return every fit as a flat row for a CSV: setting, round, fold and scores.

        Plain `train` has the setting `default`.
        """
        settings = {score.number: plain_settings(score.settings) for score in self.settings}
        blank = dict.fromkeys(next(iter(settings.values())), "")
        settings[DEFAULT_RECIPE] = {**blank, "inner": ()}
        rows = []
        for fit in (*self.fits, *self.default_fits):
            values = {
                **settings[fit.setting],
                "inner": "x".join(map(str, settings[fit.setting]["inner"])) or "0",
            }
            if fit.setting == DEFAULT_RECIPE:
                values["inner"] = ""
            rows.append(
                {
                    "setting": "default" if fit.setting == DEFAULT_RECIPE else fit.setting,
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
    return SettingScore(
        number=number, settings=settings, name=name, pruned=pruned, **_means_of(fits)
    )


def summarise_default(fits: Sequence[FitScore]) -> FoldScores:
    """Return mean and spread over the fits of plain `train`."""
    return FoldScores(number=DEFAULT_RECIPE, name="plain train", **_means_of(fits))


def _means_of(fits: Sequence[FitScore]) -> dict[str, Any]:
    good = [fit for fit in fits if fit.failure is None]

    def mean_and_spread(values: list[float]) -> tuple[float, float]:
        spread = float(np.std(values, ddof=1)) if len(values) > 1 else math.nan
        return float(np.mean(values)) if values else math.nan, spread

    accuracy, accuracy_spread = mean_and_spread([fit.accuracy for fit in good])
    loss, loss_spread = mean_and_spread([fit.log_loss for fit in good])
    return {
        "fits": len(fits),
        "accuracy": accuracy,
        "accuracy_spread": accuracy_spread,
        "log_loss": loss,
        "log_loss_spread": loss_spread,
        "seconds": float(np.mean([fit.seconds for fit in good])) if good else math.nan,
        "failed": len(fits) - len(good),
    }


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
