"""For the tests of reviews: a drawn dataset with wrong labels and copies, and a review's page
served from a thread or a process."""

from __future__ import annotations

import csv
import http.client
import json
import os
import re
import shutil
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import uvicorn

from support.cli import POCKET
from support.data import draw_dataset
from tailorbird.review import Review
from tailorbird.service.review.app import ReviewService
from tailorbird.service.web.local import LocalPage, LocalSettings
from tailorbird.service.web.server import listen

FLIPPED = {
    "box/disc-011.jpg": "disc",
    "cross/disc-009.jpg": "disc",
    "disc/box-005.jpg": "box",
    "cross/box-012.jpg": "box",
    "disc/cross-007.jpg": "cross",
    "box/cross-015.jpg": "cross",
}
"""Photos that lie in another class's folder, and what they show."""

COPIES = ("box/box-020.jpg", "box/copy.jpg")
CONFLICT = ("cross/cross-021.jpg", "disc/wrong.jpg")


def draw_wrong(folder: Path) -> Path:
    """Three classes of 24 drawn photos, FLIPPED among them; a copy in the same class, and one
    under another label."""
    draw_dataset(folder)
    for name, true in FLIPPED.items():
        number = name[-7:]
        shutil.move(folder / true / f"{true}-{number}", folder / name)
    for original, copy in (COPIES, CONFLICT):
        shutil.copy(folder / original, folder / copy)
    return folder


@dataclass(frozen=True)
class Page:
    """A review's page: where it is and the key that opens it."""

    address: str
    key: str

    @property
    def path(self) -> str:
        """What opens it."""
        return f"/?key={self.key}"

    def ask(
        self, path: str, body: object = None, **headers: str
    ) -> tuple[int, dict[str, str], bytes]:
        """Status, headers and body of an answer. `body` is sent as JSON; `Host=""` and the like
        replace headers."""
        port = int(self.address.rpartition(":")[2])
        connection = http.client.HTTPConnection("127.0.0.1", port, timeout=20)
        sent = body if isinstance(body, bytes | None) else json.dumps(body).encode()
        every = {
            "Host": f"127.0.0.1:{port}",
            **({"Content-Type": "application/json"} if sent is not None else {}),
            **headers,
        }
        try:
            connection.request(
                "GET" if sent is None else "POST",
                path,
                sent,
                {k.replace("_", "-"): v for k, v in every.items()},
            )
            answer = connection.getresponse()
            return (
                answer.status,
                {name.lower(): value for name, value in answer.getheaders()},
                answer.read(),
            )
        finally:
            connection.close()

    def cookie(self) -> str:
        """The cookie that opening the page sets."""
        status, headers, _ = self.ask(self.path)
        assert status == 200
        return headers["set-cookie"].partition(";")[0]


@contextmanager
def shown(review: Review) -> Iterator[Page]:
    """Serve a review from a thread of this process."""
    with served(lambda settings, port: ReviewService(review, settings, port)) as page:
        yield page


@contextmanager
def served(page_at: Callable[[LocalSettings, int], LocalPage]) -> Iterator[Page]:
    """Serve a local page from a thread of this process."""
    bound = listen(LocalSettings())
    port = bound.getsockname()[1]
    service = page_at(LocalSettings(), port)
    server = uvicorn.Server(
        uvicorn.Config(service, lifespan="off", log_config=None, timeout_graceful_shutdown=2)
    )
    thread = threading.Thread(target=server.run, kwargs={"sockets": [bound]}, daemon=True)
    thread.start()
    try:
        yield Page(f"http://127.0.0.1:{port}", service.key)
    finally:
        server.should_exit = True
        thread.join(20)
        service.close()
        bound.close()


@dataclass(frozen=True)
class Running:
    """`tailorbird review` or `tailorbird label` as a process of its own."""

    process: subprocess.Popen[str]
    page: Page
    log: Path

    def finish(self, number: int) -> str:
        """Send a signal; what it prints before it ends."""
        self.process.send_signal(number)
        out, _ = self.process.communicate(timeout=30)
        return out


@contextmanager
def reviewing(
    photos: Path, log: Path, *options: object, does: str = "review", **environment: str
) -> Iterator[Running]:
    """Run `tailorbird review` or another local page until the block ends or the test ended it."""
    command = [
        sys.executable,
        "-m",
        "tailorbird",
        does,
        str(photos),
        *POCKET,
        "--no-browser",
        *map(str, options),
    ]
    with log.open("w") as errors:
        process = subprocess.Popen(
            command,
            stdout=subprocess.PIPE,
            stderr=errors,
            text=True,
            env={**os.environ, **environment},
        )
    try:
        assert process.stdout is not None
        found = re.fullmatch(
            r"(http://127\.0\.0\.1:\d+)/\?key=([\w-]{43})\n", process.stdout.readline()
        )
        assert found, log.read_text()
        yield Running(process, Page(found[1], found[2]), log)
    finally:
        if process.poll() is None:
            process.kill()
            process.wait(20)


def wait_for(condition: Any, seconds: float = 60) -> None:
    """Wait until `condition()` holds."""
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "it did not come true in time"
        time.sleep(0.02)


def rows(path: Path) -> dict[str, dict[str, str]]:
    with path.open(newline="", encoding="utf-8") as file:
        return {row["path"]: row for row in csv.DictReader(file)}


def decisions(path: Path) -> dict[str, tuple[str, str, str]]:
    """What a manifest says of the photos somebody decided about: decision, label, what it was."""
    return {
        name: (row["decision"], row["label"], row["was"])
        for name, row in rows(path).items()
        if row["decision"]
    }
