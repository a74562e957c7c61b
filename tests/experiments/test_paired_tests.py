"""The corrected test: by hand, its rate of false alarms, and Holm's correction."""

from __future__ import annotations

import math

import numpy as np
import pytest
from scipy import stats

from tailorbird.experiments.paired_tests import (
    compare,
    compare_with_best,
    corrected_t_test,
    holm,
    p_text,
)


def test_against_an_example_worked_by_hand() -> None:
    # Differences 1, 2, 3, 4, 5 over five folds: mean 3, variance 2.5, held out / train = 1 / 4.
    # t = 3 / sqrt((1 / 5 + 1 / 4) * 2.5) = 3 / sqrt(1.125) = 2.8284, four degrees of freedom.
    # For four degrees of freedom P(T > t) = 1/2 - s (3 - s^2) / 4 with
    # s = t / sqrt(4 + t^2) = sqrt(2 / 3) = 0.81650.
    found = corrected_t_test([1, 2, 3, 4, 5], ratio=0.25)
    assert found.difference == 3 and found.standard_error == pytest.approx(math.sqrt(1.125))
    s = math.sqrt(2 / 3)
    assert found.p == pytest.approx(2 * (0.5 - s * (3 - s * s) / 4))
    assert found.p == pytest.approx(0.04742, abs=1e-5)


def test_few_or_equal_differences() -> None:
    assert corrected_t_test([], 0.25).p == 1 and corrected_t_test([0.5], 0.25).p == 1
    assert corrected_t_test([0.0, 0.0, 0.0], 0.25).p == 1
    assert corrected_t_test([0.1, 0.1, 0.1], 0.25).p == 0


def test_false_alarms_where_nothing_differs() -> None:
    """Two equally good classifiers with random scores per photo, in 5 x 3 cross-validation.

    The scores of a partition are those of its held-out photos, and partitions share a component
    through their training photos.
    """
    generator = np.random.default_rng(0)
    folds, rounds, photos = 5, 3, 200
    corrected = plain = 0
    for _ in range(300):
        # Which photos each classifier gets right is fixed per photo: training sets hardly differ.
        difference = generator.choice([-1.0, 0.0, 1.0], size=photos, p=[0.1, 0.8, 0.1])
        values = [
            difference[part].mean()
            for _ in range(rounds)
            for part in np.array_split(generator.permutation(photos), folds)
        ]
        corrected += corrected_t_test(values, 1 / (folds - 1)).p < 0.05
        plain += float(stats.ttest_1samp(values, 0).pvalue) < 0.05
    assert corrected / 300 <= 0.06, "the corrected test keeps its level"
    assert plain / 300 >= 0.2, "the plain one finds what is not there"


def test_a_real_difference_is_found() -> None:
    generator = np.random.default_rng(0)
    assert corrected_t_test(0.03 + 0.01 * generator.standard_normal(15), 0.25).p < 0.001


def test_holm_by_hand() -> None:
    assert holm([0.01, 0.04, 0.03]) == pytest.approx([0.03, 0.06, 0.06])
    assert holm([0.5, 0.9]) == [1.0, 1.0] and holm([]) == []


def test_pairs_once_over_families_and_only_common_partitions() -> None:
    scores = {0: {0: 0.5, 1: 0.6, 2: 0.7}, 1: {0: 0.6, 1: 0.8, 2: 0.75}, 2: {0: 0.9, 1: 0.7}}
    found = compare([[0, 1], [1, 0, 2]], scores, 0.25)
    assert [(c.first, c.second) for c in found] == [(0, 1), (1, 2), (0, 2)]
    assert found[0].difference == pytest.approx(-0.35 / 3)
    assert found[2].difference == pytest.approx(-0.25), "two partitions in common"
    best = compare_with_best(1, [0, 2], scores, 0.25)
    assert [c.corrected for c in best] == pytest.approx([min(1, 3 * c.p) for c in best])


def test_p_values_as_text() -> None:
    assert [p_text(p) for p in (0.61, 0.049, 0.00001)] == ["p = 0.61", "p = 0.049", "p < 0.001"]
