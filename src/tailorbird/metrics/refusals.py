"""Choose the unfamiliarity above which a model says that a photo is none of its classes.

Split conformal prediction (V. Vovk, A. Gammerman and G. Shafer, Algorithmic learning in a random
world, 2005; for outliers S. Bates, E. Candes, L. Lei, Y. Romano and M. Sesia, Annals of Statistics
51, 2023): a new photo like N others is among the k highest of all N + 1 scores with probability
k / (N + 1), so that a threshold at the right one of the N scores refuses at most the wanted share.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt


@dataclass(frozen=True)
class Refusal:
    """A threshold of unfamiliarity and what it was chosen on, shares 0 to 1.

    threshold: above it, a photo is unfamiliar. wanted: share of photos of the classes that may be
    refused. expected: share of new ones that will be, on average over sets of validation photos.
    refused: share of the photos it was chosen on. photos: their number. crossfitted: they are those
    of train and validation, those of train compared with the other ones; otherwise of validation.
    """

    threshold: float
    wanted: float
    expected: float
    refused: float
    photos: int
    crossfitted: bool = False

    @property
    def reached(self) -> bool:
        """Whether the photos are enough to refuse as few as wanted."""
        return self.expected <= self.wanted

    def as_dict(self) -> dict[str, Any]:
        """Return the object of a model's metadata."""
        return {**vars(self), "reached": self.reached}

    def sentence(self) -> str:
        """Say what the threshold costs, or that there are too few photos."""
        what = "It says 'none of the classes' to photos unlike all it was trained on"
        if self.reached:
            return f"{what}, and to {_percent(self.expected)} of the photos of the classes."
        kind = "photos" if self.crossfitted else "validation photos"
        return (
            f"{what}. {self.photos:,} {kind} are too few to refuse only "
            f"{_percent(self.wanted)} of the photos of the classes, and about "
            f"{_percent(self.expected)} may be; {fewest_photos(self.wanted):,} are enough."
        )


def _percent(share: float) -> str:
    return f"{100 * share:.2g}%"


@dataclass(frozen=True)
class Strangers:
    """How photos that should be refused are told from photos of the classes.

    photos: number of strangers. noticed: how many of them are above the threshold. auroc: the
    probability that a stranger is more unfamiliar than a scored photo of the classes, 0 to 1.
    noticed_at_5: share of strangers above the threshold that refuses 5% of the scored photos.
    scored: number of photos of the classes that they are compared with.
    """

    photos: int
    noticed: int
    auroc: float
    noticed_at_5: float
    scored: int

    @classmethod
    def of(
        cls,
        known: npt.NDArray[np.floating[Any]],
        strange: npt.NDArray[np.floating[Any]],
        threshold: float,
    ) -> Strangers:
        """Compare the unfamiliarity of photos of the classes (N,) with that of strangers (M,)."""
        ranked = np.sort(known)
        below = np.searchsorted(ranked, strange, "left") + np.searchsorted(ranked, strange, "right")
        return cls(
            photos=len(strange),
            noticed=int((strange > threshold).sum()),
            auroc=float(below.mean() / (2 * len(known))),
            noticed_at_5=float((strange > np.quantile(known, 0.95)).mean()),
            scored=len(known),
        )

    def as_dict(self) -> dict[str, Any]:
        """Return the object of `evaluate --json`."""
        return {**vars(self), "share": self.noticed / self.photos}

    def sentence(self) -> str:
        """Say how many strangers are noticed."""
        share = self.noticed / self.photos
        return (
            f"Of {self.photos:,} strangers, {self.noticed:,} ({share:.1%}) are noticed as none of "
            f"the classes; where 5% of the {self.scored:,} scored photos are refused, "
            f"{self.noticed_at_5:.1%}; AUROC {self.auroc:.3f}"
        )


def fewest_photos(wanted: float) -> int:
    """Return the number of validation photos that can tell such a share: 49 for 0.02."""
    return math.ceil(1 / wanted - 1 - 1e-9)


def choose_refusal(
    scores: npt.NDArray[np.floating[Any]], wanted: float, *, crossfitted: bool = False
) -> Refusal:
    """Return the lowest threshold that refuses at most a share of new photos of the classes.

    With too few photos it is their highest score, and `Refusal.reached` is false.

    Args:
        scores: (N,), unfamiliarity of photos of the classes that it was not fitted on, N >= 1.
        wanted: share to refuse, above 0 and below 1.
        crossfitted: recorded in the result.
    """
    ranked = np.sort(scores.astype(np.float64))
    count = len(ranked)
    above = max(0, math.floor(wanted * (count + 1) + 1e-9) - 1)
    # Halfway to the first refused score, so that no rounding decides about a validation photo.
    last = float(ranked[count - 1 - above])
    following = float(ranked[count - above]) if above else last + 0.01 * (last - ranked[count // 2])
    threshold = float((last + following) / 2)
    return Refusal(
        threshold=threshold,
        wanted=wanted,
        expected=(above + 1) / (count + 1),
        refused=float((ranked > threshold).mean()),
        photos=count,
        crossfitted=crossfitted,
    )
