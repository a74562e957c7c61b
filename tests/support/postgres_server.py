"""A real PostgreSQL from Debian's package, started by the tests: it can be killed as a power cut
would, and started again."""

from __future__ import annotations

import contextlib
import os
import pwd
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from pathlib import Path
from urllib.parse import quote

PASSWORD = "p@ss/w:rd%1 ü"


def binaries() -> Path:
    """Return the folder of initdb and postgres; as root, install Debian's package if missing."""
    found = _find()
    if found is None and os.geteuid() == 0 and shutil.which("apt-get"):
        environment = {**os.environ, "DEBIAN_FRONTEND": "noninteractive"}
        for command in (
            ["apt-get", "update"],
            ["apt-get", "install", "-y", "--no-install-recommends", "postgresql"],
        ):
            subprocess.run(command, env=environment, capture_output=True, timeout=600)
        found = _find()
    if found is None:
        raise AssertionError(
            "these tests need PostgreSQL's server programs (initdb, postgres) and could not "
            "install them: "
            "run `apt-get install postgresql` as root"
        )
    return found


def _find() -> Path | None:
    versions = sorted(
        Path("/usr/lib/postgresql").glob("*/bin/initdb"), key=lambda path: float(path.parts[-3])
    )
    if versions:
        return versions[-1].parent
    on_path = shutil.which("initdb")
    return Path(on_path).resolve().parent if on_path else None


class PostgresServer:
    """One server with a data folder of its own, on 127.0.0.1."""

    def __init__(self) -> None:
        self._bin = binaries()
        self.user = "postgres" if os.geteuid() == 0 else None  # it refuses to run as root
        self.folder = Path(tempfile.mkdtemp(prefix="tailorbird-postgres-"))
        password = self.folder / "password"
        password.write_text(PASSWORD)
        self.give(self.folder)
        self.give(password)
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            self.port = free.getsockname()[1]
        self._run(
            "initdb",
            "-D",
            "data",
            "-U",
            "tailorbird",
            "-A",
            "scram-sha-256",
            "--pwfile=password",
            "-E",
            "UTF8",
            "--no-sync",
        )
        self._process: subprocess.Popen[bytes] | None = None
        self.start()

    def give(self, path: Path) -> None:
        """Let the server's user own a path."""
        if self.user:
            about = pwd.getpwnam(self.user)
            os.chown(path, about.pw_uid, about.pw_gid)

    def _run(self, name: str, *arguments: str) -> None:
        done = subprocess.run(
            [self._bin / name, *arguments],
            cwd=self.folder,
            user=self.user,
            group=self.user,
            extra_groups=[] if self.user else None,
            capture_output=True,
            text=True,
        )
        assert done.returncode == 0, done.stdout + done.stderr

    def url(self, database: str = "postgres", password: str = PASSWORD) -> str:
        return (
            f"postgresql://tailorbird:{quote(password, safe='')}@127.0.0.1:{self.port}/{database}"
        )

    def start(self) -> None:
        """Start, and wait until it answers."""
        with (self.folder / "log").open("ab") as log:
            self._process = subprocess.Popen(
                [
                    self._bin / "postgres",
                    "-D",
                    "data",
                    "-p",
                    str(self.port),
                    "-k",
                    str(self.folder),
                    "-c",
                    "listen_addresses=127.0.0.1",
                ],
                cwd=self.folder,
                user=self.user,
                group=self.user,
                extra_groups=[] if self.user else None,
                stdout=log,
                stderr=log,
            )
        import psycopg

        patience = time.monotonic() + 60
        while True:
            try:
                psycopg.connect(self.url(), connect_timeout=2).close()
                return
            except psycopg.OperationalError:
                said = (self.folder / "log").read_text()[-3000:]
                assert time.monotonic() < patience and self._process.poll() is None, said
                time.sleep(0.05)

    def kill(self) -> None:
        """Kill the server and its processes with signal 9: what was not on disk is lost."""
        assert self._process is not None
        children = (
            Path(f"/proc/{self._process.pid}/task/{self._process.pid}/children").read_text().split()
        )
        for pid in (self._process.pid, *map(int, children)):
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        self._process.wait()
        patience = time.monotonic() + 10
        while any(_runs(int(pid)) for pid in children) and time.monotonic() < patience:
            time.sleep(0.02)

    def stop(self) -> None:
        """Shut down and delete everything."""
        if self._process is not None and self._process.poll() is None:
            self._process.send_signal(signal.SIGINT)
            self._process.wait(30)
        shutil.rmtree(self.folder, ignore_errors=True)

    def execute(self, statement: str) -> None:
        import psycopg

        with psycopg.connect(self.url(), autocommit=True) as connection:
            connection.execute(statement.encode())


def _runs(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False
