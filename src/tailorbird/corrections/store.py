"""An append-only log of people's answers in SQLite or PostgreSQL, and a folder of their photos."""

from __future__ import annotations

import datetime
import hashlib
import json
import math
import os
import re
import secrets
import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, TypedDict, Unpack

from tailorbird.corrections import photos as folder
from tailorbird.corrections import statistics
from tailorbird.corrections.database import (
    Location,
    default_photos,
    for_writing,
    locate,
    open_engine,
    translated,
    use_wal,
)
from tailorbird.corrections.statistics import NONE_OF_THESE, is_right
from tailorbird.dataset.labels import similar_label, typed_label
from tailorbird.errors import SettingsError

if TYPE_CHECKING:
    from sqlalchemy import Connection, Engine

    from tailorbird.corrections.trials import Trial, TrialCounts
    from tailorbird.corrections.uploads import Place

_DIGEST: Final = re.compile(r"[0-9a-f]{64}")
_MOST_TEXT: Final = 4000  # characters; class names are much shorter
_PAGE: Final = 1000  # rows fetched at a time
SECRET_BYTES: Final = 32

MOST_NEW_LABELS: Final = 100
"""Maximum number of different labels that are no class of the model, within NEW_LABEL_DAYS, so that
a stranger cannot fill a service with them."""

NEW_LABEL_DAYS: Final = 30


@dataclass(frozen=True)
class Row:
    """One answer as stored.

    id: larger for later answers. created: time in UTC. sha256: SHA-256 of the photo's bytes, 64
    hexadecimal digits.
    predicted, probability (0 to 1), top ((label, probability), ...): the model's prediction.
    answer: the class that the person named, or NONE_OF_THESE. right: whether it equals `predicted`,
    or the model said too that it is none of the classes.
    model, model_sha256: the model. receipt: the prediction that was answered.
    photo_kept: the photo was written to the folder.
    newest: no later row answers the same receipt; only such rows count.
    """

    id: int
    created: datetime.datetime
    sha256: str
    predicted: str
    probability: float
    top: tuple[tuple[str, float], ...]
    answer: str
    right: bool
    model: str
    model_sha256: str
    receipt: str
    photo_kept: bool
    newest: bool

    def as_dict(self) -> dict[str, Any]:
        """Return the row for JSON; `created` in ISO 8601."""
        top = [{"label": label, "probability": probability} for label, probability in self.top]
        return {**vars(self), "created": self.created.isoformat(), "top": top}


@dataclass(frozen=True)
class Forgotten:
    """What `forget` deleted: the number of rows, and whether there was a kept photo."""

    rows: int
    photo: bool


def open_store(url: str, *, photos: Path | None = None, create: bool = True) -> Corrections:
    """Open the corrections in `url` and create missing tables; several processes may do so at once.

    url: the path of an SQLite file (`shop.db`, `sqlite:///shop.db`) or
        `postgresql://user:password@host/database`.
    photos: folder for the photos of corrections; None keeps none. It is created with the first
        photo.
    create: False raises for a database without corrections instead of creating the tables.

    Raises SettingsError (an invalid path or URL, a file that is not an SQLite database, a wrong
    password, a schema of a newer tailorbird), StorageError (an unreachable server, a file that
    cannot be written), StorageFull, MissingExtra.
    """
    location = locate(url)
    if photos is not None:
        _check_folder(photos, writable=create)
    engine = open_engine(location, create=create)
    try:
        _set_up(engine, location, create)
    except BaseException:
        engine.dispose()
        raise
    return Corrections(engine, location, photos)


def open_existing(url: str, photos: Path | None = None) -> Corrections:
    """Open existing corrections.

    photos: the folder of kept photos; by default the one beside an SQLite file.

    Raises what `open_store` raises, and SettingsError when there is no such database or folder.
    """
    try:
        there = photos is None or photos.is_dir()
    except OSError:
        there = False
    if not there:
        raise SettingsError(f"the folder of kept photos {photos} does not exist or is not a folder")
    return open_store(url, photos=photos or default_photos(url), create=False)


