"""The upload page in a real browser: refusals, retries and lost connections."""

from __future__ import annotations

import re

import pytest
from playwright.sync_api import expect

from support.browser import (  # noqa: F401 (fixtures)
    OpenPage,
    browser,
    open_page,
    refuse,
    server,
)
from support.upload_page import (
    CUT,
    CUT_FILE,
    answered,
    card,
    choose,
    photo,
)

HEIC = b"\0\0\0\x18ftypheic\0\0\0\0mif1heic" + bytes(200)


def test_a_refused_file_is_shown_after_the_accepted_photos(open_page: OpenPage) -> None:
    page = open_page(viewport={"width": 390, "height": 844})
    choose(page, photo("box.jpg"), photo("disc.jpg", "disc", 902))
    for name in ("box.jpg", "disc.jpg"):
        answered(page, name)
    choose(page, CUT_FILE)
    expect(card(page, "cut.jpg")).to_have_attribute("data-state", "failed")
    names = page.locator(".card h3").all_inner_texts()
    assert names == ["disc.jpg", "box.jpg", "cut.jpg"]
    # The two answer buttons are in one row, on a phone's screen too.
    buttons = card(page, "box.jpg").locator(".actions button").all()
    tops = {round(box["y"]) for button in buttons if (box := button.bounding_box())}
    assert len(buttons) == 2 and len(tops) == 1


def test_cards_of_a_row_have_equal_heights(open_page: OpenPage) -> None:
    page = open_page(reduced_motion="reduce")
    choose(page, photo(), CUT_FILE)
    answered(page, "box.jpg")
    expect(card(page, "cut.jpg")).to_have_attribute("data-state", "failed")
    boxes = [each.bounding_box() for each in page.locator(".card").all()]
    assert len({round(box["y"]) for box in boxes if box}) == 1
    assert len({round(box["height"]) for box in boxes if box}) == 1


@pytest.mark.parametrize(
    ("name", "kind", "content", "said", "todo"),
    [
        (
            "notes.txt",
            "text/plain",
            b"only words",
            "Text is not accepted",
            "accepted are JPEG, PNG",
        ),
        ("cut.jpg", "image/jpeg", CUT, "truncated", "Copy the photo from the camera again"),
        ("IMG_1.HEIC", "image/heic", HEIC, "HEIC is not accepted", "Export it as JPEG"),
        ("empty.png", "image/png", b"", "empty", "Copy the photo from the camera again"),
    ],
)
def test_refused_files_show_the_reason_and_a_remedy(
    open_page: OpenPage, name: str, kind: str, content: bytes, said: str, todo: str
) -> None:
    page = open_page()
    choose(page, {"name": name, "mimeType": kind, "buffer": content}, photo())
    shown = card(page, name)
    expect(shown).to_have_attribute("data-state", "failed")
    expect(shown).to_contain_text(re.compile(said, re.I))
    expect(shown).to_contain_text(re.compile(todo, re.I))
    expect(shown.locator(".trouble p")).to_have_count(2)  # the reason and one remedy
    expect(shown.get_by_role("button", name="Try again")).to_have_count(0)
    expect(page.locator("#news")).to_contain_text(name)
    answered(page)


CODES = {
    "bad-request": 400,
    "too-many-parts": 400,
    "bad-host": 400,
    "forbidden": 403,
    "not-found": 404,
    "method-not-allowed": 405,
    "request-timeout": 408,
    "conflict": 409,
    "body-too-large": 413,
    "image-too-large": 413,
    "unsupported-format": 415,
    "unsupported-media-type": 415,
    "unreadable-image": 422,
    "invalid": 422,
    "overloaded": 503,
    "deadline": 503,
    "storage-full": 507,
    "storage-failed": 503,
    "internal": 500,
}


def test_every_refusal_of_the_api_is_explained(open_page: OpenPage) -> None:
    page = open_page()
    advice = page.evaluate(
        "async codes => { const {advice} = await import('/static/messages.js');"
        " return codes.map(advice); }",
        [*CODES],
    )
    assert all(len(text) > 20 for text in advice)
    for code, status in CODES.items():
        if status == 503:
            continue
        refuse(page, "/v1/predict", status, code, f"because of {code}")
        choose(page, photo(f"{code}.jpg"))
        shown = card(page, f"{code}.jpg")
        expect(shown).to_have_attribute("data-state", "failed")
        expect(shown).to_contain_text(f"Because of {code}.")


def test_a_busy_server_is_retried_after_its_retry_after_time(open_page: OpenPage) -> None:
    page = open_page()
    refuse(
        page,
        "/v1/predict",
        503,
        "overloaded",
        "64 photos wait already",
        times=2,
        **{"Retry-After": "1"},
    )
    choose(page, photo())
    expect(card(page, "box.jpg")).to_contain_text(
        "The server is busy. Trying again in 1 second (1 of 3)"
    )
    expect(card(page, "box.jpg")).to_contain_text("(2 of 3)")
    answered(page)


def test_after_three_retries_the_user_decides(open_page: OpenPage) -> None:
    page = open_page()
    page.clock.install()
    asked: list[str] = []
    page.on(
        "request", lambda request: asked.append(request.url) if "predict" in request.url else None
    )
    refuse(
        page,
        "/v1/predict",
        503,
        "overloaded",
        "64 photos wait already",
        times=4,
        **{"Retry-After": "7"},
    )
    choose(page, photo())
    shown = card(page, "box.jpg")
    for number in (1, 2, 3):
        expect(shown).to_contain_text(f"in 7 seconds ({number} of 3)")
        page.clock.run_for(2000)
        expect(shown).to_contain_text(f"in 5 seconds ({number} of 3)")
        page.clock.run_for(5000)
    expect(shown).to_have_attribute("data-state", "failed")
    expect(shown).to_contain_text("64 photos wait already.Try again in a moment.")
    assert len(asked) == 4
    shown.get_by_role("button", name="Try again").click()
    answered(page)


def test_photos_are_sent_when_the_network_returns(open_page: OpenPage) -> None:
    page = open_page()
    expect(page.locator("#facts")).to_contain_text("3 classes")
    page.context.set_offline(True)
    choose(page, photo())
    expect(card(page, "box.jpg")).to_contain_text("The server could not be reached.")
    expect(card(page, "box.jpg").get_by_role("button", name="Try again")).to_be_visible()
    page.context.set_offline(False)
    answered(page)


def test_an_error_page_of_a_proxy_is_reported(open_page: OpenPage) -> None:
    page = open_page()
    page.route(
        "**/v1/predict*",
        lambda route: route.fulfill(
            status=502, content_type="text/html", body="<h1>Bad gateway</h1>"
        ),
    )
    choose(page, photo())
    expect(card(page, "box.jpg")).to_contain_text(
        "The server answered with status 502 and no explanation."
    )
