"""What a labelling has reached, what more labels would bring, and whether to stop.

The accuracy is measured on photos that were drawn at random and asked about blindly: nothing was
proposed for them, and the head never trains on them.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
import numpy.typing as npt

from tailorbird.experiments.power_law import fit_power_laws
from tailorbird.labelling.learning import train_head
from tailorbird.metrics.distributions import wilson_interval

MORE: Final = 100
"""Labels that the outlook is about."""

WORTH: Final = 0.01
"""Gain of accuracy, from MORE labels, below which it is time to stop."""

FEWEST_BLIND: Final = 30
FEWEST_LABELS: Final = 60
SHARES: Final = (0.25, 0.35, 0.5, 0.71, 1.0)
"""Shares of the labels, in the order in which they were given, that the curve is made of."""

_RESAMPLES: Final = 200


@dataclass(frozen=True)
class Outlook:
    """Accuracy on the blind photos, and what is to be expected.

    right, blind: blind photos that the head gets right, and all of them. interval: 95% Wilson
    interval of their share. curve: (labels, accuracy) for growing shares of the labels. gain: of
    accuracy from MORE labels, with a 95% interval; None while there are too few answers.
    advice: one sentence.
    """

    right: int
    blind: int
    interval: tuple[float, float]
    curve: tuple[tuple[int, float], ...] = ()
    gain: float | None = None
    gain_interval: tuple[float, float] | None = None
    advice: str = ""
    stop: bool = False

    @property
    def accuracy(self) -> float | None:
        """The share of blind photos that the head gets right."""
        return self.right / self.blind if self.blind else None


def look_ahead(
    features: npt.NDArray[np.float32],
    labels: npt.NDArray[np.int64],
    blind_features: npt.NDArray[np.float32],
    blind_labels: npt.NDArray[np.int64],
    classes: int,
    *,
    seed: int = 0,
) -> Outlook:
    """Measure the head, fit its learning curve and say whether more labels are worth it.

    Args:
        features: of the labelled photos in the order of their answers, float32 (L, K).
        labels: int64 (L,).
        blind_features: of the blind photos, float32 (B, K).
        blind_labels: int64 (B,).
        classes: C, at least 2.
        seed: of the heads and of the bootstrap.
    """
    if not len(labels) or not len(blind_labels):
        return Outlook(0, len(blind_labels), (0.0, 1.0), advice=_missing(len(blind_labels)))
    sizes = sorted({max(2, round(share * len(labels))) for share in SHARES})
    if len(labels) < FEWEST_LABELS or len(blind_labels) < FEWEST_BLIND:
        sizes = sizes[-1:]
    wrong = np.stack(
        [
            _wrong(features[:size], labels[:size], blind_features, blind_labels, classes, seed)
            for size in sizes
        ]
    )
    right = int(len(blind_labels) - wrong[-1].sum())
    curve = tuple((size, float(1 - row.mean())) for size, row in zip(sizes, wrong, strict=True))
    result = Outlook(right, len(blind_labels), wilson_interval(right, len(blind_labels)), curve)
    if len(sizes) < len(SHARES):
        return _advised(result, advice=_missing(len(blind_labels)))
    gain, interval = _gain(np.array(sizes, np.float64), wrong, seed)
    return _advised(result, gain, interval)


def _wrong(
    features: npt.NDArray[np.float32],
    labels: npt.NDArray[np.int64],
    blind_features: npt.NDArray[np.float32],
    blind_labels: npt.NDArray[np.int64],
    classes: int,
    seed: int,
) -> npt.NDArray[np.bool_]:
    """Return which blind photos a head trained on these labels gets wrong, bool (B,)."""
    head = train_head(features, labels, classes, seed=seed)
    return np.asarray(head.logits(blind_features).argmax(axis=1) != blind_labels)


def _gain(
    sizes: npt.NDArray[np.float64], wrong: npt.NDArray[np.bool_], seed: int
) -> tuple[float, tuple[float, float]]:
    """Return the expected gain of MORE labels and its 95% interval, from power laws.

    The interval is that of a bootstrap over the blind photos: with few of them it is wide.
    """
    photos = wrong.shape[1]
    weights = np.sqrt(sizes)  # errors of heads trained on few labels vary more

    def gains(errors: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
        laws = fit_power_laws(sizes, errors, weights)
        now, then = sizes[-1] ** -laws[:, 1], (sizes[-1] + MORE) ** -laws[:, 1]
        return np.asarray(laws[:, 0] * (now - then))

    generator = np.random.default_rng((seed, 3))
    drawn = generator.integers(photos, size=(_RESAMPLES, photos))
    resampled = wrong[:, drawn].mean(axis=2).T
    low, high = np.quantile(gains(resampled), (0.025, 0.975))
    expected = float(gains(wrong.mean(axis=1)[None])[0])
    return expected, (min(float(low), expected), max(float(high), expected))


def _missing(blind: int) -> str:
    if blind < FEWEST_BLIND:
        return (
            f"{FEWEST_BLIND - blind} more blind answers are needed to say what more labels would "
            "bring"
        )
    return f"from {FEWEST_LABELS} labels on, the page says what more would bring"


def _advised(
    result: Outlook,
    gain: float | None = None,
    interval: tuple[float, float] | None = None,
    *,
    advice: str = "",
) -> Outlook:
    stop = gain is not None and gain < WORTH
    if gain is not None and interval is not None:
        points = (
            f"the next {MORE} labels should add about {100 * gain:.1f} points of accuracy "
            f"({100 * interval[0]:.1f} to {100 * interval[1]:.1f})"
        )
        advice = f"{points}: you can stop" if stop else f"{points}: go on"
    return Outlook(
        result.right, result.blind, result.interval, result.curve, gain, interval, advice, stop
    )


def enough(counts: Sequence[int]) -> bool:
    """Whether so many labels of each class are enough to train: two classes with three each."""
    return sum(count >= 3 for count in counts) >= 2
