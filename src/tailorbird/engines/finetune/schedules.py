"""The learning rate in the course of a stage: constant, cosine or on a plateau, each after a warm-up."""

from __future__ import annotations

import math
from dataclasses import dataclass

from tailorbird.engines.finetune.settings import Schedule

PLATEAU_FACTOR = 0.3
PLATEAU_PATIENCE = 1
"""Epochs in a row without a lower validation log-loss before the rate falls; with few epochs there is no time for more."""
PLATEAU_LEAST = 1e-3
"""The rate never falls below this share of the first."""


@dataclass(frozen=True)
class Plateau:
    """What the plateau schedule remembers: the factor on the rate, the lowest score so far, epochs since."""

    factor: float = 1.0
    best: float | None = None
    waited: int = 0

    def after(self, score: float) -> Plateau:
        """Once more told a validation log-loss, lower is better."""
        if self.best is None or score < self.best:
            return Plateau(self.factor, score, 0)
        if self.waited + 1 <= PLATEAU_PATIENCE:
            return Plateau(self.factor, self.best, self.waited + 1)
        return Plateau(max(PLATEAU_LEAST, self.factor * PLATEAU_FACTOR), self.best, 0)


def progress(steps: int, total: int, seconds: float = 0.0, budget: float | None = None) -> float:
    """How far a stage is at the middle of its next step, 0 to 1: by its steps, or by its time where that is further."""
    share = (steps + 0.5) / max(1, total)
    if budget is not None:
        share = max(share, seconds / budget if budget > 0 else 1.0)
    return min(1.0, share)


def factor(schedule: Schedule, at: float, *, warm_up: float = 0.0, plateau: float = 1.0) -> float:
    """The share of the stage's learning rate at progress `at`, 0 to 1.

    cosine: without restarts within a stage (Loshchilov and Hutter 2017), from 1 at the warm-up's end to 0 at the stage's end.
    plateau: `plateau`, the factor that `Plateau` has come to. During the warm-up the share rises in a line from 0.
    """
    if at < warm_up:
        rising = at / warm_up
        return rising * (plateau if schedule == "plateau" else 1.0)
    if schedule == "constant":
        return 1.0
    if schedule == "plateau":
        return plateau
    return 0.5 * (1 + math.cos(math.pi * (at - warm_up) / (1 - warm_up)))
