"""Say whether the photos of a service still look like those that its model was validated on.

Compared are counts in bins: of how confident the model is, of how unfamiliar it finds the photos,
and of the classes it predicts. B bins, D days, C classes.

Each day with photos starts a test of the counts from that day on. Its evidence is how much more
probable these counts are under a mixture of all distributions than under the one that the
validation photos have, which is known as well as these photos tell it: where bins end at order
statistics of the validation photos, the shares of the bins have exactly a Dirichlet distribution
with their counts as parameters (S. S. Wilks, "Mathematical Statistics", 1962, 8.7). Both are
Dirichlet-multinomial (E. Gunel and J. Dickey, Biometrika 61, 1974). While nothing changes, evidence
is a martingale that starts at 1, so that at most one test in x ever reaches x, however often one
looks (J. Ville, 1939; for counts M. Lindon and A. Malek, "Anytime-Valid Inference for Multinomial
Count Data", NeurIPS 2022). Tests that start one after the other find when a change began (G.
Lorden, Annals of Mathematical Statistics 42, 1971).
"""

from __future__ import annotations

import math
from bisect import bisect_right
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
import numpy.typing as npt

CONFIDENCE: Final = "confidence"
UNFAMILIARITY: Final = "unfamiliarity"
PREDICTED: Final = "predicted"
MEASURES: Final = (CONFIDENCE, UNFAMILIARITY, PREDICTED)
"""What is compared: the highest probability, how unfamiliar a photo is, the predicted class."""

QUANTILES: Final = (0.02, 0.1, 0.25, 0.5, 0.75, 0.9, 0.98)
"""Of the validation photos; a bin ends at each. The tails have bins of their own, because photos of
another kind are there."""

CALM_DAYS: Final = 1000
"""While nothing changes, tests of at most one day in so many give a false alarm."""

LEAST: Final = 0.05
"""A change of a smaller share of the photos is not reported, however certain it is."""

DAYS: Final = 28
"""Tests that began earlier end, so that a change that is over is forgotten in the end."""

FEW: Final = 5
"""Classes that were predicted for fewer validation photos share one bin."""

MOST_CLASSES: Final = 20
"""Classes beyond the most frequent ones share one bin."""

_ROUNDED: Final = 6
"""Decimal places of values before they are compared: runtimes differ in the last digits."""

_SPREADS: Final = (1.0, 4.0, 16.0)
"""Weights of the validation shares in the mixture, in photos per bin, all with the same
probability: the smaller, the larger the changes that it expects."""

_MOST_EVIDENCE: Final = 1e12
"""Where evidence is cut off."""


@dataclass(frozen=True)
class Bins:
    """How the validation photos are distributed over the bins of one measure.

    Attributes:
        counts: Photos in each of the B bins.
        edges: B - 1 increasing numbers; bin b holds values from edges[b - 1] to below edges[b].
            Empty where the bins are the C classes.
    """

    counts: tuple[int, ...]
    edges: tuple[float, ...] = ()

    @classmethod
    def of(cls, values: npt.NDArray[np.floating[Any]]) -> Bins:
        """Return bins that end at the QUANTILES of values, (N,), with their counts."""
        rounded = np.sort(np.round(np.asarray(values, np.float64), _ROUNDED))
        # Order statistics of the values themselves: see the module's docstring.
        edges = np.unique(np.quantile(rounded, QUANTILES, method="higher"))
        numbers = np.searchsorted(edges, rounded, side="right")
        counts = np.bincount(numbers, minlength=len(edges) + 1)
        return cls(tuple(counts.tolist()), tuple(edges.tolist()))

    def bin_of(self, value: float) -> int:
        """Return the number of the bin that holds a value."""
        return bisect_right(self.edges, round(value, _ROUNDED))

    def as_dict(self) -> dict[str, Any]:
        """Return the object of a model file's metadata."""
        return {"counts": list(self.counts), **({"edges": list(self.edges)} if self.edges else {})}

    @classmethod
    def from_dict(cls, stored: Mapping[str, Any]) -> Bins:
        """Return the bins of an object that `as_dict` made. Raises ValueError or TypeError."""
        bins = cls(tuple(stored["counts"]), tuple(map(float, stored.get("edges") or ())))
        if not all(type(count) is int and 0 <= count < 2**53 for count in bins.counts):
            raise ValueError("'counts' must be whole numbers")
        rising = all(low < high for low, high in zip(bins.edges, bins.edges[1:], strict=False))
        if bins.edges and (len(bins.edges) != len(bins.counts) - 1 or not rising):
            raise ValueError("'edges' must be increasing numbers, one fewer than 'counts'")
        return bins


