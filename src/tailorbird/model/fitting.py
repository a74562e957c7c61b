"""Fit the unfamiliarity of a trained network, and choose the threshold above which it refuses.

Shapes: N photos of train, M of validation, K compared features, C classes, S signals.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from tailorbird.head import HeadSettings
from tailorbird.head import network as net
from tailorbird.head.fit import prepare, start_run, train_epoch
from tailorbird.head.network import Dense
from tailorbird.metrics.calibration import Labels
from tailorbird.metrics.refusals import Refusal, choose_refusal
from tailorbird.model.unfamiliarity import Unfamiliarity, find_prototypes
from tailorbird.parallel import one_blas_thread

REFUSE: Final = 0.02
"""Default share of photos of the classes that may be refused; see benchmarks/README.md."""

MOST_RUN: Final = 2000
"""Training photos that are run through a network only to fit its unfamiliarity."""

TAUGHT: Final = HeadSettings(dropout=0.3, learning_rate=3e-3, epochs=20, patience=20)
"""The regression that knows "none of these"; see benchmarks/README.md."""

Features = npt.NDArray[np.float32]


@dataclass(frozen=True)
class Known:
    """Photos to fit on.

    features: float32 (N, K), of train, without augmentation. labels: int64 (N,). classes: C.
    none: photos of no class, float32 (O, K); O may be 0. folds: int64 (N,), where each photo can be
    compared with the others; None where that would say nothing about new photos, because the
    network itself was trained on them.
    """

    features: Features
    labels: Labels
    classes: int
    none: Features
    folds: npt.NDArray[np.int64] | None = None


@dataclass(frozen=True)
class Fitted:
    """A network's unfamiliarity.

    score: for the graph. refusal: the threshold. scores: unfamiliarity of the photos of validation
    and test, float32 each. chosen_on: unfamiliarity of the photos that the threshold was chosen on,
    those of train (where there were folds) before those of validation. none: number of photos of no
    class that it was fitted on. noticed: of each kind of strangers, how many are refused, and their
    number.
    """

    score: Unfamiliarity
    refusal: Refusal
    scores: Mapping[str, npt.NDArray[np.float32]]
    chosen_on: npt.NDArray[np.float32] = field(repr=False)
    none: int = 0
    noticed: Mapping[str, tuple[int, int]] = field(default_factory=dict)

    @property
    def chosen_on_refused(self) -> npt.NDArray[np.bool_]:
        """Which of the photos that the threshold was chosen on are refused, bool."""
        return self.chosen_on > self.refusal.threshold

    def refused(self, part: str) -> npt.NDArray[np.bool_]:
        """Return which photos of validation or test are refused, bool."""
        return self.scores[part] > self.refusal.threshold

    def as_dict(self) -> dict[str, Any]:
        """Return the model file's metadata."""
        return {
            **self.refusal.as_dict(),
            "none_of_these": self.none,
            "strangers": [
                {"kind": kind, "noticed": noticed, "photos": photos}
                for kind, (noticed, photos) in self.noticed.items()
            ],
        }

    def sentence(self) -> str:
        """Say what the threshold costs and which strangers it notices."""
        kinds = [f"{noticed} of {photos} {kind}" for kind, (noticed, photos) in
                 self.noticed.items()]  # fmt: skip
        return f"{self.refusal.sentence()} Noticed: {', '.join(kinds)}."


def fit_unfamiliarity(
    known: Known,
    held: Mapping[str, Features],
    strangers: Mapping[str, Features],
    *,
    refuse: float,
    seed: int,
) -> Fitted | None:
    """Fit on the photos of train and choose the threshold on photos that were not fitted on.

    Args:
        known: the photos to fit on.
        held: features of validation and test.
        strangers: features of pictures that should be refused, by kind, to say how many are.
        refuse: share of photos of the classes that may be refused; 0: there is no score.
        seed: of the prototypes and the regression.
    """
    if not refuse:
        return None
    plain = _fit(known, np.ones(len(known.features), bool), seed)
    signals = {name: plain.signals(features) for name, features in held.items()}
    others = np.concatenate([_out_of_fold(known, plain, seed), signals["validation"]])
    score = plain.scaled(others, refuse)
    chosen_on = score.of_signals(others)
    refusal = choose_refusal(chosen_on, refuse, crossfitted=known.folds is not None)
    return Fitted(
        score,
        refusal,
        {name: score.of_signals(rows) for name, rows in signals.items()},
        chosen_on,
        len(known.none),
        {
            kind: (int((score.scores(rows) > refusal.threshold).sum()), len(rows))
            for kind, rows in strangers.items()
            if len(rows)
        },
    )


def _fit(known: Known, used: npt.NDArray[np.bool_], seed: int) -> Unfamiliarity:
    """Fit on some of the photos."""
    features, labels = known.features[used], known.labels[used]
    taught = None
    if len(known.none):
        taught = _teach(features, labels, known.none, known.classes, seed)
    return Unfamiliarity(find_prototypes(features, classes=known.classes, seed=seed), taught)


def _out_of_fold(known: Known, plain: Unfamiliarity, seed: int) -> npt.NDArray[np.float32]:
    """Return the signals of each photo without those of its fold, (N, S); (0, S) without folds."""
    if known.folds is None:
        return plain.signals(known.features[:0])
    # Where all photos are of one fold, they are judged by themselves.
    result = plain.signals(known.features)
    for fold in np.unique(known.folds).tolist():
        out = known.folds == fold
        if not out.all():
            result[out] = _fit(known, ~out, seed).signals(known.features[out])
    return result


def _teach(features: Features, labels: Labels, none: Features, classes: int, seed: int) -> Dense:
    """Return a logistic regression on the classes and, as the last one, "none of these"."""
    rows = np.concatenate([features, none])[None]
    numbers = np.concatenate([labels, np.full(len(none), classes, np.int64)])
    data = prepare(rows, numbers, rows[0, :1], numbers[:1], classes + 1)
    with one_blas_thread():
        run = start_run(data, TAUGHT, (seed, 4000))
        for number in range(1, TAUGHT.epochs + 1):
            train_epoch(run, data, number)
    (layer,) = net.fold(run.network, data.mean, data.scale).layers
    return layer
