"""One process that serves: uvicorn with our connections, and signals that end it without losing an accepted request."""

from __future__ import annotations

import asyncio
import contextlib
import signal
import socket
from collections.abc import Callable, Iterator, Mapping

import uvicorn

from tailorbird.errors import ModelFileError, StorageError
from tailorbird.service.app import Service
from tailorbird.service.connection import protocol_for
from tailorbird.service.settings import Limits
from tailorbird.service.telemetry import log

KEEP_ALIVE = 30
"""Seconds an idle connection stays open; longer than browsers pause between two photos."""

BACKLOG = 512


def listen(settings: Limits) -> socket.socket:
    """The listening socket. Raises StorageError for an address that is taken, foreign or not permitted."""
    family = socket.AF_INET6 if ":" in settings.host else socket.AF_INET
    bound = socket.socket(family, socket.SOCK_STREAM)
    bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        bound.bind((settings.host, settings.port))
        bound.listen(BACKLOG)
    except OSError as error:
        bound.close()
        raise cannot_listen(settings, error) from None
    bound.set_inheritable(True)
    return bound


def cannot_listen(settings: Limits, error: OSError) -> StorageError:
    """What to say when the address is taken, foreign or not permitted."""
    return StorageError(
        f"cannot listen on {settings.host} port {settings.port}: {error.strerror or error}; choose another with --port, 0 for any free one"
    )


def address(settings: Limits, bound: socket.socket) -> str:
    """Where a browser finds the service."""
    host = settings.host
    shown = (
        "127.0.0.1"
        if host in ("0.0.0.0", "")
        else "[::1]"
        if host == "::"
        else f"[{host}]"
        if ":" in host
        else host
    )
    return f"http://{shown}:{bound.getsockname()[1]}"


def run(
    service: Service,
    bound: socket.socket,
    *,
    announce: Callable[[], None] | None = None,
    told: socket.socket | None = None,
) -> None:
    """Serve until SIGTERM or SIGINT, then finish what was accepted and return.

    SIGHUP reloads the model.

    announce: called once requests are taken and signals are heeded.
    told: one end of a pair of sockets whose other end the supervisor holds; a byte is written once requests are taken, and its
        end of file means that the supervisor is gone.
    """
    settings = service.state.settings
    config = uvicorn.Config(
        service,
        http=protocol_for(settings),
        ws="none",
        lifespan="on",
        log_config=None,
        access_log=False,
        server_header=False,
        proxy_headers=True,
        timeout_keep_alive=KEEP_ALIVE,
        timeout_graceful_shutdown=int(settings.deadline + 5),
        backlog=BACKLOG,
    )
    _Server(config, service, announce, told).run(sockets=[bound])


@contextlib.contextmanager
def signals_in_the_loop(
    handlers: Mapping[signal.Signals, Callable[[], None]],
    otherwise: contextlib.AbstractContextManager[None],
) -> Iterator[None]:
    """Have the event loop call `handlers`; where it knows no signals (Windows), `otherwise` is entered in their place."""
    loop = asyncio.get_running_loop()
    try:
        for number, handler in handlers.items():
            loop.add_signal_handler(number, handler)
    except NotImplementedError:
        with otherwise:
            yield
        return
    try:
        yield
    finally:
        for number in handlers:
            loop.remove_signal_handler(number)


class _Server(uvicorn.Server):
    """uvicorn's server with a drain before the end; it exits 0 after SIGTERM, which was no failure."""

    def __init__(
        self,
        config: uvicorn.Config,
        service: Service,
        announce: Callable[[], None] | None,
        told: socket.socket | None,
    ) -> None:
        super().__init__(config)
        self._announce = announce
        self._service = service
        self._told = told
        self._reloads: set[asyncio.Task[None]] = set()

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        """Handlers that run in the event loop."""
        wanted = {signal.SIGTERM: self._stop, signal.SIGINT: self._stop}
        if hasattr(signal, "SIGHUP"):
            wanted[signal.SIGHUP] = self._reload
        with signals_in_the_loop(wanted, super().capture_signals()):
            yield

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """Then tell whoever waits for it."""
        await super().startup(sockets)
        if self._announce is not None and self.started:
            self._announce()
        if self._told is not None and self.started:
            self._told.setblocking(False)
            self._told.send(b"1")
            asyncio.get_running_loop().add_reader(self._told, self._supervisor_spoke)

    def _supervisor_spoke(self) -> None:
        """Only the end of file is ever heard."""
        assert self._told is not None
        with contextlib.suppress(OSError):
            if self._told.recv(1):
                return
        asyncio.get_running_loop().remove_reader(self._told)
        log("supervisor-gone", level="warning")
        self._stop()

    def _stop(self) -> None:
        if not self._service.state.ready:
            self.force_exit = self.should_exit
            self.should_exit = True
            return
        self._service.begin_drain()
        asyncio.get_running_loop().call_later(
            self._service.state.settings.drain, self._stop_listening
        )

    def _stop_listening(self) -> None:
        self.should_exit = True

    def _reload(self) -> None:
        task = asyncio.get_running_loop().create_task(self._reloaded())
        self._reloads.add(task)
        task.add_done_callback(self._reloads.discard)

    async def _reloaded(self) -> None:
        with contextlib.suppress(ModelFileError):  # reported where it was refused
            await self._service.state.reload(told_by="signal")
