"""Train a search's chosen heads once more, on training and validation samples together."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from tailorbird.head import network as net
from tailorbird.head.fit import Data, Fit, one_blas_thread, prepare, start_run, train_epoch
from tailorbird.head.network import Head, Labels, blend
from tailorbird.head.search import SearchResult


def refit(
    found: SearchResult,
    features: NDArray[np.float32],
    labels: Labels,
    validation_features: NDArray[np.float32],
    validation_labels: Labels,
    *,
    classes: int,
    seed: int,
) -> Head:
    """Train the members of a search's best head on all samples, each for its best number of epochs.

    Arrays as in `search`; a validation sample stands in for its own augmented views. The result has
    no validation score, since validation is training data now.
    """
    views = len(features)
    everything = np.concatenate(
        [features, np.broadcast_to(validation_features, (views, *validation_features.shape))],
        axis=1,
    )
    known = np.concatenate([labels, validation_labels])
    data = prepare(everything, known, validation_features, validation_labels, classes)
    with one_blas_thread():
        heads = [
            _train(data, member, (seed, 1000 + number))
            for number, member in enumerate(found.members)
        ]
    return blend(heads) if len(heads) > 1 else heads[0]


def _train(data: Data, member: Fit, seed: tuple[int, int]) -> Head:
    run = start_run(data, member.settings, seed)
    for number in range(1, member.best_epoch + 1):
        train_epoch(run, data, number)
    return net.fold(run.network, data.mean, data.scale)
