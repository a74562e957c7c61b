"""Locate and open the database of corrections, and translate its errors.

SQLite and PostgreSQL through SQLAlchemy Core, which is imported only when a database is opened. No
message contains a password.
"""

from __future__ import annotations

import os
import re
import sqlite3
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final
from urllib.parse import quote

from tailorbird import installing
from tailorbird.errors import (
    MissingExtra,
    SettingsError,
    StorageError,
    StorageFull,
    TailorbirdError,
)

if TYPE_CHECKING:
    from sqlalchemy import URL, Connection, Engine

BUSY_SECONDS: Final = 5.0
"""Maximum time that a write waits for another process's write."""

CONNECT_SECONDS: Final = 5
STATEMENT_SECONDS: Final = 30
"""PostgreSQL ends a statement that takes longer: a request must not hang."""

_WRITE: Final = "tailorbird_write"
_NEARLY_FULL: Final = 65_536
"""Free bytes below which an I/O error of SQLite means a full disk."""

_VALID: Final = (
    "give the path of an SQLite file such as shop.db, or "
    "postgresql://USER:PASSWORD@HOST:PORT/DATABASE"
)
_REFUSED: Final = (
    ("password authentication failed", "the user name or the password is wrong"),
    ("no password supplied", "a password is needed: put it into the URL, PGPASSWORD or ~/.pgpass"),
    ("does not exist", "create it first, or correct the URL"),
    (
        "no pg_hba.conf entry",
        "the server does not admit this user from this machine (pg_hba.conf)",
    ),
)


@dataclass(frozen=True)
class Location:
    """Where a database is: a file (SQLite) or a URL (PostgreSQL).

    shown: name of the database for messages, without a password.
    """

    path: Path | None
    url: URL | None
    shown: str


def locate(url: str) -> Location:
    """Parse a path or URL. Raises SettingsError for anything but SQLite and PostgreSQL."""
    scheme, separator, rest = url.partition("://")
    if not separator:
        return _file(url)
    if scheme in ("sqlite", "sqlite+pysqlite"):
        if rest and not rest.startswith("/"):
            raise SettingsError(
                f"{url}: SQLite URLs cannot contain a host; write sqlite:///shop.db or "
                "sqlite:////srv/shop.db"
            )
        return _file(rest[1:].partition("?")[0])
    if scheme not in ("postgresql", "postgres", "postgresql+psycopg"):
        raise SettingsError(f"corrections cannot be stored in {scheme!r}; {_VALID}")
    try:
        from sqlalchemy import make_url
        from sqlalchemy.exc import ArgumentError
    except ImportError:
        raise _missing_sqlalchemy() from None
    try:
        if rest.partition("?")[0].count("@") > 1:
            raise ValueError  # an @ in the password: its end would be shown as the host's name
        parsed = make_url(f"postgresql+psycopg://{rest}")
    except (ArgumentError, ValueError):
        # SQLAlchemy's message may quote a part of the password: / or @ in it is the usual cause.
        raise SettingsError(
            f"the URL {scheme}://... is not valid; {_VALID}; write / @ : % in a user name or "
            "password as %2F %40 %3A %25"
        ) from None
    host = parsed.host or parsed.query.get("host") or "the local socket"
    where = f"{host}:{parsed.port}" if parsed.port else str(host)
    return Location(
        None,
        parsed,
        f"the PostgreSQL database {parsed.database or parsed.username or ''!s} on {where}",
    )


def _file(name: str) -> Location:
    if not name or name == ":memory:" or "\0" in name:
        raise SettingsError(
            f"the corrections database is {name!r}, which is not a file: they would be lost; "
            f"{_VALID}"
        )
    path = Path(name)
    return Location(path, None, str(path))


def default_photos(url: str) -> Path | None:
    """Return the default folder of kept photos: `shop.photos` beside the SQLite file `shop.db`.

    None for other databases.
    """
    path = locate(url).path
    return path.with_name(f"{path.stem}.photos") if path is not None else None


def _missing_sqlalchemy() -> MissingExtra:
    return MissingExtra(
        "corrections need SQLAlchemy, which is not installed: " + installing.install("serve")
    )


def open_engine(location: Location, *, create: bool) -> Engine:
    """Return an SQLAlchemy engine for the database.

    create: create an SQLite file that does not exist.

    Raises SettingsError (no such file, a folder), StorageError (not permitted), MissingExtra.
    """
    try:
        import sqlalchemy  # noqa: F401
    except ImportError:
        raise _missing_sqlalchemy() from None
    if location.path is not None:
        return _sqlite(location.path, create)
    return _postgresql(location)


