"""Accuracy in use, counted by the database, so that a million answers need no memory here."""

from __future__ import annotations

import datetime
from collections import defaultdict
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

from tailorbird.metrics.distributions import wilson_interval

if TYPE_CHECKING:
    from sqlalchemy import Connection

DAYS: Final = 90
"""Number of days that `by_day` covers."""

NONE_OF_THESE: Final = " none of these"
"""Stored as the answer of a person who says that the photo shows none of the model's classes. No
class has this name: labels have no space at their start."""

MISTAKEN: Final = 20
"""Maximum number of confusions listed."""


def is_right(answer: str, predicted: str, *, refused: bool) -> bool:
    """Return whether a person's answer agrees with the model.

    refused: the model said that the photo seems to show none of the classes; `predicted` is then
        the class that it found closest.
    """
    return answer == predicted or (refused and answer == NONE_OF_THESE)


@dataclass(frozen=True)
class ClassCount:
    """Answers of one class: people named it for `total` photos, `right` of them predicted so."""

    label: str
    total: int
    right: int


@dataclass(frozen=True)
class DayCount:
    """Answers of one UTC day, written as 2026-05-01."""

    day: str
    total: int
    right: int


@dataclass(frozen=True)
class Mistaken:
    """`count` photos of `answer` were predicted as `predicted`."""

    predicted: str
    answer: str
    count: int


@dataclass(frozen=True)
class Stats:
    """Counts of answers; the newest answer to each receipt counts.

    accuracy: 0 to 1, None without answers. interval: its 95% Wilson interval.
    none_of_these: answers that the photo shows none of the model's classes. none_refused: those of
        them where the model said so too, which are right; the others are wrong.
    per_class: by people's answer, sorted by label, with new labels that people typed.
    by_day: days with answers among the last DAYS, oldest first.
    mistaken: the most frequent confusions, at most MISTAKEN.
    """

    total: int
    right: int
    accuracy: float | None
    interval: tuple[float, float]
    none_of_these: int
    none_refused: int
    per_class: tuple[ClassCount, ...]
    by_day: tuple[DayCount, ...]
    mistaken: tuple[Mistaken, ...]

    def as_dict(self) -> dict[str, Any]:
        """Return the object of `GET /v1/corrections/stats` and `corrections stats --json`."""
        return {
            "total": self.total,
            "right": self.right,
            "accuracy": self.accuracy,
            "interval": list(self.interval),
            "none_of_these": self.none_of_these,
            "none_refused": self.none_refused,
            "per_class": [vars(row).copy() for row in self.per_class],
            "by_day": [vars(row).copy() for row in self.by_day],
            "mistaken": [vars(row).copy() for row in self.mistaken],
        }


def count(connection: Connection) -> dict[tuple[str, str], tuple[int, int]]:
    """Return {(answer, predicted): (photos, right)} for each pair that occurs."""
    from sqlalchemy import func, select

    from tailorbird.corrections.tables import corrections, newest

    columns = corrections.c
    statement = (
        select(columns.answer, columns.predicted, func.count(), _hits())
        .where(newest)
        .group_by(columns.answer, columns.predicted)
    )
    rows = connection.execute(statement)
    return {(answer, predicted): (int(n), int(hits)) for answer, predicted, n, hits in rows}


def _hits() -> Any:
    from sqlalchemy import case, func

    from tailorbird.corrections.tables import corrections

    return func.sum(case((corrections.c.right, 1), else_=0))


def read(connection: Connection, today: datetime.date) -> Stats:
    """Return the statistics as of `today` (UTC)."""
    from sqlalchemy import func, select

    from tailorbird.corrections.tables import corrections, newest

    pairs = count(connection)
    classes: dict[str, list[int]] = defaultdict(lambda: [0, 0])
    for (answer, _), (n, hits) in pairs.items():
        classes[answer][0] += n
        classes[answer][1] += hits
    total = sum(n for n, _ in classes.values())
    right = sum(hits for _, hits in classes.values())
    none_of_these, none_refused = classes.pop(NONE_OF_THESE, [0, 0])
    wrong = sorted(
        (
            (n - hits, predicted, answer)
            for (answer, predicted), (n, hits) in pairs.items()
            if n > hits and answer != NONE_OF_THESE
        ),
        key=lambda item: (-item[0], item[1:]),
    )
    day = func.substr(corrections.c.created, 1, 10).label("day")
    first = (today - datetime.timedelta(days=DAYS - 1)).isoformat()
    days = (
        select(day, func.count(), _hits())
        .where(corrections.c.created >= first, newest)
        .group_by(day)
        .order_by(day)
    )
    return Stats(
        total=total,
        right=right,
        accuracy=right / total if total else None,
        interval=wilson_interval(right, total),
        none_of_these=none_of_these,
        none_refused=none_refused,
        per_class=tuple(ClassCount(label, n, hits) for label, (n, hits) in sorted(classes.items())),
        by_day=tuple(
            DayCount(str(name), int(n), int(hits)) for name, n, hits in connection.execute(days)
        ),
        mistaken=tuple(Mistaken(predicted, answer, n) for n, predicted, answer in wrong[:MISTAKEN]),
    )
