"""Run a candidate model beside the model being served, on the same photos, without answering.

The candidate runs in a child process of the lowest priority, so that it takes what answers leave of
the processor, and a crash or a hang of it ends nothing else. Photos wait in a short queue; a full
queue, or a service whose cores are all busy, drops them. Whatever fails is logged.
"""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from queue import Empty, Full, Queue
from typing import TYPE_CHECKING, Any, Final

from tailorbird.errors import ImageError, StorageError, TailorbirdError
from tailorbird.service.decoding import pipe, receive, send
from tailorbird.service.web.logs import log

if TYPE_CHECKING:
    from tailorbird.corrections import Corrections
    from tailorbird.corrections.trials import Trial, TrialCounts

WAITING: Final = 16
"""Photos that may wait."""

WAITING_BYTES: Final = 64 * 2**20
"""Bytes of photos that may wait."""

SECONDS: Final = 60.0
"""Time for one photo, or for opening the model; a child that takes longer is ended."""

FLUSH_SECONDS: Final = 2.0
"""Results are stored together, at most so much later."""

PAUSES: Final = (1.0, 10.0, 60.0, 300.0)
"""Seconds before a child that failed is started again, longer with each failure in a row."""


@dataclass(frozen=True)
class _Photo:
    data: bytes
    receipt: str
    model: str
    label: str


