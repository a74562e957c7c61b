"""Corrections in SQLite (and, where nothing else is said, in PostgreSQL too): stored, counted,
exported, forgotten.
"""

from __future__ import annotations

import csv
import datetime
import errno
import hashlib
import json
import math
import os
import shutil
import signal
import sqlite3
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from support.answers import MODEL, add, photo
from support.cli import run
from tailorbird.corrections import (
    Corrections,
    default_photos,
    export,
    labelled,
    open_existing,
    open_store,
    photos,
    statistics,
)
from tailorbird.dataset import scan
from tailorbird.errors import (
    InputError,
    MissingExtra,
    RunError,
    SettingsError,
    StorageError,
    StorageFull,
)


@pytest.fixture(params=["sqlite", "postgresql"])
def url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """An empty database of each kind."""
    return (
        str(tmp_path / "shop.db")
        if request.param == "sqlite"
        else request.getfixturevalue("postgres_database")
    )


@pytest.fixture
def store(url: str, tmp_path: Path) -> Iterator[Corrections]:
    with open_store(url, photos=tmp_path / "shop.photos") as opened:
        yield opened


def test_a_row_comes_back_as_it_was_given(store: Corrections, tmp_path: Path) -> None:
    data = photo(1)
    before = datetime.datetime.now(datetime.UTC)
    number = add(
        store,
        data,
        "hat & [bold]ü</b>",
        "shirt 帽",
        "r-1",
        probability=0.123456789012345,
        photo=data,
    )
    again = add(store, data, "shirt 帽", "shirt 帽", "r-2")
    first, second = store.rows()
    assert (first.id, second.id) == (number, again) and again > number
    assert before <= first.created <= second.created <= datetime.datetime.now(datetime.UTC)
    assert (
        first.sha256 == hashlib.sha256(data).hexdigest() and first.probability == 0.123456789012345
    )
    assert (first.answer, first.predicted, first.right) == (
        "hat & [bold]ü</b>",
        "shirt 帽",
        False,
    ) and second.right
    assert first.top == (("shirt 帽", 0.75), ("hat & [bold]ü</b>", 0.25))
    assert (first.model, first.model_sha256, first.receipt) == ("shop", MODEL, "r-1")
    assert first.photo_kept and not second.photo_kept and first.newest
    assert list(store.rows(since=second.created)) == [second]
    assert json.loads(json.dumps(first.as_dict()))["top"][0] == {
        "label": "shirt 帽",
        "probability": 0.75,
    }
    with pytest.raises(SettingsError, match="without a time zone"):
        next(store.rows(since=datetime.datetime(2026, 1, 1)))


def test_a_photo_is_kept_once_under_its_content(store: Corrections, tmp_path: Path) -> None:
    for kind, ending in (
        ("JPEG", "jpg"),
        ("PNG", "png"),
        ("WEBP", "webp"),
        ("GIF", "gif"),
        ("BMP", "bmp"),
        ("AVIF", "avif"),
    ):
        data = photo(2, kind=kind)
        digest = hashlib.sha256(data).hexdigest()
        add(store, data, "disc", photo=data)
        path = tmp_path / "shop.photos" / digest[:2] / f"{digest}.{ending}"
        assert path.read_bytes() == data
        written = path.stat().st_ino
        add(store, data, "disc", photo=data)
        assert path.stat().st_ino == written, "not written again"
        path.write_bytes(data[:-3])
        add(store, data, "disc", photo=data)
        assert path.read_bytes() == data, "a damaged file is written again"
    assert len(photos.kept_photos(tmp_path / "shop.photos")) == 6
    assert (tmp_path / "shop.photos").stat().st_mode & 0o77 == 0, (
        "other users of the machine do not see the photos"
    )


