"""The two tables, and the SQL condition for the newest answer.

This module imports SQLAlchemy: import it inside functions only.
"""

from __future__ import annotations

from typing import Final

from sqlalchemy import (
    BigInteger,
    Boolean,
    Column,
    ColumnElement,
    Connection,
    Float,
    Index,
    Integer,
    MetaData,
    String,
    Table,
    Text,
    exists,
    inspect,
    select,
    text,
)

from tailorbird.corrections.database import Location
from tailorbird.errors import SettingsError

VERSION: Final = 1
"""Schema version; increase it when an older tailorbird could misread the tables."""

_LOCK: Final = 0x7461696C6F72  # "tailor": PostgreSQL's advisory lock while tables are created

metadata = MetaData()

about = Table(
    "tailorbird_about",
    metadata,
    Column("name", String(40), primary_key=True),
    Column("value", Text, nullable=False),
)
"""schema: the version; secret: 64 hexadecimal digits."""

corrections = Table(
    "tailorbird_corrections",
    metadata,
    # SQLite numbers rows only in an INTEGER. With AUTOINCREMENT it never reuses a deleted id.
    Column(
        "id", BigInteger().with_variant(Integer, "sqlite"), primary_key=True, autoincrement=True
    ),
    # UTC as 2026-05-01T09:30:00.000000Z: it sorts by time, and starts with the day.
    Column("created", String(27), nullable=False),
    Column("sha256", String(64), nullable=False),
    Column("predicted", Text, nullable=False),
    Column("probability", Float(53), nullable=False),
    Column("top", Text, nullable=False),
    Column("answer", Text, nullable=False),
    Column("right", Boolean, nullable=False),
    Column("model", Text, nullable=False),
    Column("model_sha256", String(64), nullable=False),
    Column("receipt", String(200), nullable=False),
    Column("photo_kept", Boolean, nullable=False),
    sqlite_autoincrement=True,
)
Index("tailorbird_corrections_receipt", corrections.c.receipt, corrections.c.id)
Index("tailorbird_corrections_sha256", corrections.c.sha256, corrections.c.id)
Index("tailorbird_corrections_created", corrections.c.created)

_later = corrections.alias("later")
newest: ColumnElement[bool] = ~exists(
    select(_later.c.id).where(
        _later.c.receipt == corrections.c.receipt, _later.c.id > corrections.c.id
    )
).correlate(corrections)
"""True for a row that counts: no later one answers the same receipt."""


def version(connection: Connection, location: Location) -> int | None:
    """Return the version of the existing tables, None without tables.

    Raises SettingsError for an unknown version.
    """
    if not inspect(connection).has_table(about.name):
        return None
    found = connection.execute(select(about.c.value).where(about.c.name == "schema")).scalar()
    if found != str(VERSION):
        raise SettingsError(
            f"{location.shown} has corrections of schema version {found}; this tailorbird reads "
            f"version {VERSION}: upgrade tailorbird"
        )
    return VERSION


def create(connection: Connection, location: Location) -> None:
    """Create the tables in the current transaction, unless another process has."""
    lock_schema(connection)
    if version(connection, location) is None:
        metadata.create_all(connection)
        remember(connection, "schema", str(VERSION))


def lock_schema(connection: Connection) -> None:
    """Let one process at a time create tables, until its transaction ends.

    In PostgreSQL, CREATE TABLE IF NOT EXISTS can fail when two sessions run it at the same time; in
    SQLite, every transaction that writes has the file for itself.
    """
    if connection.dialect.name == "postgresql":
        connection.execute(text("SELECT pg_advisory_xact_lock(:key)").bindparams(key=_LOCK))


def remember(connection: Connection, name: str, value: str) -> str:
    """Store a value unless there is one; return the stored one, the same in all processes."""
    statement = text(
        f"INSERT INTO {about.name} (name, value) VALUES (:name, :value) "
        "ON CONFLICT (name) DO NOTHING"
    )
    connection.execute(statement.bindparams(name=name, value=value))
    return str(connection.execute(select(about.c.value).where(about.c.name == name)).scalar_one())
