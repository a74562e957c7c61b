"""Run several processes on one listening socket: start, restart, forward signals, end together."""

from __future__ import annotations

import contextlib
import dataclasses
import multiprocessing
import os
import shutil
import signal
import socket
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from multiprocessing import connection
from multiprocessing.context import SpawnProcess
from pathlib import Path

from prometheus_client import multiprocess

from tailorbird.errors import RunError, TailorbirdError
from tailorbird.service.settings import ServeSettings
from tailorbird.service.state import Siblings
from tailorbird.service.web.logs import configure_logging, log
from tailorbird.service.web.terminal import Terminal

PAUSES = (0.0, 0.5, 1.0, 2.0, 5.0)
"""Seconds before a process that died is started again, longer with each death in a row."""

STEADY = 60.0
"""A process that ran for more seconds than this does not count as a repeated death."""


@dataclasses.dataclass
class _Worker:
    """One process, and our end of the pair of sockets through which it reports."""

    process: SpawnProcess
    socket: socket.socket
    began: float
    started: bool = False
    reload_missed: bool = False


def supervise(
    settings: ServeSettings, bound: socket.socket, *, quiet: bool, announce: Callable[[], None]
) -> None:
    """Serve from `settings.workers` processes until SIGTERM or SIGINT.

    Returns once all processes have finished what they accepted.

    announce: called once every process accepts requests.

    Raises RunError when a process cannot start, or does not end.
    """
    runtime = Path(tempfile.mkdtemp(prefix="tailorbird-serve-"))
    # prometheus_client keeps the counters of each process in files here and adds them up.
    os.environ["PROMETHEUS_MULTIPROC_DIR"] = str(runtime)
    try:
        _Supervisor(dataclasses.replace(settings, runtime=runtime), bound, quiet).run(announce)
    finally:
        shutil.rmtree(runtime, ignore_errors=True)


class _Supervisor:
    """Holds the processes; its signal handlers run in the main thread, between two steps."""

    def __init__(self, settings: ServeSettings, bound: socket.socket, quiet: bool) -> None:
        self._settings = settings
        self._bound = bound
        self._quiet = quiet
        self._workers: list[_Worker] = []
        self._stopping = False
        self._deaths = 0
        self._terminal = Terminal()

    def run(self, announce: Callable[[], None]) -> None:
        """Start the processes, watch them, end them."""
        announced = False
        with self._signals():
            try:
                for _ in range(self._settings.workers):
                    self._workers.append(self._start())
                while not self._stopping:
                    self._wait(0.2)
                    self._replace_dead(announced)
                    if not announced and all(worker.started for worker in self._workers):
                        announced = True
                        announce()
            finally:
                self._end()

    @contextlib.contextmanager
    def _signals(self) -> Iterator[None]:
        handlers: dict[int, Callable[..., None]] = {
            signal.SIGTERM: self._on_stop,
            signal.SIGINT: self._on_stop,
        }
        if hasattr(signal, "SIGHUP"):
            handlers[signal.SIGHUP] = self._on_hang_up
        before = {number: signal.signal(number, handler) for number, handler in handlers.items()}
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)

    def _on_stop(self, *_: object) -> None:
        self._stopping = True

    def _on_hang_up(self, *_: object) -> None:
        if self._terminal.is_gone:
            self._stopping = True
            return
        for worker in self._workers:
            # A process that is still starting has no handler yet and would die of the signal.
            worker.reload_missed = not worker.started
            if worker.started:
                _send(worker, signal.SIGHUP)

    def _start(self) -> _Worker:
        ours, theirs = socket.socketpair()
        process = multiprocessing.get_context("spawn").Process(
            target=_work,
            args=(self._settings, self._bound, theirs, os.getpid(), self._quiet),
            name="tailorbird-worker",
        )
        process.start()
        theirs.close()
        return _Worker(process, ours, time.monotonic())

    def _wait(self, seconds: float) -> None:
        """Wait until a process ends or reports that it accepts requests."""
        starting = {worker.socket: worker for worker in self._workers if not worker.started}
        sentinels = [worker.process.sentinel for worker in self._workers]
        for ready in connection.wait([*sentinels, *starting], timeout=seconds):
            worker = starting.get(ready) if isinstance(ready, socket.socket) else None
            if worker is not None and worker.socket.recv(1):
                worker.started = True
                if worker.reload_missed:
                    worker.reload_missed = False
                    _send(worker, signal.SIGHUP)

    def _replace_dead(self, announced: bool) -> None:
        for number, worker in enumerate(self._workers):
            if worker.process.is_alive() or self._stopping:
                continue
            worker.socket.close()
            multiprocess.mark_process_dead(worker.process.pid)  # type: ignore[no-untyped-call]
            if not announced:
                raise RunError("a process of the service could not start; its message is above")
            self._deaths = self._deaths + 1 if time.monotonic() - worker.began < STEADY else 0
            log(
                "worker-died",
                level="error",
                worker=worker.process.pid,
                exit_code=worker.process.exitcode,
            )
            time.sleep(PAUSES[min(self._deaths, len(PAUSES) - 1)])
            self._workers[number] = self._start()

    def _end(self) -> None:
        """Ask all processes to finish, wait for as long as a request may take, then kill them."""
        for worker in self._workers:
            _send(worker, signal.SIGTERM)
        until = time.monotonic() + self._settings.drain + self._settings.deadline + 15
        stuck = []
        for worker in self._workers:
            worker.process.join(max(0.1, until - time.monotonic()))
            if worker.process.is_alive():
                stuck.append(worker.process.pid)
                worker.process.kill()
                worker.process.join()
            worker.socket.close()
        if stuck:
            raise RunError(f"{len(stuck)} processes did not end in time and were killed")


def _send(worker: _Worker, number: int) -> None:
    with contextlib.suppress(ProcessLookupError):
        if worker.process.pid is not None and worker.process.is_alive():
            os.kill(worker.process.pid, number)


def _work(
    settings: ServeSettings, bound: socket.socket, report: socket.socket, parent: int, quiet: bool
) -> None:
    """Run one process from its start to its end."""
    # Ctrl-C reaches every process of the terminal; the supervisor forwards it.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    from tailorbird.service.app import Service
    from tailorbird.service.server import run

    configure_logging(quiet=quiet)
    try:
        service = Service(settings, peers=Siblings(parent))
    except TailorbirdError as error:
        log("cannot-start", level="error", message=str(error))
        sys.exit(error.exit_code)
    run(service, bound, supervisor=report)
