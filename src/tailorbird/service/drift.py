"""Count the photos of the service in bins, and compare them with the model's validation photos.

Counts are kept in memory for seconds and then added to those in the corrections database.
"""

from __future__ import annotations

import datetime
import threading
from collections import Counter, OrderedDict
from collections.abc import Hashable, Mapping
from typing import TYPE_CHECKING, Any, Final

import numpy as np
import numpy.typing as npt

from tailorbird.corrections import Corrections
from tailorbird.errors import StorageError
from tailorbird.metrics.drift import (
    CONFIDENCE,
    MEASURES,
    PREDICTED,
    UNFAMILIARITY,
    Bins,
    Change,
    compare,
)
from tailorbird.service.batching import Answer
from tailorbird.service.served import Served
from tailorbird.service.web.logs import log

if TYPE_CHECKING:
    from tailorbird.corrections.uploads import Place

ANSWER: Final = "answer"
"""What the photo was told: its bins are OUTCOMES."""

OUTCOMES: Final = ("answered", "unsure", "unfamiliar")
"""By number of the bin: a sure answer, one below the threshold, and none of the classes."""

FLUSH_SECONDS: Final = 5.0
"""Counts are stored together, at most so much later; kill -9 loses no more than these."""

PAUSE_SECONDS: Final = 60.0
"""Until the next attempt to store counts that could not be stored."""

REMEMBERED: Final = 10_000
"""A photo that is among the last so many of a process counts once: what is sent again and again,
such as by a monitor, says nothing about uploads."""

MOST_CLASSES: Final = 20
"""Classes that a report lists: those whose share differs most."""


def outcome_of(served: Served, answer: Answer) -> str:
    """Return which of the OUTCOMES an answer is."""
    if served.classifier.unfamiliar(answer.unfamiliarity):
        return "unfamiliar"
    sure = float(answer.probabilities.max()) >= served.classifier.info.threshold
    return "answered" if sure else "unsure"


class Tally:
    """The counts of one process; methods may be called from several threads."""

    def __init__(self, store: Corrections) -> None:
        self._store = store
        self._lock = threading.Lock()
        self._storing = threading.Lock()
        self._counts: Counter[Place] = Counter()
        self._remembered: OrderedDict[Hashable, None] = OrderedDict()
        self._timer: threading.Timer | None = None
        self._failing = False
        self._closed = False

    def count(self, served: Served, photo: Hashable, answer: Answer) -> None:
        """Count one photo, unless it was counted before.

        photo: tells photos apart; it is kept in memory only. answer: what the model says of it.
        """
        from tailorbird.corrections.uploads import Place

        label = int(answer.probabilities.argmax())
        bins = {ANSWER: OUTCOMES.index(outcome_of(served, answer)), PREDICTED: label}
        known = served.classifier.info.distributions
        if CONFIDENCE in known:
            bins[CONFIDENCE] = known[CONFIDENCE].bin_of(float(answer.probabilities[label]))
        if UNFAMILIARITY in known and answer.unfamiliarity is not None:
            bins[UNFAMILIARITY] = known[UNFAMILIARITY].bin_of(answer.unfamiliarity)
        today = datetime.datetime.now(datetime.UTC).date().isoformat()
        with self._lock:
            if self._is_known((served.sha256, photo)):
                return
            for measure, number in bins.items():
                self._counts[Place(served.sha256, today, measure, number)] += 1
            self._store_in(FLUSH_SECONDS)

    def flush(self) -> None:
        """Store the counts; those that cannot be stored are kept for the next attempt.

        Once it returns, no counts of photos before the call are on their way.
        """
        with self._storing:
            self._flush()

    def _flush(self) -> None:
        with self._lock:
            counts, self._counts = self._counts, Counter()
        if not counts:
            return
        try:
            self._store.add_uploads(counts)
            self._failing = False
        except StorageError as error:
            if not self._failing:
                log("uploads-not-counted", level="error", message=f"{error}; trying again")
            self._failing = True
            with self._lock:
                self._counts.update(counts)
                self._store_in(PAUSE_SECONDS)

    def close(self) -> None:
        """Store the counts, and no more afterwards."""
        with self._lock:
            self._closed = True
            if self._timer is not None:
                self._timer.cancel()
        self.flush()

    def _is_known(self, photo: Hashable) -> bool:
        """Return whether a photo is among the last ones, and remember it."""
        known = photo in self._remembered
        self._remembered[photo] = None
        self._remembered.move_to_end(photo)
        if len(self._remembered) > REMEMBERED:
            self._remembered.popitem(last=False)
        return known

    def _store_in(self, seconds: float) -> None:
        """Store the counts later, in a thread of their own, unless that is planned already."""
        if self._timer is None and not self._closed:
            self._timer = threading.Timer(seconds, self._due)
            self._timer.daemon = True
            self._timer.start()

    def _due(self) -> None:
        with self._lock:
            self._timer = None
        self.flush()


def uploads_report(store: Corrections, served: Served) -> dict[str, Any]:
    """Return what was counted of a model's photos, and whether they have changed.

    Raises StorageError.
    """
    counts = store.uploads(served.sha256)
    days = sorted({place.day for place in counts})
    info = served.classifier.info
    answers = _by_day(counts, days, ANSWER, len(OUTCOMES))
    changes = []
    for measure in MEASURES:
        bins = info.distributions.get(measure)
        change = compare(bins, _by_day(counts, days, measure, len(bins.counts))) if bins else None
        if bins is not None and change is not None:
            changes.append(_described(measure, bins, change, days, info.classes))
    tells = served.classifier.knows_unfamiliar

    def outcomes(row: list[int]) -> dict[str, int | None]:
        return {"photos": sum(row), "unsure": row[1], "unfamiliar": row[2] if tells else None}

    return {
        **outcomes(answers.sum(axis=0).tolist()),
        "by_day": [
            {"day": day, **outcomes(row)} for day, row in zip(days, answers.tolist(), strict=True)
        ],
        "changed": any(change["changed"] for change in changes),
        "drift": changes,
    }


def _by_day(
    counts: Mapping[Place, int], days: list[str], measure: str, bins: int
) -> npt.NDArray[np.int64]:
    """Return the counts of a measure, (D, B)."""
    rows = {day: row for row, day in enumerate(days)}
    table = np.zeros((len(days), bins), np.int64)
    for place, photos in counts.items():
        if place.measure == measure and 0 <= place.bin < bins:
            table[rows[place.day], place.bin] += photos
    return table


def _described(
    measure: str, bins: Bins, change: Change, days: list[str], classes: tuple[str, ...]
) -> dict[str, Any]:
    """Return a change with the names of its bins."""
    rows = [
        {"validation": validation, "seen": seen}
        for validation, seen in zip(change.validation, change.seen, strict=True)
    ]
    if bins.edges:
        ends = [None, *bins.edges, None]
        named: list[dict[str, Any]] = [
            {"from": low, "to": high, **row}
            for low, high, row in zip(ends, ends[1:], rows, strict=False)
        ]
    else:
        named = [{"label": label, **row} for label, row in zip(classes, rows, strict=True)]
        named.sort(key=lambda row: -abs(row["seen"] - row["validation"]))
        del named[MOST_CLASSES:]
    return {
        "measure": measure,
        "changed": change.changed,
        "since": days[change.since],
        "photos": change.photos,
        "distance": change.distance,
        "shift": change.shift,
        "calm_days": change.calm_days,
        "enough": change.enough,
        "validation_photos": sum(bins.counts),
        "bins": named,
    }
