"""Intervals and tail probabilities of the binomial and of Student's t distribution."""

from __future__ import annotations

import math

import numpy as np


def wilson_interval(hits: int, n: int, z: float = 1.959964) -> tuple[float, float]:
    """Return Wilson's score interval of a proportion; z = 1.96 gives 95%.

    E. B. Wilson, JASA 22, 1927. (0, 1) where n is 0.
    """
    if n == 0:
        return (0.0, 1.0)
    p, zz = hits / n, z * z
    centre = (p + zz / (2 * n)) / (1 + zz / n)
    half = z / (1 + zz / n) * math.sqrt(p * (1 - p) / n + zz / (4 * n * n))
    return (max(0.0, centre - half), min(1.0, centre + half))


FEW_WIDTH = 0.1
"""With a wider interval of an accuracy, the photos are too few to state it."""


def too_few(interval: tuple[float, float]) -> bool:
    """Return whether the photos behind an interval are too few to state one accuracy."""
    return interval[1] - interval[0] > FEW_WIDTH


def fair_coin_cdf(k: int, n: int) -> float:
    """Return P(X <= k) of a binomial X with n trials of probability 1/2, 0 <= k <= n."""
    trials = np.arange(1, k + 1)
    logs = np.concatenate([[0.0], np.cumsum(np.log((n - trials + 1) / trials))])
    return float(min(1.0, np.exp(logs - n * math.log(2)).sum()))


def student_t_tail(t: float, degrees: int) -> float:
    """Return P(T > t), t >= 0, of Student's t distribution with `degrees` degrees of freedom.

    Half the regularised incomplete beta function I_x(degrees / 2, 1 / 2), x = degrees / (degrees +
    t^2), by its continued fraction (Abramowitz and Stegun, 26.5.8, 26.7.1).
    """
    a, b = degrees / 2, 0.5
    x = degrees / (degrees + t * t)
    if x <= 0.0:
        return 0.0
    # The fraction converges fast on one side of the mean; the symmetry of I gives the other side.
    if x > (a + 1) / (a + b + 2):
        return 0.5 * (1 - _beta_part(b, a, t * t / (degrees + t * t)))
    return 0.5 * _beta_part(a, b, x)


def _beta_part(a: float, b: float, x: float) -> float:
    """Return I_x(a, b) by its continued fraction (modified Lentz), x at most its mean or so."""
    if x <= 0.0:
        return 0.0
    front = math.exp(
        math.lgamma(a + b) - math.lgamma(a) - math.lgamma(b) + a * math.log(x) + b * math.log1p(-x)
    )
    tiny = 1e-300
    c, d = 1.0, 1 / max(1 - (a + b) * x / (a + 1), tiny)
    result = d
    for m in range(1, 1000):
        even = m * (b - m) * x / ((a + 2 * m - 1) * (a + 2 * m))
        odd = -(a + m) * (a + b + m) * x / ((a + 2 * m) * (a + 2 * m + 1))
        step = 1.0
        for term in (even, odd):
            d = 1 / (1 + term * d or tiny)
            c = 1 + term / c or tiny
            step *= c * d
        result *= step
        if abs(step - 1) < 1e-15:
            break
    return front * result / a


def student_t_quantile(p: float, degrees: int) -> float:
    """Return the t with P(T <= t) = p, 0.5 <= p < 1, found by bisection."""
    low, high = 0.0, 1.0
    while student_t_tail(high, degrees) > 1 - p:
        high *= 2
    while high - low > 1e-14 * high:
        middle = (low + high) / 2
        if not low < middle < high:
            break
        low, high = (middle, high) if student_t_tail(middle, degrees) > 1 - p else (low, middle)
    return (low + high) / 2


def binomial_tail(hits: int, n: int, p: float) -> float:
    """Return P(X >= hits) of a binomial X with n trials of probability p, 0 <= hits <= n.

    The n - hits + 1 terms are summed by their misses, which are few where this is used.
    """
    if hits <= 0 or p >= 1.0:
        return 1.0
    if p <= 0.0:
        return 0.0
    misses = np.arange(1, n - hits + 1)
    steps = np.log((n - misses + 1) / misses) + math.log1p(-p) - math.log(p)
    logs = np.concatenate([[0.0], np.cumsum(steps)]) + n * math.log(p)
    return float(min(1.0, np.exp(logs).sum()))


def lower_bound(hits: int, n: int, level: float) -> float:
    """Return the one-sided lower confidence bound of a proportion at 1 - level; 0 where n is 0.

    It is the p at which P(X >= hits) is `level` (C. J. Clopper and E. S. Pearson, Biometrika 26,
    1934), found by bisection.
    """
    if n == 0 or hits <= 0:
        return 0.0
    low, high = 0.0, 1.0
    for _ in range(50):
        middle = (low + high) / 2
        low, high = (middle, high) if binomial_tail(hits, n, middle) <= level else (low, middle)
    return low
