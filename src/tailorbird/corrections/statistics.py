"""How often the model is right in use: counted by the database, so that a million answers need no memory here."""

from __future__ import annotations

import datetime
from collections import defaultdict
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

from tailorbird.metrics.distributions import wilson_interval

if TYPE_CHECKING:
    from sqlalchemy import Connection

DAYS: Final = 90
"""Days that `by_day` goes back."""

MISTAKEN: Final = 20
"""Confusions that are listed."""


@dataclass(frozen=True)
class ClassCount:
    """Of `total` photos that people say show `label`, `right` were called so."""

    label: str
    total: int
    right: int


@dataclass(frozen=True)
class DayCount:
    """Answers of one UTC day, `day` as 2026-05-01."""

    day: str
    total: int
    right: int


@dataclass(frozen=True)
class Mistaken:
    """`count` photos of `answer` were called `predicted`."""

    predicted: str
    answer: str
    count: int


@dataclass(frozen=True)
class Stats:
    """What people answered; the newest answer for each receipt counts.

    accuracy: 0 to 1, None without an answer. interval: its 95% Wilson interval. per_class: sorted by label, counted by the
    answer. by_day: days with answers among the last 90, oldest first. mistaken: at most 20, the most frequent first.
    """

    total: int
    right: int
    accuracy: float | None
    interval: tuple[float, float]
    per_class: tuple[ClassCount, ...]
    by_day: tuple[DayCount, ...]
    mistaken: tuple[Mistaken, ...]

    def as_dict(self) -> dict[str, Any]:
        """The object of `GET /v1/corrections/stats` and `corrections stats --json`."""
        return {
            "total": self.total,
            "right": self.right,
            "accuracy": self.accuracy,
            "interval": list(self.interval),
            "per_class": [vars(row).copy() for row in self.per_class],
            "by_day": [vars(row).copy() for row in self.by_day],
            "mistaken": [vars(row).copy() for row in self.mistaken],
        }


def count(connection: Connection) -> dict[tuple[str, str], tuple[int, int]]:
    """{(answer, predicted): (photos, right)}: a row for each pair that occurs, never one for each answer."""
    from sqlalchemy import func, select

    from tailorbird.corrections.tables import corrections, newest

    columns = corrections.c
    statement = (
        select(columns.answer, columns.predicted, func.count(), _hits())
        .where(newest)
        .group_by(columns.answer, columns.predicted)
    )
    return {
        (answer, said): (int(n), int(hits))
        for answer, said, n, hits in connection.execute(statement)
    }


def _hits() -> Any:
    from sqlalchemy import case, func

    from tailorbird.corrections.tables import corrections

    return func.sum(case((corrections.c.right, 1), else_=0))


def read(connection: Connection, today: datetime.date) -> Stats:
    """The statistics as of `today` (UTC)."""
    from sqlalchemy import func, select

    from tailorbird.corrections.tables import corrections, newest

    pairs = count(connection)
    classes: dict[str, list[int]] = defaultdict(lambda: [0, 0])
    for (answer, _), (n, hits) in pairs.items():
        classes[answer][0] += n
        classes[answer][1] += hits
    total = sum(n for n, _ in classes.values())
    right = sum(hits for _, hits in classes.values())
    wrong = sorted(
        ((n - hits, said, answer) for (answer, said), (n, hits) in pairs.items() if n > hits),
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
        per_class=tuple(ClassCount(label, n, hits) for label, (n, hits) in sorted(classes.items())),
        by_day=tuple(
            DayCount(str(name), int(n), int(hits)) for name, n, hits in connection.execute(days)
        ),
        mistaken=tuple(Mistaken(said, answer, n) for n, said, answer in wrong[:MISTAKEN]),
    )
