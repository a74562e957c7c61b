"""Corrections in SQLite: locks, lost and damaged files, full disks, backups, missing packages."""

from __future__ import annotations

import errno
import hashlib
import os
import shutil
import sqlite3
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from support.answers import add, photo
from support.correction_writer import (
    writer,
)
from tailorbird import installing
from tailorbird.corrections import (
    Corrections,
    default_photos,
    labelled,
    open_existing,
    open_store,
)
from tailorbird.errors import (
    MissingExtra,
    RunError,
    SettingsError,
    StorageError,
    StorageFull,
)


def test_a_locked_database_fails_after_the_timeout_and_recovers(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tailorbird.corrections.database.BUSY_SECONDS", 0.3)
    with open_store(str(tmp_path / "shop.db")) as store:
        add(store, photo(10), "disc")
        other = sqlite3.connect(tmp_path / "shop.db", isolation_level=None)
        other.execute("BEGIN IMMEDIATE")
        start = time.monotonic()
        with pytest.raises(StorageError, match=r"locked by another program for more than 0\.3 s"):
            add(store, photo(10), "disc")
        assert 0.2 < time.monotonic() - start < 60
        assert store.stats().total == 1, "reading still works"
        other.execute("COMMIT")
        other.close()
        add(store, photo(10), "disc")
        assert store.stats().total == 2


def test_a_short_lock_is_waited_for(tmp_path: Path) -> None:
    with open_store(str(tmp_path / "shop.db")) as store:
        other = sqlite3.connect(tmp_path / "shop.db", isolation_level=None, check_same_thread=False)
        other.execute("BEGIN IMMEDIATE")
        timer = threading.Timer(0.4, lambda: other.execute("COMMIT"))
        timer.start()
        add(store, photo(10), "disc")
        timer.join()
        other.close()
        assert store.stats().total == 1


def test_sqlite_journal_mode_and_file_permissions(tmp_path: Path) -> None:
    path = tmp_path / "shop with ä space #1?.db"
    with open_store(str(path)) as store:
        add(store, photo(11), "disc")
        with store.reading() as connection:
            said = {
                name: connection.exec_driver_sql(f"PRAGMA {name}").scalar()
                for name in ("journal_mode", "synchronous")
            }
        assert said == {"journal_mode": "wal", "synchronous": 2}
    assert path.stat().st_mode & 0o77 == 0, "it holds the secret that signs receipts"
    assert sorted(p.name for p in tmp_path.iterdir()) == [path.name], "closing removes the journal"
    with open_store(f"sqlite:///{tmp_path}/other.db") as store:
        add(store, photo(11), "disc")
    assert (tmp_path / "other.db").exists()


def test_a_file_deleted_or_replaced_under_an_open_store(tmp_path: Path) -> None:
    path = tmp_path / "shop.db"
    with open_store(str(path)) as store:
        add(store, photo(12), "disc")
        subprocess.run(
            [
                sys.executable,
                "-c",
                f"import sqlite3; sqlite3.connect({str(path)!r}).execute('VACUUM INTO ?', "
                f"[{str(path) + '.backup'!r}])",
            ],
            check=True,
        )
        add(store, photo(13), "disc")
        for name in ("shop.db", "shop.db-wal", "shop.db-shm"):
            (tmp_path / name).unlink()
        with pytest.raises(StorageError, match="cannot be opened"):
            add(store, photo(14), "disc")
        assert not path.exists(), "no empty database is created in its place"
        (tmp_path / "shop.db.backup").rename(path)
        add(store, photo(14), "disc")
        assert [row.sha256 for row in store.rows()] == [
            hashlib.sha256(photo(n)).hexdigest() for n in (12, 14)
        ]


@pytest.mark.parametrize(
    ("name", "content", "words"),
    [
        ("photo.jpg", b"\xff\xd8\xff" * 500, "is not an SQLite database"),
        ("folder", None, "is a folder; give the path of an SQLite file"),
        ("n" * 300, b"", "cannot be opened: File name too long"),
        ("missing/shop.db", b"", "cannot be created: No such file or directory"),
    ],
)
def test_paths_that_are_not_databases_are_refused(
    tmp_path: Path, name: str, content: bytes | None, words: str
) -> None:
    path = tmp_path / name
    if content is None:
        path.mkdir()
    elif content:
        path.write_bytes(content)
    with pytest.raises(SettingsError, match=words):
        open_store(str(path))
    if content:
        assert path.read_bytes() == content


@pytest.mark.parametrize(
    ("url", "words"),
    [
        ("", "which is not a file"),
        (":memory:", "which is not a file"),
        ("sqlite://", "which is not a file"),
        ("sqlite://shop.db", "cannot contain a host"),
        ("mysql://root:hunter2@host/x", "cannot be stored in 'mysql'"),
        ("postgresql://shop:hunter2@host:port/x", "is not valid"),
        (
            "postgresql://shop:hunt@er2@host/x",
            "write / @ : % in a user name or password as %2F %40",
        ),
    ],
)
def test_invalid_database_urls_are_refused(url: str, words: str) -> None:
    with pytest.raises(SettingsError, match=words) as caught:
        open_store(url)
    assert "hunt" not in str(caught.value) and "er2" not in str(caught.value)


def test_a_damaged_or_newer_database_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "shop.db"
    with open_store(str(path)) as store:
        for _ in range(40):
            add(store, photo(15), "disc")
    connection = sqlite3.connect(path)
    connection.execute("UPDATE tailorbird_about SET value = '2' WHERE name = 'schema'")
    connection.commit()
    with pytest.raises(
        SettingsError, match="schema version 2; this tailorbird reads version 1: upgrade tailorbird"
    ):
        open_store(str(path))
    connection.execute("UPDATE tailorbird_about SET value = '1' WHERE name = 'schema'")
    connection.commit()
    connection.close()
    data = bytearray(path.read_bytes())
    for page in range(4096, len(data), 4096):
        data[page : page + 64] = b"\xa5" * 64
    path.write_bytes(data)
    with pytest.raises(StorageError, match="is damaged"):
        open_store(str(path))


def test_open_existing_creates_nothing(tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match=r"nothing\.db does not exist"):
        open_existing(str(tmp_path / "nothing.db"))
    assert not (tmp_path / "nothing.db").exists()
    sqlite3.connect(tmp_path / "other.db").execute("CREATE TABLE t (x)").connection.close()
    before = (tmp_path / "other.db").read_bytes()
    with pytest.raises(SettingsError, match="holds no corrections"):
        open_existing(str(tmp_path / "other.db"))
    assert (tmp_path / "other.db").read_bytes() == before
    open_store(str(tmp_path / "shop.db")).close()
    with pytest.raises(SettingsError, match="does not exist or is not a folder"):
        open_existing(str(tmp_path / "shop.db"), tmp_path / "none")
    assert default_photos(str(tmp_path / "shop.db")) == tmp_path / "shop.photos"
    assert default_photos("postgresql://a:b@c/d") is None


def test_missing_packages_are_reported_with_their_extra(tmp_path: Path) -> None:
    for module, url, extra in (
        ("sqlalchemy", str(tmp_path / "shop.db"), "serve"),
        ("sqlalchemy", "postgresql://a@b/c", "serve"),
        ("psycopg", "postgresql://a@b/c", "postgres"),
    ):
        code = (
            f"import sys; sys.modules[{module!r}] = None\n"
            "from tailorbird.corrections import open_store\nfrom tailorbird.errors import "
            "MissingExtra\n"
            f"try: open_store({url!r})\nexcept MissingExtra as error: print(error)"
        )
        done = subprocess.run(
            [sys.executable, "-c", code], capture_output=True, text=True, check=True
        )
        assert installing.install(extra) in done.stdout
    assert issubclass(MissingExtra, RunError)


def test_help_does_not_import_sqlalchemy() -> None:
    code = (
        "import sys; from tailorbird.cli.app import app; import tailorbird.corrections, "
        "tailorbird.training\n"
        "assert not {'sqlalchemy', 'psycopg'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


FILLER = """
import hashlib, os, sys
from pathlib import Path
from tailorbird.corrections import open_store
from tailorbird.errors import StorageFull
url, folder, with_photo = sys.argv[1], Path(sys.argv[2]), sys.argv[3] == "photo"
store = open_store(url, photos=folder)
ids = []
try:
    for number in range(100_000):
        data = b"\\xff\\xd8\\xff" + os.urandom(9000 if with_photo else 30)
        digest = hashlib.sha256(data).hexdigest()
        ids.append(store.add(sha256=digest, predicted="p" * 900, probability=0.5,
                   top=[("box", 0.5)], answer="d" * 900, model="m", model_sha256="0" * 64,
                   receipt=str(number), photo=data if with_photo else None))
except StorageFull as error:
    assert [row.id for row in store.rows()] == ids, "all acknowledged rows can be read"
    assert store.stats().total == len(ids) > 3
    print(len(ids), error)
"""


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """Mount a file system of 1 MiB; skip the test if this is not permitted."""
    folder = tmp_path / "small disk"
    folder.mkdir()
    done = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", str(folder)],
        capture_output=True,
        text=True,
    )
    if done.returncode:
        pytest.skip(
            f"this user may not mount a small file system: {done.stderr.strip()}; a database of "
            "few pages is tested instead"
        )
    yield folder
    subprocess.run(["umount", str(folder)], check=True)


@pytest.mark.parametrize("with_photo", ["photo", "rows"])
def test_a_full_disk_loses_no_acknowledged_row(small_disk: Path, with_photo: str) -> None:
    done = subprocess.run(
        [
            sys.executable,
            "-c",
            FILLER,
            str(small_disk / "shop.db"),
            str(small_disk / "photos"),
            with_photo,
        ],
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    assert "the disk is full" in done.stdout
    for path in (small_disk / "photos").rglob("*.jpg"):
        path.unlink()
    if with_photo == "photo":
        with open_store(str(small_disk / "shop.db")) as store:
            add(store, photo(16), "disc")


def test_a_database_that_cannot_grow_reports_a_full_disk(tmp_path: Path) -> None:
    with open_store(str(tmp_path / "shop.db")) as store:
        add(store, photo(17), "disc")
        with store._engine.connect() as connection:
            raw: Any = connection.connection.dbapi_connection
            pages = raw.execute("PRAGMA page_count").fetchone()[0]
            raw.execute(f"PRAGMA max_page_count={pages}")
        with pytest.raises(StorageFull, match="the disk is full"):
            for _ in range(200):
                add(store, photo(17), "d" * 900)
        stored = store.stats().total
        with store._engine.connect() as connection:
            raw = connection.connection.dbapi_connection
            raw.execute("PRAGMA max_page_count=100000")
        add(store, photo(17), "disc")
        assert store.stats().total == stored + 1


def test_a_photo_that_cannot_be_written_leaves_no_row(
    store: Corrections, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(path: Path, data: bytes) -> int:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with monkeypatch.context() as patch:
        patch.setattr(Path, "write_bytes", full)
        with pytest.raises(StorageFull, match="the disk is full"):
            add(store, photo(18), "disc", photo=photo(18))
    assert list(store.rows()) == []
    add(store, photo(18), "disc", photo=photo(18))
    assert len(labelled(store).photos) == 1


def test_no_photo_is_kept_while_the_database_is_missing(tmp_path: Path) -> None:
    with open_store(str(tmp_path / "shop.db"), photos=tmp_path / "shop.photos") as store:
        (tmp_path / "shop.db").rename(tmp_path / "away.db")
        with pytest.raises(StorageError, match="cannot be opened"):
            add(store, photo(19), "disc", photo=photo(19))
        assert not (tmp_path / "shop.photos").exists(), "a photo without a row would never be found"
        (tmp_path / "away.db").rename(tmp_path / "shop.db")
        add(store, photo(19), "disc", photo=photo(19))
        assert len(labelled(store).photos) == 1


def test_an_invalid_photo_folder_is_refused_when_the_store_opens(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(SettingsError, match="is not a folder that this user may write to"):
        open_store(str(tmp_path / "shop.db"), photos=tmp_path / "file")
    assert not (tmp_path / "shop.db").exists()


def test_a_backup_during_writes_has_every_photo(tmp_path: Path) -> None:
    """Back up as in docs/corrections.md: the database first, then the folder of photos."""
    process = writer(str(tmp_path / "shop.db"), tmp_path / "shop.photos", "a")
    assert process.stdout is not None
    for _ in range(20):
        process.stdout.readline()
    source, copy = sqlite3.connect(tmp_path / "shop.db"), sqlite3.connect(tmp_path / "backup.db")
    source.backup(copy, pages=5)
    source.close()
    copy.close()
    shutil.copytree(tmp_path / "shop.photos", tmp_path / "backup.photos")
    process.kill()
    process.wait()
    with open_existing(str(tmp_path / "backup.db")) as store:
        found = labelled(store)
        assert len(found.photos) >= 20 and found.missing == ()
