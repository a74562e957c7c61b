"""Which photos look alike: a small projection of the features and each photo's nearest neighbours.

Shapes: P photos of the landscape, K features, D dimensions, J neighbours, C classes.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

import numpy as np
import numpy.typing as npt

from tailorbird.parallel import one_blas_thread

DIMENSIONS: Final = 64
NEIGHBOURS: Final = 10
FITTED: Final = 2000
"""Photos that the projection is fitted to."""

_BLOCK: Final = 1024
_SHARPNESS: Final = 10.0
"""Weight of a neighbour: exp(sharpness * (cosine - 1))."""

SMOOTHING: Final = 0.95
"""Share of its neighbours' opinion in a photo's own, in each round of `spread_labels`."""

ROUNDS: Final = 12


@dataclass(frozen=True)
class Landscape:
    """Photos among which the next ones are chosen.

    photos: int64 (P,), rising numbers. places: float32 (P, D), unit vectors. neighbours: int64
    (P, J), positions in the landscape. weights: float32 (P, J), rows sum to 1.
    """

    photos: npt.NDArray[np.int64]
    places: npt.NDArray[np.float32]
    neighbours: npt.NDArray[np.int64]
    weights: npt.NDArray[np.float32]

    def __len__(self) -> int:
        return len(self.photos)

    def positions(self, photos: npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
        """Return where photos are in the landscape, int64; -1 for those that are not."""
        if not len(self.photos):
            return np.full(len(photos), -1, np.int64)
        at = np.minimum(np.searchsorted(self.photos, photos), len(self.photos) - 1)
        return np.where(self.photos[at] == photos, at, -1)


def survey(
    photos: npt.NDArray[np.int64], features: npt.NDArray[np.floating], *, seed: int = 0
) -> Landscape:
    """Return the landscape of photos.

    Args:
        photos: int64 (P,), rising.
        features: (N, K), of all photos; the rows of `photos` are used.
        seed: of the photos that the projection is fitted to.
    """
    with one_blas_thread():
        places = _project(features, photos, seed)
        neighbours, weights = _neighbours(places)
    return Landscape(photos, places, neighbours, weights)


def _project(
    features: npt.NDArray[np.floating], photos: npt.NDArray[np.int64], seed: int
) -> npt.NDArray[np.float32]:
    """Return unit vectors in the directions of the largest variance, float32 (P, D)."""
    fitted = photos
    if len(photos) > FITTED:
        fitted = np.random.default_rng(seed).choice(photos, FITTED, replace=False)
    sample = features[fitted].astype(np.float32)
    mean = sample.mean(axis=0)
    sample -= mean
    _, vectors = np.linalg.eigh(sample.T @ sample)
    axes = np.ascontiguousarray(vectors[:, ::-1][:, :DIMENSIONS], np.float32)
    places = np.empty((len(photos), axes.shape[1]), np.float32)
    for start in range(0, len(photos), _BLOCK):
        rows = photos[start : start + _BLOCK]
        places[start : start + _BLOCK] = (features[rows].astype(np.float32) - mean) @ axes
    return unit(places)


def unit(rows: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
    """Return rows scaled to length 1; a row of zeros stays."""
    lengths = np.linalg.norm(rows, axis=1, keepdims=True)
    return np.asarray(rows / np.maximum(lengths, 1e-12), np.float32)


def _neighbours(
    places: npt.NDArray[np.float32],
) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.float32]]:
    count = len(places)
    kept = min(NEIGHBOURS, count - 1)
    if kept < 1:
        return np.zeros((count, 0), np.int64), np.zeros((count, 0), np.float32)
    nearest = np.empty((count, kept), np.int64)
    weights = np.empty((count, kept), np.float32)
    for start in range(0, count, _BLOCK):
        cosines = places[start : start + _BLOCK] @ places.T
        rows = np.arange(len(cosines))
        cosines[rows, start + rows] = -2  # a photo is not its own neighbour
        found = np.argpartition(cosines, count - kept, axis=1)[:, count - kept :]
        nearest[start : start + _BLOCK] = found
        close = np.exp(_SHARPNESS * (np.take_along_axis(cosines, found, axis=1) - 1))
        weights[start : start + _BLOCK] = close / close.sum(axis=1, keepdims=True)
    return nearest, weights


def spread_labels(
    landscape: Landscape,
    beliefs: npt.NDArray[np.float64],
    known: npt.NDArray[np.int64],
    labels: npt.NDArray[np.int64],
) -> npt.NDArray[np.float32]:
    """Return probabilities that let look-alikes agree, float32 (P, C).

    Label spreading (Zhou et al., "Learning with local and global consistency", NIPS 2003) that
    starts from, and is held to, what a head believes; known labels stay as they are.

    Args:
        landscape: of P photos.
        beliefs: of a head, (P, C), rows sum to 1.
        known: positions of labelled photos, int64 (L,).
        labels: their classes, int64 (L,).
    """
    own = beliefs.astype(np.float32)
    given = np.eye(own.shape[1], dtype=np.float32)[labels]
    result = own.copy()
    result[known] = given
    if not landscape.neighbours.shape[1]:
        return result
    for _ in range(ROUNDS):
        around = np.einsum("pj,pjc->pc", landscape.weights, result[landscape.neighbours])
        result = SMOOTHING * around + (1 - SMOOTHING) * own
        result[known] = given
    return np.asarray(result / result.sum(axis=1, keepdims=True), np.float32)
