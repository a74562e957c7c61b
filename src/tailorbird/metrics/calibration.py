"""Softmax, log-loss, calibration error and temperature scaling.

Labels are int64 (N,), class numbers 0 to C-1; probabilities are float (N, C), rows summing to 1.
"""

from __future__ import annotations

import math
from typing import Any, Final

import numpy as np
import numpy.typing as npt

Labels = npt.NDArray[np.int64]
Probabilities = npt.NDArray[np.floating[Any]]

PROBABILITY_FLOOR: Final = 1e-7
"""Smallest probability that a log-loss distinguishes; lower ones, 0 included, count as this.

It is the floor of Keras (`keras.config.epsilon()`) and close to the resolution of the float32
probabilities that a model outputs (2^-23); a class the model rules out then costs 16 nats, not
infinitely many.
"""


def softmax(logits: npt.NDArray[np.floating[Any]]) -> npt.NDArray[np.float64]:
    """Return rows of probabilities, float64 (N, C)."""
    shifted = logits.astype(np.float64) - logits.max(axis=1, keepdims=True)
    exponentials = np.exp(shifted)
    result: npt.NDArray[np.float64] = exponentials / exponentials.sum(axis=1, keepdims=True)
    return result


def label_losses(labels: Labels, probabilities: Probabilities) -> npt.NDArray[np.float64]:
    """Return each photo's negative log-probability of its label in nats, float64 (N,)."""
    own = probabilities[np.arange(len(labels)), labels].astype(np.float64)
    return -np.log(np.clip(own, PROBABILITY_FLOOR, 1.0))


def log_loss(labels: Labels, probabilities: Probabilities) -> float:
    """Return the mean negative log-probability of the labels in nats."""
    return float(label_losses(labels, probabilities).mean())


def calibration_error(labels: Labels, probabilities: Probabilities, bins: int = 15) -> float:
    """Return the expected calibration error over equal-width bins of confidence, 0 to 1.

    It is |accuracy - confidence| of each bin, averaged with the bins' counts as weights (Naeini,
    Cooper and Hauskrecht, AAAI 2015; 15 bins as in Guo et al., ICML 2017).
    """
    confidence = probabilities.max(axis=1)
    hit = probabilities.argmax(axis=1) == labels
    which = confidence_bins(confidence, bins)
    gaps = np.abs(np.bincount(which, hit, bins) - np.bincount(which, confidence, bins))
    return float(gaps.sum() / max(1, len(labels)))


def confidence_bins(confidence: npt.NDArray[np.floating[Any]], bins: int) -> npt.NDArray[np.int64]:
    """Return the number of the equal-width bin, 0 to bins - 1, of each confidence in [0, 1]."""
    return np.minimum((confidence * bins).astype(np.int64), bins - 1)


def temperature(logits: npt.NDArray[np.floating[Any]], labels: Labels) -> float:
    """Return the T, 0.05 to 20, that minimises the log-loss of softmax(logits / T).

    Temperature scaling (Guo et al., ICML 2017). Each label counts for (n + 1) / (n + 2) and the
    other classes share the rest, as in Platt's (1999) sigmoid: a small validation set without a
    mistake would otherwise make every answer certain.
    """
    n, classes = logits.shape
    spare = 1.0 / (n + 2)
    targets = np.full((n, classes), spare / (classes - 1))
    targets[np.arange(n), labels] = 1.0 - spare
    values = logits.astype(np.float64)

    def loss(log_t: float) -> float:
        scaled = values / math.exp(log_t)
        largest = scaled.max(axis=1, keepdims=True)
        log_sum = largest + np.log(np.exp(scaled - largest).sum(axis=1, keepdims=True))
        return float((targets * (log_sum - scaled)).sum() / n)

    # The loss is convex in 1 / T, so it has one minimum in log T: golden-section search.
    ratio = (math.sqrt(5) - 1) / 2
    low, high = math.log(0.05), math.log(20.0)
    left, right = high - ratio * (high - low), low + ratio * (high - low)
    at_left, at_right = loss(left), loss(right)
    while high - low > 1e-5:
        if at_left <= at_right:
            high, right, at_right = right, left, at_left
            left = high - ratio * (high - low)
            at_left = loss(left)
        else:
            low, left, at_left = left, right, at_right
            right = low + ratio * (high - low)
            at_right = loss(right)
    return math.exp((low + high) / 2)
