"""Counts of a service's photos in bins, by model and day: no photo, no hash of one and no name.

The table is created with the first count. Several processes add to the same counts.

This module imports SQLAlchemy: import it inside functions only.
"""

from __future__ import annotations

import datetime
from collections.abc import Mapping
from typing import Final, NamedTuple

from sqlalchemy import (
    BigInteger,
    Column,
    Connection,
    Integer,
    MetaData,
    String,
    Table,
    delete,
    inspect,
    select,
    text,
)

from tailorbird.corrections.tables import lock_schema

KEPT_DAYS: Final = 90
"""Older days are deleted."""

_uploads = Table(
    "tailorbird_uploads",
    MetaData(),
    Column("model_sha256", String(64), primary_key=True),
    Column("day", String(10), primary_key=True),
    Column("measure", String(20), primary_key=True),
    Column("bin", Integer, primary_key=True, autoincrement=False),
    Column("photos", BigInteger, nullable=False),
)


class Place(NamedTuple):
    """One bin of one measure, of a model's photos on one UTC day, such as 2026-05-01."""

    model_sha256: str
    day: str
    measure: str
    bin: int


def add(connection: Connection, counts: Mapping[Place, int]) -> None:
    """Add counts to those stored, and delete days before the last KEPT_DAYS."""
    if not inspect(connection).has_table(_uploads.name):
        lock_schema(connection)
        _uploads.create(connection, checkfirst=True)
    statement = text(
        f"INSERT INTO {_uploads.name} (model_sha256, day, measure, bin, photos) "
        "VALUES (:model_sha256, :day, :measure, :bin, :photos) "
        "ON CONFLICT (model_sha256, day, measure, bin) "
        f"DO UPDATE SET photos = {_uploads.name}.photos + excluded.photos"
    )
    # In one order: otherwise two processes could wait for each other's rows.
    rows = [{**place._asdict(), "photos": photos} for place, photos in sorted(counts.items())]
    connection.execute(statement, rows)
    today = datetime.datetime.now(datetime.UTC).date()
    first = (today - datetime.timedelta(days=KEPT_DAYS - 1)).isoformat()
    connection.execute(delete(_uploads).where(_uploads.c.day < first))


def read(connection: Connection, model: str) -> dict[Place, int]:
    """Return the counts of a model, named by its SHA-256, by day."""
    if not inspect(connection).has_table(_uploads.name):
        return {}
    columns = _uploads.c
    statement = select(_uploads).where(columns.model_sha256 == model).order_by(columns.day)
    return {
        Place(row.model_sha256, row.day, row.measure, row.bin): row.photos
        for row in connection.execute(statement)
    }
