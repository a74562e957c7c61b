"""The example of a shop: its form in a real browser, its back end, calls from PHP and Node."""

from __future__ import annotations

import json
import os
import re
import shutil
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import httpx
import pytest
from playwright.sync_api import FilePayload, Page, Route, expect

from support.browser import (  # noqa: F401 (fixtures)
    OpenPage,
    browser,
    open_page,
    violations,
)
from support.browser import server as server  # `open_page` uses it
from support.serving import Server, serving
from support.upload_page import photo

EXAMPLE = Path(__file__).resolve().parents[2] / "examples" / "shop"
TOKEN = "a token that sellers must not see"
PROGRAMS = {"node": "suggest.mjs", "php": "suggest.php"}
RESULT = {"label": "disc", "unsure": False, "top": [], "receipt": "the receipt"}


@contextmanager
def back_end(address: str, folder: Path) -> Iterator[Server]:
    """Run the shop's back end on a free port, in front of a service."""
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    with (folder / "shop-log.txt").open("w") as log:
        process = subprocess.Popen(
            [sys.executable, "-m", "uvicorn", "server:app", "--port", str(port)],
            cwd=EXAMPLE,
            env={**os.environ, "TAILORBIRD_URL": address, "TAILORBIRD_TOKEN": TOKEN},
            stdout=log,
            stderr=log,
        )
    try:
        shop = Server(f"http://127.0.0.1:{port}", folder)
        for _ in range(300):
            try:
                httpx.get(shop.address)
                break
            except httpx.HTTPError:
                assert process.poll() is None, (folder / "shop-log.txt").read_text()
                time.sleep(0.1)
        yield shop
    finally:
        process.terminate()
        process.wait(20)


