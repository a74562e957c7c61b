"""The API of the labelling page: its key, wrong bodies, photos, and what is served of them."""

from __future__ import annotations

import io
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from support.labelling import drawn_cache, label_page, labelling, roll  # noqa: F401  (fixtures)
from support.reviewing import Page
from tailorbird.labelling import Labelling


@pytest.fixture
def opened(roll: Path) -> Iterator[Labelling]:
    with labelling(roll) as one:
        yield one


@pytest.fixture
def page(opened: Labelling) -> Iterator[Page]:
    with label_page(opened) as one:
        yield one


def asked(page: Page, path: str, body: object = None) -> tuple[int, Any]:
    status, _, data = page.ask(path, body, Cookie=page.cookie())
    return status, json.loads(data)


def test_nothing_is_answered_without_the_key(page: Page) -> None:
    for path, body in (
        ("/api/state", None),
        ("/api/photos/0", None),
        ("/report", None),
        ("/api/screen", {"window": "w"}),
        ("/api/answers", {"answers": []}),
        ("/api/train", {}),
    ):
        status, _, data = page.ask(path, body)
        assert status == 403, path
        assert "`tailorbird label` printed" in json.loads(data)["error"]["message"]
    status, _, data = page.ask("/")
    assert status == 403 and b"<code>tailorbird label</code>" in data


@pytest.mark.parametrize(
    ("path", "body"),
    [
        ("/api/screen", {}),
        ("/api/screen", []),
        ("/api/screen", {"window": 1}),
        ("/api/answers", {}),
        ("/api/answers", {"answers": []}),
        ("/api/answers", {"answers": [{"photo": 0}]}),
        ("/api/answers", {"answers": [{"photo": "0", "kind": "none"}]}),
        ("/api/answers", {"answers": [{"photo": True, "kind": "none"}]}),
        ("/api/answers", {"answers": [{"photo": -1, "kind": "none"}]}),
        ("/api/answers", {"answers": [{"photo": 10**9, "kind": "none"}]}),
        ("/api/answers", {"answers": [{"photo": 0, "kind": "label", "label": "hat"}]}),
        ("/api/answers", {"answers": [{"photo": 0, "kind": "label"}]}),
        ("/api/answers", {"answers": [{"photo": 0, "kind": "maybe"}]}),
        ("/api/answers", {"answers": [{"photo": 0, "kind": "none"}] * 2}),
        ("/api/undo", {}),
        ("/api/undo", {"step": 99}),
        ("/api/classes", {"name": ""}),
        ("/api/classes", {"name": "x" * 5000}),
        ("/api/classes", {"name": "hat", "rename": "cap"}),
        ("/api/train", {}),
    ],
)
def test_wrong_bodies_are_refused_and_change_nothing(
    page: Page, opened: Labelling, path: str, body: object
) -> None:
    before = opened.history.path.read_bytes()
    status, content = asked(page, path, body)
    assert status == 422 or (path, status) == ("/api/undo", 409), content
    assert content["error"]["message"]
    assert opened.history.path.read_bytes() == before


def test_other_sites_cannot_answer(page: Page) -> None:
    cookie = page.cookie()
    body = {"answers": [{"photo": 0, "kind": "none"}]}
    assert page.ask("/api/answers", body, Cookie=cookie, Origin="https://evil.example")[0] == 403
    assert page.ask("/api/answers", body, Cookie=cookie, Host="evil.example")[0] in (400, 403, 421)
    assert page.ask("/api/answers", body, Cookie=cookie, Content_Type="text/plain")[0] == 415


def test_photos_come_small_from_the_cache_and_large_from_the_file(
    page: Page, opened: Labelling
) -> None:
    cookie = page.cookie()
    status, headers, data = page.ask("/api/photos/0?side=320", Cookie=cookie)
    assert status == 200 and headers["content-type"] == "image/jpeg"
    assert data == opened.gallery.thumbnails.get(bytes.fromhex(opened.gallery.digests[0]))
    large = page.ask("/api/photos/0?side=1024", Cookie=cookie)[2]
    assert Image.open(io.BytesIO(large)).size == (96, 80)
    assert page.ask("/api/photos/90", Cookie=cookie)[0] == 404
    assert page.ask("/api/photos/0?side=9999", Cookie=cookie)[0] == 400
    opened.gallery.paths[0].unlink()
    assert page.ask("/api/photos/0?side=1024", Cookie=cookie)[0] == 404
    assert page.ask("/api/photos/0?side=320", Cookie=cookie)[0] == 200


def test_no_report_before_a_training(page: Page) -> None:
    status, _, data = page.ask("/report", Cookie=page.cookie())
    assert status == 200 and b"Nothing was trained yet" in data


def test_the_state_says_what_was_reached(page: Page) -> None:
    _, state = asked(page, "/api/state")
    assert [each["name"] for each in state["classes"]] == ["disc", "box", "cross"]
    assert state["reading"]["finished"] and state["reading"]["usable"] == 90
    assert state["undo"] and not state["can_train"]
    assert state["training"]["state"] == "idle" and state["outlook"]["accuracy"] is None
    status, content = asked(page, "/api/undo", {"step": state["undo"]["step"]})
    assert status == 200 and content["state"]["classes"] == [] and content["photos"] == []
