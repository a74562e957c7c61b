"""Drift: evidence that uploads differ from validation photos, and how rarely it misleads."""

from __future__ import annotations

import itertools
import math

import numpy as np
import numpy.typing as npt
import pytest

from tailorbird.metrics import drift
from tailorbird.metrics.drift import Bins, Change, compare, distributions

Photos = npt.NDArray[np.float64]


def by_day(bins: Bins, days: list[Photos]) -> npt.NDArray[np.int64]:
    """Count the values of each day in bins."""
    numbers = [np.array([bins.bin_of(value) for value in values], int) for values in days]
    return np.array([np.bincount(each, minlength=len(bins.counts)) for each in numbers])


def found(bins: Bins, days: list[Photos]) -> Change:
    change = compare(bins, by_day(bins, days))
    assert change is not None
    return change


def test_bins_end_at_values_of_the_validation_photos() -> None:
    values = np.random.default_rng(0).random(200)
    bins = Bins.of(values)
    assert len(bins.edges) == len(drift.QUANTILES) == len(bins.counts) - 1
    assert set(bins.edges) <= set(np.round(values, 6))
    assert sum(bins.counts) == 200
    assert np.cumsum(bins.counts[:-1]) / 200 == pytest.approx(drift.QUANTILES, abs=0.01)
    assert by_day(bins, [values])[0].tolist() == list(bins.counts)
    assert Bins.from_dict(bins.as_dict()) == bins


def test_equal_values_make_one_bin() -> None:
    assert Bins.of(np.ones(40)) == Bins((0, 40), (1.0,))
    most_are_certain = Bins.of(np.array([0.5, 0.6, 0.7, *[1.0] * 37], np.float32))
    assert most_are_certain.edges[-1] == 1.0
    assert most_are_certain.counts[-1] == 37
    assert compare(Bins.of(np.ones(40)), np.array([[0, 50]])) is not None


@pytest.mark.parametrize(
    "stored",
    [
        {"counts": [1, -1]},
        {"counts": [1, 2.5]},
        {"counts": [True, 2]},
        {"counts": [1, 2, 3], "edges": [0.5]},
        {"counts": [1, 2, 3], "edges": [0.5, 0.5]},
        {"counts": [1, 2, 3], "edges": [0.5, float("nan")]},
        {"counts": 3},
        {"counts": [1, 2], "edges": ["a"]},
    ],
    ids=str,
)
def test_bins_of_a_damaged_file_are_refused(stored: dict[str, object]) -> None:
    with pytest.raises((ValueError, TypeError)):
        Bins.from_dict(stored)


def test_evidence_is_a_martingale_that_starts_at_1() -> None:
    """Its mean over all sequences of photos is 1, if they come from where validation did."""
    prior = np.array([12.0, 5.0, 3.0])
    rows = [row for row in itertools.product(range(8), repeat=3) if sum(row) == 7]
    counts = np.array(rows, np.float64)
    orders = [math.factorial(7) / math.prod(map(math.factorial, row)) for row in rows]
    chance = np.array(orders) * np.exp(drift._log_likelihood(counts, prior))
    assert chance.sum() == pytest.approx(1)
    assert chance @ np.exp(drift._log_evidence(counts, prior)) == pytest.approx(1)


def test_the_gamma_function_is_that_of_the_library() -> None:
    values = np.array([1e-3, 0.05, 0.5, 1, 1.5, 2, 7.9, 30, 1e3, 1e7])
    expected = [math.lgamma(value) for value in values]
    assert drift._log_gamma(values) == pytest.approx(expected, rel=1e-10, abs=1e-9)


def test_a_stream_that_does_not_change_gives_no_alarm() -> None:
    """40 services, looked at after each of 40 days: 1600 days, where 1.6 were permitted."""
    alarms = 0
    for seed in range(40):
        random = np.random.default_rng(seed)
        bins = Bins.of(random.random(150))
        counts = by_day(bins, [random.random(30) for _ in range(40)])
        alarms += any(
            change.changed
            for day in range(1, 41)
            if (change := compare(bins, counts[:day])) is not None
        )
    assert alarms <= 1


