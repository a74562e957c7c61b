from __future__ import annotations

import math

import numpy as np
import pytest

from tailorbird.errors import DatasetError
from tailorbird.metrics import scores

CLASSES = ("a", "b", "c", "d")


def random_scores(
    n: int = 400, seed: int = 0, sharpness: float = 3.0
) -> tuple[np.ndarray, np.ndarray]:
    """Logits whose labels are drawn from softmax(logits): perfectly calibrated."""
    random = np.random.default_rng(seed)
    logits = random.normal(size=(n, 4)) * sharpness
    labels = np.array([random.choice(4, p=row) for row in scores.softmax(logits)])
    return labels, logits


def test_wilson_interval_against_published_values() -> None:
    # Newcombe, Statistics in Medicine 17 (1998), table I, method 3: 81/263, 15/148, 0/20, 1/29.
    for hits, n, low, high in [
        (81, 263, 0.2553, 0.3662),
        (15, 148, 0.0624, 0.1605),
        (0, 20, 0.0, 0.1611),
        (1, 29, 0.0061, 0.1718),
    ]:
        assert scores.wilson_interval(hits, n) == pytest.approx((low, high), abs=5e-5)
    assert scores.wilson_interval(0, 0) == (0.0, 1.0)


def test_scores_on_a_case_counted_by_hand() -> None:
    labels = np.array([0, 0, 0, 1, 1, 2])
    probabilities = np.array(
        [
            [0.9, 0.1, 0.0, 0.0],
            [0.6, 0.4, 0.0, 0.0],
            [0.2, 0.5, 0.2, 0.1],
            [0.1, 0.8, 0.1, 0.0],
            [0.6, 0.05, 0.2, 0.15],
            [0.1, 0.1, 0.7, 0.1],
        ]
    )
    found = scores.score(labels, probabilities, CLASSES, 0.65)
    assert (
        found.n == 6 and found.accuracy == pytest.approx(4 / 6) and found.majority_baseline == 0.5
    )
    assert found.confusion == ((2, 1, 0, 0), (1, 1, 0, 0), (0, 0, 1, 0), (0, 0, 0, 0))
    assert found.top3 == pytest.approx(5 / 6)
    a, b, _, d = found.per_class
    assert (a.precision, a.recall, a.f1, a.support) == pytest.approx((2 / 3, 2 / 3, 2 / 3, 3))
    assert (b.precision, b.recall, d.support, d.recall) == (0.5, 0.5, 0, 0.0)
    assert found.macro["recall"] == pytest.approx((2 / 3 + 0.5 + 1) / 3), (
        "a class without photos is not averaged in"
    )
    assert found.log_loss == pytest.approx(-np.mean(np.log([0.9, 0.6, 0.2, 0.8, 0.05, 0.7])))
    assert found.coverage == 0.5 and found.sure_accuracy == 1.0
    assert set(found.as_dict()) >= {
        "n", "accuracy", "interval", "top3", "log_loss", "ece", "macro", "per_class", "classes", "confusion",
        "majority_baseline", "threshold", "coverage",
    }  # fmt: skip


def test_nothing_to_score() -> None:
    with pytest.raises(DatasetError, match="there are no photos to score"):
        scores.score(np.zeros(0, np.int64), np.zeros((0, 4)), CLASSES, 0.5)


def test_a_certain_mistake_keeps_the_log_loss_finite() -> None:
    assert math.isfinite(
        scores.score(np.array([1]), np.array([[1.0, 0.0, 0.0, 0.0]]), CLASSES, 0.5).log_loss
    )


def test_calibration_error_is_small_when_calibrated_and_the_gap_when_not() -> None:
    labels, logits = random_scores(4000)
    assert scores.calibration_error(labels, scores.softmax(logits)) < 0.03
    sure = np.tile([0.9, 0.1 / 3, 0.1 / 3, 0.1 / 3], (1000, 1))
    half = np.array([0, 1] * 500)
    assert scores.calibration_error(half, sure) == pytest.approx(0.4)
    assert scores.calibration_error(np.array([0]), np.array([[1.0, 0.0]])) == 0.0


@pytest.mark.parametrize("factor", [0.3, 1.0, 4.0])
def test_temperature_undoes_a_known_distortion(factor: float) -> None:
    labels, logits = random_scores(4000)
    assert scores.temperature(logits * factor, labels) == pytest.approx(factor, rel=0.1)


def test_a_few_labels_without_a_mistake_do_not_make_it_certain() -> None:
    logits, labels = np.tile(np.eye(4) * 5.0, (3, 1)), np.tile(np.arange(4), 3)
    sure = scores.softmax(logits / scores.temperature(logits, labels)).max(axis=1)
    # Twelve right of twelve: (n + 1) / (n + 2) = 13/14.
    assert sure == pytest.approx(13 / 14, abs=1e-3)


def test_the_threshold_is_the_widest_that_keeps_the_precision() -> None:
    labels, logits = random_scores(500)
    probabilities = scores.softmax(logits)
    found = scores.choose_threshold(labels, probabilities, 0.95)
    confidence = probabilities.max(axis=1)
    hit = probabilities.argmax(axis=1) == labels
    sure = confidence >= found.value
    assert found.reached and hit[sure].mean() >= 0.95
    assert sure.mean() == pytest.approx(found.coverage) and hit[sure].mean() == pytest.approx(
        found.precision
    )
    assert confidence[sure].mean() >= 0.95, "the calibrated probabilities expect it too"
    for wider in np.sort(confidence[confidence < found.value])[::-1]:
        assert min(hit[confidence >= wider].mean(), confidence[confidence >= wider].mean()) < 0.95


def test_a_threshold_that_cannot_be_reached_says_so() -> None:
    labels = np.array([0, 1] * 50)
    probabilities = np.tile([0.6, 0.4], (100, 1))
    found = scores.choose_threshold(labels, probabilities, 0.95)
    assert not found.reached and found.precision == 0.5 and found.coverage == 1.0


def test_all_right_means_never_unsure() -> None:
    found = scores.choose_threshold(
        np.arange(4).repeat(5), np.eye(4).repeat(5, 0) * 0.96 + 0.01, 0.95
    )
    assert (found.value, found.coverage, found.reached) == (0.0, 1.0, True)


def test_a_handful_of_right_answers_claims_no_precision() -> None:
    assert not scores.choose_threshold(np.arange(4), np.eye(4) * 0.96 + 0.01, 0.95).reached


def test_the_precision_holds_on_new_photos() -> None:
    """Calibrated models scored on 341 photos: what the threshold promises must be near what new photos give."""
    true = []
    for seed in range(40):
        labels, logits = random_scores(341, seed, sharpness=1.5)
        found = scores.choose_threshold(labels, scores.softmax(logits), 0.9)
        new_labels, new_logits = random_scores(4000, 1000 + seed, sharpness=1.5)
        new = scores.softmax(new_logits)
        sure = new.max(axis=1) >= found.value
        true.append(float((new.argmax(axis=1) == new_labels)[sure].mean()))
    assert np.mean(true) > 0.89
