"""The confidence threshold chosen on validation."""

from __future__ import annotations

import numpy as np
import pytest

from support.calibrated import random_scores
from tailorbird.metrics.calibration import softmax
from tailorbird.metrics.thresholds import choose_threshold


def test_the_threshold_is_the_widest_that_keeps_the_precision() -> None:
    labels, logits = random_scores(500)
    probabilities = softmax(logits)
    found = choose_threshold(labels, probabilities, 0.95)
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


def test_a_precision_that_cannot_be_reached() -> None:
    labels = np.array([0, 1] * 50)
    probabilities = np.tile([0.6, 0.4], (100, 1))
    found = choose_threshold(labels, probabilities, 0.95)
    assert not found.reached and found.precision == 0.5 and found.coverage == 1.0


def test_all_right_means_never_unsure() -> None:
    found = choose_threshold(np.arange(4).repeat(5), np.eye(4).repeat(5, 0) * 0.96 + 0.01, 0.95)
    assert (found.value, found.coverage, found.reached) == (0.0, 1.0, True)


def test_few_correct_answers_reach_no_precision() -> None:
    assert not choose_threshold(np.arange(4), np.eye(4) * 0.96 + 0.01, 0.95).reached


def test_the_precision_holds_on_new_photos() -> None:
    """Calibrated models scored on 341 photos: what the threshold promises must be near what new
    photos give.
    """
    true = []
    for seed in range(40):
        labels, logits = random_scores(341, seed, sharpness=1.5)
        found = choose_threshold(labels, softmax(logits), 0.9)
        new_labels, new_logits = random_scores(4000, 1000 + seed, sharpness=1.5)
        new = softmax(new_logits)
        sure = new.max(axis=1) >= found.value
        true.append(float((new.argmax(axis=1) == new_labels)[sure].mean()))
    assert np.mean(true) > 0.89


def test_the_sentence_names_the_condition_that_failed() -> None:
    labels = np.arange(4).repeat(5)
    right, unsure = np.eye(4).repeat(5, 0) * 0.96 + 0.01, np.eye(4).repeat(5, 0) * 0.4 + 0.15
    assert choose_threshold(labels, right, 0.95).sentence() == (
        "Confidence threshold 0.00: precision 100.0% at coverage 100.0% on validation "
        "(target 95.0%)."
    )
    few = choose_threshold(labels[:7], right[:7], 0.95)
    assert "7 validation photos are too few, at least 10 are needed" in few.sentence()
    modest = choose_threshold(labels, unsure, 0.95)
    assert "expect only 55.0%" in modest.sentence() and not modest.reached
    wrong = choose_threshold(np.roll(labels, 5), right, 0.95)
    assert "the highest is 0.0%, at coverage" in wrong.sentence()
