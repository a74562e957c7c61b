"""The learning-rate finder and learning curves on features where the truth is known."""

from __future__ import annotations

import json

import numpy as np
import pytest

from support.experiment_data import blobs
from support.progress import RecordedProgress
from tailorbird.errors import DatasetError, SettingsError
from tailorbird.experiments import find_learning_rate, learning_curve, sweep
from tailorbird.experiments.power_law import extrapolate, fit_power_laws
from tailorbird.experiments.summaries import curve_lines, rate_lines

QUICK = {"learning_rate": 0.03, "epochs": 12}
SIZES = 50.0 * 2 ** (np.arange(9) / 2)


def test_the_suggested_rate_is_as_good_as_the_best_of_a_sweep() -> None:
    photos = blobs((150, 150, 150), distance=2.5)
    found = find_learning_rate(photos)
    assert found.warning is None and 1e-4 < found.suggestion < 0.3
    assert found.suggestion == pytest.approx(found.lowest_loss / 10, rel=0.06)
    assert found.steepest < found.lowest_loss and len(found.by_seed) == 5
    rates = [1e-4, 1e-3, 1e-2, 1e-1]
    swept = sweep(
        photos, {"learning_rate": [*rates, found.suggestion]}, folds=4, seeds=2, metric="log-loss"
    )
    suggested = next(s for s in swept.settings if s.settings.learning_rate == found.suggestion)
    comparison = swept.comparison(swept.settings[0].number, suggested.number)
    assert comparison is None or not comparison.distinguishable
    assert (
        "--learning-rate" in found.command
        and f"Learning rate {found.suggestion:g}" in rate_lines(found)[0]
    )
    json.dumps(found.as_dict(), allow_nan=False)


def test_the_finder_is_the_same_on_any_number_of_workers_and_a_wider_head_gets_a_lower_rate() -> (
    None
):
    photos = blobs((100, 100))
    one = find_learning_rate(photos, workers=1)
    assert one == find_learning_rate(photos, workers=3), "the same on any number of workers"
    wide = find_learning_rate(photos, fixed={"inner": (400,)})
    assert wide.suggestion < one.suggestion


def test_the_rates_searched_must_reach_the_minimum() -> None:
    photos = blobs((100, 100))
    assert "end higher" in (find_learning_rate(photos, highest=1e-3).warning or "")
    assert "hardly falls" in (find_learning_rate(photos, highest=1e-5).warning or "")
    with pytest.raises(SettingsError, match=r"from 1 to 0\.1.*steps is 3.*seeds is 0"):
        find_learning_rate(photos, lowest=1, highest=0.1, steps=3, seeds=0)
    with pytest.raises(SettingsError, match="learning_rate cannot be fixed"):
        find_learning_rate(photos, fixed={"learning_rate": 0.1})
    with pytest.raises(SettingsError, match="has no setting 'layers'"):
        find_learning_rate(photos, fixed={"layers": 3})


def test_the_power_law_that_was_planted_is_found() -> None:
    truth = 0.9 * SIZES**-0.4 + 0.05
    ((scale, exponent, floor),) = fit_power_laws(SIZES, truth[None], np.ones(9))
    assert (scale, exponent, floor) == (
        pytest.approx(0.9, rel=0.02),
        pytest.approx(0.4),
        pytest.approx(0.05, abs=0.002),
    )
    ((_, _, sunk),) = fit_power_laws(SIZES, (0.9 * SIZES**-0.4)[None], np.ones(9))
    assert sunk == pytest.approx(0, abs=1e-3)
    ((flat, _, level),) = fit_power_laws(SIZES, np.full((1, 9), 0.2), np.ones(9))
    assert flat == pytest.approx(0, abs=1e-6) and level == pytest.approx(0.2)


def test_the_interval_holds_the_truth() -> None:
    truth = 0.9 * SIZES**-0.4 + 0.05
    gain = 0.9 * SIZES[-1] ** -0.4 - 0.9 * (2 * SIZES[-1]) ** -0.4
    held = 0
    for seed in range(20):
        noise = 0.01 * np.random.default_rng(seed).standard_normal((10, 9))
        found, laws = extrapolate(SIZES, truth + noise, ratio=0.25, seed=0)
        assert (
            found.gain is not None
            and found.interval is not None
            and found.refused is None
            and laws.shape[1] == 3
        )
        held += found.interval[0] <= gain <= found.interval[1]
    assert held >= 18