def _check_folder(photos: Path, *, writable: bool) -> None:
    """Raise SettingsError for a folder that cannot be used; it need not exist yet."""
    allowed = "write to" if writable else "read"
    try:
        fine = not photos.exists() or (
            photos.is_dir() and os.access(photos, os.W_OK if writable else os.R_OK)
        )
    except OSError:
        fine = False
    if not fine:
        raise SettingsError(
            f"the folder for photos {photos} is not a folder that this user may {allowed}"
        )


def _set_up(engine: Engine, location: Location, create: bool) -> None:
    from tailorbird.corrections import tables

    with translated(location, opening=True), engine.connect() as connection:
        there = tables.version(connection, location) is not None
    if not there and not create:
        raise SettingsError(
            f"{location.shown} holds no corrections; name the database of `tailorbird serve`"
        )
    if not create:
        return
    if location.path is not None:
        use_wal(engine, location)
    if not there:
        with translated(location, opening=True), for_writing(engine).begin() as connection:
            tables.create(connection, location)


class Answer(TypedDict):
    """One answer to a prediction, as `Corrections.add` takes it; the values are those of `Row`.

    receipt: names the prediction, at most 200 characters; its newest answer counts.
    """

    sha256: str
    predicted: str
    probability: float
    top: Sequence[tuple[str, float]]
    answer: str
    model: str
    model_sha256: str
    receipt: str


