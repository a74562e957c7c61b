"""A real browser for the tests of the pages: an installed Chromium or Chrome, else one is
fetched. Without one the tests fail."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from axe_playwright_python.sync_playwright import Axe
from playwright.sync_api import (
    Browser,
    BrowserContext,
    ConsoleMessage,
    Page,
    Playwright,
    expect,
    sync_playwright,
)

from support.serving import Server, serving

expect.set_options(timeout=30_000)  # a busy machine is slow, not wrong

NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
USUAL_PLACES = (
    Path("/Applications/Google Chrome.app/Contents/MacOS/Google Chrome"),
    Path("/Applications/Chromium.app/Contents/MacOS/Chromium"),
    *(
        Path(os.environ[folder], "Google", "Chrome", "Application", "chrome.exe")
        for folder in ("PROGRAMFILES", "PROGRAMFILES(X86)", "LOCALAPPDATA")
        if folder in os.environ
    ),
)
ARGUMENTS = (
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
)


class NoBrowserError(RuntimeError):
    """No browser is installed and none could be fetched."""


def installed() -> str | None:
    """The path of an installed Chromium or Chrome."""
    found = next((path for name in NAMES if (path := shutil.which(name))), None)
    return found or next((str(path) for path in USUAL_PLACES if path.exists()), None)


def _fetched(playwright: Playwright) -> str:
    """Fetch a browser: Debian's when root on Debian, else Playwright's own."""
    said: list[str] = []
    attempts = [[sys.executable, "-m", "playwright", "install", "chromium"]]
    root = hasattr(os, "geteuid") and os.geteuid() == 0
    if root and Path("/etc/debian_version").exists() and shutil.which("apt-get"):
        attempts.insert(0, ["apt-get", "install", "-y", "--no-install-recommends", "chromium"])
    for command in attempts:
        done = subprocess.run(
            command,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            check=False,
            env={**os.environ, "DEBIAN_FRONTEND": "noninteractive"},
        )
        own = playwright.chromium.executable_path
        if path := installed() or (own if Path(own).exists() else None):
            return path
        said.append(f"{' '.join(command)} exited {done.returncode}: {done.stdout.strip()[-300:]}")
    raise NoBrowserError(
        f"the tests of the pages need Chromium or Chrome: install one so that {' or '.join(NAMES)} "
        "is on PATH. " + "; ".join(said)
    )


@contextmanager
def opened() -> Iterator[Browser]:
    """A running browser with a fresh profile, gone afterwards. Raises NoBrowserError."""
    with sync_playwright() as playwright:
        running = playwright.chromium.launch(
            executable_path=installed() or _fetched(playwright), args=ARGUMENTS
        )
        try:
            yield running
        finally:
            running.close()


class Watch:
    """What no page may do: write errors to the console (a breach of its Content-Security-Policy
    is one), or talk to anybody else."""

    def __init__(self, context: BrowserContext, origin: str) -> None:
        self.errors: list[str] = []
        self.elsewhere: list[str] = []
        self._own = (f"{origin}/", f"blob:{origin}/", "data:")
        context.on("console", self._said)
        context.on("weberror", lambda error: self.errors.append(str(error.error)))
        context.on("request", lambda request: self._asked(request.url))

    def _said(self, message: ConsoleMessage) -> None:
        # Chromium itself reports every refusal of the server; the page shows it, and that is
        # tested.
        if message.type in ("error", "warning") and not message.text.startswith(
            "Failed to load resource"
        ):
            self.errors.append(message.text)

    def _asked(self, url: str) -> None:
        if not url.startswith(self._own):
            self.elsewhere.append(url)


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    """For one module: while Playwright runs, no other event loop can run in this thread."""
    with opened() as running:
        yield running


@pytest.fixture(scope="module")
def server(trained: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """The model of drawn shapes, served; corrections without photos."""
    with serving(trained, tmp_path_factory.mktemp("served")) as running:
        yield running


OpenPage = Callable[..., Page]


@pytest.fixture
def open_page(browser: Browser, server: Server) -> Iterator[OpenPage]:
    """Opens a page in a fresh window; afterwards no window may have written an error or talked
    to anybody but its server. `before` gets the empty window: a route set up there answers the
    page's own first requests, which one set up later may or may not meet."""
    opened_windows: list[tuple[BrowserContext, Watch]] = []

    def open_one(
        path: str = "/",
        *,
        at: Server = server,
        before: Callable[[Page], object] = lambda _: None,
        **options: Any,
    ) -> Page:
        context = browser.new_context(**{"viewport": {"width": 1280, "height": 900}, **options})
        context.set_default_timeout(30_000)
        opened_windows.append((context, Watch(context, at.address)))
        page = context.new_page()
        before(page)
        page.goto(at.address + path)
        return page

    yield open_one
    for context, watch in opened_windows:
        context.close()
        assert not watch.errors, "\n".join(watch.errors)
        assert not watch.elsewhere, "\n".join(watch.elsewhere)


def refuse(
    page: Page, path: str, status: int, code: str, message: str, *, times: int = 1, **headers: str
) -> None:
    """The next requests to `path` are refused, as the server would refuse them; those after go
    on to it."""
    body = {"error": {"status": status, "code": code, "message": message, "request_id": "r"}}
    page.route(
        f"**{path}*",
        lambda route: route.fulfill(
            status=status, headers=headers, content_type="application/json", body=json.dumps(body)
        ),
        times=times,
    )


def violations(page: Page) -> list[str]:
    found = Axe().run(
        page,
        options={
            "resultTypes": ["violations"],
            "runOnly": ["wcag2a", "wcag2aa", "wcag21a", "wcag21aa", "wcag22aa", "best-practice"],
        },
    )
    return [
        f"{each['id']}: {[node['target'] for node in each['nodes']]} {each['help']}"
        for each in found.response["violations"]
    ]
