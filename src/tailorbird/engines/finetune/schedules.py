"""Learning-rate schedules of a stage: constant, cosine or plateau, each after a warm-up."""

from __future__ import annotations

import math
from dataclasses import dataclass

from tailorbird.engines.finetune.settings import Schedule

PLATEAU_FACTOR = 0.3
PLATEAU_PATIENCE = 1
"""Epochs without a lower validation log-loss before the rate falls; few epochs allow no more."""
PLATEAU_LEAST = 1e-3
"""Minimum factor on the initial rate."""


@dataclass(frozen=True)
class Plateau:
    """State of the plateau schedule.

    Attributes:
        factor: factor on the learning rate.
        best: the lowest score so far.
        waited: epochs since then.
    """

    factor: float = 1.0
    best: float | None = None
    waited: int = 0

    def after(self, score: float) -> Plateau:
        """Return the state after one more validation log-loss."""
        if self.best is None or score < self.best:
            return Plateau(self.factor, score, 0)
        if self.waited + 1 <= PLATEAU_PATIENCE:
            return Plateau(self.factor, self.best, self.waited + 1)
        return Plateau(max(PLATEAU_LEAST, self.factor * PLATEAU_FACTOR), self.best, 0)


def progress(steps: int, total: int, seconds: float = 0.0, budget: float | None = None) -> float:
    """Return a stage's progress at the middle of its next step, 0 to 1.

    It is measured by steps, or by time against the budget where that is further.
    """
    share = (steps + 0.5) / max(1, total)
    if budget is not None:
        share = max(share, seconds / budget if budget > 0 else 1.0)
    return min(1.0, share)


def factor(schedule: Schedule, at: float, *, warm_up: float = 0.0, plateau: float = 1.0) -> float:
    """Return the factor on a stage's learning rate.

    cosine goes from 1 at the end of the warm-up to 0 at the end of the stage, without restarts
    (Loshchilov and Hutter 2017). During the warm-up the factor rises linearly from 0.

    Args:
        schedule: constant, cosine or plateau.
        at: progress in the stage, 0 to 1.
        warm_up: share of the stage in which the factor rises.
        plateau: factor of the plateau schedule, `Plateau.factor`.
    """
    if at < warm_up:
        rising = at / warm_up
        return rising * (plateau if schedule == "plateau" else 1.0)
    if schedule == "constant":
        return 1.0
    if schedule == "plateau":
        return plateau
    return 0.5 * (1 + math.cos(math.pi * (at - warm_up) / (1 - warm_up)))
