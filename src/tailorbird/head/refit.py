"""Train a search's chosen heads once more: on all samples, or on all but those of a fold.

Arrays as in `search`: features float32 (V, N, K), validation features float32 (M, K).
"""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

import numpy as np
from numpy.typing import NDArray

from tailorbird import parallel
from tailorbird.head import network as net
from tailorbird.head.fit import Data, Fit, prepare, prepare_stored, start_run, train_epoch
from tailorbird.head.network import Head, Labels, blend
from tailorbird.head.search import SearchResult
from tailorbird.head.stored import StoredRows
from tailorbird.parallel import one_blas_thread


def refit(
    found: SearchResult,
    features: NDArray[np.float32] | StoredRows,
    labels: Labels,
    validation_features: NDArray[np.float32] | StoredRows,
    validation_labels: Labels,
    *,
    classes: int,
    seed: int,
) -> Head:
    """Train the members of a search's best head on all samples, each for its best number of epochs.

    Arrays as in `search`; a validation sample stands in for its own augmented views. The result has
    no validation score, since validation is training data now.
    """
    known = np.concatenate([labels, validation_labels])
    if isinstance(features, StoredRows) and isinstance(validation_features, StoredRows):
        stored = _stored_together(features, validation_features)
        data = prepare_stored(stored, known, validation_features, validation_labels, classes)
    else:
        assert not isinstance(features, StoredRows)
        assert not isinstance(validation_features, StoredRows)
        everything = _together(features, validation_features)
        data = prepare(everything, known, validation_features, validation_labels, classes)
    with one_blas_thread():
        heads = [
            _train(data, member, (seed, 1000 + number))
            for number, member in enumerate(found.members)
        ]
    return blend(heads) if len(heads) > 1 else heads[0]


def held_out_logits(
    member: Fit,
    features: NDArray[np.float32],
    labels: Labels,
    validation_features: NDArray[np.float32],
    validation_labels: Labels,
    folds: NDArray[np.int64],
    *,
    classes: int,
    seed: int,
) -> NDArray[np.float32]:
    """Return the logits of each sample by a head trained without its fold, float32 (N + M, C).

    A head with the settings of `member` is trained on the other folds, for the member's best number
    of epochs, so that the samples held out do not decide when to stop. Samples of train come before
    those of validation, as in `folds`, int64 (N + M,). The result has the same bits on any number
    of cores.
    """
    everything = _together(features, validation_features)
    known = np.concatenate([labels, validation_labels])
    result = np.zeros((len(known), classes), np.float32)

    def one(fold: int) -> None:
        out = folds == fold
        # One sample stands in for validation, whose scores are not used here.
        data = prepare(everything[:, ~out], known[~out], everything[0, :1], known[:1], classes)
        head = _train(data, member, (seed, 2000 + fold))
        result[out] = head.logits(everything[0, out])

    numbers = np.unique(folds).tolist()
    if len(numbers) > 1:  # otherwise all samples are one group
        with one_blas_thread(), ThreadPoolExecutor(parallel.cores()) as pool:
            list(pool.map(one, numbers))
    return result


def _together(
    features: NDArray[np.float32], validation_features: NDArray[np.float32]
) -> NDArray[np.float32]:
    """Return float32 (V, N + M, K); a validation sample stands in for its augmented views."""
    shape = (len(features), *validation_features.shape)
    return np.concatenate([features, np.broadcast_to(validation_features, shape)], axis=1)


def _stored_together(features: StoredRows, validation: StoredRows) -> StoredRows:
    """Return what `_together` does, on disk."""
    views, samples, width = features.shape
    result = StoredRows((views, samples + validation.shape[1], width))
    for view in range(views):
        for part, rows in features.blocks(view):
            result.write(view, part.start, rows)
        for part, rows in validation.blocks():
            result.write(view, samples + part.start, rows)
    return result


def _train(data: Data, member: Fit, seed: tuple[int, int]) -> Head:
    run = start_run(data, member.settings, seed)
    for number in range(1, member.best_epoch + 1):
        train_epoch(run, data, number)
    return net.fold(run.network, data.mean, data.scale)
