"""Confident learning: find labels that disagree with out-of-fold probabilities.

C. G. Northcutt, L. Jiang and I. L. Chuang, "Confident Learning: Estimating Uncertainty in Dataset
Labels", Journal of Artificial Intelligence Research 70, 2021.

Shapes: probabilities float (N, C), out of fold; labels int64 (N,).
"""

from __future__ import annotations

from typing import Final

import numpy as np
import numpy.typing as npt

from tailorbird.metrics.calibration import Labels, Probabilities

ODDS: Final = 10.0
"""A label is reported only if another class is at least this many times as probable. Below it, the
photos off the diagonal of the confident joint are mostly difficult photos, not wrong labels
(measured in benchmarks/README.md)."""


def thresholds(probabilities: Probabilities, labels: Labels) -> npt.NDArray[np.float64]:
    """Return the mean self-confidence of each class, float64 (C,); infinite without photos.

    It is the mean probability of the class for the photos labelled with it (equation 2 of the
    paper).
    """
    classes = probabilities.shape[1]
    counts = np.bincount(labels, minlength=classes)
    sums = np.bincount(labels, probabilities[np.arange(len(labels)), labels], classes)
    result: npt.NDArray[np.float64] = np.where(counts, sums / np.maximum(counts, 1), np.inf)
    return result


def confident_classes(probabilities: Probabilities, labels: Labels) -> npt.NDArray[np.int64]:
    """Return the class for which each photo is confidently counted, int64 (N,).

    It is the most probable class that reaches its threshold, or -1 if none does (equation 1, with
    the paper's rule for several classes above their thresholds).
    """
    reached = probabilities >= thresholds(probabilities, labels) - 1e-12
    best: npt.NDArray[np.int64] = np.where(reached, probabilities, -1.0).argmax(axis=1)
    return np.where(reached.any(axis=1), best, -1)


def most_probable_other(probabilities: Probabilities, labels: Labels) -> npt.NDArray[np.int64]:
    """Return the most probable class that is not the label, int64 (N,)."""
    others = np.array(probabilities, np.float64)
    others[np.arange(len(labels)), labels] = -1.0
    result: npt.NDArray[np.int64] = others.argmax(axis=1)
    return result


def self_confidence(probabilities: Probabilities, labels: Labels) -> npt.NDArray[np.float64]:
    """Return the probability of the given label, float64 (N,).

    One minus it ranked flipped labels best of the scores in the paper and in cleanlab
    (benchmarks/README.md).
    """
    result: npt.NDArray[np.float64] = probabilities[np.arange(len(labels)), labels].astype(
        np.float64
    )
    return result


def reported(probabilities: Probabilities, labels: Labels) -> npt.NDArray[np.bool_]:
    """Return which labels to report, bool (N,).

    They are confidently counted for another class (off the diagonal of the paper's confident
    joint), and another class is at least ODDS times as probable.
    """
    rows = np.arange(len(labels))
    counted = confident_classes(probabilities, labels)
    other = probabilities[rows, most_probable_other(probabilities, labels)]
    result: npt.NDArray[np.bool_] = (
        (counted >= 0) & (counted != labels) & (other >= ODDS * probabilities[rows, labels])
    )
    return result
