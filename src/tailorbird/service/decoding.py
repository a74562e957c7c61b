"""Decode untrusted input in child processes, which can be ended when they take too long.

A photo of a few kilobytes can keep a decoder busy for minutes, or crash it, and a thread inside a C
library cannot be stopped. So each decoder is a process that reads jobs from its standard input and
writes the results to its standard output. It ends itself when a job exceeds its processor time; the
next job starts another one. It also parses large JSON tensors, which would hold the interpreter's
lock of the serving process.

A message is two lengths (header, payload), a JSON header and a payload of raw bytes. Results are
never unpickled: a decoder that hostile input has taken over cannot run code in the service.
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import struct
import subprocess
import sys
import threading
import time
import warnings
from collections.abc import Iterator
from queue import SimpleQueue
from typing import IO, Any

import numpy as np
from PIL import Image

from tailorbird import errors
from tailorbird.errors import ImageError, UnreadableImage
from tailorbird.images import SERVED, Pixels, ResizeRule, load
from tailorbird.service.tensors import BadTensor, parse_tensor

_LENGTHS = struct.Struct("<IQ")

PIPE_BYTES = 2**20
"""Size of the pipes where the system allows setting it; most photos then fit in one write."""

BUSY_SECONDS = 5.0
"""A decoder that has worked on one job for this long counts as stuck."""


class DecodingTooSlow(UnreadableImage):
    """Decoding took more processor time than a photo may use."""


class Decoder:
    """One child process; it is started with its first job, and again after it has ended."""

    def __init__(self, seconds: float) -> None:
        """`seconds` is the processor time that a job may use."""
        self._seconds = seconds
        self._process: subprocess.Popen[bytes] | None = None
        self.busy_since: float | None = None
        """time.monotonic() at which its present job began."""

    def photo(self, data: bytes, rule: ResizeRule, max_pixels: int) -> Pixels:
        """Decode and resize a photo: uint8 (S, S, 3). Raises ImageError."""
        _, pixels = self._run(
            {"job": "photo", "rule": rule.as_dict(), "max_pixels": max_pixels}, data
        )
        if pixels.shape != (rule.size, rule.size, 3):
            raise UnreadableImage(f"the decoder returned an array of shape {pixels.shape}")
        return pixels

    def tensor(self, text: bytes, size: int, most: int) -> tuple[dict[str, Any], Pixels]:
        """Parse a JSON inference request: the request without its data, uint8 (N, S, S, 3).

        Raises BadTensor.
        """
        return self._run({"job": "tensor", "size": size, "most": most}, text)

    def close(self) -> None:
        """End the process; a job under way ends first."""
        process, self._process = self._process, None
        if process is not None:
            with contextlib.suppress(OSError):
                pipe(process.stdin).close()
            process.wait()
            pipe(process.stdout).close()

    def _run(self, header: dict[str, Any], payload: bytes) -> tuple[dict[str, Any], Pixels]:
        self.busy_since = time.monotonic()
        try:
            process = self._running()
            send(pipe(process.stdin), {**header, "seconds": self._seconds}, payload)
            answer, raw = receive(pipe(process.stdout))
        except (OSError, EOFError):
            raise self._ended() from None
        finally:
            self.busy_since = None
        if "error" in answer:
            raise _error_class(answer["error"])(answer["message"])
        return answer["meta"], np.frombuffer(raw, np.uint8).reshape(answer["shape"])

    def _running(self) -> subprocess.Popen[bytes]:
        if self._process is None or self._process.poll() is not None:
            self.close()
            code = f"import sys; sys.path[:] = {sys.path!r}; from {__name__} import main; main()"
            self._process = subprocess.Popen(
                [sys.executable, "-c", code],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                pipesize=PIPE_BYTES,
            )
        return self._process

    def _ended(self) -> ImageError:
        """Return the error for a job during which the process ended."""
        process = self._process
        code = process.wait() if process is not None else None
        self.close()
        if code in (_TOO_SLOW, -getattr(signal, "SIGPROF", 0)):
            return DecodingTooSlow(
                f"decoding took longer than {self._seconds:g} seconds; save the photo again, as "
                "an ordinary JPEG or PNG"
            )
        return UnreadableImage(f"the decoder ended with exit code {code}; the file is damaged")


class Decoders:
    """A fixed number of decoders, each used by one thread at a time."""

    def __init__(self, number: int, seconds: float) -> None:
        self._all = [Decoder(seconds) for _ in range(number)]
        self._idle: SimpleQueue[Decoder] = SimpleQueue()
        for decoder in self._all:
            self._idle.put(decoder)

    @contextlib.contextmanager
    def one(self) -> Iterator[Decoder]:
        """Lend an idle decoder, waiting for one."""
        decoder = self._idle.get()
        try:
            yield decoder
        finally:
            self._idle.put(decoder)

    @property
    def stuck(self) -> bool:
        """Whether every decoder has worked on one job for BUSY_SECONDS."""
        since = time.monotonic() - BUSY_SECONDS
        began = [decoder.busy_since for decoder in self._all]
        return all(moment is not None and moment < since for moment in began)

    def close(self) -> None:
        """End all processes."""
        for decoder in self._all:
            decoder.close()


def pipe(stream: IO[bytes] | None) -> IO[bytes]:
    """Return a process's pipe, which is there."""
    assert stream is not None
    return stream


