"""Choose the confidence threshold below which a model reports that it is unsure."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from tailorbird.metrics.calibration import Labels, Probabilities

FEWEST_ANSWERS = 10
"""Minimum number of answers above a threshold for stating their precision."""


@dataclass(frozen=True)
class Threshold:
    """A confidence threshold and what it gave on validation, all 0 to 1.

    Above `value` the answers had `precision`, at `coverage`. `reached` is False when no threshold
    gives the precision `wanted`; `value` is then the one with the best precision. expected: the
    precision by the calibrated probabilities themselves. photos: of validation.
    """

    value: float
    precision: float
    coverage: float
    wanted: float
    reached: bool
    expected: float
    photos: int

    def sentence(self) -> str:
        """Describe the threshold and, where the target was missed, which condition failed."""
        if self.reached:
            return (
                f"Confidence threshold {self.value:.2f}: precision {self.precision:.1%} at "
                "coverage "
                f"{self.coverage:.1%} on validation (target {self.wanted:.1%})."
            )
        if self.photos < FEWEST_ANSWERS:
            reason = (
                f"{self.photos} validation photos are too few, at least {FEWEST_ANSWERS} are needed"
            )
        elif self.precision >= self.wanted:
            reason = (
                f"measured precision is {self.precision:.1%}, but the calibrated probabilities of "
                f"the same answers expect only {self.expected:.1%}"
            )
        else:
            reason = f"the highest is {self.precision:.1%}, at coverage {self.coverage:.1%}"
        return (
            f"No confidence threshold reaches a precision of {self.wanted:.1%} on validation: "
            f"{reason}. The threshold is {self.value:.2f}."
        )


def choose_threshold(labels: Labels, probabilities: Probabilities, wanted: float) -> Threshold:
    """Return the lowest threshold above which validation answers have the precision `wanted`.

    Both the measured precision and the mean calibrated probability must reach it: the measured one
    alone, chosen as the best of many thresholds, is too optimistic. Fewer than `FEWEST_ANSWERS`
    answers never reach a precision.
    """
    order = np.argsort(-probabilities.max(axis=1), kind="stable")
    confidence = probabilities.max(axis=1)[order].astype(float)
    counts = np.arange(1, len(order) + 1)
    precision = np.cumsum((probabilities.argmax(axis=1) == labels)[order]) / counts
    expected = np.cumsum(confidence) / counts
    # No threshold lies between equal confidences: at run time they are on the same side.
    cut = np.append(confidence[1:] < confidence[:-1], True)
    enough = counts >= FEWEST_ANSWERS
    good = np.flatnonzero(cut & enough & (precision >= wanted) & (expected >= wanted))
    reached = len(good) > 0
    allowed = cut & (counts >= min(FEWEST_ANSWERS, len(order)))
    last = int(good[-1]) if reached else int(np.flatnonzero(allowed)[np.argmax(precision[allowed])])
    value = float(confidence[last : last + 2].mean())
    if last + 1 == len(order):
        value = 0.0 if reached else float(confidence[-1])
    return Threshold(
        value=value,
        precision=float(precision[last]),
        coverage=(last + 1) / len(order),
        wanted=wanted,
        reached=reached,
        expected=float(expected[last]),
        photos=len(order),
    )