@pytest.mark.parametrize(
    ("errors", "why"),
    [
        (np.where(SIZES < 300, 0.5, 0.1), "does not fit|would have predicted"),
        (0.1 + 0.3 * SIZES / SIZES[-1], "does not fit|rises"),
    ],
)
def test_a_curve_that_is_no_power_law_is_not_extrapolated(errors: np.ndarray, why: str) -> None:
    noise = 0.005 * np.random.default_rng(0).standard_normal((10, 9))
    found, _ = extrapolate(SIZES, errors + noise, ratio=0.25, seed=0)
    assert found.gain is None and found.interval is None
    assert found.refused is not None and any(part in found.refused for part in why.split("|"))
    few, _ = extrapolate(SIZES[:3], errors[None, :3] + noise[:, :3], ratio=0.25, seed=0)
    assert few.refused is not None and "too few" in few.refused


def test_a_saturated_curve_promises_nothing() -> None:
    found = learning_curve(blobs((120, 120), distance=8.0), fixed=QUICK, per_class=False)
    assert found.points[-1].accuracy > 0.99 and abs(found.last_doubling[0]) < 0.01
    assert found.extrapolation.gain is not None and found.extrapolation.gain < 0.005
    assert "perhaps nothing" in curve_lines(found)[0]
    assert found.classes == () and found.fits == len(found.points) * 10


def test_a_growing_curve_promises_more() -> None:
    photos = blobs((80,) * 6, width=200, distance=4.0)
    found = learning_curve(photos, fixed=QUICK, per_class=False)
    assert found.last_doubling[1] > 0.005, "more photos helped"
    assert found.extrapolation.gain is not None and found.extrapolation.gain > 0.01
    accuracies = [point.accuracy for point in found.points]
    assert accuracies == sorted(accuracies)
    low, middle, high = found.band
    assert (
        (low <= middle).all()
        and (middle <= high).all()
        and found.band_photos[-1] == pytest.approx(768, rel=0.02)
    )


def test_the_class_short_of_photos_is_ranked_first() -> None:
    counts = (24, 200, 200, 200)
    found = learning_curve(blobs(counts, width=24, distance=3.2), fixed=QUICK)
    assert found.classes[0].label == "class 0" and found.classes[0].photos == 19
    assert (
        not found.classes[0].noise
        and found.classes[0].cost > 0.02
        and found.classes[0].recall_cost > 0.1
    )
    assert found.classes[-1].noise
    assert curve_lines(found)[-1].startswith("Add photos of class 0 (")
    assert all(line[0].isupper() and line.endswith(".") for line in curve_lines(found))
    json.dumps(found.as_dict(), allow_nan=False)


def test_curves_are_the_same_on_any_number_of_workers() -> None:
    one, three = (
        learning_curve(blobs((40, 40)), fixed=QUICK, folds=3, seeds=1, workers=workers)
        for workers in (1, 3)
    )
    np.testing.assert_array_equal(one.runs, three.runs)
    assert one.classes == three.classes and one.extrapolation == three.extrapolation


def test_ctrl_c_among_the_classes_keeps_the_curve() -> None:
    def stop(done: int, total: int) -> None:
        if done == total - 3:
            raise KeyboardInterrupt

    progress = RecordedProgress(stop)
    found = learning_curve(blobs((40, 40)), fixed=QUICK, folds=2, seeds=1, progress=progress)
    assert found.interrupted and found.classes == () and len(found.points) > 4


def test_too_few_photos_are_refused() -> None:
    with pytest.raises(DatasetError, match="too few for a learning curve"):
        learning_curve(blobs((4, 4)), folds=2)
    with pytest.raises(SettingsError, match=r"dropout is 3"):
        learning_curve(blobs(), fixed={"dropout": 3})


def test_classes_of_a_handful_are_not_tried() -> None:
    found = learning_curve(blobs((60, 60, 6)), fixed=QUICK, folds=2, seeds=1)
    assert {gain.label for gain in found.classes} == {"class 0", "class 1"} and found.untried == 1
    assert found.fits == len(found.points) * 2 + 2 * 2
