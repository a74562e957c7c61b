"""The HTTP API of a review: access, photos and decisions, and the requests it refuses."""

from __future__ import annotations

import io
import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from support.data import draw_dataset, encoded, picture
from support.hostile_images import bomb
from support.review_decisions import (
    item_of,
    open_without_suspects,
)
from support.reviewing import (
    CONFLICT,
    Page,
    decisions,
    draw_wrong,
    reviewing,
    shown,
    wait_for,
)
from tailorbird.review import Review


@pytest.fixture(scope="module")
def review(tmp_path_factory: pytest.TempPathFactory) -> Review:
    """Return a review in which one photo has become damaged and one has been deleted."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("TAILORBIRD_CACHE", str(tmp_path_factory.mktemp("cache")))
        photos = draw_wrong(tmp_path_factory.mktemp("data") / "photos")
        large = Image.new("RGB", (4000, 3000), "teal")
        exif = Image.Exif()
        exif[0x010E] = "taken at home"
        large.save(photos / "box" / "large.jpg", quality=92, exif=exif)
        (photos / "box" / "later-damaged.png").write_bytes(encoded(picture("box", 8), "PNG"))
        (photos / "box" / "later-gone.png").write_bytes(encoded(picture("box", 9), "PNG"))
        result = open_without_suspects(photos)
        (photos / "box" / "later-damaged.png").write_bytes(bomb(60_000, 60_000))
        (photos / "box" / "later-gone.png").unlink()
        return result


@pytest.fixture(scope="module")
def page(review: Review) -> Iterator[Page]:
    with shown(review) as served:
        yield served


def code(answer: tuple[int, dict[str, str], bytes]) -> tuple[int, str]:
    return answer[0], json.loads(answer[2])["error"]["code"]


def test_without_the_key_every_request_is_refused(page: Page) -> None:
    for path in ("/api/review", "/api/items/0", "/api/photos/0", "/api/progress", "/anything"):
        assert code(page.ask(path)) == (403, "forbidden")
        assert code(page.ask(path, Cookie="tailorbird-review-1=x; other=y")) == (403, "forbidden")
    assert code(page.ask("/api/decisions", {"item": 0})) == (403, "forbidden")
    status, _, body = page.ask("/")
    assert status == 403 and b"needs its key" in body
    assert (
        page.ask("/?key=wrong")[0]
        == page.ask("/?key=%ff%00")[0]
        == page.ask(f"/?key={page.key[:-1]}")[0]
        == 403
    )
    assert code(page.ask(f"/api/review?key={page.key}")) == (403, "forbidden"), (
        "the key opens the page only; the API needs the cookie"
    )
    for path in ("/static/review.js", "/static/base.css", "/favicon.ico"):
        assert page.ask(path)[0] == 200, "static files need no key"


def test_cookie_and_security_headers(page: Page) -> None:
    status, headers, _ = page.ask(page.path)
    port = page.address.rpartition(":")[2]
    name, _, rest = headers["set-cookie"].partition("=")
    assert status == 200 and name == f"tailorbird-review-{port}" and page.key not in rest
    assert {"httponly", "samesite=strict", "path=/"} <= {
        part.strip().lower() for part in rest.split(";")
    }
    assert (
        "script-src 'self'" in headers["content-security-policy"]
        and "unsafe" not in headers["content-security-policy"]
    )
    assert (
        headers["referrer-policy"] == "no-referrer"
        and headers["cross-origin-resource-policy"] == "same-origin"
    )
    assert page.ask("/", Cookie=page.cookie())[0] == 200, "a reload needs no key"


def test_the_browser_is_opened_with_a_single_use_key(tmp_path: Path) -> None:
    script = "import pathlib, sys; pathlib.Path(sys.argv[1]).write_text(sys.argv[2])"
    browser = f"{sys.executable} -c '{script}' {tmp_path / 'opened.txt'} %s"
    photos = draw_dataset(tmp_path / "photos", count=1)
    with reviewing(
        photos, tmp_path / "log.txt", "--no-suspects", "--browser", BROWSER=browser, DISPLAY=":99"
    ) as running:
        wait_for(
            lambda: (tmp_path / "opened.txt").exists() and (tmp_path / "opened.txt").read_text()
        )
        launched = (tmp_path / "opened.txt").read_text()
        assert launched.startswith(running.page.address + "/?key=") and not launched.endswith(
            running.page.key
        )
        path = launched.removeprefix(running.page.address)
        assert [running.page.ask(path)[0] for _ in range(2)] == [200, 403]
        assert (
            running.page.ask(running.page.path)[0] == running.page.ask(running.page.path)[0] == 200
        )


def test_other_hosts_and_sites_are_refused(page: Page) -> None:
    cookie = page.cookie()
    assert code(page.ask("/api/review", Cookie=cookie, Host="evil.example")) == (400, "bad-host")
    body = {"item": 0, "decisions": [{"photo": 0, "decision": "keep"}]}
    for headers in (
        {"Origin": "http://evil.example"},
        {"Origin": "null"},
        {"Origin": "http://127.0.0.1:1"},
        {"Sec_Fetch_Site": "same-site"},
    ):
        assert code(page.ask("/api/decisions", body, Cookie=cookie, **headers)) == (
            403,
            "forbidden",
        )
        assert code(page.ask("/api/undo", {}, Cookie=cookie, **headers)) == (403, "forbidden")
    assert code(page.ask("/api/undo", {}, Cookie=cookie, Content_Type="text/plain")) == (
        415,
        "unsupported-media-type",
    )


@pytest.mark.parametrize(
    "path",
    [
        "/api/photos/99999",
        "/api/photos/-1",
        "/api/photos/1e3",
        "/api/photos/../../etc/passwd",
        "/api/photos/..%2f..%2fetc%2fpasswd",
        "/api/photos/%2e%2e",
        "/static/..%2freview.py",
        "/static/../review.py",
        "/api/items/99999",
        "/api/items/x",
        "/api/photos/9" + "9" * 50,
    ],
)
def test_only_photos_of_the_dataset_are_served(page: Page, path: str) -> None:
    assert code(page.ask(path, Cookie=page.cookie())) == (404, "not-found")


def number(review: Review, name: str) -> int:
    return next(i for i, sample in enumerate(review.dataset.samples) if sample.name == name)


def test_photos_are_served_as_small_jpegs_without_metadata(page: Page, review: Review) -> None:
    cookie = page.cookie()
    large = number(review, "box/large.jpg")
    for asked, size in (("?side=64", (64, 48)), ("?side=2048", (2048, 1536)), ("", (1024, 768))):
        status, headers, data = page.ask(f"/api/photos/{large}{asked}", Cookie=cookie)
        image = Image.open(io.BytesIO(data))
        assert (
            status == 200
            and headers["content-type"] == "image/jpeg"
            and headers["cache-control"].startswith("private")
        )
        assert (
            image.format == "JPEG"
            and image.size == size
            and not image.getexif()
            and b"taken at home" not in data
        )
    for side in ("0", "63", "2049", "-1", "1e3", "", "9" * 4000, "٦٤٠"):
        path = f"/api/photos/{large}?side={side if side.isascii() else '%D9%A6%D9%A4%D9%A0'}"
        assert code(page.ask(path, Cookie=cookie)) == (400, "bad-request")
    assert code(page.ask(f"/api/photos/{number(review, 'box/later-gone.png')}", Cookie=cookie)) == (
        404,
        "photo-gone",
    )
    assert code(
        page.ask(f"/api/photos/{number(review, 'box/later-damaged.png')}", Cookie=cookie)
    ) == (
        413,
        "image-too-large",
    )


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"{",
        b"[]",
        b"null",
        b"7",
        b"[" * 100_000,
        {"item": 0},
        {"item": "0", "decisions": []},
        {"item": 0, "decisions": [7]},
        {"item": True, "decisions": [{"photo": 1, "decision": "keep"}]},
        {"item": 0, "decisions": [{"photo": 1.0, "decision": "keep"}]},
        {"item": 0, "decisions": [{"photo": 1, "decision": None}]},
        {"item": 0, "decisions": [{"photo": 1, "decision": "keep", "label": 3}]},
        {"item": 0, "decisions": {"photo": 1}},
        {"item": 10**30, "decisions": [{"photo": 1, "decision": "keep"}]},
    ],
)
def test_malformed_decisions_are_refused_with_a_reason(
    page: Page, review: Review, body: Any
) -> None:
    status, said = code(page.ask("/api/decisions", body, Cookie=page.cookie()))
    assert (status, said) in ((400, "bad-request"), (422, "invalid"))
    assert not decisions(review.manifest.path)


def test_an_oversized_body_is_refused(page: Page) -> None:
    assert code(page.ask("/api/decisions", b" " * (2**20 + 1), Cookie=page.cookie())) == (
        413,
        "body-too-large",
    )


def test_decisions_and_undo_over_http(page: Page, review: Review) -> None:
    cookie = page.cookie()
    overview = json.loads(page.ask("/api/review", Cookie=cookie)[2])
    assert overview["classes"] == ["box", "cross", "disc"] and overview["command"].startswith(
        "tailorbird train "
    )
    item, photo = item_of(review, CONFLICT[1])
    described = json.loads(page.ask(f"/api/items/{item}", Cookie=cookie)[2])
    assert described["kinds"] == ["conflicting-label"] and {
        each["label"] for each in described["photos"]
    } == {
        "cross",
        "disc",
    }
    body = {"item": item, "decisions": [{"photo": photo, "decision": "relabel", "label": "cross"}]}
    said = json.loads(page.ask("/api/decisions", body, Cookie=cookie)[2])
    assert (
        said["saved"] and said["photos"][0]["now"] == "cross" and said["progress"]["relabel"] == 1
    )
    assert decisions(review.manifest.path) == {
        "photos/disc/wrong.jpg": ("relabel", "cross", "disc")
    }
    assert json.loads(page.ask("/api/undo", {}, Cookie=cookie)[2])["item"] == item
    assert not decisions(review.manifest.path)
    assert code(page.ask("/api/undo", {}, Cookie=cookie)) == (409, "nothing-to-undo")
