"""Paired statistics of two classifiers A and B on the same N photos.

Counts: `both` photos that both classify correctly, `only_a` and `only_b` those that one alone does,
`neither` the rest. Only the disagreements tell which classifier is better.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, Final, Literal

import numpy as np
import numpy.typing as npt

from tailorbird.metrics.distributions import fair_coin_cdf, wilson_interval

SIGNIFICANT: Final = 0.05
"""P-value below which a difference is significant."""


def mcnemar(only_a: int, only_b: int) -> float:
    """Return the two-sided p-value of McNemar's exact test that both are equally accurate.

    If they were, each photo that exactly one gets right would be a fair coin toss, so the p-value
    is that of a binomial with n = only_a + only_b (Q. McNemar, Psychometrika 12, 1947; exact form:
    F. Mosteller, Biometrics 8, 1952). The exact form is used at any count. 1 where n is 0.
    """
    n = only_a + only_b
    return min(1.0, 2.0 * fair_coin_cdf(min(only_a, only_b), n)) if n else 1.0


def better(only_a: int, only_b: int) -> Literal["a", "b"] | None:
    """Return which classifier is significantly better by McNemar's test, None if neither is."""
    if mcnemar(only_a, only_b) >= SIGNIFICANT:
        return None
    return "b" if only_b > only_a else "a"


def paired_interval(
    both: int, only_a: int, only_b: int, neither: int, z: float = 1.959964
) -> tuple[float, float]:
    """Return the interval of accuracy B minus accuracy A, -1 to 1; z = 1.96 gives 95%.

    Method 10 of R. G. Newcombe, "Improved confidence intervals for the difference between binomial
    proportions based on paired data", Statistics in Medicine 17, 1998: the Wilson intervals of both
    accuracies, combined under their correlation.
    """
    n = both + only_a + only_b + neither
    if n == 0:
        return (-1.0, 1.0)
    right_a, right_b = both + only_a, both + only_b
    a, b = right_a / n, right_b / n
    low_a, high_a = wilson_interval(right_a, n, z)
    low_b, high_b = wilson_interval(right_b, n, z)
    phi = _phi(both, only_a, only_b, neither)

    def distance(this: float, other: float) -> float:
        return math.sqrt(max(0.0, this * this - 2 * phi * this * other + other * other))

    difference = b - a
    return (
        max(-1.0, difference - distance(b - low_b, high_a - a)),
        min(1.0, difference + distance(high_b - b, a - low_a)),
    )


def _phi(both: int, only_a: int, only_b: int, neither: int) -> float:
    """Return the correlation of correct answers, with Newcombe's continuity correction.

    Only a positive correlation is corrected; 0 where a margin is empty.
    """
    margins = (both + only_a) * (only_b + neither) * (both + only_b) * (only_a + neither)
    if margins == 0:
        return 0.0
    n = both + only_a + only_b + neither
    product = both * neither - only_a * only_b
    corrected = max(product - n / 2, 0.0) if product > 0 else float(product)
    return corrected / math.sqrt(margins)


def mean_interval(
    values: Sequence[float] | npt.NDArray[np.floating[Any]], z: float = 1.959964
) -> tuple[float, float] | None:
    """Return the normal interval of the mean of N paired differences; None for fewer than two."""
    array = np.asarray(values, np.float64)
    if len(array) < 2:
        return None
    mean, half = float(array.mean()), z * float(array.std(ddof=1)) / math.sqrt(len(array))
    return (mean - half, mean + half)
