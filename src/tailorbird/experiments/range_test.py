"""The learning-rate finder: raise the rate step by step, watch the loss, stop when it explodes."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tailorbird import parallel
from tailorbird.backbone.catalogue import SHIPPED
from tailorbird.errors import SettingsError, TrainingError
from tailorbird.experiments.photos import Photos, read_photos
from tailorbird.experiments.plan import START, train_command
from tailorbird.experiments.results import plain_settings
from tailorbird.head import HeadSettings
from tailorbird.head.fit import Data, batches, one_blas_thread, prepare, start_run, train_step
from tailorbird.progress import Progress

LOWEST, HIGHEST = 1e-6, 10.0
STEPS = 100
"""As many as fastai takes: with more of them the network is trained before the interesting rates come."""
SMOOTHING = 0.9
DIVERGED = 4.0
"""The test ends when the smoothed loss is this many times its lowest, as in fastai."""


@dataclass(frozen=True)
class RateFinding:
    """What a learning-rate range test found.

    rates: the S rates that every seed reached. losses: mean smoothed training loss over seeds, nats with the L2 penalty.
    spread: its standard deviation over seeds. by_seed: what each seed alone would suggest. lowest_loss, steepest: the rates
    where the loss is lowest and where it falls fastest. suggestion: a tenth of lowest_loss, to two digits.
    warning: why the suggestion is not to be trusted, else None.
    """

    source: str
    backbone: str
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
        """The object of `find-lr --json`."""
        return {
            "source": self.source,
            "backbone": self.backbone,
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
    photos: str | Path | Photos,
    *,
    fixed: Mapping[str, Any] | None = None,
    lowest: float = LOWEST,
    highest: float = HIGHEST,
    steps: int = STEPS,
    seeds: int = 5,
    seed: int = 0,
    backbone: str | Path = SHIPPED,
    workers: int | None = None,
    progress: Progress | None = None,
) -> RateFinding:
    """Suggest a learning rate by a range test (Smith 2017, "Cyclical learning rates for training neural networks").

    One training run in which the rate grows by a constant factor each step, from `lowest` to `highest`; the loss falls once
    the rate is large enough to learn, and explodes once it is too large. The suggestion is one tenth of the rate with the lowest
    smoothed loss, fastai's rule of old. The other common rule, where the loss falls most steeply, is reported too, but rests on the
    slope of a noisy line: on the clothing photos it moved threefold with the smoothing. Only photos of the
    training split are used.

    Args:
        photos: class folders, split/class folders, a CSV, or what `read_photos` gave.
        fixed: fields of HeadSettings: inner, dropout, l2, batch_size, ...; by default a single dense layer.
        lowest: first learning rate, above 0.
        highest: last learning rate, above `lowest`.
        steps: of the test, each one batch, 20 to 10000.
        seeds: runs that are averaged, 1 to 100.
        seed: of the split and the runs.
        backbone: a name at hand or an .onnx file; not used where `photos` are Photos.
        workers: runs at the same time, by default one a core.
        progress: receives the stages of reading photos.

    Raises:
        SettingsError: options outside their range.
        DatasetError: nothing to learn from.
    """
    settings = _settings(fixed)
    _check(lowest, highest, steps, seeds, seed)
    known = (
        photos
        if isinstance(photos, Photos)
        else read_photos(
            photos, backbone=backbone, views=settings.views, seed=seed, progress=progress
        )
    )
    train, held = np.flatnonzero(~known.validation), np.flatnonzero(known.validation)
    if not len(held):
        held = train[:1]
    data = prepare(
        known.features[:, train],
        known.labels[train],
        known.features[0, held],
        known.labels[held],
        len(known.classes),
    )
    rates = np.geomspace(lowest, highest, steps)
    with one_blas_thread():
        curves = list(
            parallel.ordered(
                lambda run: _smoothed(data, settings, rates, (seed, run)),
                range(seeds),
                workers=workers,
            )
        )
    shortest = min(map(len, curves))
    reached = np.stack([curve[:shortest] for curve in curves])
    losses = reached.mean(axis=0)
    lowest_loss, steepest = _landmarks(rates, losses)
    by_seed = tuple(_two_digits(_landmarks(rates, curve)[0] / 10) for curve in curves)
    suggestion = _two_digits(lowest_loss / 10)
    return RateFinding(
        source=known.source,
        backbone=known.backbone,
        settings=replace(settings, learning_rate=suggestion, schedule="cosine"),
        rates=tuple(map(float, rates[:shortest])),
        losses=tuple(map(float, losses)),
        spread=tuple(map(float, reached.std(axis=0, ddof=1) if seeds > 1 else np.zeros(shortest))),
        by_seed=by_seed,
        lowest_loss=lowest_loss,
        steepest=steepest,
        suggestion=suggestion,
        warning=_warning(losses, by_seed),
        photos=len(train),
        seeds=seeds,
        seed=seed,
        command=train_command(
            known, replace(settings, learning_rate=suggestion), list(fixed or {})
        ),
    )


def _settings(fixed: Mapping[str, Any] | None) -> HeadSettings:
    values = {**START, **(fixed or {})}
    for name in ("learning_rate", "schedule", "epochs", "patience"):
        if name in (fixed or {}):
            raise SettingsError(
                f"{name} cannot be fixed: the range test sets its own learning rates and steps"
            )
    try:
        return HeadSettings(**{**values, "schedule": "constant"})
    except TypeError:
        from dataclasses import fields

        known = [field.name for field in fields(HeadSettings)]
        unknown = sorted(set(values) - set(known))
        raise SettingsError(
            f"the head has no setting {', '.join(unknown)}; it has {', '.join(known)}"
        ) from None


def _check(lowest: float, highest: float, steps: int, seeds: int, seed: int) -> None:
    problems = []
    if not (0 < lowest < highest < math.inf):
        problems.append(
            f"the learning rates run from {lowest:g} to {highest:g}, but must rise from above 0"
        )
    if not 20 <= steps <= 10_000:
        problems.append(f"steps is {steps}, but must be from 20 to 10000")
    if not 1 <= seeds <= 100:
        problems.append(f"seeds is {seeds}, but must be from 1 to 100")
    if not 0 <= seed < 2**32:
        problems.append(f"seed is {seed}; it must be between 0 and 4294967295")
    if problems:
        raise SettingsError("; ".join(problems))


def _smoothed(
    data: Data, settings: HeadSettings, rates: NDArray[np.float64], seed: tuple[int, int]
) -> NDArray[np.float64]:
    """The smoothed loss after each step, until it explodes: (S,), at most as long as the rates."""
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
        smooth = average / (
            1 - SMOOTHING ** (step + 1)
        )  # as Adam does, or the start would count as zero
        if not math.isfinite(smooth) or smooth > DIVERGED * best:
            break
        best = min(best, smooth)
        losses.append(smooth)
    if not losses:
        raise TrainingError(
            f"the very first loss, at learning rate {rates[0]:g}, is not finite: the features hold infinite or missing values, "
            "so the backbone or its cache is at fault"
        )
    return np.array(losses)


def _landmarks(rates: NDArray[np.float64], losses: NDArray[np.float64]) -> tuple[float, float]:
    """The rate with the lowest loss, and that below it where the loss falls fastest per factor of the rate."""
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
        return "the loss hardly falls at any rate: begin lower, or look whether the labels fit the photos"
    if lowest == len(losses) - 1:
        return "the loss still falls at the last rate: end higher"
    if max(by_seed) > 10 * min(by_seed):
        return "the seeds disagree more than tenfold: average more of them"
    return None
