"""Choose the confidence threshold below which a model reports that it is unsure.

The threshold carries a promise: with `confidence`, at least the share `wanted` of the answers above
it is right on photos like those it was chosen on. Measured precision alone cannot promise that: the
lowest of many thresholds that just reaches it does so partly by chance.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from statistics import NormalDist
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from tailorbird.metrics.calibration import Labels, Probabilities
from tailorbird.metrics.distributions import binomial_tail, lower_bound, wilson_interval
from tailorbird.metrics.scores import of_100

CONFIDENCE: Final = 0.9
"""Share of trainings in which the promise holds at least; see benchmarks/promises.py."""

GRID: Final = np.append(np.arange(100) / 100, (0.995, 0.998, 0.999))
"""The thresholds tested. They are fixed, so that no test depends on where the photos happen to
be."""

MOST_NEEDED: Final = 1_000_000
"""Above so many further photos, none are said to be enough."""


@dataclass(frozen=True)
class Threshold:
    """A confidence threshold and what it gave on the photos it was chosen on, shares 0 to 1.

    Attributes:
        value: the threshold.
        precision: share of the answers above it that were right.
        coverage: share of photos that got an answer.
        wanted: precision to promise.
        reached: whether it can be promised. If not, `value` is the threshold with the highest
            lower bound.
        expected: the precision by the calibrated probabilities themselves.
        photos: number of photos it was chosen on.
        confidence: of the promise.
        bound: lower confidence bound of the precision.
        needed: further photos that would be enough for the promise, as far as can be told; None
            where it is kept, or where no number would be enough.
        crossfitted: the photos are those of train and validation, each judged by heads trained
            without it; otherwise those of validation.
    """

    value: float
    precision: float
    coverage: float
    wanted: float
    reached: bool
    expected: float
    photos: int
    confidence: float = CONFIDENCE
    bound: float = 0.0
    needed: int | None = None
    crossfitted: bool = False

    def as_dict(self) -> dict[str, Any]:
        """Return the object of `train --json` and of a model's metadata."""
        return vars(self).copy()

    def sentence(self) -> str:
        """Say what the threshold gives and promises, or why nothing can be promised."""
        if not self.reached:
            return (
                f"It cannot promise that {_target(self.wanted)} answers are right: "
                f"{self._reason()}. It says 'not sure' below {self.value:.3g}."
            )
        if self.value == 0:
            what = "It answers every photo"
        else:
            what = (
                f"It answers about {of_100(self.coverage)} photos and says 'not sure' to the "
                f"others (below {self.value:.3g})"
            )
        return (
            f"{what}; at least {_target(self.wanted)} answers are right, with "
            f"{self.confidence:.0%} confidence ({self.precision:.1%} on {self._where()})."
        )

    def _where(self) -> str:
        return (
            f"{self.photos:,} photos, each judged by heads that had not seen it"
            if self.crossfitted
            else f"{self.photos:,} validation photos"
        )

    def _reason(self) -> str:
        measured = f"at best {of_100(self.precision)} were, for {of_100(self.coverage)} photos"
        if self.needed is None:
            return (
                f"{measured}, on {self._where()}; more photos, a stronger backbone or a lower "
                "--precision may help"
            )
        kind = "photos" if self.crossfitted else "validation photos"
        return (
            f"{self.photos:,} {kind} are too few to be sure ({measured}); about "
            f"{self.needed:,} more would be enough"
        )


def _target(share: float) -> str:
    """Return 0.95 as `95 of 100`, 0.985 as `98.5 of 100`."""
    return f"{100 * share:.6g} of 100"


def fewest_answers(wanted: float, confidence: float = CONFIDENCE) -> int:
    """Return the number of answers, all of them right, that can promise a precision.

    wanted ** n must be at most 1 - confidence: 45 answers for 0.95 at 90%.
    """
    if wanted >= 1:
        return MOST_NEEDED
    return math.ceil(math.log(1 - confidence) / math.log(wanted) - 1e-9)


@dataclass(frozen=True)
class _Table:
    """Counts above each of the T thresholds of GRID, from photos that have answers there.

    answers, hits: int64 (T,). expected: float64 (T,), hits by the calibrated probabilities.
    """

    answers: npt.NDArray[np.int64]
    hits: npt.NDArray[np.int64]
    expected: npt.NDArray[np.float64]


