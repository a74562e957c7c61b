"""Confident learning: which labels disagree with probabilities that never saw them.

C. G. Northcutt, L. Jiang and I. L. Chuang, "Confident Learning: Estimating Uncertainty in Dataset Labels", Journal of
Artificial Intelligence Research 70, 2021. Probabilities are out of fold, float (N, C); labels int64 (N,).
"""

from __future__ import annotations

from typing import Final

import numpy as np
import numpy.typing as npt

from tailorbird.metrics.calibration import Labels, Probabilities

ODDS: Final = 10.0
"""A label is reported only when another class is at least this many times as probable. Of the confident joint's off-diagonal
photos those below are mostly photos that are hard, not labels that are wrong (measured in benchmarks/README.md)."""


def thresholds(probabilities: Probabilities, labels: Labels) -> npt.NDArray[np.float64]:
    """For each class its mean self-confidence, float64 (C,): how probable it is on average for the photos labelled with it
    (equation 2 of the paper). Infinite for a class without photos."""
    classes = probabilities.shape[1]
    counts = np.bincount(labels, minlength=classes)
    sums = np.bincount(labels, probabilities[np.arange(len(labels)), labels], classes)
    result: npt.NDArray[np.float64] = np.where(counts, sums / np.maximum(counts, 1), np.inf)
    return result


def confident_classes(probabilities: Probabilities, labels: Labels) -> npt.NDArray[np.int64]:
    """The class each photo is confidently counted for, int64 (N,): the most probable of those that reach their threshold, -1
    where none does (equation 1, with the paper's rule for ties between classes above their thresholds)."""
    reached = probabilities >= thresholds(probabilities, labels) - 1e-12
    best: npt.NDArray[np.int64] = np.where(reached, probabilities, -1.0).argmax(axis=1)
    return np.where(reached.any(axis=1), best, -1)


def confident_joint(probabilities: Probabilities, labels: Labels) -> npt.NDArray[np.int64]:
    """Counts int64 (C, C): rows are given labels, columns the classes photos are confidently counted for."""
    classes = probabilities.shape[1]
    counted = confident_classes(probabilities, labels)
    joint = np.zeros((classes, classes), np.int64)
    np.add.at(joint, (labels[counted >= 0], counted[counted >= 0]), 1)
    return joint


def most_probable_other(probabilities: Probabilities, labels: Labels) -> npt.NDArray[np.int64]:
    """The most probable class that is not the label, int64 (N,)."""
    others = np.array(probabilities, np.float64)
    others[np.arange(len(labels)), labels] = -1.0
    result: npt.NDArray[np.int64] = others.argmax(axis=1)
    return result


def self_confidence(probabilities: Probabilities, labels: Labels) -> npt.NDArray[np.float64]:
    """The probability of the given label, float64 (N,). One minus it ranked flipped labels best of the paper's and cleanlab's
    scores (benchmarks/README.md)."""
    result: npt.NDArray[np.float64] = probabilities[np.arange(len(labels)), labels].astype(
        np.float64
    )
    return result


def reported(probabilities: Probabilities, labels: Labels) -> npt.NDArray[np.bool_]:
    """Which labels are worth a person's look, bool (N,): off the confident joint's diagonal, and with the odds clearly against."""
    rows = np.arange(len(labels))
    counted = confident_classes(probabilities, labels)
    other = probabilities[rows, most_probable_other(probabilities, labels)]
    result: npt.NDArray[np.bool_] = (
        (counted >= 0) & (counted != labels) & (other >= ODDS * probabilities[rows, labels])
    )
    return result