def test_without_a_folder_no_photo_is_kept(url: str, tmp_path: Path) -> None:
    data = photo(3)
    with open_store(url) as store:
        add(store, data, "disc", photo=data)
        assert [row.photo_kept for row in store.rows()] == [False]
        with pytest.raises(SettingsError, match="is not known; name it with --photos"):
            labelled(store)
    assert [path.name for path in tmp_path.iterdir() if path.is_dir()] == []


def test_what_cannot_be_stored_is_refused_and_nothing_is_stored(
    store: Corrections, tmp_path: Path
) -> None:
    data = photo(4)
    digest = hashlib.sha256(data).hexdigest()
    good: dict[str, Any] = {
        "sha256": digest,
        "predicted": "box",
        "probability": 0.5,
        "top": [("box", 0.5)],
        "answer": "disc",
        "model": "m",
        "model_sha256": MODEL,
        "receipt": "r",
    }
    for bad, words in (
        ({"sha256": digest[:-1]}, "64 hexadecimal digits"),
        ({"sha256": "../" + digest[3:]}, "64 hexadecimal digits"),
        ({"model_sha256": "A" * 64}, "model's SHA-256"),
        ({"probability": math.nan}, "probability is nan"),
        ({"probability": 1.5}, "from 0 to 1"),
        ({"answer": ""}, "1 to 4000"),
        ({"answer": "a\0b"}, "zero byte"),
        ({"predicted": "\udcff"}, "UTF-8"),
        ({"receipt": "x" * 201}, "201 characters"),
        ({"photo": data + b"x"}, "do not have the SHA-256"),
    ):
        with pytest.raises(SettingsError, match=words):
            store.add(**{**good, **bad})
    text = b"no photo"
    with pytest.raises(InputError, match="must be one of jpg, png"):
        store.add(**{**good, "sha256": hashlib.sha256(text).hexdigest(), "photo": text})
    assert list(store.rows()) == [] and not [
        p for p in tmp_path.rglob("*") if p.is_file() and "photos" in str(p)
    ]


def test_statistics_count_the_newest_answer_for_each_receipt(store: Corrections) -> None:
    empty = store.stats()
    assert empty.as_dict() == {
        "total": 0,
        "right": 0,
        "accuracy": None,
        "interval": [0.0, 1.0],
        "per_class": [],
        "by_day": [],
        "mistaken": [],
    }
    data = photo(5)
    for number in range(12):
        add(store, data, "hat", "hat" if number < 9 else "shirt", f"r{number}")
    add(store, data, "shirt", "shirt", "r9")  # the person changed their mind
    add(store, data, "t-shirt", "shirt", "s0")
    add(store, data, "pants", "shirt", "s0")
    today = datetime.datetime.now(datetime.UTC).date().isoformat()
    found = store.stats().as_dict()
    low, high = found.pop("interval")
    assert found == {
        "total": 13,
        "right": 10,
        "accuracy": 10 / 13,
        "per_class": [
            {"label": "hat", "total": 11, "right": 9},
            {"label": "pants", "total": 1, "right": 0},
            {"label": "shirt", "total": 1, "right": 1},
        ],
        "by_day": [{"day": today, "total": 13, "right": 10}],
        "mistaken": [
            {"predicted": "shirt", "answer": "hat", "count": 2},
            {"predicted": "shirt", "answer": "pants", "count": 1},
        ],
    }
    # Wilson's interval for 10 of 13, from the formula: centre 0.7078, half width 0.2105.
    assert (low, high) == pytest.approx((0.4974, 0.9182), abs=5e-4)
    assert store.counts() == {
        ("hat", True): 9,
        ("hat", False): 2,
        ("pants", False): 1,
        ("shirt", True): 1,
    }


