"""Run one process of the service: drain at the end, reload on SIGHUP, report to a supervisor."""

from __future__ import annotations

import asyncio
import contextlib
import signal
import socket
from collections.abc import Callable, Mapping

from tailorbird.errors import ModelFileError
from tailorbird.service.app import Service
from tailorbird.service.web.logs import log
from tailorbird.service.web.proxy import ForwardedHeaders
from tailorbird.service.web.server import Server
from tailorbird.service.web.terminal import Terminal


def run(
    service: Service,
    bound: socket.socket,
    *,
    announce: Callable[[], None] | None = None,
    supervisor: socket.socket | None = None,
) -> None:
    """Serve until SIGTERM or SIGINT, then finish what was accepted and return.

    SIGHUP reloads the model, or stops the service if its terminal was closed.

    announce: called once requests are accepted and signals are handled.
    supervisor: this process's end of a pair of sockets. A byte is written once requests are
        accepted; end of file means that the supervisor has ended.
    """
    ServiceServer(service, announce, supervisor).run(sockets=[bound])


class ServiceServer(Server):
    """The server of one process of the service."""

    def __init__(
        self,
        service: Service,
        announce: Callable[[], None] | None,
        supervisor: socket.socket | None,
    ) -> None:
        app = ForwardedHeaders(service, service.state.settings.trusted_proxies)
        super().__init__(app, service.state.settings, started=self._report)
        self._service = service
        self._announce = announce
        self._supervisor = supervisor
        self._terminal = Terminal()
        self._reloads: set[asyncio.Task[None]] = set()

    def handlers(self) -> Mapping[signal.Signals, Callable[[], None]]:
        """Return what each signal does."""
        handlers = dict(super().handlers())
        if hasattr(signal, "SIGHUP"):
            handlers[signal.SIGHUP] = self._hang_up
        return handlers

    def stop(self) -> None:
        """Report "not ready" for `drain` seconds, then stop listening; called again, end sooner."""
        if not self._service.state.ready:
            super().stop()
            return
        self._service.begin_drain()
        drain = self._service.state.settings.drain
        asyncio.get_running_loop().call_later(drain, self._stop_listening)

    def _stop_listening(self) -> None:
        self.should_exit = True

    def _report(self) -> None:
        if self._announce is not None:
            self._announce()
        if self._supervisor is not None:
            self._supervisor.setblocking(False)
            self._supervisor.send(b"1")
            asyncio.get_running_loop().add_reader(self._supervisor, self._supervisor_closed)

    def _supervisor_closed(self) -> None:
        """Stop at end of file; the supervisor never writes."""
        assert self._supervisor is not None
        with contextlib.suppress(OSError):
            if self._supervisor.recv(1):
                return
        asyncio.get_running_loop().remove_reader(self._supervisor)
        log("supervisor-gone", level="warning")
        self.stop()

    def _hang_up(self) -> None:
        if self._supervisor is None and self._terminal.is_gone:
            log("terminal-gone", level="warning")
            self.stop()
            return
        task = asyncio.get_running_loop().create_task(self._reload())
        self._reloads.add(task)
        task.add_done_callback(self._reloads.discard)

    async def _reload(self) -> None:
        with contextlib.suppress(ModelFileError):  # `State.reload` has logged it
            await self._service.state.reload(trigger="signal")
