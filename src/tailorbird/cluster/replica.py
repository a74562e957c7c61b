"""One replica of a service on Ray Serve: the application of `service`, and what replicas share.

    Board          an actor beside the command: the published model, counters, log lines
    Application    what a replica runs: opens the service from the board's files, answers requests
    Replica        Ray's deployment: its health check keeps the replica up to date

A replica of another machine sees none of the command's files: the model comes from the board.
"""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import os
import platform
import tempfile
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import tailorbird
from tailorbird.cluster.running import check_version
from tailorbird.errors import ModelFileError
from tailorbird.files import write_bytes
from tailorbird.inference import DeviceChoice

if TYPE_CHECKING:
    from tailorbird.service import ServeSettings
    from tailorbird.service.app import Service

METRICS: Final = "PROMETHEUS_MULTIPROC_DIR"
"""prometheus_client keeps the counters of each process in files here and adds them up."""
LIVE: Final = "gauge_live"
"""Begins the names of files whose values count only while their process lives."""
STALE_SECONDS: Final = 60.0
"""After this time without news the live values of another machine's replicas are dropped."""

Files = dict[str, bytes]


class Board:
    """An actor on the machine of the command, for what the replicas share."""

    def __init__(self, paths: Mapping[str, str], *, strict: bool) -> None:
        """Publish files as they are: `model`, and perhaps `candidate` and `logo`.

        Raises ModelFileError when one cannot be read.
        """
        self._paths = paths
        self._strict = strict
        self._draining = False
        self._lines: list[str] = []
        self._metrics: dict[str, tuple[float, Files]] = {}
        self._version = time.time_ns()  # larger than before, where Ray starts the actor again
        self._files = self._read()
        self._fresh = self._files

    def _read(self) -> Files:
        files = {}
        for name, path in self._paths.items():
            try:
                files[name] = Path(path).read_bytes()
            except OSError as error:
                raise ModelFileError(f"{path} cannot be read: {error.strerror}") from None
        return files

    def read_again(self) -> Files | str:
        """Return the files as they are now, or why the model cannot be used.

        The replicas test it again, but here the message names the operator's file.
        """
        from tailorbird.service.served import open_served

        try:
            fresh = self._read()
            cpu = DeviceChoice("cpu")
            open_served(Path(self._paths["model"]), strict=self._strict, device=cpu)
        except ModelFileError as error:
            return str(error)
        self._fresh = fresh
        return fresh

    def publish(self) -> None:
        """Make all replicas use what `read_again` returned last."""
        self._files, self._version = self._fresh, self._version + 1

    def published(self, known: int = 0) -> tuple[int, Files | None]:
        """Return the version, and its files unless it is known."""
        return self._version, None if known == self._version else self._files

    def drain(self) -> None:
        """Make all replicas say that they are not ready."""
        self._draining = True

    def draining(self) -> bool:
        """Return whether replicas say that they are not ready."""
        return self._draining

    def log(self, lines: str) -> None:
        """Keep lines of a replica's log for the command."""
        self._lines.append(lines)

    def take_lines(self) -> str:
        """Return the lines since the last time."""
        lines, self._lines = "".join(self._lines), []
        return lines

    def exchange(self, place: str, files: Files) -> dict[str, tuple[float, Files]]:
        """Keep the counters of one machine's replicas; return the age and those of the others."""
        now = time.monotonic()
        self._metrics[place] = (now, files)
        return {
            other: (now - at, kept) for other, (at, kept) in self._metrics.items() if other != place
        }


class BoardStream:
    """A stream of text whose lines go to the board."""

    def __init__(self, board: Any) -> None:
        self._board = board

    def write(self, text: str) -> int:
        """Send text."""
        self._board.log.remote(text)
        return len(text)

    def flush(self) -> None:
        """Do nothing: text is sent at once."""


class BoardPeers:
    """The other replicas, reached through the board; see `service.state.Peers`."""

    def __init__(self, board: Any, write: Callable[[Mapping[str, bytes]], None]) -> None:
        self._board = board
        self._write = write

    async def refresh(self) -> None:
        """Copy the command's files here. Raises ModelFileError when they cannot be read."""
        found = await self._board.read_again.remote()
        if isinstance(found, str):
            raise ModelFileError(found)
        self._write(found)

    def notify(self) -> None:
        """Publish these files; the others find them at their next health check."""
        self._board.publish.remote()