class Corrections:
    """Open corrections, as returned by `open_store`; methods may be called from several threads.

    Every method raises StorageError when the database is unreachable, or locked for more than 5
    seconds, and works again as soon as the database does.
    """

    def __init__(self, engine: Engine, location: Location, photos: Path | None) -> None:
        self.photos = photos
        """The folder of kept photos, or None."""
        self.path = location.path
        """The SQLite file, None for a server's database."""
        self.shown = location.shown
        """The database's name for messages, without a password."""
        self._engine = engine
        self._writer = for_writing(engine)
        self._location = location
        self._secret: bytes | None = None
        self._lock = threading.Lock()

    def __enter__(self) -> Corrections:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    @contextmanager
    def reading(self) -> Iterator[Connection]:
        """Open a transaction that reads one consistent state of the database."""
        with translated(self._location), self._engine.begin() as connection:
            yield connection

    @contextmanager
    def _writing(self) -> Iterator[Connection]:
        with translated(self._location), self._writer.begin() as connection:
            yield connection

    def add(
        self, *, photo: bytes | None = None, refused: bool = False, **answer: Unpack[Answer]
    ) -> int:
        """Store one answer and return its id, once it and a kept photo are on the disk.

        Args:
            photo: the bytes that were predicted; kept only if the store has a folder for photos.
            refused: the model said that the photo seems to show none of its classes.
            answer: the values of `Answer`.

        Raises:
            SettingsError: a value cannot be stored.
            UnsupportedImage: the photo's format is not accepted; nothing was stored.
            StorageFull, StorageError.
        """
        from sqlalchemy import insert

        from tailorbird.corrections.tables import corrections

        _check(answer)
        sha256 = answer["sha256"]
        kept = photo is not None and self.photos is not None
        if photo is not None and hashlib.sha256(photo).hexdigest() != sha256:
            raise SettingsError(
                f"the photo's bytes do not have the SHA-256 {sha256}; send exactly the bytes that "
                "were predicted"
            )
        rounded = [[label, round(float(value), 6)] for label, value in answer["top"]]
        values = {
            **answer,
            "created": _text(datetime.datetime.now(datetime.UTC)),
            "probability": float(answer["probability"]),
            "top": json.dumps(rounded, ensure_ascii=False),
            "right": is_right(answer["answer"], answer["predicted"], refused=refused),
            "photo_kept": kept,
        }
        with self._writing() as connection:
            identity = connection.execute(insert(corrections).values(values)).inserted_primary_key
            if photo is not None and self.photos is not None:
                # Before the commit: no row may name a photo that does not exist. After the insert:
                # no photo may stay that an unreachable or full database has no row for.
                folder.keep(self.photos, sha256, photo)
        assert identity is not None
        return int(identity[0])

    def label_for(self, text: str, known: Sequence[str]) -> str:
        """Return the label to store for a category that a person typed.

        A text that differs only in how it is written from a class or from a label that people
        typed before is that label. Requests at the same moment can exceed MOST_NEW_LABELS by their
        number.

        Args:
            text: what was typed.
            known: the classes of the model.

        Raises:
            SettingsError: the text cannot be a label, or there are MOST_NEW_LABELS new ones.
            StorageError.
        """
        from sqlalchemy import select

        from tailorbird.corrections.tables import corrections

        label = typed_label(text, known)
        if label in known:
            return label
        start = datetime.datetime.now(datetime.UTC) - datetime.timedelta(days=NEW_LABEL_DAYS)
        recent = select(corrections.c.answer).where(corrections.c.created >= _text(start))
        with self.reading() as connection:
            answers = set(connection.execute(recent.distinct()).scalars())
        new = answers - {*known, NONE_OF_THESE}
        if label in new:
            return label
        if (alike := similar_label(label, sorted(new))) is not None:
            return alike
        if len(new) >= MOST_NEW_LABELS:
            raise SettingsError(
                f"people have named {len(new)} new categories within {NEW_LABEL_DAYS} days, and "
                "no more are taken; choose one of the model's classes, or say none_of_these"
            )
        return label

    def secret(self) -> bytes:
        """Return 32 random bytes that the database keeps, the same in every process."""
        from tailorbird.corrections.tables import remember

        with self._lock:
            if self._secret is None:
                with self._writing() as connection:
                    self._secret = bytes.fromhex(
                        remember(connection, "secret", secrets.token_hex(SECRET_BYTES))
                    )
            return self._secret

    def stats(self) -> statistics.Stats:
        """Return the accuracy in use: in total, by class and by day, with the confusions."""
        with self.reading() as connection:
            return statistics.read(connection, datetime.datetime.now(datetime.UTC).date())

    def counts(self) -> dict[tuple[str, bool], int]:
        """Return {(answer, right): photos} of the newest answer to each receipt."""
        with self.reading() as connection:
            pairs = statistics.count(connection)
        result: dict[tuple[str, bool], int] = {}
        for (answer, _), (n, hits) in pairs.items():
            for right, number in ((True, hits), (False, n - hits)):
                if number:
                    result[answer, right] = result.get((answer, right), 0) + number
        return result

    def add_trials(self, rows: Sequence[Trial]) -> None:
        """Store what a candidate model would have answered; creates the table."""
        from tailorbird.corrections import trials

        with self._writing() as connection:
            trials.add(connection, rows)

    def trial(self, model: str, candidate: str) -> TrialCounts:
        """Return the counts of a candidate beside a model, both named by their SHA-256."""
        from tailorbird.corrections import trials

        with self.reading() as connection:
            return trials.count(connection, model, candidate)

    def add_uploads(self, counts: Mapping[Place, int]) -> None:
        """Add counts of a service's photos in bins; creates the table."""
        from tailorbird.corrections import uploads

        with self._writing() as connection:
            uploads.add(connection, counts)

    def uploads(self, model: str) -> dict[Place, int]:
        """Return the counts of a model's photos in bins, oldest day first.

        model: its SHA-256.
        """
        from tailorbird.corrections import uploads

        with self.reading() as connection:
            return uploads.read(connection, model)

    def rows(self, since: datetime.datetime | None = None) -> Iterator[Row]:
        """Yield every answer, oldest first, in bounded memory, including those stored meanwhile.

        since: yield only answers from this moment on; a datetime with a time zone.
        """
        from sqlalchemy import select

        from tailorbird.corrections.tables import corrections, newest

        if since is not None and since.tzinfo is None:
            raise SettingsError(
                f"since is {since.isoformat()}, without a time zone; give one, such as datetime.UTC"
            )
        last = 0
        while True:
            query = select(corrections, newest.label("newest")).where(corrections.c.id > last)
            if since is not None:
                query = query.where(corrections.c.created >= _text(since))
            query = query.order_by(corrections.c.id).limit(_PAGE)
            # In pages: a long transaction would keep either database from cleaning up.
            with self.reading() as connection:
                page = [row_from(found) for found in connection.execute(query).mappings()]
            yield from page
            if len(page) < _PAGE:
                return
            last = page[-1].id

    def forget(self, sha256: str) -> Forgotten:
        """Delete all rows about one photo, then the photo.

        If it is interrupted, calling it again deletes the rest.

        Raises SettingsError for a malformed SHA-256.
        """
        from sqlalchemy import delete

        from tailorbird.corrections import trials
        from tailorbird.corrections.tables import corrections

        digest = sha256.strip().lower()
        if not _DIGEST.fullmatch(digest):
            raise SettingsError(
                f"{sha256!r} is not a SHA-256; give 64 hexadecimal digits, as "
                "`sha256sum photo.jpg` prints"
            )
        with self._writing() as connection:
            trials.forget(connection, digest)
            about_photo = delete(corrections).where(corrections.c.sha256 == digest)
            rows = connection.execute(about_photo).rowcount
        if self._location.path is not None and rows:
            # The journal holds the deleted rows until it is emptied.
            with translated(self._location), self._engine.connect() as connection:
                raw: Any = connection.connection.dbapi_connection
                raw.execute("PRAGMA wal_checkpoint(TRUNCATE)")
        photo = folder.delete(self.photos, digest) if self.photos is not None else False
        return Forgotten(rows, photo)

    def close(self) -> None:
        """Close the connections."""
        self._engine.dispose()


