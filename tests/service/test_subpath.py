"""The service under a prefix: behind a proxy that removes it, and mounted in an application."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import httpx
import pytest
from playwright.sync_api import Browser, expect
from starlette.applications import Starlette
from starlette.routing import Mount

from support.browser import Watch, browser
from support.data import encoded, picture
from support.serving import Server, serving
from support.subpath_proxy import proxied
from tailorbird.service import ServeSettings, create_app

__all__ = ["browser"]

PHOTO = encoded(picture("disc", 5, (300, 200)))
TOKEN = "a-token-of-the-tests"


@pytest.fixture(scope="module")
def server(trained: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    with serving(trained, tmp_path_factory.mktemp("prefix")) as running:
        yield running


@pytest.mark.parametrize("tells", [True, False], ids=["says-prefix", "silent"])
def test_every_page_works_behind_a_proxy_with_a_prefix(
    server: Server, browser: Browser, tells: bool
) -> None:
    port = int(server.address.rpartition(":")[2])
    with proxied(port, "/portal/classify", tells=tells) as address:
        context = browser.new_context()
        watch = Watch(context, address)
        page = context.new_page()
        page.goto(f"{address}/")
        photo = {"name": "a.jpg", "mimeType": "image/jpeg", "buffer": PHOTO}
        page.locator("#choose").set_input_files(photo)  # type: ignore[arg-type]
        expect(page.locator(".card .verdict")).to_be_visible()
        card = page.locator(".card")
        card.get_by_role("button", name="Right").or_(card.locator(".choice").first).first.click()
        expect(card.locator(".thanks")).to_be_visible()
        page.get_by_role("link", name="Dashboard").click()
        expect(page).to_have_url(f"{address}/dashboard")
        expect(page.locator("#figures")).to_contain_text("Accuracy in use")
        page.get_by_role("link", name="API", exact=True).click()
        expect(page.locator("article.operation").first).to_be_visible()
        shown = page.locator("article.operation pre").all_inner_texts()
        commands = [text for text in shown if text.startswith("curl")]
        assert len(commands) >= 3
        assert all(f"{address}/" in command for command in commands), commands
        manifest = page.locator("link[rel=manifest]").get_attribute("href")
        assert page.request.get(f"{address}/{manifest}").status == 200
        page.get_by_role("link", name="tailorbird").click()
        expect(page).to_have_url(f"{address}/")
        context.close()
        assert not watch.errors
        assert not [url for url in watch.elsewhere if not url.startswith("blob:")]
        server_of_document = httpx.get(f"{address}/openapi.json").json()["servers"][0]["url"]
        assert server_of_document == ("/portal/classify" if tells else "/")


def test_a_prefix_of_a_proxy_that_is_not_trusted_is_ignored(
    trained: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FORWARDED_ALLOW_IPS", "10.0.0.0/8")
    with serving(trained, tmp_path) as server:
        headers = {"X-Forwarded-Prefix": "/evil"}
        answer = httpx.get(f"{server.address}/openapi.json", headers=headers)
        assert answer.json()["servers"] == [{"url": "/"}]


@pytest.mark.parametrize("prefix", ["//evil.example", "/a b", "/a\\b", "javascript:", "/a/../.."])
def test_a_prefix_that_is_not_a_path_is_ignored(server: Server, prefix: str) -> None:
    answer = httpx.get(f"{server.address}/openapi.json", headers={"X-Forwarded-Prefix": prefix})
    (entry,) = answer.json()["servers"]
    assert entry["url"] == "/" or re.fullmatch(r"(/[\w.~@%+-]+)+", entry["url"])
    assert "evil" not in entry["url"]


def test_mounted_in_another_application_everything_answers(trained: Path) -> None:
    async def scenario() -> None:
        service = create_app(ServeSettings(model=trained, token=TOKEN))
        portal = Starlette(routes=[Mount("/classify", app=service)])
        transport = httpx.ASGITransport(portal)
        bearer = {"Authorization": f"Bearer {TOKEN}"}
        async with httpx.AsyncClient(transport=transport, base_url="http://portal") as client:
            for path in ("/", "/dashboard", "/docs", "/static/base.css", "/healthz", "/readyz"):
                assert (await client.get(f"/classify{path}")).status_code == 200, path
            assert (await client.get("/classify/v1/model")).status_code == 401
            assert (await client.get("/classify/v1/model", headers=bearer)).status_code == 200
            answer = await client.post("/classify/v1/predict", headers=bearer, content=PHOTO)
            assert answer.status_code == 200 and answer.json()["results"][0]["label"] == "disc"
            document = (await client.get("/classify/openapi.json")).json()
            assert document["servers"] == [{"url": "/classify"}]
            missing = await client.get("/classify/nowhere", headers=bearer)
            assert missing.status_code == 404 and "nothing at /nowhere" in missing.text
            bare = await client.get("/classify", follow_redirects=False)
            assert bare.is_redirect and bare.headers["location"].endswith("/classify/")
        service.state.batcher.close()

    with ThreadPoolExecutor(1) as pool:  # the browser's own event loop holds this thread
        pool.submit(asyncio.run, scenario()).result()