@pytest.fixture(scope="module")
def served(trained: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    folder = tmp_path_factory.mktemp("served")
    page = folder / "page.toml"
    page.write_text('[classes]\ndisc = "Round things"\n', encoding="utf-8")
    with serving(trained, folder, "--page", str(page), token=TOKEN) as running:
        yield running


@pytest.fixture(scope="module")
def shop(served: Server, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    with back_end(served.address, tmp_path_factory.mktemp("shop")) as running:
        yield running


def opened(open_page: OpenPage, shop: Server, **options: Any) -> Page:
    page = open_page(at=shop, **options)
    expect(page.get_by_label("Category").locator("option")).to_have_text(
        ["Please choose", "Round things", "box", "cross", "None of these"]
    )
    return page


def sell(page: Page, title: str = "A thing") -> dict[str, str]:
    """Submit the form; return what it sends to the shop."""
    page.get_by_label("Title").fill(title)
    with page.expect_response("**/listings") as sold:
        page.get_by_role("button", name="Put it on sale").click()
    number = sold.value.json()["number"]
    expect(page.locator("#done")).to_have_text(f"On sale as number {number}.")
    listing: dict[str, str] = json.loads(sold.value.request.post_data or "")
    return listing


def answers(served: Server) -> dict[str, Any]:
    stats: dict[str, Any] = served.get("/v1/corrections/stats")
    return stats


def test_the_category_is_preselected_and_the_sellers_choice_is_reported(
    open_page: OpenPage, shop: Server, served: Server
) -> None:
    page = opened(open_page, shop)
    before = answers(served)
    with page.expect_response("**/suggest") as response:
        page.set_input_files("#photo", [photo("disc.jpg", "disc")])
    found = response.value.json()
    assert found.keys() == {"label", "unsure", "top", "receipt"}
    assert (found["label"], found["unsure"]) == ("disc", False)
    expect(page.get_by_label("Category")).to_have_value("disc")
    expect(page.locator("#hint")).to_have_text("We think this is “Round things”. Change it if not.")
    assert sell(page)["category"] == "disc"
    after = answers(served)
    assert (after["total"], after["right"]) == (before["total"] + 1, before["right"] + 1)
    page.get_by_label("Category").select_option("cross")
    sell(page)
    changed = answers(served)
    assert (changed["total"], changed["right"]) == (after["total"], after["right"] - 1)
    assert {"predicted": "disc", "answer": "cross", "count": 1} in changed["mistaken"]


def test_not_sure_preselects_nothing_and_lists_likely_categories_first(
    open_page: OpenPage, shop: Server
) -> None:
    page = opened(open_page, shop)

    def unsure(route: Route) -> None:
        fetched = route.fetch()
        top = [{"label": label, "probability": 0.4} for label in ("cross", "disc", "box")]
        said = fetched.json() | {"unsure": True, "label": "cross", "top": top}
        route.fulfill(response=fetched, json=said)

    page.route("**/suggest", unsure)
    page.set_input_files("#photo", [photo()])
    expect(page.locator("#hint")).to_have_text(
        "Not sure: perhaps cross or Round things? Please choose."
    )
    expect(page.get_by_label("Category")).to_have_value("")
    expect(page.get_by_label("Category").locator("option")).to_have_text(
        ["Please choose", "cross", "Round things", "box", "None of these"]
    )
    page.get_by_label("Title").fill("A thing")
    page.get_by_role("button", name="Put it on sale").click()
    expect(page.locator("#done")).to_be_empty()  # the browser asks for a category first


def test_none_of_these_is_sold_and_reported(
    open_page: OpenPage, shop: Server, served: Server
) -> None:
    page = opened(open_page, shop)
    page.set_input_files("#photo", [photo()])
    expect(page.locator("#hint")).to_contain_text("We think")
    page.get_by_label("Category").select_option("None of these")
    before = answers(served)
    assert sell(page)["category"] == "none"
    assert answers(served)["none_of_these"] == before["none_of_these"] + 1


def test_a_choice_made_before_the_suggestion_stays(open_page: OpenPage, shop: Server) -> None:
    page = opened(open_page, shop)
    held: list[Route] = []
    page.route("**/suggest", lambda route: held.append(route))
    page.set_input_files("#photo", [photo("disc.jpg", "disc")])
    expect(page.locator("#hint")).to_have_text("Looking at the photo…")
    page.get_by_label("Category").select_option("box")
    with page.expect_response("**/suggest"):
        held[0].continue_()
    expect(page.get_by_label("Category")).to_have_value("box")
    listing = sell(page)
    assert listing["category"] == "box" and listing["receipt"]


def test_without_the_service_and_with_a_bad_photo_the_form_still_sells(
    open_page: OpenPage, shop: Server, tmp_path: Path
) -> None:
    page = opened(open_page, shop)
    notes: FilePayload = {"name": "notes.txt", "mimeType": "text/plain", "buffer": b"only words"}
    page.set_input_files("#photo", [notes])
    expect(page.locator("#hint")).to_have_text("No suggestion this time. Please choose.")
    page.get_by_label("Category").select_option("box")
    assert sell(page)["receipt"] == ""
    with back_end("http://127.0.0.1:9", tmp_path) as alone:
        assert httpx.get(f"{alone.address}/categories").status_code == 502
        assert httpx.post(f"{alone.address}/suggest", content=b"x").status_code == 502
        sold = {"title": "A", "category": "box", "receipt": "r"}
        assert httpx.post(f"{alone.address}/listings", json=sold).status_code == 201


def test_a_photo_that_is_too_large_is_refused_before_it_is_read(shop: Server) -> None:
    def endless() -> Iterator[bytes]:
        yield b"x"

    assert httpx.post(f"{shop.address}/suggest", content=endless()).status_code == 413
    large = {"Content-Length": str(21 * 2**20)}
    with socket.create_connection(("127.0.0.1", int(shop.address.rpartition(":")[2]))) as raw:
        head = "".join(f"{name}: {value}\r\n" for name, value in large.items())
        raw.sendall(f"POST /suggest HTTP/1.1\r\nHost: shop\r\n{head}\r\n".encode())
        assert raw.recv(100).startswith(b"HTTP/1.1 413")


def test_no_token_and_no_name_of_the_model_reaches_the_browser(
    open_page: OpenPage, shop: Server
) -> None:
    seen: dict[str, str] = {}

    def passed_on(route: Route) -> None:
        answer = route.fetch()
        seen[route.request.url.removeprefix(shop.address)] = answer.text() + str(answer.headers)
        route.fulfill(response=answer)

    page = open_page(at=shop, before=lambda page: page.route("**/*", passed_on))
    page.set_input_files("#photo", [photo()])
    expect(page.locator("#hint")).to_contain_text("We think")
    sell(page)
    assert seen.keys() >= {"/", "/shop.js", "/categories", "/suggest", "/listings"}
    for path, said in seen.items():
        assert TOKEN not in said and '"model"' not in said, path
    assert "shapes" not in page.locator("body").inner_text()


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [390, 1280])
def test_the_form_is_accessible_and_fits(
    open_page: OpenPage, shop: Server, scheme: str, width: int
) -> None:
    page = opened(open_page, shop, color_scheme=scheme, viewport={"width": width, "height": 844})
    page.set_input_files("#photo", [photo()])
    expect(page.locator("#hint")).to_contain_text("We think")
    assert violations(page) == []
    assert page.evaluate("document.documentElement.scrollWidth") <= width


def test_the_back_end_is_about_forty_lines() -> None:
    lines = (EXAMPLE / "server.py").read_text(encoding="utf-8").splitlines()
    no_code = re.compile(r"\s*$|(from|import) |\"\"\"|TAILORBIRD_URL=")
    code = [line for line in lines if not no_code.match(line)]
    assert len(code) <= 45
    for name in PROGRAMS.values():
        rows = (EXAMPLE / name).read_text(encoding="utf-8").strip().splitlines()
        assert len(rows) <= 14


# The same calls from other languages


class Recorder(BaseHTTPRequestHandler):
    """Answers every request as the service would, and keeps what was sent."""

    requests: list[tuple[str, str, str, str, bytes]]

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["Content-Length"]))
        kind, bearer = self.headers["Content-Type"], self.headers["Authorization"]
        self.requests.append((self.command, self.path, kind, bearer, body))
        said = json.dumps({"results": [RESULT]}).encode()
        self.send_response(200)
        self.send_header("Content-Length", str(len(said)))
        self.end_headers()
        self.wfile.write(said)

    def log_message(self, format: str, *args: object) -> None:
        """Write nothing."""


