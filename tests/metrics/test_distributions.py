"""Intervals and tails against published values and SciPy."""

from __future__ import annotations

import pytest
from scipy import stats

from tailorbird.metrics.distributions import (
    fair_coin_cdf,
    student_t_quantile,
    student_t_tail,
    wilson_interval,
)


def test_wilson_interval_against_published_values() -> None:
    # Newcombe, Statistics in Medicine 17 (1998), table I, method 3: 81/263, 15/148, 0/20, 1/29.
    for hits, n, low, high in [
        (81, 263, 0.2553, 0.3662),
        (15, 148, 0.0624, 0.1605),
        (0, 20, 0.0, 0.1611),
        (1, 29, 0.0061, 0.1718),
    ]:
        assert wilson_interval(hits, n) == pytest.approx((low, high), abs=5e-5)
    assert wilson_interval(0, 0) == (0.0, 1.0)


@pytest.mark.parametrize("degrees", [1, 2, 3, 4, 9, 14, 49, 199, 1000])
def test_student_t_agrees_with_scipy(degrees: int) -> None:
    for t in (0, 1e-3, 0.1, 0.5, 1, 2, 5, 20, 100, 1e4):
        expected = float(stats.t.sf(t, degrees))
        assert student_t_tail(t, degrees) == pytest.approx(expected, rel=1e-11, abs=1e-290)
    for p in (0.5, 0.9, 0.975, 0.9995):
        expected = float(stats.t.ppf(p, degrees))
        assert student_t_quantile(p, degrees) == pytest.approx(expected, rel=1e-11, abs=1e-13)


@pytest.mark.parametrize("n", [1, 2, 10, 341, 1000, 100_000])
def test_the_binomial_tail_agrees_with_scipy(n: int) -> None:
    for k in {0, 1, n // 3, n // 2 - n // 50, n // 2, n}:
        expected = float(stats.binom.cdf(k, n, 0.5))
        assert fair_coin_cdf(k, n) == pytest.approx(expected, rel=1e-8, abs=1e-290)