def _text(moment: datetime.datetime) -> str:
    return moment.astimezone(datetime.UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ")


def row_from(values: Any) -> Row:
    """Return a Row from a mapping of the table's columns and `newest`."""
    named = dict(values)
    named["created"] = datetime.datetime.fromisoformat(named["created"])
    named["top"] = tuple((str(label), float(value)) for label, value in json.loads(named["top"]))
    for name in ("right", "photo_kept", "newest"):
        named[name] = bool(named[name])
    return Row(**named)


def _check(answer: Answer) -> None:
    """Raise one SettingsError for every value that cannot be stored."""
    probability, receipt = answer["probability"], answer["receipt"]
    labels = (answer["predicted"], answer["answer"], *(label for label, _ in answer["top"]))
    digests = (("photo's SHA-256", answer["sha256"]), ("model's SHA-256", answer["model_sha256"]))
    problems = [
        f"the {name} {value[:80]!r} is not 64 hexadecimal digits in lower case"
        for name, value in digests
        if not _DIGEST.fullmatch(value)
    ]
    if not (math.isfinite(probability) and 0 <= probability <= 1):
        problems.append(f"the probability is {probability}; it must be from 0 to 1")
    if not 1 <= len(receipt) <= 200:
        problems.append(f"the receipt has {len(receipt)} characters; it must have 1 to 200")
    for value in (*labels, answer["model"], receipt):
        if not 1 <= len(value) <= _MOST_TEXT or "\0" in value or not _encodes(value):
            problems.append(
                f"{value[:80]!r} is not valid; it must be UTF-8 text of 1 to {_MOST_TEXT} "
                "characters without a zero byte"
            )
    if problems:
        raise SettingsError("; ".join(problems))


def _encodes(value: str) -> bool:
    try:
        value.encode()
    except UnicodeEncodeError:
        return False
    return True
