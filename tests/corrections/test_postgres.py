"""Corrections in a real PostgreSQL: what only a server can do to them, from a wrong password to a
crash in mid-write.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import psycopg
import pytest

from support.answers import add, photo
from support.postgres_server import PASSWORD, PostgresServer
from tailorbird.corrections import export, labelled, open_existing, open_store
from tailorbird.errors import SettingsError, StorageError, StorageFull


def test_a_wrong_password_a_missing_database_and_no_server(postgres: PostgresServer) -> None:
    for url, words in (
        (
            postgres.url(password="hunter2"),
            "password authentication failed for user .* the user name or the password is wrong",
        ),
        (postgres.url("nowhere"), 'database "nowhere" does not exist'),
    ):
        with pytest.raises(SettingsError, match=words) as refused:
            open_store(url)
        assert "hunter2" not in str(refused.value) and PASSWORD not in str(refused.value)
    with socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))
        with pytest.raises(StorageError, match=r"cannot be reached: .*refused") as away:
            open_store(f"postgresql://shop:hunter2@127.0.0.1:{closed.getsockname()[1]}/x")
    assert "hunter2" not in str(away.value)


def test_a_server_that_never_answers_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tailorbird.corrections.database.CONNECT_SECONDS", 2)
    with socket.socket() as silent:
        silent.bind(("127.0.0.1", 0))
        silent.listen()
        start = time.monotonic()
        with pytest.raises(StorageError, match="cannot be reached"):
            open_store(f"postgresql://shop:hunter2@127.0.0.1:{silent.getsockname()[1]}/x")
        assert time.monotonic() - start < 10


def test_an_error_shows_no_password_anywhere(postgres: PostgresServer) -> None:
    url = postgres.url("nowhere")
    done = subprocess.run(
        [sys.executable, "-m", "tailorbird", "corrections", "stats", url, "--debug"],
        capture_output=True,
        text=True,
    )
    assert done.returncode == 2 and "Traceback" in done.stderr and "does not exist" in done.stderr
    assert PASSWORD not in done.stderr + done.stdout and url not in done.stderr + done.stdout


def test_tables_are_not_made_by_those_who_only_read(postgres_database: str) -> None:
    with pytest.raises(SettingsError, match="holds no corrections"):
        open_existing(postgres_database)
    with psycopg.connect(postgres_database) as connection:
        found = connection.execute(
            "SELECT count(*) FROM pg_tables WHERE schemaname = 'public'"
        ).fetchone()
    assert found == (0,)


def test_a_user_who_may_not_make_tables(postgres: PostgresServer, postgres_database: str) -> None:
    postgres.execute("CREATE ROLE visitor LOGIN PASSWORD 'visitor'")
    url = f"postgresql://visitor:visitor@{postgres_database.rpartition('@')[2]}"
    with pytest.raises(StorageError, match="permission denied for schema public"):
        open_store(url)
    with open_store(postgres_database) as store:
        add(store, photo(1), "disc")
    with psycopg.connect(postgres_database, autocommit=True) as connection:
        connection.execute("GRANT SELECT, INSERT ON ALL TABLES IN SCHEMA public TO visitor")
        connection.execute("GRANT USAGE ON ALL SEQUENCES IN SCHEMA public TO visitor")
    with open_store(url) as store:  # tables that are there need no right to make them
        add(store, photo(1), "disc")
        assert store.stats().total == 2


def test_the_photos_folder_must_be_named(postgres_database: str, tmp_path: Path) -> None:
    with open_store(postgres_database, photos=tmp_path / "kept") as store:
        add(store, photo(2), "disc", photo=photo(2))
    with open_existing(postgres_database) as store:
        with pytest.raises(SettingsError, match="name it with --photos"):
            labelled(store)
        assert export(store, tmp_path / "all.csv", everything=True).written == 1, (
            "a log needs no photos"
        )
    with open_existing(postgres_database, tmp_path / "kept") as store:
        assert [entry.label for entry in labelled(store).photos] == ["disc"]


def test_a_commit_waits_for_the_disk_even_where_the_server_is_lax(postgres_database: str) -> None:
    with psycopg.connect(postgres_database, autocommit=True) as connection:
        connection.execute(
            f"ALTER DATABASE {connection.info.dbname} SET synchronous_commit = off".encode()
        )
    with open_store(postgres_database) as store, store.reading() as session:
        assert session.exec_driver_sql("SHOW synchronous_commit").scalar() == "on"
        assert session.exec_driver_sql("SHOW statement_timeout").scalar() == "30s"


def test_a_locked_table_is_an_error_in_time(
    postgres_database: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tailorbird.corrections.database.BUSY_SECONDS", 0.3)
    with open_store(postgres_database) as store, psycopg.connect(postgres_database) as other:
        other.execute("LOCK TABLE tailorbird_corrections IN ACCESS EXCLUSIVE MODE")
        with pytest.raises(StorageError, match="took too long"):
            add(store, photo(3), "disc")
        other.rollback()
        add(store, photo(3), "disc")
        assert store.stats().total == 1


def test_connections_that_were_cut_are_made_again(
    postgres: PostgresServer, postgres_database: str
) -> None:
    with open_store(postgres_database) as store:
        add(store, photo(4), "disc")
        postgres.execute(
            "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE application_name = "
            "'tailorbird'"
        )
        add(store, photo(4), "disc")
        assert store.stats().total == 2


@pytest.fixture
def full_tablespace(postgres: PostgresServer) -> Iterator[str]:
    """A database on a file system of 24 MiB, where this user may mount one."""
    folder = postgres.folder / "small disk"
    folder.mkdir()
    done = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=24m", "tmpfs", str(folder)],
        capture_output=True,
        text=True,
    )
    if done.returncode:
        pytest.skip(f"this user may not mount a small file system: {done.stderr.strip()}")
    try:
        (folder / "space").mkdir()
        postgres.give(folder / "space")
        postgres.execute(f"CREATE TABLESPACE small LOCATION '{folder / 'space'}'")
        postgres.execute("CREATE DATABASE small TABLESPACE small")
        yield postgres.url("small")
        postgres.execute("DROP DATABASE small WITH (FORCE)")
        postgres.execute("DROP TABLESPACE small")
    finally:
        subprocess.run(["umount", str(folder)], check=True)


def test_the_servers_disk_is_full(full_tablespace: str) -> None:
    with open_store(full_tablespace) as store:
        add(store, photo(5), "disc")
        with psycopg.connect(full_tablespace, autocommit=True) as connection:
            connection.execute("CREATE TABLE filler (x text)")
            connection.execute("ALTER TABLE filler ALTER x SET STORAGE EXTERNAL")
            for size in (1_000_000, 8_000):
                with contextlib.suppress(psycopg.errors.DiskFull):
                    while True:
                        connection.execute("INSERT INTO filler VALUES (repeat('x', %s))", [size])
        with pytest.raises(StorageFull, match=r"is full: .*No space left on device"):
            for _ in range(500):
                add(store, photo(5), "d" * 3000)
        stored = store.stats().total
        assert stored >= 1, "reading goes on"
        with psycopg.connect(full_tablespace, autocommit=True) as connection:
            connection.execute("DROP TABLE filler")
            connection.execute("CHECKPOINT")
        add(store, photo(5), "disc")
        assert store.stats().total == stored + 1


def test_kill_9_of_the_server_loses_nothing_that_was_acknowledged() -> None:
    server = PostgresServer()
    try:
        with open_store(server.url()) as store:
            said: dict[int, str] = {}
            errors: list[BaseException] = []
            stop = threading.Event()

            def load(name: str) -> None:
                number = 0
                while not stop.is_set():
                    number += 1
                    digest = hashlib.sha256(f"{name} {number}".encode()).hexdigest()
                    try:
                        row = store.add(
                            sha256=digest,
                            predicted="box",
                            probability=0.5,
                            top=[("box", 0.5)],
                            answer="disc",
                            model="m",
                            model_sha256="0" * 64,
                            receipt=f"{name} {number}",
                        )
                    except StorageError as error:
                        errors.append(error)
                        time.sleep(0.02)
                    else:
                        said[row] = digest

            threads = [threading.Thread(target=load, args=(name,)) for name in "ab"]
            for thread in threads:
                thread.start()
            for _ in range(2):
                before = len(said)
                while len(said) < before + 100:
                    time.sleep(0.01)
                server.kill()
                time.sleep(0.2)
                server.start()
            before = len(said)
            patience = time.monotonic() + 20
            while len(said) < before + 50 and time.monotonic() < patience:
                time.sleep(0.01)
            stop.set()
            for thread in threads:
                thread.join()
            assert len(said) >= before + 50, "the store works again by itself"
            assert errors and all("cannot be reached" in str(error) for error in errors), errors[:3]
            rows = {row.id: row.sha256 for row in store.rows()}
            assert said.items() <= rows.items(), "everything acknowledged is there"
            assert store.stats().total == len(rows)
    finally:
        server.stop()


def test_the_server_programs_are_debians() -> None:
    """The other tests would mean little against something that only looks like PostgreSQL."""
    from support.postgres_server import binaries

    said = subprocess.run(
        [binaries() / "postgres", "--version"], capture_output=True, text=True, check=True
    ).stdout
    assert said.startswith("postgres (PostgreSQL)") and os.access(binaries() / "initdb", os.X_OK)