def distributions(
    probabilities: npt.NDArray[np.floating[Any]],
    unfamiliarity: npt.NDArray[np.floating[Any]] | None = None,
) -> dict[str, Bins]:
    """Return how validation photos are distributed, by measure.

    Args:
        probabilities: Calibrated, (N, C), N at least 1.
        unfamiliarity: (N,), where the model has it.
    """
    predicted = np.bincount(probabilities.argmax(axis=1), minlength=probabilities.shape[1])
    scores = {} if unfamiliarity is None else {UNFAMILIARITY: Bins.of(unfamiliarity)}
    return {
        CONFIDENCE: Bins.of(probabilities.max(axis=1)),
        **scores,
        PREDICTED: Bins(tuple(predicted.tolist())),
    }


@dataclass(frozen=True)
class Change:
    """How one measure of a service's photos compares with that of the validation photos.

    Attributes:
        changed: Whether the difference is more than chance, and at least LEAST.
        since: The index of the day on which the difference most probably began; of the first day
            compared where it did not.
        photos: Number of photos from that day on.
        distance: Share of these photos that are in another bin than expected, 0 to 1 (total
            variation).
        shift: Positive where values are higher than on validation, -1 to 1; 0 for classes.
        calm_days: While nothing changes, evidence as strong as this comes up in tests of at most
            one day in so many.
        enough: The difference is more than chance with about so many photos of these shares; None
            where the validation photos are too few to show it with any number.
        validation, seen: Shares of the photos by bin, (B,).
    """

    changed: bool
    since: int
    photos: int
    distance: float
    shift: float
    calm_days: float
    enough: int | None
    validation: tuple[float, ...]
    seen: tuple[float, ...]


def compare(reference: Bins, daily: npt.NDArray[np.integer[Any]]) -> Change | None:
    """Compare the photos of a service with the validation photos.

    Args:
        reference: Of the validation photos.
        daily: Counts of the service's photos in the same bins, (D, B), by day, oldest first.

    Returns:
        None where there are no photos, or all validation photos are in one bin.
    """
    days = np.flatnonzero(daily.sum(axis=1))[-DAYS:]
    groups = _groups(reference)
    if len(days) == 0 or groups.max() == 0:
        return None
    prior = _pooled(np.asarray(reference.counts, np.float64)[None], groups)[0]
    # A photo has a place before the first order statistic too; a class may just not have occurred.
    prior += np.eye(1, len(prior))[0] if reference.edges else 0.5
    from_day_on = daily[days][::-1].cumsum(axis=0)[::-1]
    evidence = _log_evidence(_pooled(from_day_on.astype(np.float64), groups), prior)
    shares = from_day_on / from_day_on.sum(axis=1, keepdims=True)
    known = np.asarray(reference.counts) / max(1, sum(reference.counts))
    distances = np.abs(shares - known).sum(axis=1) / 2
    alarm = math.log(CALM_DAYS * len(MEASURES))
    likeliest = int(evidence.argmax())
    changed = bool(evidence[likeliest] >= alarm and distances[likeliest] >= LEAST)
    first = likeliest if changed else 0
    seen = shares[first]
    return Change(
        changed=changed,
        since=int(days[first]),
        photos=int(from_day_on[first].sum()),
        distance=float(distances[first]),
        shift=_shift(known, seen) if reference.edges else 0.0,
        calm_days=math.exp(min(evidence[first], math.log(_MOST_EVIDENCE))) / len(MEASURES),
        enough=_enough(_pooled(seen[None], groups), prior, alarm),
        validation=tuple(known.tolist()),
        seen=tuple(seen.tolist()),
    )


