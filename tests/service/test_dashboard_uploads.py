"""The dashboard's panel of the photos sent, in a real browser."""

from __future__ import annotations

from typing import Any

import pytest
from playwright.sync_api import Page, expect

from support.browser import (  # noqa: F401 (fixtures)
    OpenPage,
    browser,
    open_page,
    server,
    violations,
)
from support.data import encoded, picture
from support.serving import Server

BINS = [{"from": None, "to": 0.9, "validation": 0.5, "seen": 0.3}] * 2
CALM: dict[str, Any] = {
    "measure": "confidence",
    "changed": False,
    "since": "2026-04-01",
    "photos": 840,
    "distance": 0.03,
    "shift": 0.01,
    "calm_days": 0.2,
    "enough": 9100,
    "validation_photos": 341,
    "bins": BINS,
}
UPLOADS: dict[str, Any] = {
    "photos": 840,
    "unsure": 126,
    "unfamiliar": 42,
    "by_day": [
        {"day": "2026-04-01", "photos": 500, "unsure": 60, "unfamiliar": 2},
        {"day": "2026-05-02", "photos": 340, "unsure": 66, "unfamiliar": 40},
    ],
    "changed": False,
    "drift": [
        CALM,
        {**CALM, "measure": "unfamiliarity", "enough": None},
        {**CALM, "measure": "predicted"},
    ],
}
STATS: dict[str, Any] = {
    "total": 0,
    "right": 0,
    "accuracy": None,
    "interval": None,
    "per_class": [],
    "by_day": [],
    "mistaken": [],
    "candidate": None,
    "uploads": UPLOADS,
}
ALARM = {**CALM, "changed": True, "since": "2026-05-02", "photos": 340, "calm_days": 83_000}
CHANGED: dict[str, Any] = {
    **UPLOADS,
    "changed": True,
    "drift": [
        {**ALARM, "shift": -0.2, "distance": 0.24, "enough": 120},
        {**ALARM, "measure": "unfamiliarity", "shift": 0.3, "distance": 0.31},
        {
            **ALARM,
            "measure": "predicted",
            "shift": 0,
            "bins": [
                {"label": "<b>hat</b>", "validation": 0.05, "seen": 0.4},
                {"label": "dress", "validation": 0.5, "seen": 0.2},
                {"label": "shoes", "validation": 0.1, "seen": 0.1},
            ],
        },
    ],
}


def with_uploads(open_page: OpenPage, uploads: dict[str, Any], **options: Any) -> Page:
    said = {**STATS, "uploads": uploads}
    return open_page(
        "/dashboard",
        before=lambda page: page.route(
            "**/v1/corrections/stats", lambda route: route.fulfill(json=said)
        ),
        **options,
    )


def test_uploads_without_a_change(open_page: OpenPage) -> None:
    page = with_uploads(open_page, UPLOADS)
    panel = page.locator(".uploads")
    expect(panel).to_contain_text("840 photos: 15% not sure, 5% none of the classes, it seems")
    expect(panel).to_contain_text(
        "No change can be shown compared with the 341 photos that the model was validated on."
    )
    expect(panel.locator(".trouble")).to_have_count(0)
    expect(panel.get_by_role("img", name="Photos by day from 2026-04-01")).to_be_visible()
    panel.get_by_text("Comparison with the validation photos").click()
    expect(panel.get_by_role("row").nth(-3)).to_have_text("Sureness–8403%9,100")
    expect(panel.get_by_role("row").nth(-2)).to_have_text("Likeness to the training photos–8403%–")


def test_a_change_comes_first_with_its_day_amount_and_certainty(open_page: OpenPage) -> None:
    page = with_uploads(open_page, CHANGED)
    panel = page.locator(".panel").first
    expect(panel.locator("strong")).to_have_text("Photos have changed since 2 May.")
    items = panel.locator("li")
    expect(items.nth(0)).to_have_text(
        "The model is less sure than of its validation photos. This concerns 24% of the 340 photos "
        "since 2 May."
    )
    expect(panel.locator(".trouble")).to_contain_text(
        "Without a change, chance gives such a difference on at most one day in 83,000."
    )
    expect(items.nth(1)).to_contain_text("Photos are less like the training photos")
    expect(items.nth(2)).to_contain_text("<b>hat</b> from 5% to 40%, dress from 50% to 20%. This")
    expect(items.nth(2)).not_to_contain_text("shoes")


def test_a_model_that_cannot_compare_shows_what_was_sent(open_page: OpenPage) -> None:
    old = {**UPLOADS, "unfamiliar": None, "drift": []}
    old["by_day"] = [{**day, "unfamiliar": None} for day in UPLOADS["by_day"]]
    panel = with_uploads(open_page, old).locator(".uploads")
    expect(panel).to_contain_text("840 photos: 15% not sure")
    expect(panel).not_to_contain_text("none of the classes, it seems")
    expect(panel).not_to_contain_text("change")
    expect(panel.locator("details")).to_have_count(1)


def test_without_photos_there_is_no_panel(open_page: OpenPage) -> None:
    nothing = {"photos": 0, "unsure": 0, "unfamiliar": 0, "by_day": [], "drift": []}
    page = with_uploads(open_page, {**nothing, "changed": False})
    expect(page.get_by_role("heading", name="No answers yet")).to_be_visible()
    expect(page.locator(".uploads")).to_have_count(0)


def test_photos_just_sent_are_counted(open_page: OpenPage, server: Server) -> None:
    open_page("/")  # the server is up
    import urllib.request

    for seed in range(2):
        request = urllib.request.Request(
            f"{server.address}/v1/predict",
            data=encoded(picture("box", 7100 + seed)),
            headers={"Content-Type": "image/jpeg"},
        )
        urllib.request.urlopen(request, timeout=20).read()
    page = open_page("/dashboard")
    expect(page.locator(".uploads")).to_contain_text("not sure")


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_axe_finds_nothing(open_page: OpenPage, scheme: str) -> None:
    page = with_uploads(open_page, CHANGED, color_scheme=scheme)
    page.get_by_text("Comparison with the validation photos").click()
    assert violations(page) == []


@pytest.mark.parametrize("width", [320, 390])
def test_narrow_screens_need_no_sideways_scrolling(open_page: OpenPage, width: int) -> None:
    page = with_uploads(open_page, CHANGED, viewport={"width": width, "height": 700})
    page.get_by_text("Comparison with the validation photos").click()
    expect(page.locator(".chart g")).not_to_have_count(0)
    assert page.evaluate("document.documentElement.scrollWidth") <= width