@pytest.mark.parametrize("days_after", [2, 3, 10])
def test_a_change_is_noticed_and_dated(days_after: int) -> None:
    """From the 21st day on, 3 of 10 photos are unlike all validation photos."""
    random = np.random.default_rng(1)
    bins = Bins.of(random.random(300))
    calm = [random.random(40) for _ in range(20)]
    assert not found(bins, calm).changed
    changed = [np.where(random.random(40) < 0.3, 5.0, random.random(40)) for _ in range(days_after)]
    change = found(bins, calm + changed)
    assert change.changed
    assert abs(change.since - 20) <= 1
    assert abs(change.photos - 40 * days_after) <= 40
    assert 0.15 < change.distance < 0.45
    assert change.shift > 0.1
    assert change.calm_days > drift.CALM_DAYS
    assert change.enough is not None and 10 < change.enough <= change.photos
    assert change.seen[-1] > 3 * change.validation[-1]


def test_as_many_photos_as_are_enough_give_an_alarm() -> None:
    bins = Bins((25, 50, 100, 100, 100, 75, 50), (0.1, 0.2, 0.3, 0.4, 0.5, 0.6))
    shares = np.array([0.01, 0.02, 0.1, 0.2, 0.2, 0.2, 0.27])
    few = compare(bins, np.round(shares * 20).astype(int)[None])
    assert few is not None and not few.changed and few.enough is not None
    enough = compare(bins, np.ceil(few.enough * np.array(few.seen)).astype(int)[None])
    assert enough is not None and enough.changed


def test_few_validation_photos_can_show_only_large_changes() -> None:
    bins = Bins.of(np.linspace(0, 1, 20))
    small = compare(bins, np.array(bins.counts)[None] * 1000 + np.eye(1, 8, 7, dtype=int) * 2000)
    assert small is not None and not small.changed and small.enough is None
    large = compare(bins, np.eye(1, 8, 7, dtype=int) * 40)
    assert large is not None and large.changed


def test_a_certain_change_of_few_photos_is_no_alarm() -> None:
    reference = Bins((50_000, 50_000), (0.5,))
    change = compare(reference, np.array([[530_000, 470_000]]))
    assert change is not None
    assert change.distance == pytest.approx(0.03)
    assert change.calm_days > 1000 and not change.changed


def test_a_change_that_is_over_is_forgotten() -> None:
    random = np.random.default_rng(3)
    bins = Bins.of(random.random(300))
    strange = [np.full(40, 5.0) for _ in range(2)]
    calm = [random.random(40) for _ in range(drift.DAYS)]
    assert found(bins, strange).changed
    assert not found(bins, strange + calm).changed


def test_classes_are_compared_and_rare_ones_are_one_bin() -> None:
    reference = Bins((60, 40, 20, 2, 1, 0))
    assert drift._groups(reference).tolist() == [0, 1, 2, 3, 3, 3]
    same = np.array([[30, 20, 10, 1, 0, 1]])
    change = compare(reference, same)
    assert change is not None and not change.changed and change.shift == 0
    other = compare(reference, np.array([[10, 10, 2, 0, 0, 60]]))
    assert other is not None and other.changed
    assert other.seen[5] == pytest.approx(60 / 82)
    many = Bins(tuple([50] * 30))
    assert drift._groups(many).max() == drift.MOST_CLASSES


def test_without_photos_or_with_one_bin_nothing_is_compared() -> None:
    bins = Bins.of(np.linspace(0, 1, 50))
    assert compare(bins, np.zeros((5, 8), int)) is None
    assert compare(Bins((3, 2)), np.array([[5, 5]])) is None
    days = np.zeros((60, 8), int)
    days[59] = bins.counts
    change = compare(bins, days)
    assert change is not None and change.since == 59


def test_distributions_of_validation_photos() -> None:
    probabilities = np.random.default_rng(0).dirichlet([1, 2, 3], 100)
    found = distributions(probabilities)
    assert set(found) == {"confidence", "predicted"}
    assert sum(found["predicted"].counts) == 100
    assert found["confidence"] == Bins.of(probabilities.max(axis=1))
    scores = np.arange(100.0)
    assert distributions(probabilities, scores)["unfamiliarity"] == Bins.of(scores)
