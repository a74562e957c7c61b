"""What a sweep found: every fit, a score with its spread for each setting, and which differences are more than chance."""

from __future__ import annotations

import csv
import io
import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from tailorbird.experiments.comparison import Comparison
from tailorbird.experiments.plan import Metric
from tailorbird.experiments.runs import FitScore
from tailorbird.files import write_text
from tailorbird.head import HeadSettings


@dataclass(frozen=True)
class SettingScore:
    """One setting over its fits.

    accuracy: mean, 0 to 1. log_loss: mean, nats. The spreads are standard deviations over folds and seeds. Scores are NaN where
    there is no fit. failed: fits that diverged. pruned: it was given up early.
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
    """Mean of a fit, on one core."""
    failed: int = 0
    pruned: bool = False

    def merit(self, metric: Metric) -> float:
        """The score by which settings are ranked, higher is better; minus infinity without one, or where a fit diverged."""
        value = self.accuracy if metric == "accuracy" else -self.log_loss
        return -math.inf if math.isnan(value) or self.failed else value

    def as_dict(self) -> dict[str, Any]:
        """As in `sweep --json`: NaN as null."""
        plain = {**asdict(self), "settings": plain_settings(self.settings)}
        return {
            key: None if isinstance(value, float) and math.isnan(value) else value
            for key, value in plain.items()
        }


@dataclass(frozen=True)
class Factor:
    """One thing that was varied: the numbers of its settings in the order given, the one carried on, and why if not the best."""

    name: str
    settings: tuple[int, ...]
    chosen: int
    reason: str = ""


@dataclass(frozen=True)
class SweepResult:
    """What `sweep` found.

    settings: best first. factors: in the order varied; for a grid or guided search a single one. fits: every single fit.
    comparisons: pairs within a factor. varied: the fields with several alternatives. chosen: the setting to train with.
    total: how many fits were planned. interrupted: Ctrl-C ended it early. command: the `tailorbird train` line that uses the choice.
    """

    source: str
    backbone: str
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
    comparisons: tuple[Comparison, ...]
    varied: tuple[str, ...]
    chosen: SettingScore
    total: int
    interrupted: bool
    seconds: float
    command: str

    def setting(self, number: int) -> SettingScore:
        """The setting of this number."""
        return next(score for score in self.settings if score.number == number)

    def comparison(self, first: int, second: int) -> Comparison | None:
        """The comparison of two settings, whichever way round; None where they were not compared."""
        return next((c for c in self.comparisons if {c.first, c.second} == {first, second}), None)

    def as_dict(self) -> dict[str, Any]:
        """The object of `sweep --json`."""
        return {
            "source": self.source,
            "backbone": self.backbone,
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
        text = io.StringIO(newline="")
        writer = csv.DictWriter(text, list(rows[0]), lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)
        write_text(path, text.getvalue())

    def fit_rows(self) -> list[dict[str, Any]]:
        """Every single fit as a flat row, for a CSV: its setting, seed, fold and scores."""
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
    """Settings as JSON has them."""
    return {**asdict(settings), "inner": list(settings.inner)}


def summarise(
    number: int,
    settings: HeadSettings,
    name: str,
    fits: Sequence[FitScore],
    *,
    pruned: bool = False,
) -> SettingScore:
    """Mean and spread over the fits of one setting."""
    good = [fit for fit in fits if fit.failure is None]

    def mean_and_spread(values: list[float]) -> tuple[float, float]:
        if not values:
            return math.nan, math.nan
        return float(np.mean(values)), float(np.std(values, ddof=1)) if len(
            values
        ) > 1 else math.nan

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
    """Partition -> score, higher is better, of the fits that did not fail."""
    return {
        fit.partition: fit.accuracy if metric == "accuracy" else -fit.log_loss
        for fit in fits
        if fit.failure is None
    }


def best_first(scores: Mapping[int, SettingScore], metric: Metric) -> tuple[SettingScore, ...]:
    """Best first; pruned and failed ones last, equal ones in the order planned."""
    return tuple(
        sorted(
            scores.values(), key=lambda score: (score.pruned, -score.merit(metric), score.number)
        )
    )