class Application:
    """The ASGI application of a replica; pickled on its way there, opened when it starts."""

    def __init__(self, settings: ServeSettings, board: Any, *, quiet: bool) -> None:
        self._settings = settings
        self._program = tailorbird.__version__
        self._board = board
        self._quiet = quiet
        self._version = 0
        self._folder: tempfile.TemporaryDirectory[str] | None = None
        self._service: Service | None = None
        self._app: Any = None

    async def __call__(self, scope: dict[str, Any], receive: Any, send: Any) -> None:
        """Answer one request, or run the lifespan, which comes first (ASGI)."""
        if self._app is None:
            await self._open()
        path = scope.get("path")
        if path == "/readyz" and self._service is not None and self._service.state.ready:
            if await self._board.draining.remote():
                self._service.begin_drain()
        elif path == "/metrics":
            await self._exchange_metrics()

        async def sent(message: dict[str, Any]) -> None:
            if message["type"] == "lifespan.shutdown.complete":
                await self._close()
            if message["type"] == "http.response.start":
                message = {**message, "headers": _without_id(message["headers"])}
            await send(message)

        await self._app(scope, receive, sent)

    async def follow(self) -> None:
        """Use the published model, and pass on the counters."""
        if self._service is None:
            return
        version, files = await self._board.published.remote(self._version)
        if files is not None:
            self._write(files)
            self._version = version
            with contextlib.suppress(ModelFileError):  # `State.reload` has logged it
                await self._service.state.reload(trigger="board")
        await self._exchange_metrics()

    async def _open(self) -> None:
        """Open the service from the published files."""
        check_version(self._program)
        _metrics_folder().mkdir(parents=True, exist_ok=True)
        from tailorbird.service.app import Service
        from tailorbird.service.web.logs import configure_logging
        from tailorbird.service.web.proxy import ForwardedHeaders

        configure_logging(quiet=self._quiet, stream=BoardStream(self._board))  # type: ignore[arg-type]
        self._folder = tempfile.TemporaryDirectory(prefix="tailorbird-replica-")
        self._version, files = await self._board.published.remote()
        assert files is not None
        self._write(files)
        paths: dict[str, Any] = {name: self._path(name) for name in files}
        page = replace(self._settings.page, logo=paths.pop("logo", None))
        settings = replace(self._settings, page=page, **paths)
        peers = BoardPeers(self._board, self._write)
        self._service = await asyncio.to_thread(Service, settings, peers=peers)
        self._app = ForwardedHeaders(self._service, settings.trusted_proxies)

    async def _close(self) -> None:
        folder = _metrics_folder()
        for path in folder.glob(f"{LIVE}*_{os.getpid()}.db"):
            path.unlink(missing_ok=True)
        await self._exchange_metrics()
        if self._folder is not None:
            self._folder.cleanup()

    def _path(self, name: str) -> Path:
        """Return where a file lies here; its name is the one that answers show."""
        assert self._folder is not None
        given = files_of(self._settings)[name]
        folder = Path(self._folder.name) / name
        folder.mkdir(exist_ok=True)
        return folder / given.name

    def _write(self, files: Mapping[str, bytes]) -> None:
        for name, content in files.items():
            write_bytes(self._path(name), content)

    async def _exchange_metrics(self) -> None:
        """Give the board this machine's counters, and put those of others beside them."""
        folder = _metrics_folder()
        _remove_dead(folder)
        others = await self._board.exchange.remote(_place(folder), _own_files(folder))
        for other, (age, files) in others.items():
            number = 1 + int(hashlib.sha256(other.encode()).hexdigest()[:8], 16)
            for name, content in files.items():
                stem, _, process = name.removesuffix(".db").rpartition("_")
                path = folder / f"{stem}_{number * FOREIGN + int(process)}.db"
                if age > STALE_SECONDS and name.startswith(LIVE):
                    path.unlink(missing_ok=True)
                else:
                    write_bytes(path, content)


def _without_id(headers: Iterable[tuple[bytes, bytes]]) -> list[tuple[bytes, bytes]]:
    """Return a response's headers without the request's id, which Ray's proxy adds again."""
    return [(name, value) for name, value in headers if name.lower() != b"x-request-id"]


def files_of(settings: ServeSettings) -> dict[str, Path]:
    """Return the files that a replica needs, by what they are."""
    found = {
        "model": settings.model,
        "candidate": settings.candidate,
        "logo": settings.page.logo,
    }
    return {name: path for name, path in found.items() if path is not None}


FOREIGN: Final = 10**8
"""A machine's number times this is added to its process ids, which are smaller, in the names of
files on other machines."""


def _metrics_folder() -> Path:
    return Path(os.environ[METRICS])


def _place(folder: Path) -> str:
    """Return what tells this machine's folder of counters from those of others."""
    return f"{platform.node()}:{folder.stat().st_dev}:{folder.stat().st_ino}"


def _process(path: Path) -> int:
    return int(path.stem.rpartition("_")[2])


def _own_files(folder: Path) -> Files:
    """Return the counters of this machine's replicas."""
    return {
        path.name: path.read_bytes()
        for path in sorted(folder.glob("*.db"))
        if _process(path) < FOREIGN
    }


def _remove_dead(folder: Path) -> None:
    """Remove the live values of replicas that were killed here."""
    for path in folder.glob(f"{LIVE}*.db"):
        process = _process(path)
        if process < FOREIGN and not Path(f"/proc/{process}").exists() and Path("/proc").is_dir():
            path.unlink(missing_ok=True)


class Replica:
    """Ray's deployment; `ray.serve.ingress` adds `app`, the replica's own Application."""

    app: Application

    async def check_health(self) -> None:
        """Follow the board; Ray calls this every few seconds."""
        await self.app.follow()
