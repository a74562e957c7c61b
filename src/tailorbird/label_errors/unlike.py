"""Find photos that look like none of the others: a cat among the shirts.

Each photo is compared with prototypes found without it and its copies, as a model compares new
photos (`model.unfamiliarity`), whatever its label says.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from tailorbird.dataset import Finding, Sample, is_none_of_these
from tailorbird.label_errors.crossfit import FOLDS, fold_numbers
from tailorbird.model.unfamiliarity import Unfamiliarity, find_prototypes

PHOTOS_EACH: Final = 25
"""Photos for each prototype: with fewer, a handful of strangers that look alike has its own."""

FENCE: Final = 1.5
"""Interquartile ranges above the upper quartile from which a photo is unlike the others: the fence
of J. W. Tukey's box plot."""

MOST: Final = 0.01
"""Largest share of the photos that is reported."""

FEWEST: Final = 100
"""Different pictures below which none is reported: too few to know what is usual."""


@dataclass(frozen=True, slots=True)
class Unlike:
    """A photo that looks like none of the others.

    sample: the photo. distance: to the nearest prototype, 0 to 2. usual: the median of all photos.
    """

    sample: Sample
    distance: float
    usual: float

    def as_dict(self) -> dict[str, Any]:
        """Return the object of `scan --suspects --json`."""
        return {
            "path": self.sample.name,
            "label": self.sample.label,
            "distance": self.distance,
            "usual": self.usual,
        }

    def finding(self) -> Finding:
        """Return it as a finding of kind `unfamiliar`."""
        return Finding("unfamiliar", (self.sample.name,), self.message())

    def message(self) -> str:
        """Say how far it is from the other photos."""
        times = self.distance / max(self.usual, 1e-6)
        return (
            f"labelled {self.sample.label}, looks like none of the other photos ({times:.1f} times "
            "as far from them as usual)"
        )


def unlike_others(
    samples: Sequence[Sample],
    features: npt.NDArray[np.float32],
    groups: Sequence[int],
    *,
    seed: int = 0,
) -> tuple[Unlike, ...]:
    """Return the photos that look like none of the others, the most distant first.

    Photos of no class are neither compared nor reported.

    Args:
        samples: N photos.
        features: float32 (N, K).
        groups: (N,); photos with the same number show the same picture.
        seed: of the folds and prototypes.
    """
    kept = np.array([not is_none_of_these(sample.label) for sample in samples], bool)
    rows, known = features[kept], [sample for sample, keep in zip(samples, kept, strict=True)
                                   if keep]  # fmt: skip
    same = np.asarray(groups)[kept]
    if len(np.unique(same)) < FEWEST:
        return ()
    labels = np.unique([sample.label for sample in known], return_inverse=True)[1]
    folds = fold_numbers(labels, same, np.random.default_rng((seed, 5)), FOLDS)
    distances = np.zeros(len(known), np.float32)
    for fold in range(FOLDS):
        out = folds == fold
        found = find_prototypes(rows[~out], classes=1, seed=seed, photos_each=PHOTOS_EACH)
        distances[out] = Unfamiliarity(found).signals(rows[out])[:, 0]
    lower, usual, upper = np.quantile(distances, [0.25, 0.5, 0.75]).tolist()
    order = np.argsort(-distances, kind="stable")[: math.ceil(MOST * len(known))]
    return tuple(
        Unlike(known[i], float(distances[i]), usual)
        for i in order.tolist()
        if distances[i] > upper + FENCE * (upper - lower)
    )
