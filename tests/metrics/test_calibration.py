"""Calibration error, log-loss and temperature scaling."""

from __future__ import annotations

import numpy as np
import pytest
from sklearn.metrics import log_loss as reference_log_loss

from support.calibrated import random_scores
from tailorbird.metrics.calibration import (
    PROBABILITY_FLOOR,
    calibration_error,
    log_loss,
    softmax,
    temperature,
)


def test_calibration_error_is_small_when_calibrated_and_the_gap_when_not() -> None:
    labels, logits = random_scores(4000)
    assert calibration_error(labels, softmax(logits)) < 0.03
    sure = np.tile([0.9, 0.1 / 3, 0.1 / 3, 0.1 / 3], (1000, 1))
    half = np.array([0, 1] * 500)
    assert calibration_error(half, sure) == pytest.approx(0.4)
    assert calibration_error(np.array([0]), np.array([[1.0, 0.0]])) == 0.0


@pytest.mark.parametrize("factor", [0.3, 1.0, 4.0])
def test_temperature_undoes_a_known_distortion(factor: float) -> None:
    labels, logits = random_scores(4000)
    assert temperature(logits * factor, labels) == pytest.approx(factor, rel=0.1)


def test_a_few_labels_without_a_mistake_do_not_make_it_certain() -> None:
    logits, labels = np.tile(np.eye(4) * 5.0, (3, 1)), np.tile(np.arange(4), 3)
    sure = softmax(logits / temperature(logits, labels)).max(axis=1)
    # Twelve right of twelve: (n + 1) / (n + 2) = 13/14.
    assert sure == pytest.approx(13 / 14, abs=1e-3)


def test_log_loss_agrees_with_scikit_learn() -> None:
    labels, logits = random_scores(200)
    probabilities = softmax(logits)
    assert log_loss(labels, probabilities) == pytest.approx(
        reference_log_loss(labels, probabilities, labels=range(4))
    )


def test_a_certain_mistake_keeps_the_log_loss_finite() -> None:
    certain = np.array([[1.0, 0.0, 0.0, 0.0]])
    assert log_loss(np.array([1]), certain) == pytest.approx(-np.log(PROBABILITY_FLOOR))


@pytest.mark.parametrize("factor", [0.01, 0.3, 2.0, 50.0])
def test_the_temperature_is_that_of_a_general_minimiser(factor: float) -> None:
    from scipy.optimize import minimize_scalar

    labels, logits = random_scores(300)
    scaled, n = logits * factor, len(labels)
    targets = np.full(logits.shape, 1 / (n + 2) / 3)
    targets[np.arange(n), labels] = (n + 1) / (n + 2)
    found = minimize_scalar(
        lambda log_t: -(targets * np.log(softmax(scaled / np.exp(log_t)) + 1e-300)).sum(),
        bounds=(np.log(0.05), np.log(20)),
        method="bounded",
        options={"xatol": 1e-7},
    )
    assert temperature(scaled, labels) == pytest.approx(np.exp(found.x), rel=1e-4)
