"""Fit the unfamiliarity of a trained network, and choose the threshold above which it refuses.

Shapes: N photos, K compared features.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from tailorbird.metrics.refusals import Refusal, choose_refusal
from tailorbird.model.unfamiliarity import Unfamiliarity, find_prototypes

REFUSE: Final = 0.02
"""Default share of photos of the classes that may be refused; see benchmarks/README.md."""

MOST_RUN: Final = 2000
"""Training photos that are run through a network only to fit its unfamiliarity."""

Features = npt.NDArray[np.float32]


@dataclass(frozen=True)
class Fitted:
    """A network's unfamiliarity.

    score: for the graph. refusal: the threshold. scores: unfamiliarity of the photos of validation
    and test, float32 (N,) each.
    """

    score: Unfamiliarity
    refusal: Refusal
    scores: Mapping[str, npt.NDArray[np.float32]]

    def refused(self, part: str) -> npt.NDArray[np.bool_]:
        """Return which photos of validation or test are refused, bool (N,)."""
        return self.scores[part] > self.refusal.threshold

    def as_dict(self) -> dict[str, Any]:
        """Return the model file's metadata."""
        return self.refusal.as_dict()


def fit_unfamiliarity(
    train: Features, held: Mapping[str, Features], *, classes: int, refuse: float, seed: int
) -> Fitted | None:
    """Fit on the photos of train and choose the threshold on those of validation.

    Args:
        train: float32 (N, K), photos without augmentation.
        held: of validation and test.
        classes: number of classes.
        refuse: share of photos of the classes that may be refused; 0: there is no score.
        seed: of the prototypes.
    """
    if not refuse:
        return None
    found = find_prototypes(train, classes=classes, seed=seed)
    score = found.scaled(found.scores(held["validation"]), refuse)
    scores = {name: score.scores(features) for name, features in held.items()}
    return Fitted(score, choose_refusal(scores["validation"], refuse), scores)
