"""Paired tests for repeated cross-validation: which differences are more than chance."""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from tailorbird.metrics.distributions import student_t_tail

SIGNIFICANT = 0.05
"""Differences with corrected p-values below this are significant."""


@dataclass(frozen=True)
class PairedTest:
    """Mean of paired differences, standard error, two-sided p-value in [0, 1], number of pairs."""

    difference: float
    standard_error: float
    p: float
    pairs: int


@dataclass(frozen=True)
class SettingComparison:
    """Two settings on the same folds.

    Attributes:
        first, second: numbers of the settings.
        difference: mean score of `first` minus that of `second`; positive where `first` is better.
        standard_error: of the difference, corrected for shared training photos.
        p: of `corrected_t_test`.
        corrected: p after Holm's correction for all comparisons made.
    """

    first: int
    second: int
    difference: float
    standard_error: float
    p: float
    corrected: float

    @property
    def distinguishable(self) -> bool:
        """Return whether the difference is significant."""
        return self.corrected < SIGNIFICANT


def corrected_t_test(
    differences: NDArray[np.floating] | Sequence[float], ratio: float
) -> PairedTest:
    """Test whether paired differences (J,) over J partitions of the same photos have mean zero.

    This is the corrected resampled t-test of Nadeau and Bengio 2003 ("Inference for the
    generalization error", Machine Learning 52), as Bouckaert and Frank 2004 use it for repeated
    cross-validation: t = mean / sqrt((1 / J + ratio) * variance) with J - 1 degrees of freedom. The
    partitions share most of their training photos, so their scores are not independent; the plain
    test, with 1 / J alone, finds differences that are not there.

    ratio: photos held out over photos that train, 1 / (folds - 1) in cross-validation. Fewer than
        two differences give p = 1.
    """
    values = np.asarray(differences, np.float64)
    pairs = len(values)
    mean = float(values.mean()) if pairs else 0.0
    if pairs < 2:
        return PairedTest(mean, math.nan, 1.0, pairs)
    error = math.sqrt((1 / pairs + ratio) * float(values.var(ddof=1)))
    # Sums of equal numbers may differ in the last bit; that does not count as a spread.
    if error <= 1e-12 * max(1.0, abs(mean)):
        return PairedTest(mean, 0.0, 1.0 if abs(mean) <= 1e-12 else 0.0, pairs)
    return PairedTest(mean, error, 2 * student_t_tail(abs(mean) / error, pairs - 1), pairs)


def holm(p_values: Sequence[float]) -> list[float]:
    """Return p-values corrected for the family-wise error rate (Holm 1979, step-down)."""
    order = sorted(range(len(p_values)), key=p_values.__getitem__)
    corrected = [1.0] * len(p_values)
    highest = 0.0
    for rank, number in enumerate(order):
        highest = max(highest, min(1.0, (len(p_values) - rank) * p_values[number]))
        corrected[number] = highest
    return corrected


def compare(
    families: Sequence[Sequence[int]], scores: Mapping[int, Mapping[int, float]], ratio: float
) -> list[SettingComparison]:
    """Compare every pair within each family; p-values are corrected for all pairs together.

    Args:
        families: numbers of the settings; a pair that is in two families counts once.
        scores: for each setting, partition -> score, higher is better; only partitions that both
            have are compared.
        ratio: see `corrected_t_test`.
    """
    pairs: dict[tuple[int, int], PairedTest] = {}
    for family in families:
        for first, second in itertools.combinations(family, 2):
            if (first, second) in pairs or (second, first) in pairs:
                continue
            both = sorted(scores[first].keys() & scores[second].keys())
            differences = [scores[first][number] - scores[second][number] for number in both]
            pairs[first, second] = corrected_t_test(differences, ratio)
    corrected = holm([test.p for test in pairs.values()])
    return [
        SettingComparison(first, second, test.difference, test.standard_error, test.p, value)
        for ((first, second), test), value in zip(pairs.items(), corrected, strict=True)
    ]


def compare_with_best(
    best: int, others: Sequence[int], scores: Mapping[int, Mapping[int, float]], ratio: float
) -> list[SettingComparison]:
    """Compare the best setting of a large family with each of the others.

    It was chosen by the same scores, so p-values are multiplied by the number of all pairs
    (Bonferroni), as if every pair had been compared.
    """
    found = compare([(best, other) for other in others], scores, ratio)
    pairs = len(others) * (len(others) + 1) // 2
    return [replace(comparison, corrected=min(1.0, pairs * comparison.p)) for comparison in found]


def p_text(p: float) -> str:
    """Return `p = 0.61` or `p < 0.001`."""
    if p < 0.001:
        return "p < 0.001"
    return f"p = {p:.2f}" if p >= 0.1 else f"p = {p:.3f}"