def _sqlite(path: Path, create: bool) -> Engine:
    from sqlalchemy import create_engine, event
    from sqlalchemy.exc import DisconnectionError
    from sqlalchemy.pool import QueuePool

    _prepare_file(path, create)
    absolute = path.absolute()

    def connect() -> sqlite3.Connection:
        # mode=rw: a file deleted while a server runs is an error, not a new, empty database.
        connection = sqlite3.connect(
            f"file:{quote(str(absolute))}?mode=rw",
            uri=True,
            timeout=BUSY_SECONDS,
            check_same_thread=False,
            isolation_level=None,
        )
        # FULL: a reported commit survives a power cut. secure_delete: deleted rows are overwritten.
        connection.execute("PRAGMA synchronous=FULL")
        connection.execute("PRAGMA secure_delete=ON")
        return connection

    engine = create_engine(
        "sqlite://", creator=connect, poolclass=QueuePool, pool_size=5, hide_parameters=True
    )

    @event.listens_for(engine, "begin")
    def _begin(connection: Connection) -> None:
        # A transaction that reads before it writes could fail at once instead of waiting.
        writes = connection.get_execution_options().get(_WRITE)
        connection.exec_driver_sql("BEGIN IMMEDIATE" if writes else "BEGIN")

    @event.listens_for(engine, "connect")
    def _opened(_: Any, record: Any) -> None:
        record.info["file"] = _identity(absolute)

    @event.listens_for(engine, "checkout")
    def _still_there(_: Any, record: Any, __: Any) -> None:
        # A connection to a deleted or replaced file would acknowledge rows that nobody can read.
        if record.info.get("file") != _identity(absolute):
            raise DisconnectionError

    return engine


def _identity(path: Path) -> tuple[int, int] | None:
    try:
        about = path.stat()
    except OSError:
        return None
    return about.st_dev, about.st_ino


def _prepare_file(path: Path, create: bool) -> None:
    """Refuse a path that cannot be a database; create the file if asked.

    Only its owner may read it: it will hold the secret of the receipts.
    """
    try:
        folder, there = path.is_dir(), path.exists()
    except OSError as error:
        raise SettingsError(f"{path} cannot be opened: {error.strerror}; {_VALID}") from None
    if folder:
        raise SettingsError(f"{path} is a folder; {_VALID}")
    if there:
        return
    if not create:
        raise SettingsError(f"{path} does not exist; {_VALID}")
    try:
        os.close(os.open(path, os.O_CREAT | os.O_RDWR, 0o600))
    except OSError as error:
        raise SettingsError(
            f"{path} cannot be created: {error.strerror}; name a file in a folder that this user "
            "may write to"
        ) from None


def _postgresql(location: Location) -> Engine:
    from sqlalchemy import create_engine, event, text

    arguments = {
        "connect_timeout": CONNECT_SECONDS,
        "keepalives_idle": 10,
        "tcp_user_timeout": 10_000,
        "prepare_threshold": None,  # so that it works behind a connection pooler
        "application_name": "tailorbird",
    }
    assert location.url is not None
    # Values in the URL take precedence.
    chosen = {name: value for name, value in arguments.items() if name not in location.url.query}
    try:
        engine = create_engine(
            location.url,
            connect_args=chosen,
            pool_pre_ping=True,
            pool_size=4,
            max_overflow=4,
            pool_timeout=CONNECT_SECONDS,
            pool_recycle=1800,
            hide_parameters=True,
        )
    except ImportError:
        raise MissingExtra(
            "PostgreSQL needs the driver psycopg 3, which is not installed: "
            + installing.install("postgres")
        ) from None
    # Set for each transaction, because a pooler may share connections. A commit must be on the
    # disk before it is acknowledged, also where the server's default is synchronous_commit off.
    limits = text(
        "SELECT set_config('statement_timeout', :statement, true), "
        "set_config('lock_timeout', :lock, true), "
        "set_config('synchronous_commit', CASE current_setting('synchronous_commit') "
        "WHEN 'off' THEN 'on' ELSE current_setting('synchronous_commit') END, true)"
    ).bindparams(statement=str(STATEMENT_SECONDS * 1000), lock=str(round(BUSY_SECONDS * 1000)))

    @event.listens_for(engine, "begin")
    def _begin(connection: Connection) -> None:
        connection.execute(limits)

    return engine


def for_writing(engine: Engine) -> Engine:
    """Return the same engine for transactions that write."""
    return engine.execution_options(**{_WRITE: True})