def test_days_go_back_ninety_and_confusions_are_cut_at_twenty(store: Corrections) -> None:
    data = photo(6)
    for number in range(25):
        for _ in range(1 + (number == 7)):
            add(store, data, f"c{number:02}", "other")
    with store.reading() as connection:
        tomorrow = datetime.datetime.now(datetime.UTC).date()
        near = statistics.read(connection, tomorrow + datetime.timedelta(days=89))
        far = statistics.read(connection, tomorrow + datetime.timedelta(days=90))
    assert [day.total for day in near.by_day] == [26] and far.by_day == () and far.total == 26
    assert len(near.mistaken) == 20 and near.mistaken[0] == statistics.Mistaken("other", "c07", 2)
    assert [m.answer for m in near.mistaken[1:4]] == ["c00", "c01", "c02"]


def test_rows_stream_over_pages(store: Corrections, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tailorbird.corrections.store._PAGE", 7)
    ids = [add(store, photo(7), "disc") for _ in range(21)]
    assert [row.id for row in store.rows()] == ids
    stream = store.rows()
    next(stream)
    late = add(store, photo(7), "disc")  # neither blocked by the reader nor missed by it
    assert [row.id for row in stream][-1] == late


def test_threads_and_a_secret_that_all_agree_on(url: str, tmp_path: Path) -> None:
    with ThreadPoolExecutor(8) as pool:
        stores = list(pool.map(lambda _: open_store(url, photos=tmp_path / "p"), range(8)))
        secrets = set(pool.map(lambda store: store.secret(), stores))
        assert len(secrets) == 1 and len(secrets.pop()) == 32
        data = photo(8)
        ids = list(pool.map(lambda n: add(stores[n % 2], data, "disc", photo=data), range(40)))
    assert len(set(ids)) == 40 and {row.id for row in stores[0].rows()} == set(ids)
    for store in stores:
        store.close()


START = """
import sys
from tailorbird.corrections import open_store
store = open_store(sys.argv[1])
print(store.secret().hex())
"""


def test_processes_that_start_at_once_agree(url: str) -> None:
    runs = [
        subprocess.Popen(
            [sys.executable, "-c", START, url], stdout=subprocess.PIPE, stderr=subprocess.PIPE
        )
        for _ in range(4)
    ]
    said = [process.communicate(timeout=60) for process in runs]
    assert [process.returncode for process in runs] == [0] * 4, said
    assert len({out for out, _ in said}) == 1 and len(said[0][0].strip()) == 64


WRITER = """
import hashlib, sys
from pathlib import Path
from tailorbird.corrections import open_store
url, folder, name, most = sys.argv[1:]
store = open_store(url, photos=Path(folder))
for number in range(int(most)):
    data = b"\\xff\\xd8\\xff" + f"{name} {number}".encode()
    digest = hashlib.sha256(data).hexdigest()
    row = store.add(sha256=digest, predicted="box", probability=0.5, top=[("box", 0.5)],
                    answer="disc", model="m", model_sha256="0" * 64,
                    receipt=f"{name} {number}", photo=data)
    print(row, digest, flush=True)
"""


def writer(url: str, folder: Path, name: str, most: int = 1_000_000) -> subprocess.Popen[bytes]:
    return subprocess.Popen(
        [sys.executable, "-c", WRITER, url, str(folder), name, str(most)], stdout=subprocess.PIPE
    )


def acknowledged(
    process: subprocess.Popen[bytes], killed_after: int | None = None
) -> dict[int, str]:
    """The ids a writer printed, with the photo's digest; kill -9 once there are so many."""
    assert process.stdout is not None
    lines = []
    for line in process.stdout:
        lines.append(line.decode())
        if len(lines) == killed_after:
            process.send_signal(signal.SIGKILL)
    process.wait(60)
    whole = [line.split() for line in lines if line.endswith("\n")]
    return {int(number): digest for number, digest in whole}


def test_kill_9_loses_nothing_that_was_acknowledged(url: str, tmp_path: Path) -> None:
    folder = tmp_path / "kept"
    said: dict[int, str] = {}
    for name in ("a", "b"):
        process = writer(url, folder, name)
        said |= acknowledged(process, killed_after=60)
        assert process.returncode == -signal.SIGKILL
    with open_store(url, photos=folder) as store:
        rows = {row.id: row.sha256 for row in store.rows()}
        assert len(said) >= 120 and said.items() <= rows.items() and len(rows) <= len(said) + 2
        found = labelled(store)
        assert found.missing == () and {photo.row.id for photo in found.photos} == set(rows), (
            "each with its photo, whole"
        )
        for entry in found.photos:
            assert hashlib.sha256(entry.path.read_bytes()).hexdigest() == entry.row.sha256
        add(store, photo(9), "disc")


def test_two_processes_write_at_once(url: str, tmp_path: Path) -> None:
    runs = [writer(url, tmp_path / "kept", name, 80) for name in ("a", "b")]
    with ThreadPoolExecutor(2) as pool:
        first, second = pool.map(acknowledged, runs)
    assert [process.returncode for process in runs] == [0, 0] and len(first) == len(second) == 80
    with open_store(url) as store:
        assert {row.id: row.sha256 for row in store.rows()} == first | second


# What is SQLite's alone


def test_a_locked_database_is_an_error_in_time_and_works_again(
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
        assert 0.2 < time.monotonic() - start < 5
        assert store.stats().total == 1, "reading goes on"
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


def test_how_the_sqlite_file_is_kept(tmp_path: Path) -> None:
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
    assert sorted(p.name for p in tmp_path.iterdir()) == [path.name], (
        "the journal is folded in at the end"
    )
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
        assert not path.exists(), "no new and empty database takes its place"
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
def test_what_is_no_database(tmp_path: Path, name: str, content: bytes | None, words: str) -> None:
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
def test_urls_that_cannot_be_one(url: str, words: str) -> None:
    with pytest.raises(SettingsError, match=words) as caught:
        open_store(url)
    assert "hunt" not in str(caught.value) and "er2" not in str(caught.value)


def test_a_damaged_and_a_newer_database(tmp_path: Path) -> None:
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


def test_existing_only(tmp_path: Path) -> None:
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


def test_without_the_packages_the_extra_is_named(tmp_path: Path) -> None:
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
        assert f"pip install 'tailorbird[{extra}]'" in done.stdout
    assert issubclass(MissingExtra, RunError)


def test_help_does_not_import_sqlalchemy() -> None:
    code = (
        "import sys; from tailorbird.cli.app import app; import tailorbird.corrections, "
        "tailorbird.training\n"
        "assert not {'sqlalchemy', 'psycopg'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


# The disk is full


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
    assert [row.id for row in store.rows()] == ids, "everything acknowledged can still be read"
    assert store.stats().total == len(ids) > 3
    print(len(ids), error)
"""


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 1 MiB, where this user may mount one."""
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
def test_a_full_disk(small_disk: Path, with_photo: str) -> None:
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


def test_a_database_that_may_not_grow(tmp_path: Path) -> None:
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


def test_a_photo_that_finds_no_room_leaves_no_row(
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


def test_a_database_that_is_away_keeps_no_photo_either(tmp_path: Path) -> None:
    with open_store(str(tmp_path / "shop.db"), photos=tmp_path / "shop.photos") as store:
        (tmp_path / "shop.db").rename(tmp_path / "away.db")
        with pytest.raises(StorageError, match="cannot be opened"):
            add(store, photo(19), "disc", photo=photo(19))
        assert not (tmp_path / "shop.photos").exists(), "nobody would know of it"
        (tmp_path / "away.db").rename(tmp_path / "shop.db")
        add(store, photo(19), "disc", photo=photo(19))
        assert len(labelled(store).photos) == 1


def test_a_folder_for_photos_that_is_none_is_refused_at_the_start(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(SettingsError, match="is not a folder that this user may write to"):
        open_store(str(tmp_path / "shop.db"), photos=tmp_path / "file")
    assert not (tmp_path / "shop.db").exists()


# Labelled photos, exports, forgetting


def test_labelled_takes_the_newest_answer_about_each_photo(
    store: Corrections, tmp_path: Path
) -> None:
    data = [photo(n) for n in range(20, 25)]
    add(store, data[0], "disc", receipt="a", photo=data[0])
    add(store, data[0], "cross", receipt="b")  # another visitor, the same photo, another answer
    add(store, data[1], "cross", receipt="c", photo=data[1])
    add(store, data[1], "disc", receipt="c")  # the same visitor changed their mind: no conflict
    add(store, data[2], "disc", receipt="d", photo=data[2])
    add(store, data[3], "box", receipt="e")
    add(store, data[4], "box", receipt="f", photo=data[4])
    folder = tmp_path / "shop.photos"
    (gone,) = folder.rglob(hashlib.sha256(data[2]).hexdigest() + "*")
    gone.unlink()
    (folder / "README").write_text("not a photo")
    found = labelled(store)
    digests = {hashlib.sha256(bytes_).hexdigest(): n for n, bytes_ in enumerate(data)}
    assert {digests[p.row.sha256]: p.label for p in found.photos} == {
        0: "cross",
        1: "disc",
        4: "box",
    }
    assert all(p.path.is_file() and p.name.startswith("shop.photos/") for p in found.photos)
    assert [digests[name.rpartition("/")[2]] for name in found.missing] == [2]
    assert found.conflicts == 1 and found.without_photo == 1


def test_export_can_be_trained_on_and_all_lists_everything(
    store: Corrections, tmp_path: Path
) -> None:
    data = [photo(n) for n in range(30, 33)]
    add(store, data[0], 'a "hat", size ü', photo=data[0])
    add(store, data[1], "disc", receipt="r", photo=data[1])
    add(store, data[1], "=1+1", receipt="r")
    add(store, data[2], "box")
    (tmp_path / "out").mkdir()
    done = export(store, tmp_path / "out" / "rows.csv")
    assert done.written == 2 and done.without_photo == 1 and done.missing == ()
    dataset = scan(tmp_path / "out" / "rows.csv")
    assert {sample.digest: sample.label for sample in dataset.samples} == {
        hashlib.sha256(data[0]).hexdigest(): 'a "hat", size ü',
        hashlib.sha256(data[1]).hexdigest(): "=1+1",
    }
    everything = export(store, tmp_path / "out" / "all.csv", everything=True)
    with (tmp_path / "out" / "all.csv").open(newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    assert everything.written == len(rows) == 4
    assert {row["label"] for row in rows} == {'a "hat", size ü', "disc", "'=1+1", "box"}
    assert [row["newest"] for row in rows] == ["True", "False", "True", "True"] and [
        bool(row["path"]) for row in rows
    ] == [True, True, True, False]
    export(store, tmp_path / "rows.json")
    listed = json.loads((tmp_path / "rows.json").read_text())["corrections"]
    assert {row["label"] for row in listed} == {'a "hat", size ü', "=1+1"} and listed[0]["top"][0][
        "label"
    ] == "box"
    assert (tmp_path / listed[0]["path"]).is_file()
    with pytest.raises(SettingsError, match=r"must end in \.csv or \.json"):
        export(store, tmp_path / "rows.xlsx")


def test_forgetting_a_photo_leaves_no_trace_of_it(tmp_path: Path) -> None:
    data = [photo(40), photo(41)]
    path, folder = tmp_path / "shop.db", tmp_path / "shop.photos"
    digests = [hashlib.sha256(bytes_).hexdigest() for bytes_ in data]
    with open_store(str(path), photos=folder) as store:
        for _ in range(3):
            add(store, data[0], "secret-answer", photo=data[0])
        kept = add(store, data[1], "disc", photo=data[1])
        gone = store.forget(digests[0].upper())
        assert (gone.rows, gone.photo) == (3, True)
        for file in tmp_path.rglob("*"):
            if file.is_file():
                assert (
                    b"secret-answer" not in file.read_bytes()
                    and digests[0].encode() not in file.read_bytes()
                ), file
                assert digests[0] not in file.name
        assert [row.id for row in store.rows()] == [kept]
        assert add(store, data[0], "box") == kept + 1, "ids do not come back"
        with pytest.raises(SettingsError, match="is not a SHA-256"):
            store.forget("../../etc/passwd")


def test_forgetting_works_everywhere(store: Corrections) -> None:
    data = photo(42)
    add(store, data, "disc", photo=data)
    gone = store.forget(hashlib.sha256(data).hexdigest())
    assert (gone.rows, gone.photo) == (1, True) and store.stats().total == 0
    gone = store.forget(hashlib.sha256(data).hexdigest())
    assert (gone.rows, gone.photo) == (0, False)


# The commands


@pytest.fixture
def shop(tmp_path: Path) -> Path:
    """shop.db with six answers, of which four photos are kept."""
    path = tmp_path / "shop.db"
    with open_store(str(path), photos=tmp_path / "shop.photos") as store:
        for number, (answer, predicted) in enumerate(
            [
                ("[bold]hat", "[bold]hat"),
                ("[bold]hat", "shirt"),
                ("shirt", "shirt"),
                ("<b>", "shirt"),
                ("<b>", "shirt"),
                ("shirt", "shirt"),
            ]
        ):
            data = photo(60 + number)
            add(store, data, answer, predicted, photo=data if number < 4 else None)
    return path


def test_stats_command(shop: Path) -> None:
    said = run("corrections", "stats", shop)
    assert (
        "In use: accuracy 50.0% (95% interval 18.8% to 81.2%) on 6 answered predictions"
        in said.stdout
    )
    assert "[bold]hat" in said.stdout and "<b>" in said.stdout and "was called" in said.stdout
    found = json.loads(run("corrections", "stats", shop, "--json").stdout)
    assert found["total"] == 6 and found["mistaken"][0] == {
        "predicted": "shirt",
        "answer": "<b>",
        "count": 2,
    }


def test_export_command(shop: Path, tmp_path: Path) -> None:
    said = run("corrections", "export", shop, "-o", tmp_path / "c.csv")
    assert (
        "4 labelled photos written" in said.stdout
        and "2 photos with an answer were not kept" in said.stderr
    )
    assert len(scan(tmp_path / "c.csv").samples) == 4
    next((tmp_path / "shop.photos").rglob("*.png")).unlink()
    said = run("corrections", "export", shop, "-o", tmp_path / "c.json", "--json", code=3)
    assert (
        json.loads(said.stdout)["written"] == 3
        and "the file of this kept photo is missing: shop.photos/" in said.stderr
    )
    assert (
        "6 answers written"
        in run("corrections", "export", shop, "-o", tmp_path / "a.csv", "--all", code=3).stdout
    )


def test_forget_command(shop: Path) -> None:
    digest = hashlib.sha256(photo(60)).hexdigest()
    assert "deleted: 1 row, and the photo" in run("corrections", "forget", shop, digest).stdout
    assert (
        "nothing is stored about a photo"
        in run("corrections", "forget", shop, digest, code=2).stderr
    )
    assert "is not a SHA-256" in run("corrections", "forget", shop, "abc", code=2).stderr


def test_commands_on_a_database_that_is_not_there(tmp_path: Path) -> None:
    for arguments in (["stats"], ["export", "-o", tmp_path / "x.csv"], ["forget"]):
        more = ["0" * 64] if arguments == ["forget"] else []
        said = run("corrections", arguments[0], tmp_path / "no.db", *arguments[1:], *more, code=2)
        assert "no.db does not exist" in said.stderr and said.stderr.count("\n") == 1
    assert list(tmp_path.iterdir()) == []


def test_a_backup_while_rows_are_written_has_every_photo(tmp_path: Path) -> None:
    """The way docs/corrections.md names: SQLite's own backup, then the folder of photos."""
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
