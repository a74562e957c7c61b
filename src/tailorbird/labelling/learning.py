"""Train a head on the labels given so far, in a fraction of a second.

Shapes: N photos, L labelled ones, K features, C classes.
"""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Final

import numpy as np
import numpy.typing as npt

from tailorbird.head import Head, HeadSettings
from tailorbird.head import network as net
from tailorbird.head.fit import batches, prepare, start_run, train_epoch
from tailorbird.metrics.calibration import softmax
from tailorbird.parallel import one_blas_thread

SETTINGS: Final = HeadSettings(learning_rate=1e-2, l2=3e-2)
"""Logistic regression: with a dozen labels a hidden layer gives no better answers."""

STEPS: Final = 200
"""Optimiser steps, so that the time hardly grows with the labels."""


def train_head(
    features: npt.NDArray[np.float32], labels: npt.NDArray[np.int64], classes: int, *, seed: int = 0
) -> Head:
    """Train a head on all given labels, for a fixed number of steps.

    No label is kept back to decide when to stop: a dozen labels cannot spare one.

    Args:
        features: float32 (L, K), L at least 1.
        labels: int64 (L,), 0 to classes - 1.
        classes: C, at least 2.
        seed: of the weights and batches; the same seed gives the same bits.
    """
    data = prepare(features[None], labels, features[:1], labels[:1], classes)
    epochs = math.ceil(STEPS / len(batches(len(labels), SETTINGS.batch_size)))
    settings = replace(SETTINGS, epochs=epochs, patience=epochs)
    with one_blas_thread():
        run = start_run(data, settings, (seed, 0))
        for number in range(1, epochs + 1):
            train_epoch(run, data, number)
    return net.fold(run.network, data.mean, data.scale)


def probabilities(head: Head, features: npt.NDArray[np.float32]) -> npt.NDArray[np.float64]:
    """Return what a head says of photos, float64 (N, C), rows sum to 1."""
    return softmax(head.logits(features))
