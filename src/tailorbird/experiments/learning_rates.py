"""Find a learning rate: raise it step by step and see where the loss is lowest."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tailorbird import parallel
from tailorbird.errors import TrainingError
from tailorbird.experiments.alternatives import START, train_command
from tailorbird.experiments.data import (
    ExperimentData,
    ExperimentSettings,
    given_or_read,
    head_settings,
)
from tailorbird.experiments.sweep_results import plain_settings
from tailorbird.head import HeadSettings
from tailorbird.head.fit import Data, batches, prepare, start_run, train_step
from tailorbird.parallel import one_blas_thread
from tailorbird.progress import Progress
from tailorbird.validation import Problems, merge

LOWEST, HIGHEST = 1e-6, 10.0
STEPS = 100
"""The default of fastai: with more steps the network is trained before the interesting rates."""
SMOOTHING = 0.9
DIVERGED = 4.0
"""The test ends when the smoothed loss is this many times its lowest, as in fastai."""


@dataclass(frozen=True)
class RangeTestSettings(ExperimentSettings):
    """How a learning rate is searched. Further attributes: see ExperimentSettings.

    Attributes:
        fixed: fields of HeadSettings such as inner, dropout, l2 and batch_size; by default a single
            dense layer.
        lowest, highest: first and last learning rate, above 0 and rising.
        steps: of the test, one batch each, 20 to 10000.
        seeds: runs that are averaged, 1 to 100.
    """

    fixed: Mapping[str, Any] | None = None
    lowest: float = LOWEST
    highest: float = HIGHEST
    steps: int = STEPS
    seeds: int = 5

    def check(self, problems: Problems) -> None:
        """Add the problems of these settings."""
        for name in ("learning_rate", "schedule", "epochs", "patience"):
            problems.need(
                name not in (self.fixed or {}),
                f"{name} cannot be fixed: the range test sets its own learning rates and steps",
            )
        problems.attempt(partial(head_settings, self.fixed or {}))
        problems.need(
            0 < self.lowest < self.highest < math.inf,
            f"the learning rates run from {self.lowest:g} to {self.highest:g}; they must rise, "
            "from above 0",
        )
        problems.whole("steps", self.steps, 20, 10_000)
        problems.whole("seeds", self.seeds, 1, 100)


@dataclass(frozen=True)
class RateFinding:
    """The result of a learning-rate range test.

    Attributes:
        rates: the S rates that every seed reached.
        losses: smoothed training loss, mean over seeds, in nats with the L2 penalty.
        spread: its standard deviation over seeds.
        by_seed: what each seed alone would suggest.
        lowest_loss, steepest: rates where the loss is lowest, and where it falls fastest.
        suggestion: a tenth of lowest_loss, to two digits.
        warning: why the suggestion is not to be trusted, else None.
        command: the `tailorbird train` command with the suggestion.
    """

    source: str
    backbone: str
    mirror: bool
    settings: HeadSettings
    rates: tuple[float, ...]
    losses: tuple[float, ...]
    spread: tuple[float, ...]
    by_seed: tuple[float, ...]
    lowest_loss: float
    steepest: float
    suggestion: float
    warning: str | None
    photos: int
    seeds: int
    seed: int
    command: str

    def as_dict(self) -> dict[str, Any]:
        """Return the object of `find-lr --json`."""
        return {
            "source": self.source,
            "backbone": self.backbone,
            "mirror": self.mirror,
            "photos": self.photos,
            "seeds": self.seeds,
            "seed": self.seed,
            "suggestion": self.suggestion,
            "suggestion_by_seed": list(self.by_seed),
            "lowest_loss": self.lowest_loss,
            "steepest": self.steepest,
            "warning": self.warning,
            "settings": plain_settings(self.settings),
            "curve": [
                {"learning_rate": rate, "loss": loss, "spread": spread}
                for rate, loss, spread in zip(self.rates, self.losses, self.spread, strict=True)
            ],
            "command": self.command,
        }


def find_learning_rate(
    photos: str | Path | ExperimentData,
    settings: RangeTestSettings | None = None,
    *,
    progress: Progress | None = None,
    **options: Any,
) -> RateFinding:
    """Suggest a learning rate by a range test.

    In one training run the rate grows by a constant factor per step (Smith 2017, "Cyclical learning
    rates for training neural networks"). The loss falls once the rate is large enough to learn, and
    diverges once it is too large. The suggestion is a tenth of the rate with the lowest smoothed
    loss, a former rule of fastai. The other common rule, where the loss falls most steeply, is
    reported too, but depends on the slope of a noisy curve: on photos of clothes it moved threefold
    with the smoothing. Only photos of the training split are used.

    Args:
        photos: class folders, split/class folders, a CSV, or what `read_data` returned.
        settings: rates, steps, head and so on; None: the defaults.
        progress: receives the stages of reading photos.
        options: fields of RangeTestSettings, in place of those in `settings`.

    Raises:
        SettingsError: invalid settings.
        DatasetError: too few photos or classes.
    """
    settings = merge(RangeTestSettings, settings, options, "find_learning_rate")
    fixed = settings.fixed or {}
    head = head_settings({**START, **fixed, "schedule": "constant"})
    known = given_or_read(photos, settings, head.views, progress)
    data = _training_data(known)
    rates = np.geomspace(settings.lowest, settings.highest, settings.steps)
    with one_blas_thread():
        curves = list(
            parallel.ordered(
                lambda run: _smoothed(data, head, rates, (settings.seed, run)),
                range(settings.seeds),
                workers=settings.workers,
            )
        )
    shortest = min(map(len, curves))
    reached = np.stack([curve[:shortest] for curve in curves])
    losses = reached.mean(axis=0)
    lowest_loss, steepest = _landmarks(rates, losses)
    by_seed = tuple(_two_digits(_landmarks(rates, curve)[0] / 10) for curve in curves)
    suggestion = _two_digits(lowest_loss / 10)
    spread = reached.std(axis=0, ddof=1) if settings.seeds > 1 else np.zeros(shortest)
    return RateFinding(
        source=known.source,
        backbone=known.backbone,
        mirror=known.mirror,
        settings=replace(head, learning_rate=suggestion, schedule="cosine"),
        rates=tuple(map(float, rates[:shortest])),
        losses=tuple(map(float, losses)),
        spread=tuple(map(float, spread)),
        by_seed=by_seed,
        lowest_loss=lowest_loss,
        steepest=steepest,
        suggestion=suggestion,
        warning=_warning(losses, by_seed),
        photos=len(data.labels),
        seeds=settings.seeds,
        seed=settings.seed,
        command=train_command(known, replace(head, learning_rate=suggestion), list(fixed)),
    )


def _training_data(known: ExperimentData) -> Data:
    """Return the photos of the training split; others are needed for validation, but not used."""
    train, held = np.flatnonzero(~known.validation), np.flatnonzero(known.validation)
    if not len(held):
        held = train[:1]
    return prepare(
        known.features[:, train],
        known.labels[train],
        known.features[0, held],
        known.labels[held],
        len(known.classes),
    )


def _smoothed(
    data: Data, settings: HeadSettings, rates: NDArray[np.float64], seed: tuple[int, int]
) -> NDArray[np.float64]:
    """Return the smoothed loss after each step until it diverges, (S,)."""
    run = start_run(data, settings, seed)
    views, samples, width = data.features.shape
    rows = data.features.reshape(views * samples, width)
    parts = batches(samples, settings.batch_size)
    order = np.empty(0, np.int64)
    losses: list[float] = []
    average, best = 0.0, math.inf
    for step, rate in enumerate(rates):
        if step % len(parts) == 0:
            order = run.generator.permutation(samples)
        picked = order[parts[step % len(parts)]]
        view = run.generator.integers(settings.views, size=len(picked)) if settings.views > 1 else 0
        run.settings = replace(settings, learning_rate=float(rate))
        loss, _ = train_step(run, rows[picked + samples * view], data.labels[picked])
        average = SMOOTHING * average + (1 - SMOOTHING) * loss
        smooth = average / (1 - SMOOTHING ** (step + 1))  # bias correction, as in Adam
        if not math.isfinite(smooth) or smooth > DIVERGED * best:
            break
        best = min(best, smooth)
        losses.append(smooth)
    if not losses:
        raise TrainingError(
            f"the first loss, at learning rate {rates[0]:g}, is not finite: features are infinite "
            "or missing, so the backbone or the feature cache is damaged"
        )
    return np.array(losses)


def _landmarks(rates: NDArray[np.float64], losses: NDArray[np.float64]) -> tuple[float, float]:
    """Return the rate with the lowest loss, and the one below it where the loss falls fastest."""
    lowest = int(np.argmin(losses))
    if lowest < 2:
        return float(rates[lowest]), float(rates[0])
    slope = np.gradient(losses[: lowest + 1], np.log(rates[: lowest + 1]))
    return float(rates[lowest]), float(rates[int(np.argmin(slope))])


def _two_digits(value: float) -> float:
    return float(f"{value:.2g}")


def _warning(losses: NDArray[np.float64], by_seed: tuple[float, ...]) -> str | None:
    lowest = int(np.argmin(losses))
    if losses[lowest] > 0.98 * losses[0]:
        return "the loss hardly falls at any rate: begin lower, or check the labels"
    if lowest == len(losses) - 1:
        return "the loss still falls at the last rate: end higher"
    if max(by_seed) > 10 * min(by_seed):
        return "the seeds disagree more than tenfold: average more of them"
    return None
