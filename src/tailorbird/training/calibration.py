"""Judge the photos of train too, where validation is too small to choose a threshold on."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

import numpy as np
import numpy.typing as npt

from tailorbird.head import SearchResult
from tailorbird.head.refit import held_out_logits
from tailorbird.label_errors.crossfit import fold_numbers
from tailorbird.metrics.calibration import Labels, softmax, temperature
from tailorbird.preparation import PreparedData

CROSSFIT_BELOW: Final = 1000
"""With fewer validation photos, the threshold is chosen on those of train as well, each judged by a
head trained without it: it then answers more photos with the same promise
(benchmarks/promises.py)."""

FOLDS: Final = 3

PARTS: Final = ("train", "validation")


@dataclass(frozen=True)
class Judged:
    """Labels, int64 (N,), and calibrated probabilities, float64 (N, C), of photos.

    The heads that gave them did not see the photos. crossfitted: they are those of train and
    validation, instead of validation alone. refused: bool (N,), photos that are taken for none of
    the classes; None: it is not known of them.
    """

    labels: Labels
    probabilities: npt.NDArray[np.float64]
    crossfitted: bool = False
    refused: npt.NDArray[np.bool_] | None = None


def crossfit(
    data: PreparedData,
    found: SearchResult,
    features: npt.NDArray[np.float32],
    held: npt.NDArray[np.float32],
    folds: npt.NDArray[np.int64] | None,
    *,
    refused: npt.NDArray[np.bool_] | None = None,
    seed: int,
) -> Judged | None:
    """Return the photos of train and validation, judged; None where validation is large enough.

    The best of the chosen heads stands for their average, which is about as often right at the same
    probability and takes three times as long. Photos of one group are held out together. Corrected
    photos train the heads but are not among the result: people correct what was wrong, so that they
    are harder than the photos to come.

    Args:
        data: the photos.
        found: the heads that were chosen.
        features: float32 (V, N, K), of train.
        held: float32 (M, K), of validation.
        folds: of `fold_photos`.
        refused: bool (N + M,), photos that are taken for none of the classes.
        seed: of the fits.
    """
    if folds is None:
        return None
    labels = np.concatenate([data.labels[name] for name in PARTS])
    logits = held_out_logits(
        found.members[0],
        features,
        data.labels["train"],
        held,
        data.labels["validation"],
        folds,
        classes=len(data.classes),
        seed=seed,
    )
    own = {sample.path for sample in data.scanned.samples}
    kept = np.array([sample.path in own for name in PARTS for sample in data.parts[name]])
    logits, labels = logits[kept], labels[kept]
    return Judged(
        labels,
        softmax(logits / temperature(logits, labels)),
        crossfitted=True,
        refused=None if refused is None else refused[kept],
    )


def fold_photos(data: PreparedData, *, seed: int) -> npt.NDArray[np.int64] | None:
    """Return the fold of each photo of train and validation, int64 (N + M,).

    None where validation is large enough to choose thresholds on it alone. Photos of one group are
    in one fold.
    """
    if len(data.parts["validation"]) >= CROSSFIT_BELOW:
        return None
    groups = np.array(
        [
            group
            for name in PARTS
            for sample, group in zip(data.dataset.samples, data.dataset.groups, strict=True)
            if sample.split == name
        ],
        np.int64,
    )
    labels = np.concatenate([data.labels[name] for name in PARTS])
    return fold_numbers(labels, groups, np.random.default_rng((seed, 2)), FOLDS)
