"""What a candidate model would have answered, beside the answers of the model being served.

A row holds two class names and the receipt of the prediction, by which an answer of a person about
that prediction becomes the label. The table is created when the first candidate runs.

This module imports SQLAlchemy: import it inside functions only.
"""

from __future__ import annotations

import datetime
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from sqlalchemy import (
    BigInteger,
    Column,
    Connection,
    Index,
    Integer,
    MetaData,
    String,
    Table,
    Text,
    and_,
    delete,
    func,
    insert,
    inspect,
    select,
)

from tailorbird.corrections.tables import corrections, lock_schema, newest

MOST: Final = 100_000
"""Rows that are kept, the newest."""

_trials = Table(
    "tailorbird_trials",
    MetaData(),
    Column(
        "id", BigInteger().with_variant(Integer, "sqlite"), primary_key=True, autoincrement=True
    ),
    Column("created", String(27), nullable=False),
    Column("receipt", String(200), nullable=False),
    Column("model_sha256", String(64), nullable=False),
    Column("candidate_sha256", String(64), nullable=False),
    Column("predicted", Text, nullable=False),
    Column("candidate", Text, nullable=False),
    sqlite_autoincrement=True,
)
Index("tailorbird_trials_receipt", _trials.c.receipt)


@dataclass(frozen=True)
class Trial:
    """One photo: the receipt of its prediction, both models, and the class that each predicts."""

    receipt: str
    model_sha256: str
    candidate_sha256: str
    predicted: str
    candidate: str


@dataclass(frozen=True)
class TrialCounts:
    """Photos that both models saw.

    photos: all of them. agree: those with the same prediction. both, only_served, only_candidate,
    neither: those a person answered about, by which model was right.
    """

    photos: int = 0
    agree: int = 0
    both: int = 0
    only_served: int = 0
    only_candidate: int = 0
    neither: int = 0


def add(connection: Connection, rows: Sequence[Trial]) -> None:
    """Store rows, and delete the oldest beyond MOST."""
    if not inspect(connection).has_table(_trials.name):
        lock_schema(connection)
        _trials.create(connection, checkfirst=True)
    now = datetime.datetime.now(datetime.UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ")
    connection.execute(insert(_trials), [{**vars(row), "created": now} for row in rows])
    last = connection.execute(select(func.max(_trials.c.id))).scalar_one()
    connection.execute(delete(_trials).where(_trials.c.id <= last - MOST))


def count(connection: Connection, model: str, candidate: str) -> TrialCounts:
    """Return the counts of a candidate beside a model, both named by their SHA-256."""
    if not inspect(connection).has_table(_trials.name):
        return TrialCounts()
    answered = (
        select(corrections.c.receipt, corrections.c.answer).where(newest).subquery("answered")
    )
    columns = _trials.c
    statement = (
        select(columns.predicted, columns.candidate, answered.c.answer, func.count())
        .select_from(_trials.outerjoin(answered, columns.receipt == answered.c.receipt))
        .where(and_(columns.model_sha256 == model, columns.candidate_sha256 == candidate))
        .group_by(columns.predicted, columns.candidate, answered.c.answer)
    )
    counts = dict.fromkeys(vars(TrialCounts()), 0)
    for served, other, answer, n in connection.execute(statement):
        counts["photos"] += n
        counts["agree"] += n * (served == other)
        if answer is not None:
            counts[_WHO[served == answer, other == answer]] += n
    return TrialCounts(**counts)


_WHO: Final = {
    (True, True): "both",
    (True, False): "only_served",
    (False, True): "only_candidate",
    (False, False): "neither",
}


def forget(connection: Connection, sha256: str) -> None:
    """Delete the rows about a photo that people answered about, by the photo's SHA-256."""
    if inspect(connection).has_table(_trials.name):
        about = select(corrections.c.receipt).where(corrections.c.sha256 == sha256)
        connection.execute(delete(_trials).where(_trials.c.receipt.in_(about)))
