"""Real services for the tests: `tailorbird serve` as a process on 127.0.0.1, its log, raw
connections to it, and models to serve."""

from __future__ import annotations

import contextlib
import json
import os
import re
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import httpx
import onnx

from tailorbird.files import write_bytes

# What has no option on the command line is set through the library, in a process all the same.
_FROM_SETTINGS = """
import json, pathlib, sys
from tailorbird.service import ServeSettings, serve
said = json.loads(sys.argv[1])
for name in ("model", "photos"):
    said[name] = pathlib.Path(said[name]) if said.get(name) else None
serve(ServeSettings(**said), announce=lambda address: print(address, flush=True))
"""


class Server:
    """One running service. Use it as a context manager: leaving it kills the process and those
    it started."""

    def __init__(
        self, command: Sequence[str], folder: Path, environment: dict[str, str] | None = None
    ) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self._log = folder / f"log-{time.monotonic_ns()}.txt"
        with self._log.open("wb") as log:
            self.process = subprocess.Popen(
                command,
                stdout=subprocess.PIPE,
                stderr=log,
                env={**os.environ, **(environment or {})},
                start_new_session=True,
            )
        self._group = self.process.pid
        assert self.process.stdout is not None
        said = self.process.stdout.readline().decode().strip()
        if not said.startswith("http://127.0.0.1:"):
            self.kill()
            raise AssertionError(f"the service did not start: {said!r}\n{self.text()}")
        self.url = said
        self.port = int(said.rpartition(":")[2])

    def __enter__(self) -> Server:
        return self

    def __exit__(self, *_: object) -> None:
        self.kill()

    def client(self, **options: Any) -> httpx.Client:
        return httpx.Client(base_url=self.url, **{"timeout": 30, **options})

    def get(self, path: str, **options: Any) -> httpx.Response:
        return httpx.get(self.url + path, **{"timeout": 30, **options})

    def post(self, path: str, **options: Any) -> httpx.Response:
        return httpx.post(self.url + path, **{"timeout": 30, **options})

    def predict(self, photo: bytes, path: str = "/v1/predict", **options: Any) -> httpx.Response:
        return self.post(path, content=photo, headers={"Content-Type": "image/jpeg"}, **options)

    def connect(self, timeout: float = 20) -> socket.socket:
        return socket.create_connection(("127.0.0.1", self.port), timeout=timeout)

    def say(self, data: bytes, timeout: float = 20) -> bytes:
        """Send bytes over a new connection; everything that comes back until the service closes
        it or `timeout` passes."""
        with self.connect(timeout) as raw:
            with contextlib.suppress(OSError):
                raw.sendall(data)
            return rest(raw)

    def send_signal(self, number: int) -> None:
        self.process.send_signal(number)

    def wait(self, timeout: float = 90) -> int:
        return self.process.wait(timeout)

    def stop(self, number: int = signal.SIGTERM, timeout: float = 90) -> int:
        """The exit code after a signal."""
        self.send_signal(number)
        return self.wait(timeout)

    def kill(self) -> None:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self._group, signal.SIGKILL)
        self.process.wait()

    def text(self) -> str:
        return self._log.read_text(encoding="utf-8", errors="replace")

    def events(self, name: str | None = None) -> list[dict[str, Any]]:
        """The log's JSON lines, all or those of one event."""
        found = []
        for line in self.text().splitlines():
            if line.startswith("{"):
                with contextlib.suppress(ValueError):
                    found.append(json.loads(line))
        return [event for event in found if name in (None, event["event"])]

    def metric(self, name: str) -> float:
        """The sum over all labels of one metric, given by name or `name{label="value"}`."""
        return metric(self.get("/metrics").text, name)

    def memory(self) -> float:
        """Resident MiB of the process."""
        return resident(self.process.pid)


def serve(model: Path, *options: str, environment: dict[str, str] | None = None) -> Server:
    """`python -m tailorbird serve MODEL --port 0 ...`."""
    return Server(
        [sys.executable, "-m", "tailorbird", "serve", str(model), "--port", "0", *options],
        model.parent,
        environment,
    )


def serve_with(model: Path, environment: dict[str, str] | None = None, **settings: Any) -> Server:
    """A service with settings the command line has no option for."""
    said = json.dumps({"model": str(model), "port": 0, **settings})
    return Server([sys.executable, "-c", _FROM_SETTINGS, said], model.parent, environment)


def metric(text: str, name: str) -> float:
    wanted, _, labels = name.partition("{")
    total = 0.0
    for line in text.splitlines():
        found = re.fullmatch(r"([a-z_0-9]+)(\{.*\})? ([^ ]+)", line)
        if (
            found
            and found[1] == wanted
            and all(part in (found[2] or "") for part in labels.rstrip("}").split(","))
        ):
            total += float(found[3])
    return total


def resident(pid: int) -> float:
    found = re.search(r"VmRSS:\s+(\d+) kB", Path(f"/proc/{pid}/status").read_text())
    assert found
    return int(found[1]) / 1024


def children(pid: int) -> list[int]:
    """Worker processes of a supervisor (multiprocessing's resource tracker is none)."""
    pids = [int(found) for found in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]
    return [
        child
        for child in pids
        if alive(child) and b"resource_tracker" not in Path(f"/proc/{child}/cmdline").read_bytes()
    ]


def alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def rest(raw: socket.socket) -> bytes:
    """What a connection still brings until it ends or its timeout passes."""
    received = b""
    try:
        while data := raw.recv(65536):
            received += data
    except TimeoutError:
        return received + b"<still open>"
    except OSError:
        return received
    return received


def status(answer: bytes) -> int:
    """The status of a raw answer; 0 for none."""
    return int(answer[9:12]) if answer.startswith(b"HTTP/1.1 ") else 0


def eventually(what: Any, seconds: float = 60.0) -> Any:
    """Poll until `what()` is true; patience costs nothing where it comes true."""
    patience = time.monotonic() + seconds
    while time.monotonic() < patience:
        with contextlib.suppress(httpx.HTTPError):
            if result := what():
                return result
        time.sleep(0.05)
    return what()


def with_classes(model: Path, target: Path, classes: Sequence[str]) -> Path:
    """A copy of a model with other class names, put in place by renaming."""
    proto = onnx.load(str(model))
    names = {
        json.dumps(old): json.dumps(new)
        for old, new in zip(classes_of(model), classes, strict=True)
    }
    for prop in proto.metadata_props:
        prop.value = re.sub("|".join(names), lambda found: names[found[0]], prop.value)
    write_bytes(target, proto.SerializeToString())
    return target


def classes_of(model: Path) -> list[str]:
    from tailorbird.model import Classifier

    return list(Classifier(model).classes)


@contextlib.contextmanager
def load(
    server: Server, photos: Sequence[bytes], threads: int = 4
) -> Iterator[list[httpx.Response | Exception]]:
    """Predictions from several threads for as long as the block runs; the list fills with every
    answer or failure."""
    answers: list[httpx.Response | Exception] = []
    ended = threading.Event()

    def work(number: int) -> None:
        while not ended.is_set():
            try:
                answers.append(server.predict(photos[number % len(photos)]))
            except httpx.HTTPError as error:
                answers.append(error)
            number += 1

    workers = [threading.Thread(target=work, args=(number,)) for number in range(threads)]
    for worker in workers:
        worker.start()
    try:
        yield answers
    finally:
        ended.set()
        for worker in workers:
            worker.join()