@contextmanager
def recording() -> Iterator[tuple[str, list[tuple[str, str, str, str, bytes]]]]:
    sent: list[tuple[str, str, str, str, bytes]] = []

    class Recording(Recorder):
        requests = sent

    with ThreadingHTTPServer(("127.0.0.1", 0), Recording) as listening:
        thread = threading.Thread(target=listening.serve_forever)
        thread.start()
        try:
            yield f"http://127.0.0.1:{listening.server_address[1]}", sent
        finally:
            listening.shutdown()
            thread.join()


def expected(body: bytes) -> list[tuple[str, str, str, str, Any]]:
    """Return the two requests of every program: a photo, and a correction of its answer."""
    correction = {"receipt": "the receipt", "answer": "Röcke"}
    return [
        ("POST", "/v1/predict?top=3", "application/octet-stream", f"Bearer {TOKEN}", body),
        ("POST", "/v1/corrections", "application/json", f"Bearer {TOKEN}", correction),
    ]


def compared(requests: list[tuple[str, str, str, str, bytes]]) -> list[Any]:
    return [
        (*rest, json.loads(body) if kind == "application/json" else body)
        for *rest, body in requests
        for kind in rest[2:3]
    ]


@pytest.mark.process
@pytest.mark.parametrize("program", PROGRAMS)
def test_other_languages_send_the_same_requests(program: str, tmp_path: Path) -> None:
    if shutil.which(program) is None:
        pytest.skip(f"needs {program}; the next test reads what its file sends")
    body = bytes(range(256)) * 40
    (tmp_path / "a photo.jpg").write_bytes(body)
    with recording() as (address, requests):
        done = subprocess.run(
            [program, str(EXAMPLE / PROGRAMS[program]), str(tmp_path / "a photo.jpg"), "Röcke"],
            env={**os.environ, "TAILORBIRD_URL": address, "TAILORBIRD_TOKEN": TOKEN},
            capture_output=True,
            text=True,
            timeout=60,
            check=True,
        )
    assert (done.stdout, done.stderr) == ("disc\n", "")
    assert compared(requests) == expected(body)


@pytest.mark.parametrize("name", ["server.py", *PROGRAMS.values()])
def test_every_file_names_the_same_requests(name: str) -> None:
    text = (EXAMPLE / name).read_text(encoding="utf-8")
    for part in (
        "/v1/predict?top=3",
        "/v1/corrections",
        "application/octet-stream",
        "application/json",
        "Bearer ",
        "TAILORBIRD_URL",
        "TAILORBIRD_TOKEN",
        "http://127.0.0.1:8000",
        "receipt",
        "answer",
        "unsure",
    ):
        assert part in text, f"{name} lacks {part}"
    assert "/v2" not in text