def use_wal(engine: Engine, location: Location) -> None:
    """Let readers and one writer of an SQLite file work at the same time (WAL mode)."""
    patience = time.monotonic() + BUSY_SECONDS
    while True:
        with translated(location, opening=True), engine.connect() as connection:
            raw: Any = connection.connection.dbapi_connection
            try:
                mode = raw.execute("PRAGMA journal_mode").fetchone()[0]
                if mode != "wal":
                    raw.execute("PRAGMA journal_mode=WAL")
                return
            except sqlite3.OperationalError as error:
                # SQLite does not wait for other processes when it changes the mode.
                if (
                    error.sqlite_errorcode & 0xFF != sqlite3.SQLITE_BUSY
                    or time.monotonic() > patience
                ):
                    raise _from_sqlite(error, location, opening=True) from None
            except sqlite3.DatabaseError as error:
                raise _from_sqlite(error, location, opening=True) from None
        time.sleep(0.02)


@contextmanager
def translated(location: Location, *, opening: bool = False) -> Iterator[None]:
    """Turn the database's errors into StorageFull, StorageError and, when `opening`, SettingsError.

    No message contains the password, a statement or its values.
    """
    from sqlalchemy.exc import DBAPIError, SQLAlchemyError

    try:
        yield
    except DBAPIError as error:
        raise _from_driver(error.orig, location, opening) from None
    except sqlite3.Error as error:
        raise _from_sqlite(error, location, opening) from None
    except SQLAlchemyError as error:
        text = _one_line(str(error), location)
        raise StorageError(
            f"{location.shown}: {text}; the database is unreachable or overloaded, try again"
        ) from None


def _from_driver(error: BaseException | None, location: Location, opening: bool) -> TailorbirdError:
    if isinstance(error, sqlite3.Error):
        return _from_sqlite(error, location, opening)
    text = _one_line(str(error), location)
    state = getattr(error, "sqlstate", None)
    if state == "53100":
        return StorageFull(
            f"the disk of {location.shown} is full: {text}; free some space there, nothing stored "
            "before is lost"
        )
    if state in ("57014", "55P03"):
        return StorageError(
            f"{location.shown} took too long: {text}; another program may hold a lock, try again"
        )
    if opening:
        for sign, hint in _REFUSED:
            if sign in text:
                return SettingsError(f"{location.shown} cannot be used: {text}; {hint}")
    if state is not None and not state.startswith(("08", "57P")):
        return StorageError(f"{location.shown}: {text}")
    return StorageError(
        f"{location.shown} cannot be reached: {text}; check that the server runs and that the "
        "network permits the connection"
    )


def _from_sqlite(error: sqlite3.Error, location: Location, opening: bool) -> TailorbirdError:
    code = getattr(error, "sqlite_errorcode", 0) & 0xFF
    shown = location.shown
    if code == sqlite3.SQLITE_FULL or (
        code == sqlite3.SQLITE_IOERR and _nearly_full(location.path)
    ):
        return StorageFull(
            f"the disk is full: {shown} could not be written; free some space, nothing stored is "
            "lost"
        )
    if code in (sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED):
        return StorageError(
            f"{shown} was locked by another program for more than {BUSY_SECONDS:g} s; try again"
        )
    if code == sqlite3.SQLITE_NOTADB:
        message = f"{shown} is not an SQLite database; {_VALID}"
        return SettingsError(message) if opening else StorageError(message)
    if code == sqlite3.SQLITE_CORRUPT:
        return StorageError(
            f"{shown} is damaged ({error}); restore a backup, or save what can be read: "
            f"sqlite3 {shown} .recover"
        )
    if code in (sqlite3.SQLITE_CANTOPEN, sqlite3.SQLITE_READONLY, sqlite3.SQLITE_PERM):
        return StorageError(
            f"{shown} cannot be opened for writing ({error}); it and its folder must exist and be "
            "writable"
        )
    return StorageError(f"{shown}: {error}")


def _nearly_full(path: Path | None) -> bool:
    try:
        about = os.statvfs(path.absolute().parent) if path is not None else None
    except OSError:
        return False
    return about is not None and about.f_bavail * about.f_frsize < _NEARLY_FULL


def _one_line(text: str, location: Location) -> str:
    """Return a driver's message on one line, without the URL's password."""
    if location.url is not None:
        for secret in (location.url.password, location.url.query.get("password")):
            if secret:
                text = text.replace(str(secret), "***")
    return re.sub(r"\s+", " ", text).strip().rstrip(".")[:500]
