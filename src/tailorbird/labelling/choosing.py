"""Choose the photos to ask about next, and the class to propose for each.

Shapes: P photos of the landscape, D dimensions, C classes.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

import numpy as np
import numpy.typing as npt

from tailorbird.labelling.landscape import Landscape, spread_labels
from tailorbird.parallel import one_blas_thread

START: Final = 12
"""Photos of the first screens, one from the middle of each cluster, without proposals."""

SHEET: Final = 20
"""Photos of a sheet. Of sizes 12 and 20, 20 needed fewer decisions for the same accuracy."""

CANDIDATES: Final = 0.3
"""Share of the photos that are good enough to be asked about; among them those that differ are.

With 0.1, and without the square of what both views are sure of, the same accuracy took a fifth more
decisions (benchmarks/labelling.py).
"""

FEWEST_CANDIDATES: Final = 60
_ITERATIONS: Final = 5
_MOST_CLUSTERED: Final = 4000


@dataclass(frozen=True)
class Proposals:
    """Photos to ask about and the proposed classes.

    positions: in the landscape, int64 (S,). classes: int64 (S,), -1 where none is proposed.
    probabilities: float64 (S,), of the proposed classes; 0 where none is proposed.
    """

    positions: npt.NDArray[np.int64]
    classes: npt.NDArray[np.int64]
    probabilities: npt.NDArray[np.float64]


def diverse(
    landscape: Landscape, free: npt.NDArray[np.bool_], count: int, *, seed: int = 0
) -> Proposals:
    """Return the photos in the middle of `count` clusters, without proposals.

    Args:
        landscape: of P photos.
        free: bool (P,), those that may be asked about.
        count: number of photos, at most.
        seed: of the clustering.
    """
    places = np.flatnonzero(free)
    chosen = places[
        centres(landscape.places[places], np.ones(len(places), np.float32), count, seed=seed)
    ]
    return Proposals(chosen, np.full(len(chosen), -1), np.zeros(len(chosen)))


def instructive(
    landscape: Landscape,
    beliefs: npt.NDArray[np.float64],
    free: npt.NDArray[np.bool_],
    known: npt.NDArray[np.int64],
    labels: npt.NDArray[np.int64],
    *,
    count: int = SHEET,
    only: int | None = None,
    seed: int = 0,
) -> Proposals:
    """Return the photos that teach the head most for a person's effort, grouped by proposal.

    Two views of each photo are compared: the head's, and that of its look-alikes (see
    `spread_labels`). A photo is worth asking about where the head hesitates between two classes,
    and cheap to answer where both views together are sure. Of the best third, photos that differ
    from each other are taken.

    Args:
        landscape: of P photos.
        beliefs: probabilities that the head gives, (P, C).
        free: bool (P,), those that may be asked about.
        known: positions of labelled photos, int64 (L,).
        labels: their classes, int64 (L,).
        count: number of photos, at most.
        only: propose this class alone, the most probable photos first.
        seed: of the clustering.
    """
    with one_blas_thread():
        sharp = beliefs**2  # a head trained on few labels is too modest for a vote
        spread = spread_labels(landscape, sharp / sharp.sum(axis=1, keepdims=True), known, labels)
        places = np.flatnonzero(free)
        own = beliefs[places]
        joint = np.sqrt(own) * spread[places]
        joint /= np.maximum(joint.sum(axis=1, keepdims=True), 1e-12)
        proposed, sure = joint.argmax(axis=1), joint.max(axis=1)
        if only is None:
            ordered = np.sort(own, axis=1)
            value = (1 - (ordered[:, -1] - ordered[:, -2])) * sure**2
            kept = max(FEWEST_CANDIDATES, round(CANDIDATES * len(places)))
        else:
            value = np.where(proposed == only, sure, -1.0)
            kept = min(3 * count, int((proposed == only).sum()))
        best = np.argsort(-value, kind="stable")[:kept]
        chosen = best[
            centres(
                landscape.places[places[best]],
                np.maximum(value[best], 1e-6).astype(np.float32),
                count,
                seed=seed,
            )
        ]
    # One class after the other, so that a photo that does not belong stands out.
    chosen = chosen[np.lexsort((-sure[chosen], proposed[chosen]))]
    return Proposals(places[chosen], proposed[chosen], sure[chosen])


def centres(
    places: npt.NDArray[np.float32],
    weights: npt.NDArray[np.float32],
    count: int,
    *,
    seed: int = 0,
) -> npt.NDArray[np.int64]:
    """Return the rows closest to the centres of `count` weighted clusters, int64, rising.

    Spherical k-means from a k-means++ start (Arthur and Vassilvitskii 2007). No two rows of one
    cluster are returned, so that near-duplicates are not. All rows, where there are no more.

    Args:
        places: unit vectors, float32 (P, D).
        weights: float32 (P,), positive.
        count: at least 1.
        seed: of the start.
    """
    if len(places) <= count:
        return np.arange(len(places))
    generator = np.random.default_rng(seed)
    rows = np.arange(len(places))
    if len(places) > _MOST_CLUSTERED:
        share = weights / weights.sum(dtype=np.float64)
        rows = np.sort(generator.choice(rows, _MOST_CLUSTERED, replace=False, p=share))
    part, mass = places[rows], weights[rows].astype(np.float64)
    means = part[_spread_start(part, mass, count, generator)].copy()
    for _ in range(_ITERATIONS):
        nearest = (part @ means.T).argmax(axis=1)
        member = np.zeros((len(means), len(part)), np.float32)
        member[nearest, np.arange(len(part))] = mass
        means = member @ part
        means /= np.maximum(np.linalg.norm(means, axis=1, keepdims=True), 1e-9)
    cosines = part @ means.T
    nearest = cosines.argmax(axis=1)
    found = [
        members[cosines[members, cluster].argmax()]
        for cluster in range(len(means))
        if len(members := np.flatnonzero(nearest == cluster))
    ]
    return np.sort(rows[found])


def _spread_start(
    places: npt.NDArray[np.float32],
    weights: npt.NDArray[np.float64],
    count: int,
    generator: np.random.Generator,
) -> list[int]:
    """Return rows drawn far from each other (k-means++)."""
    start = [int(generator.choice(len(places), p=weights / weights.sum()))]
    distance = np.full(len(places), np.inf)
    for _ in range(count - 1):
        distance = np.minimum(distance, 1 - places @ places[start[-1]])
        share = np.maximum(distance, 1e-6) * weights
        start.append(int(generator.choice(len(places), p=share / share.sum())))
    return start