def _count(labels: Labels, probabilities: Probabilities) -> _Table:
    """Return the table of N photos; N may be 0."""
    confidence = probabilities.max(axis=1).astype(np.float64)
    order = np.argsort(confidence, kind="stable")
    first = np.searchsorted(confidence[order], GRID, side="left")
    hit = (probabilities.argmax(axis=1) == labels)[order]

    def above(values: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
        sums = np.append(np.cumsum(values[::-1])[::-1], 0.0)
        return sums[first]

    hits = above(hit.astype(np.float64)).round().astype(np.int64)
    return _Table(len(order) - first, hits, above(confidence[order]))


def choose_threshold(
    labels: Labels,
    probabilities: Probabilities,
    wanted: float,
    *,
    confidence: float = CONFIDENCE,
    crossfitted: bool = False,
    refused: npt.NDArray[np.bool_] | None = None,
) -> Threshold:
    """Return the lowest threshold at which a precision can be promised.

    Fixed-sequence testing of Learn then Test (A. N. Angelopoulos, S. Bates, E. J. Candes, M. I.
    Jordan and L. Lei, arXiv:2110.01052, 2021) over GRID: the hypothesis that the precision above a
    threshold is below `wanted` is tested by the exact binomial tail of the hits among the n answers
    there, at the level 1 - confidence (as in the bound of C. J. Clopper and E. S. Pearson,
    Biometrika 26, 1934). The first test is where the calibrated probabilities, without looking at
    the labels, expect the clearest result; then thresholds are lowered until a test fails. Since
    each is tested at the full level and only after the one before it, choosing among them does not
    weaken the promise.

    Args:
        labels: int64 (N,), of photos that the model was not trained on.
        probabilities: float (N, C), calibrated.
        wanted: precision to promise, 0.5 to 1.
        confidence: of the promise, above 0 and below 1.
        crossfitted: recorded in the result.
        refused: bool (N,), photos that get no answer whatever their probability; None: none.
    """
    photos = len(labels)
    if refused is not None:
        labels, probabilities = labels[~refused], probabilities[~refused]
    table, level = _count(labels, probabilities), 1 - confidence
    at = _start(table, wanted)
    passed = _passes(table, at, wanted, level)
    if passed:
        while at > 0 and _passes(table, at - 1, wanted, level):
            at -= 1
    else:
        at = _best_bound(table, level)
    answers, hits = int(table.answers[at]), int(table.hits[at])
    value = float(GRID[at])
    if passed and answers == len(labels):
        value = 0.0
    return Threshold(
        value=value,
        precision=hits / max(1, answers),
        coverage=answers / max(1, photos),
        wanted=wanted,
        reached=passed,
        expected=float(table.expected[at] / max(1, answers)),
        photos=photos,
        confidence=confidence,
        bound=lower_bound(hits, answers, level),
        needed=None if passed else _needed(table, photos, wanted, confidence),
        crossfitted=crossfitted,
    )


def _start(table: _Table, wanted: float) -> int:
    """Return where the calibrated probabilities expect the precision to be most clearly reached."""
    surplus = table.expected - wanted * table.answers
    return int(np.argmax(surplus / np.sqrt(np.maximum(1, table.answers))))


def _passes(table: _Table, at: int, wanted: float, level: float) -> bool:
    hits, answers = int(table.hits[at]), int(table.answers[at])
    return answers > 0 and binomial_tail(hits, answers, wanted) <= level


def _best_bound(table: _Table, level: float) -> int:
    z = NormalDist().inv_cdf(1 - level)
    bounds = [
        wilson_interval(int(hits), int(answers), z)[0]
        for hits, answers in zip(table.hits, table.answers, strict=True)
    ]
    # The highest of equal ones: without a promise, rather be unsure too often.
    return len(bounds) - 1 - int(np.argmax(bounds[::-1]))


def _needed(table: _Table, photos: int, wanted: float, confidence: float) -> int | None:
    """Return about how many further photos would be enough if answers stay as right as they are.

    As right as the calibrated probabilities expect and as was measured, whichever is lower, at the
    threshold where the fewest photos are enough. The number of answers follows from the normal
    approximation of the test, and is at least `fewest_answers`.
    """
    answers = np.maximum(1, table.answers)
    surplus = np.minimum(table.hits, table.expected) / answers - wanted
    z = NormalDist().inv_cdf(confidence)
    with np.errstate(divide="ignore"):
        enough = np.where(
            surplus > 0, wanted * (1 - wanted) * (z / np.maximum(surplus, 1e-9)) ** 2, np.inf
        )
    enough = np.maximum(enough, fewest_answers(wanted, confidence))
    # A threshold that would pass alone was not tested, because the first test failed by chance.
    enough = np.where(enough > table.answers, enough, np.inf)
    more = float((enough * photos / answers).min()) - photos
    if not more <= MOST_NEEDED:
        return None
    step = int(10 ** max(0, len(str(max(1, math.ceil(more)))) - 2))
    return max(1, math.ceil(more / step) * step)