def send(stream: IO[bytes], header: dict[str, Any], payload: bytes) -> None:
    """Write one message."""
    text = json.dumps(header).encode()
    stream.write(_LENGTHS.pack(len(text), len(payload)))
    stream.write(text)
    stream.write(payload)
    stream.flush()


def receive(stream: IO[bytes]) -> tuple[dict[str, Any], bytes]:
    """Read one message. Raises EOFError when the other side has ended."""
    header, payload = _LENGTHS.unpack(_exactly(stream, _LENGTHS.size))
    content: dict[str, Any] = json.loads(_exactly(stream, header))
    return content, _exactly(stream, payload)


def _exactly(stream: IO[bytes], length: int) -> bytes:
    data = stream.read(length)
    if len(data) < length:
        raise EOFError
    return data


def _error_class(name: str) -> type[Exception]:
    """Return the class of that name among those that a decoder may report."""
    if name == "BadTensor":
        return BadTensor
    found = getattr(errors, name, None)
    if isinstance(found, type) and issubclass(found, ImageError):
        return found
    return UnreadableImage


# The child process.

_TOO_SLOW = 124
"""Exit code of a decoder that ended itself where there is no SIGPROF."""


def main() -> None:
    """Answer jobs until standard input ends."""
    # Terminals and service managers signal child processes too; these must stop only after the
    # service's last photo.
    for name in ("SIGINT", "SIGTERM", "SIGHUP"):
        if hasattr(signal, name):
            signal.signal(getattr(signal, name), signal.SIG_IGN)
    warnings.simplefilter("ignore")
    Image.init()  # import the codecs now, outside the time limit of a job
    source, target = sys.stdin.buffer, sys.stdout.buffer
    sys.stdout = sys.stderr  # nothing else may write between the messages
    with contextlib.suppress(EOFError, BrokenPipeError):
        while True:
            header, payload = receive(source)
            with _limited(header["seconds"]):
                answer, pixels = _answer(header, payload)
            send(target, answer, pixels.tobytes())


def _answer(header: dict[str, Any], payload: bytes) -> tuple[dict[str, Any], Pixels]:
    try:
        if header["job"] == "photo":
            pixels = load(
                payload,
                ResizeRule.from_dict(header["rule"]),
                max_pixels=header["max_pixels"],
                accepted=SERVED,
            )
            meta: dict[str, Any] = {}
        else:
            meta, pixels = parse_tensor(payload, header["size"], header["most"])
    except (ImageError, BadTensor) as error:
        return {"error": type(error).__name__, "message": str(error)}, np.empty(0, np.uint8)
    except MemoryError:
        message = "decoding needs more memory than there is; send a smaller photo"
        return {"error": "UnreadableImage", "message": message}, np.empty(0, np.uint8)
    return {"meta": meta, "shape": list(pixels.shape)}, pixels


@contextlib.contextmanager
def _limited(seconds: float) -> Iterator[None]:
    """End the process when the block uses more processor time than `seconds`.

    The default action of SIGPROF ends a process even inside a C library. Where it does not exist,
    elapsed time is measured.
    """
    if hasattr(signal, "setitimer"):
        signal.setitimer(signal.ITIMER_PROF, seconds)
        try:
            yield
        finally:
            signal.setitimer(signal.ITIMER_PROF, 0)
        return
    timer = threading.Timer(seconds, os._exit, (_TOO_SLOW,))
    timer.daemon = True
    timer.start()
    try:
        yield
    finally:
        timer.cancel()
