"""Run an ASGI application with uvicorn on a listening socket, until a signal ends it."""

from __future__ import annotations

import asyncio
import contextlib
import errno
import ipaddress
import signal
import socket
from collections.abc import Callable, Iterator, Mapping

import uvicorn
from starlette.types import ASGIApp

from tailorbird.errors import StorageError
from tailorbird.service.web.connection import protocol_for
from tailorbird.service.web.settings import WebSettings

KEEP_ALIVE = 30
"""Seconds that an idle connection stays open; longer than a page pauses between two photos."""

BACKLOG = 512


def listen(settings: WebSettings) -> socket.socket:
    """Return the listening socket. Raises StorageError when the address cannot be used."""
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


def cannot_listen(settings: WebSettings, error: OSError) -> StorageError:
    """Return the error for an address that is taken, foreign or not permitted."""
    if isinstance(error, socket.gaierror) or error.errno == errno.EADDRNOTAVAIL:
        advice = "--host must be an address of this machine, such as 127.0.0.1, ::1 or 0.0.0.0"
    else:
        advice = "choose another port with --port, 0 for any free one"
    return StorageError(
        f"cannot listen on {settings.host} port {settings.port}: {error.strerror or error}; "
        f"{advice}"
    )


def address(settings: WebSettings, bound: socket.socket) -> str:
    """Return the URL under which a browser on this machine finds the server."""
    host = settings.host
    with contextlib.suppress(ValueError):
        ip = ipaddress.ip_address(host or "0.0.0.0")
        if ip.is_unspecified:
            host = "127.0.0.1" if ip.version == 4 else "::1"
    return f"http://{f'[{host}]' if ':' in host else host}:{bound.getsockname()[1]}"


class Server(uvicorn.Server):
    """uvicorn's server with handlers of signals that run in the event loop.

    After SIGTERM or SIGINT it finishes accepted requests and `run` returns. A second signal ends
    it at once.
    """

    def __init__(
        self,
        app: ASGIApp,
        settings: WebSettings,
        *,
        started: Callable[[], None],
        lifespan: bool = True,
    ) -> None:
        """Prepare to serve `app`; `started` is called once requests are accepted."""
        config = uvicorn.Config(
            app,
            http=protocol_for(settings),
            ws="none",
            lifespan="on" if lifespan else "off",
            log_config=None,
            access_log=False,
            server_header=False,
            proxy_headers=False,  # web/proxy.py applies them, with X-Forwarded-Prefix
            timeout_keep_alive=KEEP_ALIVE,
            timeout_graceful_shutdown=int(settings.deadline + 5),
            backlog=BACKLOG,
        )
        super().__init__(config)
        self._started = started

    def handlers(self) -> Mapping[signal.Signals, Callable[[], None]]:
        """Return what each signal does."""
        return dict.fromkeys((signal.SIGTERM, signal.SIGINT), self.stop)

    def stop(self) -> None:
        """Stop listening and finish what was accepted; called again, end at once."""
        self.force_exit = self.should_exit
        self.should_exit = True

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        """Have the event loop handle the signals, which ends the process with exit code 0.

        Where event loops cannot handle signals (Windows), uvicorn's own handlers do.
        """
        loop = asyncio.get_running_loop()
        handlers = self.handlers()
        try:
            for number, handler in handlers.items():
                loop.add_signal_handler(number, handler)
        except NotImplementedError:
            with contextlib.suppress(KeyboardInterrupt), super().capture_signals():
                yield
            return
        try:
            yield
        finally:
            for number in handlers:
                loop.remove_signal_handler(number)

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """Start, then report it."""
        await super().startup(sockets)
        if self.started:
            self._started()