class Candidate:
    """The candidate of one process of the service; `offer` and `status` never wait."""

    def __init__(
        self,
        path: Path,
        store: Corrections,
        *,
        max_pixels: int,
        busy: Callable[[], bool],
        meter: Callable[[str], None],
    ) -> None:
        """Start the thread that feeds the child process.

        busy: whether every core has a photo to answer; photos are dropped then.
        meter: receives `answered`, `dropped` or `failed` for each photo.
        """
        self.path = path
        self.sha256: str | None = None
        """SHA-256 of the file that runs; None before it does."""
        self.message: str | None = None
        """Why it does not run."""
        self._store = store
        self._max_pixels = max_pixels
        self._busy = busy
        self._meter = meter
        self._photos: Queue[_Photo | None] = Queue(WAITING)
        self._bytes = 0
        self._lock = threading.Lock()
        self._rows: list[Trial] = []
        self._process: subprocess.Popen[bytes] | None = None
        self._failures = 0
        self._next_start = 0.0
        self._reopen = False
        self._closing = False
        self._thread = threading.Thread(target=self._work, name="candidate", daemon=True)
        self._thread.start()

    def offer(self, data: bytes, *, receipt: str, model: str, label: str) -> bool:
        """Queue a photo that was answered; return whether there was room.

        receipt: of the prediction. model: the served model's SHA-256. label: what it answered.
        """
        with self._lock:
            fits = self._bytes + len(data) <= WAITING_BYTES and not self._closing
            if fits and not self._busy() and model != self.sha256:
                with contextlib.suppress(Full):
                    self._photos.put_nowait(_Photo(data, receipt, model, label))
                    self._bytes += len(data)
                    return True
        self._meter("dropped")
        return False

    def reload(self) -> None:
        """Open the file again before the next photo."""
        self._reopen = True

    def state(self, served: str) -> str:
        """Return `running`, `starting`, `failed`, or `same`: it is the model being served."""
        if self.message is not None:
            return "failed"
        return "starting" if self.sha256 is None else "same" if self.sha256 == served else "running"

    def counts(self, served: str) -> TrialCounts:
        """Return the counts beside the model with this SHA-256. Raises StorageError."""
        from tailorbird.corrections.trials import TrialCounts

        return self._store.trial(served, self.sha256) if self.sha256 else TrialCounts()

    def close(self) -> None:
        """End the child process and the thread; photos that wait are dropped."""
        self._closing = True
        process = self._process
        if process is not None:
            process.kill()
        with contextlib.suppress(Full):
            self._photos.put_nowait(None)
        self._thread.join(10)

    # The thread.

    def _work(self) -> None:
        stored = time.monotonic()
        self._attempt(self._started)
        while not self._closing:
            with contextlib.suppress(Empty):
                photo = self._photos.get(timeout=FLUSH_SECONDS)
                if photo is not None:
                    with self._lock:
                        self._bytes -= len(photo.data)
                    self._attempt(self._ask, photo)
            if self._reopen:
                self._reopen, self._next_start = False, 0.0
                self._end()
                self._attempt(self._started)
            if self._rows and time.monotonic() - stored >= FLUSH_SECONDS:
                stored = time.monotonic()
                self._flush()
        self._flush()
        self._end()

    def _attempt(self, work: Callable[..., object], *arguments: object) -> None:
        """Run work; whatever it raises is logged and ends the child."""
        try:
            work(*arguments)
        except Exception as error:
            if self._closing:
                return
            told = isinstance(error, TailorbirdError)
            known = told or isinstance(error, EOFError | OSError)
            code = self._end()
            self.sha256 = None
            self.message = (
                f"its process ended with exit code {code}" if known and not told else str(error)
            )
            self._next_start = time.monotonic() + PAUSES[min(self._failures, len(PAUSES) - 1)]
            self._failures += 1
            if arguments:
                self._meter("failed")
            log(
                "candidate-failed",
                level="error",
                message=f"{self.path}: {self.message}; the served model is not affected",
                exc_info=None if known else error,
            )

    def _started(self) -> subprocess.Popen[bytes] | None:
        """Return the running child, started now if its pause is over; None during the pause."""
        if self._process is not None:
            return self._process
        if time.monotonic() < self._next_start:
            return None
        code = f"import sys; sys.path[:] = {sys.path!r}; from {__name__} import main; main()"
        process = self._process = subprocess.Popen(
            [sys.executable, "-c", code, str(self.path), str(self._max_pixels)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
        )
        hello, _ = self._timed(process, None)
        self.sha256, self.message = hello["sha256"], None
        log("candidate-started", model=str(self.path), sha256=self.sha256)
        return process

    def _ask(self, photo: _Photo) -> None:
        from tailorbird.corrections.trials import Trial

        process = None if self._busy() else self._started()
        if process is None or self.sha256 is None or self.sha256 == photo.model:
            self._meter("dropped")
            return
        answer, _ = self._timed(process, photo.data)
        self._failures = 0
        if "refused" in answer:
            self._meter("failed")
            log("candidate-photo", level="warning", message=answer["refused"])
            return
        self._rows.append(
            Trial(photo.receipt, photo.model, self.sha256, photo.label, answer["label"])
        )
        self._meter("answered")

    def _timed(
        self, process: subprocess.Popen[bytes], data: bytes | None
    ) -> tuple[dict[str, Any], bytes]:
        """Send a photo, if there is one, and return the child's message; end it after SECONDS.

        Raises EOFError, OSError, or TailorbirdError with the child's own error.
        """
        timer = threading.Timer(SECONDS, process.kill)
        timer.daemon = True
        timer.start()
        try:
            if data is not None:
                send(pipe(process.stdin), {}, data)
            answer = receive(pipe(process.stdout))
        finally:
            timer.cancel()
        if "error" in answer[0]:
            raise TailorbirdError(answer[0]["error"])
        return answer

    def _flush(self) -> None:
        """Store the results; those that cannot be stored are lost, and that is logged."""
        rows, self._rows = self._rows, []
        if not rows:
            return
        try:
            self._store.add_trials(rows)
        except StorageError as error:
            log("candidate-not-stored", level="error", message=f"{len(rows)} results: {error}")

    def _end(self) -> int | None:
        """End the child, if there is one, and return its exit code."""
        process, self._process = self._process, None
        if process is None:
            return None
        with contextlib.suppress(OSError):
            pipe(process.stdin).close()
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(2)
        process.kill()
        pipe(process.stdout).close()
        return process.wait()


# The child process.


def main() -> None:
    """Open the model named by the arguments and answer photos until standard input ends."""
    for name in ("SIGINT", "SIGTERM", "SIGHUP"):
        if hasattr(signal, name):
            signal.signal(getattr(signal, name), signal.SIG_IGN)
    if hasattr(os, "nice"):
        os.nice(19)
    from tailorbird.images import SERVED, load
    from tailorbird.inference import CPU, DeviceChoice
    from tailorbird.service.served import open_served

    path, max_pixels = Path(sys.argv[1]), int(sys.argv[2])
    source, target = sys.stdin.buffer, sys.stdout.buffer
    sys.stdout = sys.stderr  # nothing else may write between the messages
    with contextlib.suppress(EOFError, BrokenPipeError):
        try:
            # The model that answers has the other devices for itself.
            served = open_served(path, device=DeviceChoice(CPU.name))
            send(target, {"sha256": served.sha256}, b"")
            while True:
                _, data = receive(source)
                try:
                    pixels = load(data, served.rule, max_pixels=max_pixels, accepted=SERVED)
                except ImageError as error:
                    send(target, {"refused": str(error)}, b"")
                    continue
                rows, _ = served.classifier.run(pixels[None])
                label = served.classifier.classes[int(rows[0].argmax())]
                send(target, {"label": label}, b"")
        except (EOFError, BrokenPipeError):
            raise
        except Exception as error:  # the parent logs it
            known = isinstance(error, TailorbirdError)
            send(target, {"error": str(error) if known else repr(error)}, b"")