def _groups(reference: Bins) -> npt.NDArray[np.int64]:
    """Return the group of each bin, (B,): rare classes share one, other bins have their own."""
    counts = np.asarray(reference.counts)
    if reference.edges:
        return np.arange(len(counts))
    order = np.argsort(-counts, kind="stable")[:MOST_CLASSES]
    own = np.sort(order[counts[order] >= FEW])
    groups = np.full(len(counts), len(own))
    groups[own] = np.arange(len(own))
    return groups


def _pooled(
    counts: npt.NDArray[np.float64], groups: npt.NDArray[np.int64]
) -> npt.NDArray[np.float64]:
    """Add up the counts, (D, B), of each group."""
    return counts @ np.eye(int(groups.max()) + 1)[groups]


def _log_evidence(
    counts: npt.NDArray[np.float64], prior: npt.NDArray[np.float64]
) -> npt.NDArray[np.float64]:
    """Return the logarithm of the evidence of each row of counts, (D, B), as (D,)."""
    shares = prior / prior.sum()
    mixture = [_log_likelihood(counts, spread * len(prior) * shares) for spread in _SPREADS]
    likelihood = np.logaddexp.reduce(mixture, axis=0) - math.log(len(_SPREADS))
    evidence: npt.NDArray[np.float64] = likelihood - _log_likelihood(counts, prior)
    return evidence


def _log_likelihood(
    counts: npt.NDArray[np.float64], prior: npt.NDArray[np.float64]
) -> npt.NDArray[np.float64]:
    """Return the log-likelihood of sequences with these counts, whose shares are Dirichlet."""
    total = float(prior.sum())
    of_bins = (_log_gamma(prior + counts) - _log_gamma(prior)).sum(axis=1)
    likelihood: npt.NDArray[np.float64] = (
        math.lgamma(total) - _log_gamma(total + counts.sum(axis=1)) + of_bins
    )
    return likelihood


def _log_gamma(values: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    """Return the logarithm of the gamma function of positive values, to about ten digits.

    Stirling's series (Abramowitz and Stegun, 6.1.41) where it is exact enough, 8 higher.
    """
    high = values + 8.0
    series = (1 / 12 - (1 / 360 - (1 / 1260 - 1 / (1680 * high**2)) / high**2) / high**2) / high
    lower = np.log(values[..., None] + np.arange(8)).sum(axis=-1)
    result: npt.NDArray[np.float64] = (
        (high - 0.5) * np.log(high) - high + 0.5 * math.log(2 * math.pi) + series - lower
    )
    return result


def _shift(known: npt.NDArray[np.float64], seen: npt.NDArray[np.float64]) -> float:
    """Return how much higher the values are: P(seen > known) - P(seen < known), by bins."""
    below = np.cumsum(known) - known
    return float((seen * (below - (1 - below - known))).sum())


def _enough(
    shares: npt.NDArray[np.float64], prior: npt.NDArray[np.float64], alarm: float
) -> int | None:
    """Return about the fewest photos of these shares, (1, B), with which the evidence is `alarm`.

    It is exact up to 128 photos and at most 2% too high from there on.
    """

    def first(photos: npt.NDArray[np.int64]) -> int | None:
        enough = _log_evidence(shares * photos[:, None], prior) >= alarm
        return int(photos[enough.argmax()]) if enough.any() else None

    high = first(1 << np.arange(24))
    if high is None:
        return None
    return first(np.unique(np.linspace(high // 2, high, 65).astype(np.int64)[1:]))
